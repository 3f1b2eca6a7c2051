"""Drift: how often it is a false alarm, what it finds, and that looks and windows count as documented."""

from __future__ import annotations

import json
import math
import threading

import numpy as np
import numpy.typing as npt
import pytest
from fakes.calibrations import calibrated_on

from seqpar_deploy.calibration.drift import FIRST_LOOK, WINDOW, AttributeDrift, DriftMonitor, fisher_tests
from seqpar_deploy.errors import CalibrationError
from seqpar_deploy.resources import load_label_set

LABELS = load_label_set("pa100k")
N = len(LABELS)


def monitor(reference: npt.NDArray[np.floating], **options: float) -> DriftMonitor:
    return DriftMonitor(calibrated_on(reference, LABELS), LABELS, **options)


def test_false_alarms_are_as_rare_as_promised() -> None:
    """Of attributes that are all different, and of looks at 8 to 128 people. Few, but not none."""
    random = np.random.default_rng(0)
    rate, runs = 0.3, 200
    shapes = random.uniform(0.3, 3, (2, N))
    alarms = 0
    for _ in range(runs):
        watch = monitor(random.beta(shapes[0], shapes[1], (60, N)), false_alarm_rate=rate)
        alarms += any(watch.add(person) for person in random.beta(shapes[0], shapes[1], (128, N)))
    assert alarms
    # At most the rate: above this is 1 in 1,000 if it is exactly the rate.
    assert alarms / runs <= rate + 3.1 * math.sqrt(rate * (1 - rate) / runs)


def test_fishers_test_is_that_of_the_textbook() -> None:
    """Against SciPy, if it is installed, and the lady tasting tea."""
    one = np.array([[3]])
    p_values, tests = fisher_tests(one, 4, np.array([[1]]), 4)
    assert p_values[0, 0] == pytest.approx(2 * 17 / 70)
    assert tests == 1
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(0)
    for _ in range(100):
        people, reference = int(random.integers(1, 60)), int(random.integers(1, 80))
        here, there = int(random.integers(0, people + 1)), int(random.integers(0, reference + 1))
        p_values, _ = fisher_tests(np.array([[here]]), people, np.array([[there]]), reference)
        expected = stats.hypergeom(people + reference, here + there, people)
        assert p_values[0, 0] == pytest.approx(min(1, 2 * min(expected.cdf(here), expected.sf(here - 1))), rel=1e-9)


def test_edges_that_separate_nobody_are_no_tests() -> None:
    some, others = np.array([[5, 3, 3, 0], [5, 5, 5, 5]]), np.array([[7, 4, 4, 0], [7, 7, 7, 7]])
    assert fisher_tests(some, 5, others, 7)[1] == 1


def test_what_moved_is_found_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    watch = monitor(random.beta(1, 4, (166, N)))
    found: list[AttributeDrift] = []
    for person in random.beta(1, 4, (128, N)):
        person[3] = random.beta(4, 1)
        person[5] = 0.99
        found += watch.add(person)
    names = LABELS.attributes[5].name, LABELS.attributes[3].name
    assert sorted(one.name for one in found) == sorted(names)  # each once
    report = watch.report()
    assert sorted(report.drifted) == sorted(names)
    moved = report.attributes[5]
    assert moved.p_value <= report.false_alarm_rate < report.attributes[4].p_value
    assert moved.expected < 0.3 < moved.share == 1
    assert moved.edge <= 0.95
    assert moved.distance == moved.share - moved.expected
    assert moved.since == FIRST_LOOK
    assert report.people == report.looked_at == 128
    assert json.loads(json.dumps(report.to_dict()))["attributes"][5]["since"] == FIRST_LOOK


def test_what_moves_after_a_long_time_is_found_soon() -> None:
    random = np.random.default_rng(0)
    watch = monitor(random.beta(1, 4, (166, N)))
    for person in random.beta(1, 4, (10 * WINDOW, N)):
        assert watch.add(person) == ()
    found = [one for person in random.beta(4, 1, (WINDOW, N)) for one in watch.add(person)]
    assert len(found) == N
    assert {one.since for one in found} == {11 * WINDOW}


def test_looks_at_doubled_counts_then_windows() -> None:
    reference = np.random.default_rng(0).random((100, N))
    watch = monitor(reference)
    looks = []
    for count in range(1, 3 * WINDOW + 1):
        before = watch.report().looks
        watch.add(reference[count % 100])
        if watch.report().looks > before:
            looks.append(count)
    assert looks == [8, 16, 32, 64, 128, 256, 512, 1024, 1536]
    assert watch.report().looked_at == WINDOW


def test_a_look_at_the_end_needs_people_and_new_ones() -> None:
    watch = monitor(np.full((100, N), 0.1))
    for _ in range(FIRST_LOOK - 1):
        assert watch.add(np.full(N, 0.9)) == ()
    assert watch.look() == ()
    report = watch.report()
    assert (report.looks, report.looked_at, report.attributes, report.drifted) == (0, 0, (), ())
    for _ in range(4):
        watch.add(np.full(N, 0.12))
    watch.look()
    assert (watch.report().looks, watch.report().looked_at) == (2, FIRST_LOOK + 3)
    watch.look()
    assert watch.report().looks == 2


def test_crops_of_one_group_count_as_one_person() -> None:
    reference = np.random.default_rng(0).random((100, N))
    p_values = []
    for groups in (100, 20):
        watch = DriftMonitor(calibrated_on(reference, LABELS, groups=groups), LABELS)
        for _ in range(FIRST_LOOK):
            watch.add(np.full(N, 0.99))
        p_values.append(watch.report().attributes[0].p_value)
        assert watch.report().reference == groups
    assert p_values[1] > p_values[0]


def test_people_with_nan_are_ignored() -> None:
    watch = monitor(np.full((100, N), 0.1))
    watch.add(np.full(N, np.nan))
    assert watch.report().people == 0


def test_threads_lose_nobody() -> None:
    watch = monitor(np.full((100, N), 0.1))
    threads = [
        threading.Thread(target=lambda: [watch.add(np.full(N, 0.1)) for _ in range(2 * WINDOW)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert watch.report().people == 8 * WINDOW
    assert watch.report().looks == 7 + 7


def test_what_cannot_be_monitored() -> None:
    with pytest.raises(CalibrationError, match="people"):
        monitor(np.empty((0, N)))
    for rate in (0.0, 1.0, math.nan):
        with pytest.raises(CalibrationError, match="false_alarm_rate"):
            monitor(np.full((9, N), 0.5), false_alarm_rate=rate)
