"""Scores of probabilities and states against labels: ranking, calibration, coverage and error, with intervals.

A cell is one attribute of one person. Cells without a label are not scored. Intervals are 95 % bootstrap intervals:
whole groups are drawn, or people if there are no groups, because the cells of a person depend on each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.datasets.base import UNKNOWN, YES, Labels
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.evaluation.bootstrap import Estimate, divided, estimate, resampling_weights

LEAST_LABELS = 10  # of yes and of no: attributes with fewer are left out of means over attributes
BINS = 15  # of equal width, for the expected calibration error

_LEAST = 1e-7  # probabilities are limited to this and 1 minus it in the log-likelihood
_CURVE = 100  # points of the risk-coverage curve

_Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttributeProbabilityMetrics:
    """Hold the scores of one attribute. A score is None if no labels define it.

    Attributes:
        positives: People whose label is yes.
        negatives: People whose label is no.
        auc: Area under the ROC curve.
        average_precision: Mean of the precision over the recall.
        ece: Expected calibration error.
        brier: Mean squared error of the probability.
        nll: Mean negative log-likelihood, in nats.
        coverage: Share of labelled people whose state is decided.
        error: Share of wrong states among the decided ones.
    """

    positives: int
    negatives: int
    auc: float | None
    average_precision: float | None
    ece: float | None
    brier: float | None
    nll: float | None
    coverage: float | None
    error: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Hold the mean probability, the share of yes and the number of cells of one bin."""

    probability: float
    share: float
    cells: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbabilityMetrics:
    """Hold the scores of all attributes.

    Attributes:
        auc: Mean AUC over attributes with at least 10 of either label.
        average_precision: Mean average precision over these.
        ece: Expected calibration error over all cells, in 15 bins of equal width.
        brier: Mean squared error of the probability.
        nll: Mean negative log-likelihood, in nats.
        coverage: Share of labelled cells whose state is decided. None without states.
        error: Share of wrong states among the decided ones. None without states.
        attributes: The scores of each attribute.
        reliability: The bins that have cells.
        risk_coverage: (coverage, error) if only the most confident cells are decided at 0.5, in order of coverage.
    """

    auc: Estimate
    average_precision: Estimate
    ece: Estimate
    brier: Estimate
    nll: Estimate
    coverage: Estimate | None
    error: Estimate | None
    attributes: tuple[AttributeProbabilityMetrics, ...]
    reliability: tuple[ReliabilityBin, ...]
    risk_coverage: tuple[tuple[float, float], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain values for JSON."""
        return dataclasses.asdict(self)


def compute_probability_metrics(
    probabilities: npt.NDArray[np.floating[Any]],
    labels: Labels,
    *,
    states: npt.NDArray[np.integer[Any]] | None = None,
    groups: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> ProbabilityMetrics:
    """Score probabilities and states against labels.

    Args:
        probabilities: Probability of each attribute of each person, 0 to 1, (M, n).
        labels: int8 (M, n), 1 yes, 0 no, -1 unknown. Unknown labels are not scored.
        states: int (M, n), 1 yes, 0 no, -1 unknown, as `Thresholds.codes` returns them. Default: None, not scored.
        groups: M names. People of one name are drawn together. Default: None, each person is drawn alone.
        resamples: Bootstrap samples. Fewer are drawn for more than 2,000 people, at least 100. Default: 1000.
        seed: Seed of the bootstrap. Default: 0.

    Returns:
        The scores.

    Raises:
        DatasetError: The shapes differ, all labels are unknown, or a labelled cell has no probability from 0 to 1.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    known = labels != UNKNOWN
    _check(values, labels, known)
    weights = resampling_weights(len(labels), groups, resamples, seed)
    truth = labels == YES
    values = np.where(known, values, 0.0)
    aucs, precisions = _rankings(values, truth, known, weights)
    enough = np.minimum(truth.sum(axis=0), (known & ~truth).sum(axis=0)) >= LEAST_LABELS
    likelihood = _likelihood(values, truth)
    squares = (values - truth) ** 2
    decided = None if states is None else known & (np.asarray(states) != UNKNOWN)
    wrong = None if decided is None else decided & (np.asarray(states) != labels)

    def share(of: npt.NDArray[Any], among: npt.NDArray[np.bool_]) -> Estimate:
        return estimate(divided(weights @ np.where(among, of, 0.0).sum(axis=1), weights @ among.sum(axis=1)))

    def per_attribute(place: int) -> AttributeProbabilityMetrics:
        cells = known[:, place]
        positives = int(truth[:, place].sum())
        some = None if decided is None else decided[:, place]
        return AttributeProbabilityMetrics(
            positives=positives,
            negatives=int(cells.sum()) - positives,
            auc=_number(aucs[0, place]),
            average_precision=_number(precisions[0, place]),
            ece=_number(_calibration_errors(values[:, [place]], truth[:, [place]], cells[:, None], weights[:1])[0]),
            brier=_mean(squares[cells, place]),
            nll=_mean(likelihood[cells, place]),
            coverage=None if some is None else _mean(some[cells]),
            error=None if some is None or wrong is None else _mean(wrong[some, place]),
        )

    return ProbabilityMetrics(
        auc=estimate(_means(aucs[:, enough])),
        average_precision=estimate(_means(precisions[:, enough])),
        ece=estimate(_calibration_errors(values, truth, known, weights)),
        brier=share(squares, known),
        nll=share(likelihood, known),
        coverage=None if decided is None else share(decided, known),
        error=None if decided is None or wrong is None else share(wrong, decided),
        attributes=tuple(per_attribute(place) for place in range(labels.shape[1])),
        reliability=_reliability(values[known], truth[known]),
        risk_coverage=_risk_coverage(values[known], truth[known]),
    )


def _check(values: _Floats, labels: Labels, known: npt.NDArray[np.bool_]) -> None:
    if values.shape != labels.shape or labels.ndim != 2:
        raise DatasetError(
            f"probabilities and labels must be (people, attributes) of one shape, got {values.shape} and {labels.shape}"
        )
    if not known.any():
        raise DatasetError(f"at least one label must be known, got none of {labels.shape[0]} x {labels.shape[1]}")
    scored = values[known]
    if not ((scored >= 0) & (scored <= 1)).all():
        bad = scored[~((scored >= 0) & (scored <= 1))][0]
        raise DatasetError(f"probabilities must be 0 to 1, got {bad:g}; check the bundle with seqpar parity")


def _rankings(
    values: _Floats, truth: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_], weights: _Floats
) -> tuple[_Floats, _Floats]:
    """Return AUC and average precision of each resample and attribute (1 + R, n). NaN without both labels."""
    shape = len(weights), values.shape[1]
    aucs, precisions = np.full(shape, np.nan), np.full(shape, np.nan)
    for place in range(shape[1]):
        people = np.flatnonzero(known[:, place])
        if not len(people):
            continue
        people = people[np.argsort(-values[people, place], kind="stable")]
        yes = truth[people, place]
        _, starts = np.unique(-values[people, place], return_index=True)  # equal probabilities are one rank
        drawn = weights[:, people]
        positives = np.add.reduceat(drawn * yes, starts, axis=1)
        negatives = np.add.reduceat(drawn * ~yes, starts, axis=1)
        hits, misses = positives.cumsum(axis=1), negatives.cumsum(axis=1)
        total, others = hits[:, -1], misses[:, -1]
        beaten = others[:, None] - misses + 0.5 * negatives
        aucs[:, place] = divided((positives * beaten).sum(axis=1), total * others)
        precision = np.divide(hits, hits + misses, out=np.zeros_like(hits), where=hits + misses > 0)
        precisions[:, place] = divided((positives * precision).sum(axis=1), total)
    precisions[np.isnan(aucs)] = np.nan
    return aucs, precisions


