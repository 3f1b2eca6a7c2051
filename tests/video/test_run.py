"""The pipeline as a function, and its stages without threads: what people embed."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from video.clips import make_clip
from video.stream_server import StreamServer

from seqpar_deploy import Recognizer
from seqpar_deploy.errors import BackendError, DetectorError, ImageError, SeqparError, VideoError
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import data_dir
from seqpar_deploy.video import (
    Box,
    Event,
    Follower,
    Frame,
    FusionOptions,
    LifetimeOptions,
    SelectionOptions,
    TrackedBox,
    VideoOptions,
    Watch,
    pipeline,
    run,
    watch,
)
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import expand_sources

pytestmark = pytest.mark.slow

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
        return [TrackedBox(track_id=1, box=box) for box in boxes]


class Log:
    """A sink that counts."""

    def __init__(self) -> None:
        self.frames = self.closed = 0
        self.people: list[int] = []

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: object) -> None:
        self.frames += 1

    def event(self, event: Event) -> None:
        self.people.append(event.person.track_id)

    def close(self) -> None:
        self.closed += 1


@pytest.fixture(scope="module")
def recognizer(bundle_dir: Path) -> Recognizer:
    return Recognizer.from_bundle(bundle_dir)


def told(events: Sequence[Event]) -> list[tuple[object, ...]]:
    return [(event.kind, event.person.last.frame, event.person.labels, event.changed) for event in events]


def test_a_follower_finds_what_the_pipeline_does(recognizer: Recognizer) -> None:
    watched = list(watch(STREET, recognizer, detector=OneWalker(), tracker=Straight))
    assert (watched[0].kind, watched[-1].kind) == ("appeared", "ended")
    followed: list[Event] = []
    with Follower(recognizer, followed.append, detector=OneWalker(), tracker=Straight) as follower:
        for frame in Source(expand_sources([str(STREET)])[0]):
            boxes, people = follower.update(frame)
            assert len(boxes) == (frame.index < 50)
            assert set(people) <= {1}
    assert told(followed) == told(watched)
    assert (follower.recognized, follower.unrecognized) == (1, 0)


def test_leaving_the_loop_ends_the_run(recognizer: Recognizer) -> None:
    sink, before = Log(), threading.active_count()
    with watch(STREET, recognizer, detector=OneWalker(), tracker=Straight, sinks=[sink]) as events:
        next(events)
    assert sink.closed == 1
    assert sink.frames < 100
    assert list(events) == []
    assert events.summary.people == 1
    for _ in watch(STREET, recognizer, detector=OneWalker(), tracker=Straight):
        break  # nothing holds on to it now
    for thread in threading.enumerate():
        if thread.name in ("watch", "sinks", "meters", "recognize"):
            thread.join(20)
    assert threading.active_count() <= before


def test_a_file_that_cannot_be_read_is_an_error_after_the_others(
    recognizer: Recognizer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    sink = Log()
    events = watch([broken, STREET], recognizer, detector=OneWalker(), tracker=Straight, sinks=[sink])
    with pytest.raises(VideoError, match=r"broken: .*broken\.mp4 cannot be read"):
        list(events)
    assert sink.people
    assert len(caplog.messages) == 1
    assert list(events.summary.failed) == ["broken"]
    events.close()


def test_what_a_detector_raises_reaches_the_caller(recognizer: Recognizer) -> None:
    class Breaks(OneWalker):
        def detect(self, frame: Frame) -> list[Box]:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(watch(STREET, recognizer, detector=Breaks()))


def test_a_failure_after_the_caller_has_left_is_logged(
    recognizer: Recognizer, caplog: pytest.LogCaptureFixture
) -> None:
    reached = threading.Event()

    class BreaksLate(OneWalker):
        def detect(self, frame: Frame) -> list[Box]:
            reached.set()
            while events._events._end is None:  # until nobody takes events any more
                time.sleep(0.01)
            raise RuntimeError("too\nlate")

    events = watch(STREET, recognizer, detector=BreaksLate())
    assert reached.wait(10)
    events.close()
    assert caplog.messages == ["the run failed: RuntimeError: too late"]
    with pytest.raises(VideoError, match="no summary"):
        _ = events.summary


def test_a_failure_before_the_caller_left_is_logged(recognizer: Recognizer, caplog: pytest.LogCaptureFixture) -> None:

    class Breaks(OneWalker):
        def detect(self, frame: Frame) -> list[Box]:
            raise RuntimeError("too early")

    events = watch(STREET, recognizer, detector=Breaks())
    events._thread.join(10)
    events.close()
    assert caplog.messages == ["the run failed: RuntimeError: too early"]


def test_a_slow_model_takes_small_batches_on_live_streams(recognizer: Recognizer) -> None:
    follower = Follower(recognizer, print, options=VideoOptions(batch_size=16))
    assert follower._batch_limit(within=0.5) == 16
    follower._seconds_per_crop = 0.2
    assert [follower._batch_limit(within=seconds) for seconds in (None, 5, 0.5, 0.1)] == [16, 16, 2, 1]


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


def test_a_camera_that_is_not_there(recognizer: Recognizer) -> None:
    with pytest.raises(VideoError, match="/dev/video77 does not exist"):
        watch(77, recognizer)


def test_files_and_streams_are_not_mixed(recognizer: Recognizer) -> None:
    with pytest.raises(VideoError, match="all files or all live"):
        watch([STREET, "rtsp://127.0.0.1:9/x"], recognizer)


PICTURE: Crop = np.random.default_rng(0).integers(0, 255, (240, 320, 3), dtype=np.uint8)
PERSON = Box(left=50, top=20, right=110, bottom=180)


class Finds:
    """Finds the same in each frame."""

    def __init__(self, *boxes: Box) -> None:
        self.boxes = boxes

    def detect(self, frame: Frame) -> list[Box]:
        return list(self.boxes)

    def close(self) -> None:
        """Nothing is held."""


class Apart:
    """Numbers people by their place in the list; after some seconds, they are others."""

    def __init__(self, seconds: float = math.inf) -> None:
        self.seconds = seconds

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        first = 100 * int(frame.timestamp / self.seconds)
        return [TrackedBox(track_id=first + row + 1, box=box) for row, box in enumerate(boxes)]


def frame(seconds: float, image: Crop = PICTURE, stream: str = "s") -> Frame:
    return Frame(stream=stream, index=0, timestamp=seconds, image=image)


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        (frame(2, PICTURE.astype(np.float32)), ImageError, "frame 0 of s .*float32"),  # type: ignore[arg-type]
        (frame(2, np.dstack([PICTURE, PICTURE[:, :, :1]])), ImageError, r"\(240, 320, 4\)"),
        (frame(2, PICTURE[:0]), ImageError, "pixels"),
        (frame(math.nan), VideoError, "timestamp .* got nan"),
        (frame(0.5), VideoError, r"timestamp .* 1 or more, got 0.5; .* finish\('s'\)"),
    ],
)
def test_a_frame_that_cannot_be_is_refused(
    recognizer: Recognizer, wrong: Frame, error: type[SeqparError], words: str
) -> None:
    events: list[Event] = []
    with Follower(recognizer, events.append, detector=Finds(PERSON), tracker=Straight) as follower:
        follower.update(frame(1))
        with pytest.raises(error, match=words):
            follower.update(wrong)
        follower.update(frame(1, PICTURE[:, :, ::-1]))  # the same time, and a view, will do
    assert [event.kind for event in events] == ["appeared", "ended"]
    with pytest.raises(VideoError, match="closed"):
        follower.update(frame(3))


def test_boxes_that_cannot_be_are_refused_and_others_cut_to_the_frame(recognizer: Recognizer) -> None:
    for right in (10, math.nan, math.inf):
        follower = Follower(recognizer, print, detector=Finds(Box(left=50, top=20, right=right, bottom=180)))
        with pytest.raises(DetectorError, match="left <= right"):
            follower.track(frame(1))
    outside, half = Box(left=500, top=20, right=560, bottom=180), Box(left=-30, top=20, right=30, bottom=180)
    follower = Follower(recognizer, print, detector=Finds(outside, half), tracker=Apart)
    assert [each.box.left for each in follower.track(frame(1))[0]] == [0]
    follower = Follower(recognizer, print, detector=Finds(PERSON, PERSON), tracker=Straight)
    with pytest.raises(VideoError, match=r"track IDs .*\[1, 1\]"):
        follower.track(frame(1))


def test_a_stream_after_another_has_its_own_crops_per_second(recognizer: Recognizer) -> None:
    crops = []
    options = VideoOptions(selection=SelectionOptions(max_crops_per_second=0.5))
    follower = Follower(recognizer, [].append, detector=Finds(PERSON), tracker=Straight, options=options)
    for stream in ("long", "short"):
        for tick in range(80 if stream == "long" else 60):
            follower.update(frame(tick / 4, stream=stream))
        follower.finish(stream)
        crops.append(follower.crops)
    assert crops[1] - crops[0] >= 4


def test_what_on_event_raises_comes_after_all_events(recognizer: Recognizer) -> None:
    said: list[tuple[str, int]] = []

    def on_event(event: Event) -> None:
        said.append((event.kind, event.person.track_id))
        follower.recognize()

    people = [PERSON, Box(left=200, top=20, right=260, bottom=180)]
    follower = Follower(recognizer, on_event, detector=Finds(*people), tracker=Apart)
    with pytest.raises(VideoError, match="on_event must not call recognize"):
        follower.update(frame(1))
    with pytest.raises(VideoError, match="on_event must not call recognize"):
        follower.close()
    assert sorted(said) == [("appeared", 1), ("appeared", 2), ("ended", 1), ("ended", 2)]


def test_after_a_failure_nothing_old_is_told_of_somebody_new(recognizer: Recognizer, bundle_dir: Path) -> None:
    events: list[Event] = []
    closed = Recognizer.from_bundle(bundle_dir)
    closed.close()
    follower = Follower(closed, events.append, detector=Finds(PERSON), tracker=Straight)
    with pytest.raises(BackendError):
        follower.update(frame(1))
    follower.track(frame(9, stream="t"))
    follower.finish("t")  # the failure was told, and is not again
    follower._recognizer = recognizer
    follower.update(frame(0, PICTURE[:, ::-1], stream="t"))
    follower.close()
    assert [(event.kind, event.person.stream, event.person.best.timestamp) for event in events] == [
        ("appeared", "t", 0),
        ("ended", "t", 0),
    ]
    assert follower.unrecognized == 2


@pytest.mark.parametrize("wrong", [{"min_interval": 0}, {"margin": -1}, {"max_latency": math.nan}])
def test_options_of_selection_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(VideoError, match=f"{next(iter(wrong))} must be .*, got"):
        SelectionOptions(**wrong)  # type: ignore[arg-type]


_FUSION = [("sure", 0.4), ("keep", 0.7), ("prior_weight", 0), ("moment", -1), ("correlation", 1.1)]
_FUSION += [("base_rate", 0), ("base_rate", 1), ("crop_limit", 0.5), ("crop_limit", math.nan)]


@pytest.mark.parametrize("wrong", [{name: value} for name, value in _FUSION])
def test_options_of_fusion_out_of_range(wrong: dict[str, float]) -> None:
    with pytest.raises(VideoError, match=f"{next(iter(wrong))} .*got"):
        FusionOptions(**wrong)


def test_options_of_the_run_out_of_range() -> None:
    with pytest.raises(VideoError, match="batch_size must be 1 or more, got 0"):
        VideoOptions(batch_size=0)
    with pytest.raises(VideoError, match="leave_after must be 0 or more, got -1"):
        LifetimeOptions(leave_after=-1)


def test_a_caller_that_is_slow_at_the_end_loses_no_event(
    recognizer: Recognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "_HUNG_AFTER", 0.1)
    monkeypatch.setattr(pipeline, "_LOOK_EVERY", 0.05)
    monkeypatch.setattr(run, "_EVENTS", 1)
    people = [Box(left=left, top=10, right=left + 50, bottom=130) for left in range(10, 370, 60)]
    options = VideoOptions(selection=SelectionOptions(max_crops_per_second=1))
    ended = 0
    for event in watch(STREET, recognizer, detector=Finds(*people), tracker=Apart, options=options):
        if event.kind == "ended" and ended == 0:
            time.sleep(0.8)  # much longer than a sink may hang
        ended += event.kind == "ended"
    assert ended == len(people)


def test_a_sink_may_end_the_run(recognizer: Recognizer) -> None:
    class Ends(Log):
        def event(self, event: Event) -> None:
            super().event(event)
            made.wait(5)
            events.close()

    made, sink, start = threading.Event(), Ends(), time.monotonic()
    events: Watch = watch(STREET, recognizer, detector=OneWalker(), tracker=Straight, sinks=[sink])
    made.set()
    list(events)
    assert time.monotonic() - start < 10
    assert sink.closed == 1
    assert events.summary.people == 1


def test_sinks_are_finished_where_the_program_ends(bundle_dir: Path, tmp_path: Path) -> None:
    code = f"""
import time
from seqpar_deploy import Recognizer
from seqpar_deploy.video import watch

class Slow:
    def event(self, event): pass
    def frame(self, *what): pass
    def close(self):
        time.sleep(0.5)
        print("finished")

for event in watch({str(STREET)!r}, Recognizer.from_bundle({str(bundle_dir)!r}), sinks=[Slow()]):
    raise KeyboardInterrupt
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "KeyboardInterrupt" in done.stderr
    assert done.stdout == "finished\n", done.stderr
