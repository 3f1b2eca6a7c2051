"""Scores of probabilities against plain references."""

from __future__ import annotations

import numpy as np
import pytest

from seqpar_deploy.errors import DatasetError
from seqpar_deploy.evaluation.probability_metrics import BINS, compute_probability_metrics


def made(people: int, attributes: int, seed: int, *, steps: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (M, n) and labels (M, n), with unknown labels. `steps` makes ties."""
    rng = np.random.default_rng(seed)
    values = rng.random((people, attributes))
    if steps:
        values = np.round(values * steps) / steps
    labels = (rng.random(values.shape) < values).astype(np.int8)
    labels[rng.random(values.shape) < 0.1] = -1
    return values, labels


def plain_auc(values: np.ndarray, yes: np.ndarray) -> float:
    pairs = [(p > q) + 0.5 * (p == q) for p in values[yes] for q in values[~yes]]
    return float(np.mean(pairs))


def plain_average_precision(values: np.ndarray, yes: np.ndarray) -> float:
    found, before = 0.0, 0
    for limit in sorted(set(values), reverse=True):
        above = values >= limit
        hits = int((above & yes).sum())
        found += (hits - before) / yes.sum() * hits / above.sum()
        before = hits
    return float(found)


def plain_calibration_error(values: np.ndarray, yes: np.ndarray) -> float:
    error = 0.0
    for number in range(BINS):
        low, high = number / BINS, (number + 1) / BINS
        inside = (values >= low) & ((values < high) | (number == BINS - 1))
        if inside.any():
            error += inside.sum() / len(values) * abs(values[inside].mean() - yes[inside].mean())
    return error


@pytest.mark.parametrize(("seed", "steps"), [(0, 0), (1, 7), (2, 2)])
def test_scores_equal_plain_references(seed: int, steps: int) -> None:
    values, labels = made(80, 4, seed, steps=steps)
    metrics = compute_probability_metrics(values, labels, resamples=100)
    known, yes = labels >= 0, labels == 1
    for place, attribute in enumerate(metrics.attributes):
        cells = known[:, place]
        p, y = values[cells, place], yes[cells, place]
        assert (attribute.positives, attribute.negatives) == (y.sum(), (~y).sum())
        assert attribute.auc == pytest.approx(plain_auc(p, y))
        assert attribute.average_precision == pytest.approx(plain_average_precision(p, y))
        assert attribute.brier == pytest.approx(np.mean((p - y) ** 2))
    assert metrics.auc.value == pytest.approx(np.mean([one.auc for one in metrics.attributes]))
    if not steps:  # a value on the edge of two bins may fall into either
        assert metrics.ece.value == pytest.approx(plain_calibration_error(values[known], yes[known]))
    assert metrics.coverage is None
    assert sum(one.cells for one in metrics.reliability) == known.sum()


def test_coverage_and_error_are_of_labelled_cells() -> None:
    labels = np.array([[1, 0, -1], [1, 1, 0]], np.int8)
    states = np.array([[1, 1, 1], [-1, 0, 0]], np.int8)
    metrics = compute_probability_metrics(np.full((2, 3), 0.5), labels, states=states, resamples=100)
    assert metrics.coverage is not None
    assert metrics.error is not None
    assert metrics.coverage.value == pytest.approx(4 / 5)
    assert metrics.error.value == pytest.approx(2 / 4)
    assert metrics.attributes[0].coverage == pytest.approx(1 / 2)
    assert metrics.attributes[0].error == 0


def test_means_leave_out_attributes_with_few_labels() -> None:
    values, labels = made(60, 3, 5)
    labels[:, 2] = 0
    labels[:9, 2] = 1
    metrics = compute_probability_metrics(values, labels, resamples=100)
    assert metrics.auc.value == pytest.approx(np.mean([one.auc for one in metrics.attributes[:2]]))
    assert metrics.attributes[2].auc is not None


def test_intervals_are_wider_if_groups_repeat_people() -> None:
    values, labels = made(60, 6, 3)
    repeated, again = np.repeat(values, 5, axis=0), np.repeat(labels, 5, axis=0)
    groups = [str(person) for person in range(60) for _ in range(5)]
    apart = compute_probability_metrics(repeated, again)
    together = compute_probability_metrics(repeated, again, groups=groups)
    alone = compute_probability_metrics(values, labels)

    def width(metrics: object) -> float:
        nll = metrics.nll  # type: ignore[attr-defined]
        return float(nll.high - nll.low)

    assert width(together) == pytest.approx(width(alone), rel=0.2)
    assert width(together) > 1.7 * width(apart)


def test_the_curve_ends_with_every_cell() -> None:
    values, labels = made(50, 4, 9)
    curve = compute_probability_metrics(values, labels, resamples=100).risk_coverage
    known = labels >= 0
    assert curve[-1] == (1.0, pytest.approx(((values >= 0.5) != (labels == 1))[known].mean()))
    assert [coverage for coverage, _ in curve] == sorted(coverage for coverage, _ in curve)


@pytest.mark.parametrize("label", [0, 1])
def test_without_one_label_scores_are_missing_and_not_zero(label: int) -> None:
    metrics = compute_probability_metrics(np.full((3, 2), 0.25), np.full((3, 2), label, np.int8))
    assert metrics.auc.value is None
    assert metrics.attributes[0].average_precision is None
    assert metrics.brier.value == pytest.approx((0.25 - label) ** 2)


@pytest.mark.parametrize(
    ("values", "labels", "says"),
    [
        (np.full((2, 2), np.nan), np.ones((2, 2), np.int8), "got nan"),
        (np.full((2, 2), 1.5), np.ones((2, 2), np.int8), "got 1.5"),
        (np.full((2, 2), 0.5), np.full((2, 2), -1, np.int8), "got none"),
        (np.full((2, 3), 0.5), np.ones((2, 2), np.int8), r"\(2, 3\)"),
    ],
)
def test_bad_input(values: np.ndarray, labels: np.ndarray, says: str) -> None:
    with pytest.raises(DatasetError, match=says) as refused:
        compute_probability_metrics(values, labels)
    assert "\n" not in str(refused.value)
