"""Differences of two models' scores: they are those of the published metrics, and intervals follow the pairing."""

from __future__ import annotations

import numpy as np
import pytest

from seqpar_deploy.errors import DatasetError
from seqpar_deploy.evaluation.metrics import compute_metrics
from seqpar_deploy.evaluation.paired import paired_difference


def people(seed: int, count: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Return predictions and labels of 9 attributes, a sixth unknown, one of them of everybody."""
    rng = np.random.default_rng(seed)
    labels = rng.choice([1, 0, -1], size=(count, 9), p=[0.3, 0.53, 0.17]).astype(np.int8)
    labels[:, 4] = -1
    labels[7] = -1
    return rng.random((count, 9)) < np.where(labels == 1, 0.7, 0.2), labels


@pytest.mark.parametrize("seed", [1, 2])
def test_the_differences_are_those_of_the_metrics(seed: int) -> None:
    before, labels = people(seed)
    after = before.copy()
    after[::3] ^= np.random.default_rng(9).random(after[::3].shape) < 0.2
    found = paired_difference(before, after, labels)
    scores = [compute_metrics(predicted, labels) for predicted in (before, after)]
    assert found.ma.value == pytest.approx(scores[1].ma - scores[0].ma, abs=1e-12)
    assert found.f1.value == pytest.approx(scores[1].f1 - scores[0].f1, abs=1e-12)
    for one in (found.ma, found.f1):
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.value < one.high
    assert paired_difference(before, after, labels) == found  # the seed is fixed


def test_equal_predictions_do_not_differ_in_any_resample() -> None:
    before, labels = people(3)
    found = paired_difference(before, before, labels)
    assert (found.ma.low, found.ma.value, found.ma.high) == (0, 0, 0)
    assert (found.f1.low, found.f1.value, found.f1.high) == (0, 0, 0)


def test_a_clear_difference_and_one_by_chance() -> None:
    before, labels = people(4)
    clear = paired_difference(before, before | (labels == 1), labels).f1
    assert clear.low is not None
    assert clear.low > 0.05
    chance = before.copy()
    chance[5] = ~chance[5]  # one person of 150
    found = paired_difference(before, chance, labels).f1
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 0 <= found.high


def test_people_of_a_group_are_drawn_together() -> None:
    """Ten pictures of each of 15 people tell as much as one of each: the interval is wider than that of 150 people."""
    before, labels = people(5, 15)
    after, _ = people(6, 15)
    before, after, labels = (np.repeat(one, 10, axis=0) for one in (before, after, labels))
    groups = [f"person {row // 10}" for row in range(150)]
    alone, together = (paired_difference(before, after, labels, groups=some).f1 for some in (None, groups))
    assert alone.value == together.value
    assert together.high - together.low > 2 * (alone.high - alone.low)  # type: ignore[operator]


def test_other_shapes_are_refused() -> None:
    before, labels = people(7)
    with pytest.raises(DatasetError, match=r"\(149, 9\)"):
        paired_difference(before, before[:-1], labels)
    with pytest.raises(DatasetError, match=r"\(150, 8\)"):
        paired_difference(before, before, labels[:, 1:])
