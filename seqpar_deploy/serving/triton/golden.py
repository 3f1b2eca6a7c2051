"""Compare what a recogniser predicts on the golden crops with the checkpoint's sequences, before a server is ready."""

from __future__ import annotations

from seqpar_deploy.parity.gate import first_divergence
from seqpar_deploy.parity.reference import Reference, reference_from_golden
from seqpar_deploy.parity.tolerances import tolerances_of
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.vocab import EOS, PAD
from seqpar_deploy.without import Boundary


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
    bundle = recognizer.bundle
    tie_margin = tolerances_of(bundle).tie_margin
    shown = Boundary(bundle.label_set, bundle.withheld)  # golden data have the tokens that are shown, by full ids
    for crop, prediction in enumerate(recognizer.predict(golden_crops(reference))):
        tokens = shown.full_tokens(prediction.tokens)
        if bundle.withheld and EOS not in tokens:
            tokens += (PAD,) * (bundle.dimensions.capacity - 1 - len(tokens))  # as golden data end then
        divergence = first_divergence(reference, crop, tokens, tie_margin)
        if divergence is not None and not divergence.tie:
            return f"golden {divergence}"
    return None


def golden_crops(reference: Reference) -> list[Crop]:
    """Return the golden crops before preprocessing. Those of older bundles are whole squares, already prepared."""
    return [person.image for person in reference.people] or list(reference.crops)
