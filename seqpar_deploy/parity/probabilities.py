"""Compare the probabilities of all attributes with the checkpoint's, along sequences with the same tokens.

Strategies collect the distributions of each step themselves. This check also finds those of another step or row, which
leave the tokens and the log-probabilities of a whole sequence right.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from seqpar_deploy.backends.base import Float32Array
from seqpar_deploy.calibration.probabilities import attribute_probabilities, largest_changes
from seqpar_deploy.decoding import Generation
from seqpar_deploy.parity.reference import Reference
from seqpar_deploy.vocab import FIRST_ATTRIBUTE


def probability_differences(
    reference: Reference, crop: int, generation: Generation
) -> tuple[Float32Array, Float32Array] | None:
    """Return the probabilities expected and got, (n,) each, or None if the tokens are not those of the reference."""
    tokens = reference.sequence(crop)
    if generation.tokens != tokens:
        return None
    expected = attribute_probabilities(tokens, reference.log_probs[crop, : len(tokens)])
    return expected, attribute_probabilities(tokens, generation.distributions)


def wrong_probability(
    reference: Reference, crop: int, generation: Generation, log_prob_max: float
) -> tuple[int, float, float] | None:
    """Return the attribute whose probability is most beyond its tolerance, with the expected one and the one got.

    The tolerance of each attribute follows from that of log-probabilities, see `largest_changes`.
    """
    pair = probability_differences(reference, crop, generation)
    if pair is None:
        return None
    expected, got = pair
    differences = np.abs(got - expected) / largest_changes(generation.tokens, len(expected), log_prob_max)
    if np.all(differences <= 1):
        return None
    attribute = int(np.argmax(np.nan_to_num(differences, nan=np.inf)))
    return attribute, float(expected[attribute]), float(got[attribute])


def compare_probabilities(
    reference: Reference, answers: Iterable[tuple[str, int, Generation]], log_prob_max: float
) -> tuple[str | None, int, float | None]:
    """Compare the probabilities of generations (strategy, crop, generation) with the reference's.

    Returns:
        One line on the first one that breaches the tolerances, or None; the number of sequences compared, which are
        those with the reference's tokens; and the largest difference. It is None if no sequence was compared.
    """
    wrong: list[str] = []
    most: list[float] = []
    for strategy, crop, generation in answers:
        pair = probability_differences(reference, crop, generation)
        if pair is None:
            continue
        most.append(float(np.max(np.abs(pair[1] - pair[0]))))
        if found := wrong_probability(reference, crop, generation, log_prob_max):
            attribute, expected, got = found
            name = reference.attribute_names([FIRST_ATTRIBUTE + attribute])[0]
            named = f"crop {crop}" + (f" ({reference.name(crop)})" if reference.people else "")
            values = f"must be {expected:.4f} as in the checkpoint, got {got:.4f}"
            wrong.append(f"{named}, {strategy}: probability of {name!r} {values}")
    more = f" (and {len(wrong) - 1} more sequences)" if len(wrong) > 1 else ""
    return (f"{wrong[0]}{more}" if wrong else None), len(most), (float(np.max(most)) if most else None)
