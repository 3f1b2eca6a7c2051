"""What the pipeline does before the first frame of a file: the detector looks ahead."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from fakes.predictions import predicted
from video.clips import make_clip

from seqpar_deploy.prediction import Prediction
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.video import pipeline as pipeline_module
from seqpar_deploy.video.pipeline import Pipeline, Summary
from seqpar_deploy.video.sinks import BaseSink
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import SourceSpec
from seqpar_deploy.video.types import Box, Event, Frame, Person, TrackedBox


class Silent:
    """A Recognizer that emits no attribute."""

    label_set, thresholds = load_label_set("pa100k"), None

    def predict(self, crops: Sequence[Any], *, drafts: Any = None) -> list[Prediction]:
        return [predicted({}, self.label_set) for _ in crops]


class Unsure:
    """Finds somebody who walks, or stands, and is not sure. It keeps what it gets, in order."""

    def __init__(self, speed: int, fails_at: int | None = None) -> None:
        self.speed, self.fails_at = speed, fails_at
        self.ahead: list[int] = []
        self.seen: list[int] = []

    def look_ahead(self, frames: Iterable[Frame]) -> None:
        assert self.seen == []
        self.ahead += [frame.index for frame in frames]

    def detect(self, frame: Frame) -> list[Box]:
        if frame.index == self.fails_at:
            raise RuntimeError("the detector broke")
        self.seen.append(frame.index)
        left = self.speed * frame.index
        return [Box(left=left, top=10, right=left + 30, bottom=90, evidence=0.5)]

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        return [TrackedBox(track_id=1, box=box) for box in boxes]

    def close(self) -> None:
        """Nothing is held."""


class Keeper(BaseSink):
    def __init__(self) -> None:
        self.frames: list[tuple[int, int]] = []  # index, and number of boxes
        self.events: list[str] = []

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        self.frames.append((frame.index, len(boxes)))

    def event(self, event: Event) -> None:
        self.events.append(event.kind)


def make(place: Path, detector: Unsure, sink: Keeper) -> Pipeline:
    source = Source(SourceSpec(name="clip", place=str(place), live=False))
    return Pipeline([source], detector, Silent(), sink, tracker=lambda: detector)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.ts", frames=40)


def run(place: Path, detector: Unsure) -> tuple[Summary, Keeper]:
    sink = Keeper()
    return make(place, detector, sink).run(), sink


def test_the_first_frames_of_a_file_come_twice(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for limit, count in (("_AHEAD_FRAMES", 7), ("_AHEAD_SECONDS", 1.0)):
        with monkeypatch.context() as patched:
            patched.setattr(pipeline_module, limit, count)
            summary, _ = run(clip, detector := Unsure(5))
        assert detector.ahead == list(range(7 if limit == "_AHEAD_FRAMES" else 11))
        assert detector.seen == list(range(40))
        assert summary.frames == {"clip": 40}
        assert summary.stages["look ahead"][0] == 1


def test_somebody_who_walks_is_emitted_from_the_first_frame_and_counted(clip: Path) -> None:
    summary, sink = run(clip, Unsure(3))
    assert sink.frames == [(index, 1) for index in range(40)]
    assert sink.events[0] == "appeared"
    assert sink.events[-1] == "ended"
    assert summary.people == 1


def test_a_thing_costs_no_crop_and_has_no_event(clip: Path) -> None:
    summary, sink = run(clip, Unsure(0))
    assert sink.frames == [(index, 0) for index in range(40)]
    assert sink.events == []
    assert (summary.people, summary.unrecognized, summary.crops) == (0, 0, 0)


def test_runs_of_a_file_are_alike(clip: Path) -> None:
    first, second = (run(clip, Unsure(3))[1] for _ in range(2))
    assert (first.frames, first.events) == (second.frames, second.events)


def test_frames_that_wait_reach_the_sinks_after_a_failure(clip: Path) -> None:
    sink = Keeper()
    with pytest.raises(RuntimeError, match="the detector broke"):
        make(clip, Unsure(5, fails_at=12), sink).run()
    assert sink.frames == [(index, 1) for index in range(12)]


def test_a_pipe_is_read_once(clip: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.ts"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(clip.read_bytes()), daemon=True)
    writer.start()
    summary, sink = run(pipe, detector := Unsure(5))
    writer.join(20)
    assert detector.ahead == []
    assert summary.frames == {"clip": 40}
    assert len(sink.frames) == 40


def test_a_file_that_cannot_be_read_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    summary, _ = run(broken, Unsure(5))
    assert list(summary.failed) == ["clip"]
    assert len(caplog.messages) == 1


def test_a_stop_ends_the_look_ahead(clip: Path) -> None:
    class Stops(Unsure):
        def look_ahead(self, frames: Iterable[Frame]) -> None:
            for frame in frames:
                self.ahead.append(frame.index)
                made.stop()

    sink, detector = Keeper(), Stops(5)
    made = make(clip, detector, sink)
    made.run()
    assert detector.ahead == [0]
    assert detector.seen == []
