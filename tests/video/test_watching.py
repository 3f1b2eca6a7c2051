"""The pipeline as a function, and its stages without threads: what people embed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from video.clips import make_clip
from video.stream_server import StreamServer

from seqpar_deploy import Recognizer
from seqpar_deploy.errors import VideoError
from seqpar_deploy.resources import data_dir
from seqpar_deploy.video import Box, Event, Follower, Frame, TrackedBox, watch
from seqpar_deploy.video.places import expand_sources
from seqpar_deploy.video.source import Source

STREET = data_dir("samples") / "vtest" / "street.mp4"


class OneWalker:
    """Finds one person, in the frames of the first half."""

    def detect(self, frame: Frame) -> list[Box]:
        return [Box(left=20 + frame.index, top=10, right=60 + frame.index, bottom=110)] if frame.index < 50 else []

    def close(self) -> None:
        """Nothing is held."""


class Straight:
    """Whoever is found is always the same."""

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        return [TrackedBox(track=1, box=box) for box in boxes]


class Log:
    """A sink that counts."""

    def __init__(self) -> None:
        self.frames = self.closed = 0
        self.people: list[int] = []

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: object) -> None:
        self.frames += 1

    def event(self, event: Event) -> None:
        self.people.append(event.person.track)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(scope="module")
def recognizer(bundle_dir: Path) -> Recognizer:
    return Recognizer.from_bundle(bundle_dir)


def told(events: Sequence[Event]) -> list[tuple[object, ...]]:
    return [(event.kind, event.person.last_frame, event.person.labels, event.changed) for event in events]


def test_a_follower_finds_what_the_pipeline_does(recognizer: Recognizer) -> None:
    watched = list(watch(STREET, recognizer, detector=OneWalker(), tracker=Straight))
    assert (watched[0].kind, watched[-1].kind) == ("appeared", "ended")
    followed: list[Event] = []
    with Follower(recognizer, tell=followed.append, detector=OneWalker(), tracker=Straight) as follower:
        for frame in Source(expand_sources([str(STREET)])[0]):
            boxes, people = follower.update(frame)
            assert len(boxes) == (frame.index < 50)
            assert set(people) <= {1}
    assert told(followed) == told(watched)
    assert (follower.people, follower.unanswered) == (1, 0)


def test_leaving_the_loop_ends_the_run(recognizer: Recognizer) -> None:
    sink, before = Log(), threading.active_count()
    with watch(STREET, recognizer, detector=OneWalker(), tracker=Straight, sinks=[sink]) as events:
        next(events)
    assert sink.closed == 1
    assert sink.frames < 100
    assert list(events) == []
    assert events.summary is not None
    assert events.summary.people == 1
    for _ in watch(STREET, recognizer, detector=OneWalker(), tracker=Straight):
        break  # nothing holds on to it now
    for thread in threading.enumerate():
        if thread.name in ("watch", "sinks", "meters", "recognise"):
            thread.join(20)
    assert threading.active_count() <= before


def test_a_file_that_cannot_be_read_is_told_of_after_the_others(recognizer: Recognizer, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    said: list[str] = []
    sink = Log()
    events = watch(
        [broken, STREET], recognizer, detector=OneWalker(), tracker=Straight, sinks=[sink], report=said.append
    )
    with pytest.raises(VideoError, match=r"broken: .*broken\.mp4 cannot be read"):
        list(events)
    assert sink.people
    assert len(said) == 1
    events.close()


def test_what_a_detector_raises_reaches_the_caller(recognizer: Recognizer) -> None:
    class Breaks(OneWalker):
        def detect(self, frame: Frame) -> list[Box]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(watch(STREET, recognizer, detector=Breaks()))


def test_a_slow_model_takes_small_batches_on_live_streams(recognizer: Recognizer) -> None:
    follower = Follower(recognizer, tell=print, batch_size=16)
    assert follower._most(within=0.5) == 16
    follower._seconds_a_crop = 0.2
    assert [follower._most(within=seconds) for seconds in (None, 5, 0.5, 0.1)] == [16, 16, 2, 1]


def test_a_cancelled_task_ends_the_run(recognizer: Recognizer, tmp_path: Path) -> None:
    clip, sink = make_clip(tmp_path / "clip.ts", frames=60), Log()

    async def follow(url: str) -> None:
        with watch(url, recognizer, detector=OneWalker(), tracker=Straight, sinks=[sink]) as events:
            while await asyncio.to_thread(next, events, None):
                pass

    with StreamServer() as server, pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(follow(server.url(clips=[clip])), timeout=2))
    assert sink.frames
    assert sink.closed == 1


def test_files_and_streams_are_not_mixed(recognizer: Recognizer) -> None:
    with pytest.raises(VideoError, match="files and live sources in one run"):
        watch([STREET, "rtsp://127.0.0.1:9/x"], recognizer)
