"""The held-out report: it agrees with the metrics it is made of, and sees nothing of people held out."""

from __future__ import annotations

import numpy as np
import pytest

from seqpar_deploy.calibration.maps import probability
from seqpar_deploy.calibration.sidecar import BINS
from seqpar_deploy.evaluation.fitting.calibrate import histogram
from seqpar_deploy.evaluation.fitting.report import hold_out, make_report
from seqpar_deploy.evaluation.fitting.thresholds import parse_rule
from seqpar_deploy.evaluation.metrics import compute_metrics
from seqpar_deploy.vocab import LabelSet

RULE = parse_rule(None, None, None)


def people(label_set: LabelSet, count: int = 120) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return probabilities of a decoder that is too sure of itself, labels, and groups of three."""
    rng = np.random.default_rng(2)
    odds = rng.normal(-1, 4, (count, len(label_set)))
    labels = (rng.random(odds.shape) < probability(0.4 * odds)).astype(np.int8)
    labels[rng.random(odds.shape) < 0.1] = -1
    return probability(odds).astype(np.float32), labels, [f"g{row // 3}" for row in range(count)]


def test_calibration_helps_and_the_interval_of_the_difference_shows_it(label_set: LabelSet) -> None:
    probabilities, labels, groups = people(label_set)
    emitted = probabilities > 0.5
    held_out = hold_out(probabilities, labels, groups, RULE, label_set)
    report = make_report(held_out, probabilities, emitted, labels, groups)
    values = report.values
    difference = values["nll_difference"]
    assert difference["low"] < difference["value"] < difference["high"] < 0
    assert difference["value"] == pytest.approx(report.calibrated.nll.value - report.uncalibrated.nll.value, abs=1e-6)
    assert report.calibrated.ece.value < report.uncalibrated.ece.value / 2
    assert report.calibrated.auc == report.uncalibrated.auc


def test_published_metrics_and_their_differences_agree(label_set: LabelSet) -> None:
    probabilities, labels, groups = people(label_set)
    labels[:4] = -1  # nobody is scored on these
    labels[:, 5] = -1
    labels[labels[:, 6] == 1, 6] = 0
    emitted = probabilities > 0.7
    held_out = hold_out(probabilities, labels, groups, RULE, label_set)
    published = make_report(held_out, probabilities, emitted, labels, groups).values["published"]
    first, second = compute_metrics(emitted, labels), compute_metrics(held_out.states == 1, labels)
    for name in ("ma", "f1"):
        assert published["emitted"][name] == getattr(first, name)
        assert published["at_thresholds"][name] == getattr(second, name)
        difference = published["difference"][name]
        assert difference["value"] == pytest.approx(getattr(second, name) - getattr(first, name), abs=1e-9)
        assert difference["low"] <= difference["value"] <= difference["high"]


def test_thresholds_of_a_fold_do_not_see_its_labels(label_set: LabelSet) -> None:
    probabilities, labels, groups = people(label_set, 60)
    others = labels.copy()
    others[30:33] = np.where(labels[30:33] == 1, 0, 1)
    rule = parse_rule("f1", None, None)
    before, after = (hold_out(probabilities, some, groups, rule, label_set) for some in (labels, others))
    np.testing.assert_array_equal(before.states[30:33], after.states[30:33])
    np.testing.assert_array_equal(before.probabilities[30:33], after.probabilities[30:33])
    assert (before.probabilities != after.probabilities).any()


def test_histogram_counts_everybody_once() -> None:
    found = histogram(np.array([[0.0, 0.049], [1.0, 0.05], [0.999, 0.5]], dtype=np.float32))
    assert found.shape == (2, BINS)
    assert found[0].tolist() == [1, *[0] * (BINS - 2), 2]
    assert np.flatnonzero(found[1]).tolist() == [0, 1, BINS // 2]
