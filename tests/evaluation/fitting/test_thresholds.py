"""Rules of thresholds: what is refused, and what each objective gains on other people."""

from __future__ import annotations

import numpy as np
import pytest

from seqpar_deploy.errors import CalibrationError
from seqpar_deploy.evaluation.fitting.thresholds import Rule, choose_thresholds, parse_rule
from seqpar_deploy.evaluation.metrics import compute_metrics
from seqpar_deploy.vocab import Attribute, Group, LabelSet

LABEL_SET = LabelSet(
    name="mine",
    attributes=tuple(
        Attribute(name=f"A{place}", phrase=f"a {place}", group="two" if place < 2 else "rest") for place in range(6)
    ),
    groups={"two": Group(exclusive=True), "rest": Group()},
)
OFFSETS = np.array([0.0, -0.5, -2.0, -1.5, 1.5, -3.0])  # of the log-odds: rare and usual attributes


def people(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return calibrated probabilities, labels that follow them, and groups."""
    rng = np.random.default_rng(seed)
    probabilities = 1 / (1 + np.exp(-(rng.normal(0, 1.5, (count, 6)) + OFFSETS)))
    labels = (rng.random((count, 6)) < probabilities).astype(np.int8)
    labels[rng.random((count, 6)) < 0.05] = -1
    return probabilities.astype(np.float32), labels, [f"{row}" for row in range(count)]


def codes(objective: str | None, seed: int = 0, count: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return states and labels of other people by thresholds that are chosen on some."""
    chosen = choose_thresholds(parse_rule(objective, None, None), *people(count, seed)[:2], LABEL_SET, ["g"] * count)
    others, labels, _ = people(20_000, seed + 100)
    return chosen.thresholds.codes(others), labels


@pytest.mark.parametrize(
    ("given", "rule"),
    [
        ((None, None, None), Rule(objective="f1")),
        (("probable", None, None), Rule(objective="probable")),
        (("f1", None, None), Rule(objective="f1")),
        (("ma", None, None), Rule(objective="ma")),
        (("precision=0.95", None, None), Rule(objective="precision", value=0.95)),
        ((None, 0.02, None), Rule(objective="max_error", value=0.02, confidence=0.9)),
        ((None, 0.02, 0.95), Rule(objective="max_error", value=0.02, confidence=0.95)),
    ],
)
def test_rules_of_options(given: tuple[str | None, float | None, float | None], rule: Rule) -> None:
    assert parse_rule(*given) == rule


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("f2", None, None), "f2"),
        (("", None, None), "--objective"),
        (("precision", None, None), "precision"),
        (("precision=", None, None), "precision"),
        (("precision=1.5", None, None), "1.5"),
        (("precision=nan", None, None), "nan"),
        (("precision=95\n%", None, None), "95"),
        (("f1=0.5", None, None), "f1=0.5"),
        (("f1", 0.02, None), "--max-error"),
        (("f1", None, 0.9), "--confidence"),
        ((None, None, 0.9), "--confidence"),
        ((None, 0.0, None), "--max-error"),
        ((None, 0.5, None), "0.5"),
        ((None, float("nan"), None), "nan"),
        ((None, 0.02, 1.0), "--confidence"),
        ((None, 0.02, 0.1), "0.1"),
        ((None, 0.02, float("nan")), "nan"),
    ],
)
def test_options_that_are_refused(given: tuple[str | None, float | None, float | None], told: str) -> None:
    with pytest.raises(CalibrationError) as raised:
        parse_rule(*given)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_probable_is_one_half_for_all() -> None:
    chosen = choose_thresholds(Rule(objective="probable"), *people(50, 0)[:2], LABEL_SET, ["g"] * 50)
    np.testing.assert_array_equal(chosen.thresholds.yes, np.full(6, 0.5))
    np.testing.assert_array_equal(chosen.thresholds.no, np.full(6, 0.5))
    assert chosen.rule == {"objective": "probable"}
    assert chosen.thresholds.exclusive == ((0, 1),)


def test_each_objective_is_best_at_its_own_score_on_other_people() -> None:
    scores = {}
    for objective in ("probable", "f1", "ma"):
        states, labels = codes(objective)
        scores[objective] = compute_metrics(states == 1, labels)
    assert scores["ma"].ma > scores["f1"].ma + 0.03
    assert scores["ma"].ma > scores["probable"].ma + 0.03
    assert scores["f1"].f1 > scores["probable"].f1
    assert scores["f1"].f1 > scores["ma"].f1


def test_every_state_is_decided() -> None:
    for objective in ("probable", "f1", "ma", "precision=0.9"):
        assert (codes(objective)[0] >= 0).all()


@pytest.mark.parametrize("precision", [0.7, 0.9])
def test_a_precision_holds_for_other_people(precision: float) -> None:
    found = []
    for seed in range(5):
        states, labels = codes(f"precision={precision}", seed)
        claims = (states == 1) & (labels >= 0)
        found.append((labels[claims] == 1).mean())
    assert np.mean(found) > precision - 0.02
    assert np.mean(found) < precision + 0.08  # the lowest threshold, not any


def test_a_precision_that_nothing_reaches_is_noted() -> None:
    probabilities, labels, groups = people(100, 0)
    labels[:, 3] = 0
    chosen = choose_thresholds(Rule(objective="precision", value=0.9), probabilities, labels, LABEL_SET, groups)
    assert "A3" in chosen.notes[0]
    assert (chosen.thresholds.codes(probabilities)[:, 3] == 0).all()
    three = choose_thresholds(
        Rule(objective="precision", value=0.9), probabilities[:3], labels[:3] * 0 + 1, LABEL_SET, groups[:3]
    )
    assert (three.thresholds.yes[OFFSETS < -1] > 0.5).all()  # three people who are right are no precision


def test_bad_values_are_refused() -> None:
    probabilities, labels, groups = people(10, 0)
    broken = probabilities.copy()
    broken[2, 1] = np.nan
    with pytest.raises(CalibrationError, match="NaN"):
        choose_thresholds(Rule(), broken, labels, LABEL_SET, groups)
    with pytest.raises(CalibrationError, match="10, 6"):
        choose_thresholds(Rule(), probabilities[:9], labels, LABEL_SET, groups)


def test_a_bound_leaves_the_uncertain_unknown() -> None:
    probabilities, labels, groups = people(1500, 0)
    chosen = choose_thresholds(parse_rule(None, 0.05, None), probabilities, labels, LABEL_SET, groups)
    others, truth, _ = people(20_000, 9)
    states = chosen.thresholds.codes(others)
    decided = (states >= 0) & (truth >= 0)
    assert (states != truth)[decided].mean() < 0.05
    assert (states < 0).mean() > 0.1
    assert chosen.rule["confidence"] == 0.9
    assert chosen.notes