def _calibration_errors(
    values: _Floats, truth: npt.NDArray[np.bool_], known: npt.NDArray[np.bool_], weights: _Floats
) -> _Floats:
    """Return the expected calibration error of each resample, (1 + R,)."""
    bins = np.minimum((values * BINS).astype(np.int64), BINS - 1)
    error = np.zeros(len(weights))
    for number in range(BINS):
        inside = known & (bins == number)
        error += np.abs(weights @ np.where(inside, values - truth, 0.0).sum(axis=1))
    return divided(error, weights @ known.sum(axis=1))


def _likelihood(values: _Floats, truth: npt.NDArray[np.bool_]) -> _Floats:
    limited = np.clip(values, _LEAST, 1 - _LEAST)
    return np.where(truth, -np.log(limited), -np.log1p(-limited))


def _reliability(values: _Floats, truth: npt.NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    bins = np.minimum((values * BINS).astype(np.int64), BINS - 1)
    return tuple(
        ReliabilityBin(
            probability=float(values[bins == number].mean()),
            share=float(truth[bins == number].mean()),
            cells=int((bins == number).sum()),
        )
        for number in range(BINS)
        if (bins == number).any()
    )


def _risk_coverage(values: _Floats, truth: npt.NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    order = np.argsort(-np.maximum(values, 1 - values), kind="stable")
    errors = ((values >= 0.5) != truth)[order].cumsum()
    counts = np.unique(np.linspace(1, len(order), min(_CURVE, len(order))).astype(np.int64))
    return tuple((float(count / len(order)), float(errors[count - 1] / count)) for count in counts.tolist())


def _means(scores: _Floats) -> _Floats:
    """Return the mean of each row over its numbers, NaN if there are none."""
    return divided(np.nansum(scores, axis=1), (~np.isnan(scores)).sum(axis=1).astype(np.float64))


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _mean(values: npt.NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None
