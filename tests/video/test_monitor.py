"""The monitor of a run: it counts a track once, logs an attribute once, and exports what it found."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from fakes.calibrations import calibrated_on
from fakes.predictions import predicted

from seqpar_deploy import Recognizer
from seqpar_deploy.calibration.drift import FIRST_LOOK, DriftMonitor
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.video import Follower
from seqpar_deploy.video.crop_selection import Candidate
from seqpar_deploy.video.monitor import Monitor
from seqpar_deploy.video.sinks.metrics import Metrics
from seqpar_deploy.video.types import Box, Frame, Sighting, TrackedBox

pytest.importorskip("prometheus_client")

LABELS = load_label_set("pa100k")
NAMES = [attribute.name for attribute in LABELS.attributes]


def candidate(track_id: int = 1, stream: str = "street") -> Candidate:
    sighting = Sighting(frame=0, timestamp=0.0, box=Box(left=0, top=0, right=9, bottom=20))
    return Candidate(
        stream=stream, track_id=track_id, sighting=sighting, crop=np.zeros((20, 9, 3), np.uint8), quality=1.0
    )


def monitor(metrics: Metrics | None = None) -> Monitor:
    reference = np.full((100, len(LABELS)), 0.05)
    return Monitor(DriftMonitor(calibrated_on(reference, LABELS), LABELS), metrics=metrics)


def test_an_attribute_that_leaves_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    watch = monitor(metrics)
    hat = predicted({}, LABELS, {"Hat": 0.97})
    for track_id in range(4 * FIRST_LOOK):
        watch(candidate(track_id), hat, True)
        watch(candidate(track_id), predicted({}, LABELS), False)  # a later crop of the track
    watch.finish()
    (line,) = [message for message in caplog.messages if "Hat" in message]
    assert f"after {FIRST_LOOK} people" in line
    assert caplog.records[0].levelno == logging.WARNING
    assert len(caplog.messages) == 1
    value = metrics.registry.get_sample_value
    assert value("seqpar_monitored_people_total") == 4 * FIRST_LOOK
    assert [value("seqpar_drifted", {"attribute": name}) for name in ("Hat", "Female")] == [1, 0]
    distances = {name: value("seqpar_drift", {"attribute": name}) for name in NAMES}
    assert {name: distance for name, distance in distances.items() if distance} == {"Hat": 1}
    assert watch.report().drifted == ("Hat",)


def test_the_people_since_the_latest_look_are_looked_at_in_the_end(caplog: pytest.LogCaptureFixture) -> None:
    watch = monitor()
    for track_id in range(FIRST_LOOK + 6):
        watch(candidate(track_id), predicted({}, LABELS, {"Hat": 0.06}), True)
    assert watch.report().looks == 1
    watch.finish()
    assert watch.report().looks == 2
    assert watch.report().looked_at == FIRST_LOOK + 6


def test_a_follower_passes_on_each_crop_and_which_is_the_first(bundle_dir: Path) -> None:
    class Two:
        """Two people, the second in the second half."""

        def detect(self, frame: Frame) -> list[Box]:
            both = [Box(left=20 + frame.index, top=10, right=60 + frame.index, bottom=110),
                    Box(left=120, top=10, right=160, bottom=110)]  # fmt: skip
            return both[: 1 + (frame.index >= 20)]

        def update(self, _frame: Frame, boxes: list[Box]) -> list[TrackedBox]:
            return [TrackedBox(track_id=number, box=box) for number, box in enumerate(boxes, 1)]

        def close(self) -> None: ...

    seen: list[tuple[int, bool]] = []

    def note(candidate: Candidate, prediction: Prediction, first: bool) -> None:
        assert np.isfinite(prediction.probabilities).all()
        seen.append((candidate.track_id, first))

    random = np.random.default_rng(0)
    with (
        Recognizer.from_bundle(bundle_dir) as recognizer,
        Follower(
            recognizer,
            lambda _event: None,
            detector=Two(),
            tracker=Two,
            on_prediction=[note],  # type: ignore[arg-type]
        ) as follower,
    ):
        for index in range(40):
            image = random.integers(0, 255, (120, 200, 3), np.uint8)
            follower.update(Frame(stream="street", index=index, timestamp=index / 5, image=image))
    assert [track_id for track_id, first in seen if first] == [1, 2]
    assert len(seen) == follower.crops > 2
