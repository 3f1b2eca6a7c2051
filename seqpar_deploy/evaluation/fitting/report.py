"""The report of a calibration on people it was not fitted on: nested cross-validation by group.

Each fold fits maps, selects their shrinkage and chooses thresholds on the other folds only, so its people are as new to
them as anybody. The calibration that is kept is fitted on everybody, and does a little better.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.calibration.maps import Float64Array, Floats
from seqpar_deploy.datasets.base import UNKNOWN
from seqpar_deploy.errors import CalibrationError
from seqpar_deploy.evaluation.fitting.maps import FOLDS, Labels, deal_groups, fit_maps
from seqpar_deploy.evaluation.fitting.thresholds import Rule, choose_thresholds
from seqpar_deploy.evaluation.metrics import compute_metrics
from seqpar_deploy.evaluation.probability_metrics import ProbabilityMetrics, compute_probability_metrics
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.vocab import LabelSet

_LEAST = 1e-7  # probabilities are limited to this and 1 minus it, so that a loss is finite
_RESAMPLES = 1000
_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """Hold the results of people when they were held out.

    Attributes:
        probabilities: Calibrated probabilities, float32 (M, n).
        states: States by the thresholds of the fold, int8 (M, n): 1 yes, 0 no, -1 unknown.
        folds: Number of folds.
    """

    probabilities: npt.NDArray[np.float32]
    states: npt.NDArray[np.int8]
    folds: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Report:
    """Hold the report of a calibration.

    Attributes:
        calibrated: Scores of the calibrated probabilities, and of the states.
        uncalibrated: Scores of the decoder's probabilities, and of the emitted labels.
        values: The report as JSON values.
    """

    calibrated: ProbabilityMetrics
    uncalibrated: ProbabilityMetrics
    values: Mapping[str, Any]


def hold_out(
    probabilities: Floats,
    labels: Labels,
    groups: Sequence[str],
    rule: Rule,
    label_set: LabelSet,
    *,
    folds: int = FOLDS,
    progress: OnProgress | None = None,
) -> HeldOut:
    """Calibrate each person by maps and thresholds of the other folds.

    Args:
        probabilities: The decoder's probabilities, (M, n).
        labels: int8 (M, n): 1 yes, 0 no, -1 unknown.
        groups: M names. A group is never divided.
        rule: How thresholds are chosen.
        label_set: The n attributes.
        folds: Parts that the groups are dealt to. Default: 10.
        progress: Called after each fold. Default: None.

    Returns:
        The results of each person.

    Raises:
        CalibrationError: There are fewer than three groups, or the rule cannot be applied.
    """
    calibrated = np.zeros(np.shape(probabilities), dtype=np.float32)
    states = np.zeros(np.shape(labels), dtype=np.int8)
    parts = deal_groups(groups, folds, _SEED)
    for done, held in enumerate(parts, 1):
        rest = ~held
        some = [group for group, kept in zip(groups, rest, strict=True) if kept]
        fitted = fit_maps(probabilities[rest], labels[rest], some)
        calibrated[held] = fitted.maps(probabilities[held])
        try:
            chosen = choose_thresholds(rule, fitted.held_out, labels[rest], label_set, some)
            states[held] = chosen.thresholds.codes(calibrated[held])
        except CalibrationError:
            if rule.objective != "max_error":
                raise
            states[held] = UNKNOWN  # these fewer people promise nothing, though all together may
        if progress:
            progress(done, len(parts))
    return HeldOut(probabilities=calibrated, states=states, folds=len(parts))


def make_report(
    held_out: HeldOut,
    probabilities: Floats,
    emitted: npt.NDArray[np.bool_],
    labels: Labels,
    groups: Sequence[str],
) -> Report:
    """Score calibrated probabilities and states against the decoder's probabilities and the emitted labels.

    Args:
        held_out: The results of `hold_out`.
        probabilities: The decoder's probabilities, (M, n).
        emitted: Whether the sequence of each person has each attribute, bool (M, n).
        labels: int8 (M, n): 1 yes, 0 no, -1 unknown.
        groups: M names, which are resampled for the intervals of 95 %.

    Returns:
        The report.
    """
    after, before = held_out.probabilities, np.asarray(probabilities, dtype=np.float32)
    calibrated = compute_probability_metrics(after, labels, states=held_out.states, groups=groups)
    uncalibrated = compute_probability_metrics(before, labels, states=emitted.astype(np.int8), groups=groups)
    # A map keeps the order of people, but the folds have different maps. So one reports the AUC of the decoder's
    # probabilities, which is that of the calibration that is kept.
    calibrated = dataclasses.replace(
        calibrated,
        auc=uncalibrated.auc,
        average_precision=uncalibrated.average_precision,
        attributes=tuple(
            dataclasses.replace(one, auc=other.auc, average_precision=other.average_precision)
            for one, other in zip(calibrated.attributes, uncalibrated.attributes, strict=True)
        ),
    )
    yes = held_out.states == 1
    labels_auc = compute_probability_metrics(emitted.astype(np.float32), labels, groups=groups).auc
    values = {
        "method": f"cross-validation, {held_out.folds} folds by group; 95 % intervals of {_RESAMPLES} resamples",
        "folds": held_out.folds,
        "calibrated": calibrated.to_dict(),
        "uncalibrated": uncalibrated.to_dict(),
        "nll_difference": _difference_of_losses(before, after, labels, groups),
        "published": {
            "emitted": _published(emitted, labels),
            "at_thresholds": _published(yes, labels),
            "difference": _differences(emitted, yes, labels, groups),
        },
        "auc_of_emitted_labels": dataclasses.asdict(labels_auc),
    }
    return Report(calibrated=calibrated, uncalibrated=uncalibrated, values=values)


def _published(predicted: npt.NDArray[np.bool_], labels: Labels) -> dict[str, float]:
    """Published metrics of predicted attributes. An unknown state counts as not predicted."""
    scores = compute_metrics(predicted, labels).to_dict()
    return {name: scores[name] for name in ("ma", "accuracy", "precision", "recall", "f1")}


def _difference_of_losses(before: Floats, after: Floats, labels: Labels, groups: Sequence[str]) -> dict[str, float]:
    """Negative log-likelihood of the calibrated probabilities less that of the decoder's, with its interval."""
    known = labels >= 0
    losses = (_losses(after, labels) - _losses(before, labels)) * known
    cells = np.stack([losses.sum(axis=1), known.sum(axis=1)], axis=1)
    sums = np.concatenate([weights @ _per_group(cells, groups) for weights in _resamples(groups)])
    return _interval(float(losses.sum() / known.sum()), sums[:, 0] / np.maximum(sums[:, 1], 1))


