"""Compare two models on the same people: the difference of their scores, with a paired bootstrap interval."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.datasets.base import UNKNOWN, YES, Labels
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.evaluation.bootstrap import Estimate, Floats, divided, estimate, resampling_weights

_EPSILON = 1e-20  # as in `metrics`: 0 of 0 is 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairedDifference:
    """Hold differences of scores, after minus before, with 95 % intervals: both models score the same resamples.

    Attributes:
        ma: Difference of mA.
        f1: Difference of F1.
    """

    ma: Estimate
    f1: Estimate

    def to_dict(self) -> dict[str, Any]:
        """Return the differences as plain values for JSON."""
        return dataclasses.asdict(self)


def paired_difference(
    before: npt.NDArray[np.bool_],
    after: npt.NDArray[np.bool_],
    labels: Labels,
    *,
    groups: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> PairedDifference:
    """Return how the published scores differ between two models.

    Args:
        before: Predictions of the first model, bool (M, n).
        after: Predictions of the second model on the same people, bool (M, n).
        labels: int8 (M, n), 1 yes, 0 no, -1 unknown. Unknown labels are not scored.
        groups: M names. People of one name are drawn together. Default: None, each person is drawn alone.
        resamples: Bootstrap samples. Fewer are drawn for more than 2,000 people, at least 100. Default: 1000.
        seed: Seed of the bootstrap. Default: 0.

    Raises:
        DatasetError: The shapes differ.
    """
    if not before.shape == after.shape == labels.shape:
        raise DatasetError(f"predictions and labels must have one shape, got {before.shape, after.shape, labels.shape}")
    weights = resampling_weights(len(labels), groups, resamples, seed)
    of_before, of_after = (_scores(predicted, labels, weights) for predicted in (before, after))
    return PairedDifference(ma=estimate(of_after[0] - of_before[0]), f1=estimate(of_after[1] - of_before[1]))


def _scores(predicted: npt.NDArray[np.bool_], labels: Labels, weights: Floats) -> tuple[Floats, Floats]:
    """Return mA and F1 of each resample (1 + R,), as `metrics.compute_metrics` defines them."""
    known, yes = labels != UNKNOWN, labels == YES
    emitted = predicted & known
    no = known & ~yes

    def recall(right: npt.NDArray[np.bool_], all_of_them: npt.NDArray[np.bool_]) -> Floats:
        return np.asarray((weights @ right) / (weights @ all_of_them + _EPSILON))

    of_attribute = (recall(yes & emitted, yes) + recall(no & ~emitted, no)) / 2  # (1 + R, n)
    counted = weights @ known > 0
    ma = divided(np.where(counted, of_attribute, 0.0).sum(axis=1), counted.sum(axis=1).astype(np.float64))

    right = (yes & emitted).sum(axis=1)
    precision, recalled = right / (emitted.sum(axis=1) + _EPSILON), right / (yes.sum(axis=1) + _EPSILON)
    of_person = 2 * precision * recalled / (precision + recalled + _EPSILON)
    judged = known.any(axis=1)
    return ma, divided(weights @ np.where(judged, of_person, 0.0), weights @ judged.astype(np.float64))
