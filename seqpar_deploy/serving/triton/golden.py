"""Compare what a recogniser predicts on the golden crops with the checkpoint's sequences, before a server is ready."""

from __future__ import annotations

from seqpar_deploy.parity.gate import first_divergence
from seqpar_deploy.parity.reference import Reference, reference_from_golden
from seqpar_deploy.parity.tolerances import tolerances_of
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.recognizer import Recognizer


def golden_difference(recognizer: Recognizer) -> str | None:
    """Compare a recogniser's tokens on its bundle's golden crops with the checkpoint's.

    The crops are those before preprocessing, and the recogniser predicts them as it will serve: with its backend,
    precision, strategy and fallback. Ties within the recipe's `tie_margin` count as equal.

    Args:
        recognizer: The recogniser.

    Returns:
        One line on the first difference, or None.

    Raises:
        BundleFormatError: The golden data are malformed.
        BackendError: The backend fails.
    """
    reference = reference_from_golden(recognizer.bundle)
    tie_margin = tolerances_of(recognizer.bundle).tie_margin
    for crop, prediction in enumerate(recognizer.predict(golden_crops(reference))):
        divergence = first_divergence(reference, crop, prediction.tokens, tie_margin)
        if divergence is not None and not divergence.tie:
            return f"golden {divergence}"
    return None


def golden_crops(reference: Reference) -> list[Crop]:
    """Return the golden crops before preprocessing. Those of older bundles are whole squares, already prepared."""
    return [person.image for person in reference.people] or list(reference.crops)