def _losses(probabilities: Floats, labels: Labels) -> Float64Array:
    limited = np.clip(np.asarray(probabilities, dtype=np.float64), _LEAST, 1 - _LEAST)
    return np.asarray(-np.log(np.where(labels == 1, limited, 1 - limited)))


def _differences(
    before: npt.NDArray[np.bool_], after: npt.NDArray[np.bool_], labels: Labels, groups: Sequence[str]
) -> dict[str, dict[str, float]]:
    """mA and F1 of the labels at the thresholds less those of the emitted labels, with their intervals."""
    cells = [_per_group(_counts(predicted, labels), groups) for predicted in (before, after)]
    drawn = [
        [_scores(weights @ some, labels.shape[1]) for weights in _resamples(groups)] for some in cells
    ]  # the same resamples for both
    first, second = (np.concatenate(some, axis=1) for some in drawn)
    ones = np.ones((1, len(set(groups))))
    value = _scores(ones @ cells[1], labels.shape[1]) - _scores(ones @ cells[0], labels.shape[1])
    return {name: _interval(float(value[k, 0]), (second - first)[k]) for k, name in enumerate(("ma", "f1"))}


def _counts(predicted: npt.NDArray[np.bool_], labels: Labels) -> Float64Array:
    """Sums that mA and F1 consist of, per person, float64 (M, 4 n + 2)."""
    yes, no = labels == 1, labels == 0
    right, claims = (yes & predicted).sum(axis=1), (predicted & (labels >= 0)).sum(axis=1)
    f1 = 2 * right / np.maximum(claims + yes.sum(axis=1), 1)
    judged = np.asarray((labels >= 0).any(axis=1))
    cells = [yes & predicted, yes, no & ~predicted, no, (f1 * judged)[:, None], judged[:, None]]
    return np.concatenate([cell.astype(np.float64) for cell in cells], axis=1)


def _scores(sums: Float64Array, attributes: int) -> Float64Array:
    """Return mA and F1 (2, R) of R rows of sums."""
    hits, positives, rejections, negatives = (sums[:, k * attributes : (k + 1) * attributes] for k in range(4))
    recalls = hits / np.maximum(positives, 1) + rejections / np.maximum(negatives, 1)
    known = positives + negatives > 0
    ma = (recalls / 2 * known).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
    return np.stack([ma, sums[:, -2] / np.maximum(sums[:, -1], 1)])


def _per_group(cells: Float64Array, groups: Sequence[str]) -> Float64Array:
    """Sum rows of people to rows of groups."""
    place = np.unique(np.asarray(groups), return_inverse=True)[1]
    sums = np.zeros((int(place.max()) + 1, cells.shape[1]))
    np.add.at(sums, place, cells)
    return sums


def _resamples(groups: Sequence[str]) -> Iterator[Float64Array]:
    """Yield blocks of resamples: how often each draws each group, (R, groups)."""
    count = len(set(groups))
    rng = np.random.default_rng(_SEED)
    for _ in range(_RESAMPLES // 100):
        yield rng.multinomial(count, np.full(count, 1 / count), size=100).astype(np.float64)


def _interval(value: float, drawn: Float64Array) -> dict[str, float]:
    low, high = np.percentile(drawn, (2.5, 97.5)).tolist()
    return {"value": value, "low": low, "high": high}
