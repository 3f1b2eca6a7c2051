"""The bound of the error: exact numbers, how often it holds, and what is said if nothing can be promised."""

from __future__ import annotations

import numpy as np
import pytest

from seqpar_deploy.errors import CalibrationError
from seqpar_deploy.evaluation.fitting.error_bound import (
    LIMITS,
    bound_error,
    cells_without_error,
    symmetric,
    upper_bound,
)


def people(count: int, seed: int, *, size: int = 1, together: float = 0.0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return calibrated probabilities (count, 10), labels, and groups of a size, whose people err together."""
    from scipy.special import ndtri

    rng = np.random.default_rng(seed)
    probabilities = 1 / (1 + np.exp(-rng.normal(0, 4, (count, 10))))
    groups = np.arange(count) // size
    effect = np.sqrt(1 - together) * rng.standard_normal((count, 10))
    effect += np.sqrt(together) * rng.standard_normal((count, 1))[groups]
    wrong = effect < ndtri(np.minimum(probabilities, 1 - probabilities))
    labels = ((probabilities >= 0.5) != wrong).astype(np.int8)
    return probabilities, labels, [f"{group}" for group in groups]


def true_error(probabilities: np.ndarray, limit: float) -> float:
    codes = symmetric(limit, probabilities.shape[1]).codes(probabilities)
    return float(np.minimum(probabilities, 1 - probabilities)[codes >= 0].mean())


@pytest.mark.parametrize(
    ("max_error", "confidence", "cells"), [(0.02, 0.95, 149), (0.02, 0.9, 114), (0.05, 0.95, 59), (0.01, 0.95, 299)]
)
def test_labels_needed_without_an_error(max_error: float, confidence: float, cells: int) -> None:
    assert cells_without_error(max_error, confidence) == cells
    assert upper_bound(0, cells, confidence, freedom=np.inf) <= max_error
    assert upper_bound(0, cells - 1, confidence, freedom=np.inf) > max_error


def test_the_bound_is_that_of_clopper_and_pearson() -> None:
    assert upper_bound(0.1, 20, 0.95, freedom=np.inf) == pytest.approx(0.28262, abs=1e-5)  # published tables: 2 of 20
    assert upper_bound(0.1, 20, 0.95, freedom=4) > 0.3  # the design effect of few groups is not known well
    assert upper_bound(1, 20, 0.95, freedom=np.inf) == 1
    assert upper_bound(0, 0, 0.95, freedom=1) == 1


def test_limits_go_from_strict_to_loose() -> None:
    assert (np.diff(LIMITS) < 0).all()
    assert LIMITS[-1] == 0.5
    assert LIMITS[0] < 1


@pytest.mark.parametrize(("size", "together"), [(1, 0.0), (1, 0.3), (8, 0.3)])
def test_the_bound_holds_as_often_as_promised(size: int, together: float) -> None:
    """Of 100 fits with confidence 0.8, 20 broken promises are expected at most, and more than 32 by 1 in 1,000."""
    population = people(20_000, 10**6)[0]
    broken = found = 0
    for seed in range(100):
        try:
            limit = bound_error(*people(240, seed, size=size, together=together), max_error=0.03, confidence=0.8).limit
        except CalibrationError:
            continue
        found += 1
        broken += true_error(population, limit) > 0.03
    assert found > 80
    assert broken <= 32


def test_the_bound_is_tight_with_many_people() -> None:
    bound = bound_error(*people(8000, 0), max_error=0.03, confidence=0.9)
    population = people(20_000, 1)[0]
    assert 0.025 < true_error(population, bound.limit) <= 0.03
    assert bound.error <= bound.bound <= 0.03
    assert 0.5 < bound.coverage < 1


def test_people_who_err_together_count_less() -> None:
    alone = bound_error(*people(480, 3), max_error=0.05, confidence=0.9)
    together = bound_error(*people(480, 3, size=24, together=0.4), max_error=0.05, confidence=0.9)
    assert alone.design_effect < 1.5
    assert together.design_effect > 1.5


def test_one_group_tells_nothing_of_others() -> None:
    probabilities, labels, _ = people(400, 3)
    with pytest.raises(CalibrationError):
        bound_error(probabilities, labels, ["one"] * 400, max_error=0.05, confidence=0.9)


def test_a_few_large_groups_widen_the_bound() -> None:
    probabilities, labels, groups = people(400, 3)
    even = bound_error(probabilities, labels, groups, max_error=0.05, confidence=0.9)
    uneven = bound_error(probabilities, labels, ["large"] * 50 + groups[50:], max_error=0.05, confidence=0.9)
    assert even.freedom > 300
    assert uneven.freedom < 10
    assert uneven.limit >= even.limit


def test_a_model_that_is_sure_and_right_decides_everything() -> None:
    probabilities = np.where(np.arange(4000).reshape(400, 10) % 3 == 0, 0.9999, 0.0001)
    labels = (probabilities > 0.5).astype(np.int8)
    bound = bound_error(probabilities, labels, [f"{row}" for row in range(400)], max_error=0.02, confidence=0.95)
    assert (bound.coverage, bound.error, bound.design_effect) == (1, 0, 1)
    assert bound.limit == 0.5


def test_unknown_labels_do_not_count() -> None:
    probabilities, labels, groups = people(400, 5)
    some = labels.copy()
    some[:, 5:] = -1
    bound = bound_error(probabilities, some, groups, max_error=0.05, confidence=0.9)
    assert bound == bound_error(probabilities[:, :5], labels[:, :5], groups, max_error=0.05, confidence=0.9)


def test_exclusive_attributes_are_decided_as_they_will_be() -> None:
    probabilities = np.tile([0.999, 0.9985], (600, 1))
    labels = np.tile(np.array([1, 0], dtype=np.int8), (600, 1))
    groups = [f"{row}" for row in range(600)]
    assert bound_error(probabilities, labels, groups, max_error=0.02, confidence=0.9, exclusive=((0, 1),)).error == 0
    with pytest.raises(CalibrationError):
        bound_error(probabilities, labels, groups, max_error=0.02, confidence=0.9)


def test_the_error_says_how_many_people_would_do() -> None:
    probabilities, _, groups = people(12, 0)
    with pytest.raises(CalibrationError, match=r"about \d+ people") as raised:
        bound_error(probabilities, (probabilities > 0.5).astype(np.int8), groups, max_error=0.02, confidence=0.95)
    number = int(str(raised.value).split("about ")[1].split()[0])
    assert 15 <= number <= 60  # 149 labels, of the 10 of each person some 40 to 100 % decided
    assert "12" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_no_number_of_people_makes_wrong_labels_right() -> None:
    probabilities, labels, groups = people(300, 0)
    with pytest.raises(CalibrationError, match="raise --max-error") as raised:
        bound_error(probabilities, 1 - labels, groups, max_error=0.02, confidence=0.9)
    assert "people" not in str(raised.value)
