"""The scores pedestrian-attribute papers publish: mA over attributes; accuracy, precision, recall and F1 over people.

The formulas are those of `get_pedestrian_metrics` in SequencePAR's `tools/function.py` (Event-AHU/OpenPAR, after
valencebond/Rethinking_of_PAR). They add 1e-20 to every denominator, so 0 of 0 is 0:

- If no person has an attribute, its recall on yes is 0, so its mA is at most 0.5. If everyone has it, its recall on no
  is 0.
- If a person has no attribute, or none was predicted, precision, recall, accuracy and F1 of the person are 0. This
  holds even if both are empty and the prediction is perfect.

F1 is the mean of each person's F1. The older code computes the F1 of the mean precision and mean recall instead, which
is higher. Scores of the two are not comparable.

Unknown labels, which published sets do not have, are not scored. The means omit an attribute that is unknown for every
person, and a person whose attributes are all unknown.
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
    """Counts and scores of one attribute.

    Attributes:
        known: People with a label.
        positives: Of these, people whose label is yes.
        predicted: Of these, people whose sequence contains the attribute.
        recall_yes: Recall on yes, 0 to 1.
        recall_no: Recall on no, 0 to 1.
        ma: Mean of the two recalls.
        f1: F1 score, 0 to 1.
    """

    known: int
    positives: int
    predicted: int
    recall_yes: float
    recall_no: float
    ma: float
    f1: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """Scores of a data set, from 0 to 1.

    Attributes:
        people: People with at least one known label.
        ma: Mean accuracy over attributes (label-based).
        accuracy: Mean accuracy over people (instance-based), as the next three.
        precision: Mean precision over people.
        recall: Mean recall over people.
        f1: Mean F1 over people.
        attributes: Counts and scores of each of the n attributes.
    """

    people: int
    ma: float
    accuracy: float
    precision: float
    recall: float
    f1: float
    attributes: tuple[AttributeMetrics, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain values for JSON."""
        return dataclasses.asdict(self)


def compute_metrics(predicted: npt.NDArray[np.bool_ | np.integer[Any]], labels: Labels) -> Metrics:
    """Score predictions against labels.

    Args:
        predicted: bool or int (M, n), true or 1 if the sequence of the person contains the attribute.
        labels: int8 (M, n), 1 yes, 0 no, -1 unknown. Unknown labels are not scored.

    Returns:
        The scores over all people and of each attribute.

    Raises:
        DatasetError: The shapes differ, or all labels are unknown.
    """
    if predicted.shape != labels.shape or labels.ndim != 2:
        raise DatasetError(
            "predictions and labels must be (people, attributes) of one shape, got "
            f"{predicted.shape} and {labels.shape}"
        )
    known = labels != UNKNOWN
    if not known.any():
        raise DatasetError(f"at least one label must be known, got none of {labels.shape[0]} x {labels.shape[1]}")
    yes = labels == YES
    no = labels == NO
    emitted = predicted.astype(bool) & known
    right = yes & emitted

    # Per attribute, counts of people.
    positives, negatives, claims, hits = (_count(cells, axis=0) for cells in (yes, no, emitted, right))
    recall_yes = hits / (positives + _EPSILON)
    recall_no = _count(no & ~emitted, axis=0) / (negatives + _EPSILON)
    label_ma = (recall_yes + recall_no) / 2
    label_f1 = _f1(hits / (claims + _EPSILON), recall_yes)

    # Per person, counts of attributes.
    overlap = _count(right, axis=1)
    accuracy = overlap / (_count(yes | emitted, axis=1) + _EPSILON)
    precision = overlap / (_count(emitted, axis=1) + _EPSILON)
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
