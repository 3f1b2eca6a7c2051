"""The scores pedestrian-attribute papers publish: mA over attributes; accuracy, precision, recall and F1 over people.

The formulas are those of `get_pedestrian_metrics` in SequencePAR's `tools/function.py` (Event-AHU/OpenPAR, after
valencebond/Rethinking_of_PAR). There every denominator has 1e-20 added, so that a share of nothing is 0:

- an attribute that no one has: recall on yes 0, so that its mA is at most 0.5; one that everyone has: recall on no 0;
- a person with no attribute, or of whom none was predicted: precision, recall, accuracy and F1 are 0, even where both
  are empty and the prediction thus perfect.

F1 is the mean of each person's F1. (The older code takes the F1 of the mean precision and mean recall instead, which
is higher; numbers from the two are not comparable.)

Unknown labels, which published sets do not have, are left out of labels and predictions. An attribute that is unknown
for every person, or a person whose attributes are all unknown, is left out of the means.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.datasets.base import NO, UNKNOWN, YES, Labels
from seqpar_deploy.errors import DatasetError

_EPSILON = 1e-20  # as published

_Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttributeMetrics:
    """One attribute: counts of people, and scores from 0 to 1.

    `known` people have a label, `positives` of them yes; of the known, `predicted` were given the attribute.
    """

    known: int
    positives: int
    predicted: int
    recall_yes: float
    recall_no: float
    ma: float  # mean of the two recalls
    f1: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """Scores from 0 to 1 over M people: label-based `ma`, the others instance-based. `attributes` has n entries."""

    people: int
    ma: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    attributes: tuple[AttributeMetrics, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def compute_metrics(predicted: npt.NDArray[np.bool_ | np.integer[Any]], labels: Labels) -> Metrics:
    """Score predictions against labels.

    Args:
        predicted: (M, n), true or 1 if the attribute was generated.
        labels: (M, n), 1 yes, 0 no, -1 unknown. Unknown labels are not scored; see the module's docstring.

    Raises:
        DatasetError: The shapes differ, or all labels are unknown.
    """
    if predicted.shape != labels.shape or labels.ndim != 2:
        raise DatasetError(f"predictions and labels must both be (M, n), got {predicted.shape} and {labels.shape}")
    known = labels != UNKNOWN
    if not known.any():
        raise DatasetError(f"at least one label must be known, got none of {labels.shape[0]} x {labels.shape[1]}")
    yes = labels == YES
    no = labels == NO
    said = predicted.astype(bool) & known
    right = yes & said

    # Over attributes: how many people each count holds.
    positives, negatives, claims, hits = (_count(cells, axis=0) for cells in (yes, no, said, right))
    recall_yes = hits / (positives + _EPSILON)
    recall_no = _count(no & ~said, axis=0) / (negatives + _EPSILON)
    label_ma = (recall_yes + recall_no) / 2
    label_f1 = _f1(hits / (claims + _EPSILON), recall_yes)

    # Over people: how many attributes each count holds.
    overlap = _count(right, axis=1)
    accuracy = overlap / (_count(yes | said, axis=1) + _EPSILON)
    precision = overlap / (_count(said, axis=1) + _EPSILON)
    recall = overlap / (_count(yes, axis=1) + _EPSILON)
    judged = known.any(axis=1)

    return Metrics(
        people=int(judged.sum()),
        ma=float(label_ma[known.any(axis=0)].mean()),
        accuracy=float(accuracy[judged].mean()),
        precision=float(precision[judged].mean()),
        recall=float(recall[judged].mean()),
        f1=float(_f1(precision, recall)[judged].mean()),
        attributes=tuple(
            AttributeMetrics(
                known=int(positives[i] + negatives[i]),
                positives=int(positives[i]),
                predicted=int(claims[i]),
                recall_yes=float(recall_yes[i]),
                recall_no=float(recall_no[i]),
                ma=float(label_ma[i]),
                f1=float(label_f1[i]),
            )
            for i in range(labels.shape[1])
        ),
    )


def _count(cells: npt.NDArray[np.bool_], *, axis: int) -> _Floats:
    counts: _Floats = cells.sum(axis=axis, dtype=np.float64)
    return counts


def _f1(precision: _Floats, recall: _Floats) -> _Floats:
    scores: _Floats = 2 * precision * recall / (precision + recall + _EPSILON)
    return scores
