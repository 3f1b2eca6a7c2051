"""The session without GStreamer: in sync it equals a Follower, live it keeps its budget."""

from __future__ import annotations

import gc
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from video.gstreamer.people import FakeRecognizer

from seqpar_deploy.errors import VideoError
from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video import Follower, Frame, SelectionOptions, VideoOptions
from seqpar_deploy.video.gstreamer import Region, Session, SessionOptions
from seqpar_deploy.video.types import Box, Event

SIZE = (120, 200)
IMAGE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
SYNC = SessionOptions(sync=True)


def walker(index: int, **options: object) -> Region:
    return Region(left=10 + index, top=5, width=40, height=100, label="person", **options)  # type: ignore[arg-type]


def unwanted() -> RgbImage:
    raise AssertionError("the picture is not needed")


class Walker:
    """A detector that finds the same as `walker`. `held` keeps it waiting."""

    def __init__(self) -> None:
        self.held = threading.Event()
        self.held.set()
        self.seen: list[Frame] = []

    def detect(self, frame: Frame) -> list[Box]:
        self.seen.append(frame)
        self.held.wait(60)
        at = min(frame.index, 100)  # then they stand, so that a test may wait for as many frames as it takes
        return [Box(left=10 + at, top=5, right=50 + at, bottom=105)]

    def close(self) -> None:
        pass


def kinds(events: list[Event]) -> list[tuple[str, int]]:
    return [(event.kind, event.person.track_id) for event in events]


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def live(events: list[Event]) -> Iterator[tuple[Session, FakeRecognizer, Walker]]:
    recognizer, detector = FakeRecognizer(), Walker()
    options = SessionOptions(budget=30 / 1000, video=VideoOptions(selection=SelectionOptions(max_latency=0)))
    session = Session(recognizer, events.append, stream="s", options=options, detector=detector)
    yield session, recognizer, detector
    detector.held.set()
    recognizer.held.set()
    assert session.close()


def test_in_sync_it_equals_a_follower(events: list[Event]) -> None:
    theirs: list[Event] = []
    with (
        Follower(FakeRecognizer(), theirs.append, detector=Walker()) as follower,
        Session(FakeRecognizer(), events.append, stream="s", options=SYNC) as session,
    ):
        for index in range(40):
            frame = Frame(stream="s", index=index, timestamp=index / 10, image=IMAGE)
            boxes, people = follower.update(frame)
            region = walker(index, key=f"region {index}")
            found = session.process(lambda: IMAGE, SIZE, 1000 + index / 10, [region])
            assert found is not None
            assert [(one.track_id, one.box) for one in found] == [(one.track_id, one.box) for one in boxes]
            for one in found:
                assert one.region is region
                assert one.person == people.get(one.track_id)
        follower.finish("s")
        session.finish()
    assert kinds(events) == kinds(theirs)
    assert ("appeared", 1) in kinds(events)
    assert kinds(events)[-1] == ("ended", 1)
    assert (session.stats.frames, session.stats.people, session.stats.late) == (40, 1, 0)


def test_pictures_without_people_are_not_converted(events: list[Event]) -> None:
    with Session(FakeRecognizer(), events.append, stream="s", options=SYNC) as session:
        others = [Region(left=1, top=1, width=50, height=50, label="car")]
        assert session.process(unwanted, SIZE, 0.0, others) == []


def test_upstream_ids_are_used_unless_refused() -> None:
    for used in (True, False):
        options = SessionOptions(sync=True, use_track_ids=used)
        with Session(FakeRecognizer(), lambda _event: None, stream="s", options=options) as session:
            for index in range(3):
                found = session.process(lambda: IMAGE, SIZE, index / 10, [walker(index, track_id=42)])
            assert [one.track_id for one in found or ()] == [42 if used else 1]


def test_after_a_seek_tracks_end_and_numbers_continue(events: list[Event]) -> None:
    with Session(FakeRecognizer(), events.append, stream="s", options=SYNC) as session:
        for index in range(10):
            session.process(lambda: IMAGE, SIZE, 50 + index / 10, [walker(index)])
        session.restart()
        for index in range(10):
            session.process(lambda: IMAGE, SIZE, index / 10, [walker(index)])
        session.finish()
    ended = [event.person for event in events if event.kind == "ended"]
    assert [person.track_id for person in ended] == [1, 2]
    assert ended[0].last.timestamp < ended[1].first.timestamp
    assert ended[1].first.frame >= 10


def test_a_jump_back_starts_anew_and_a_small_one_does_not(events: list[Event]) -> None:
    with Session(FakeRecognizer(), events.append, stream="s", options=SYNC) as session:
        for index, seconds in enumerate([10.0, 10.1, 10.2, 10.1, 10.3, None, 3.0, 3.1, 3.2]):
            session.process(lambda: IMAGE, SIZE, seconds, [walker(index)])
        session.finish()
    assert [number for kind, number in kinds(events) if kind == "ended"] == [1, 2]


def test_a_slow_detector_does_not_hold_frames(live: tuple[Session, FakeRecognizer, Walker]) -> None:
    session, _, detector = live
    detector.held.clear()
    assert session.process(lambda: IMAGE, SIZE, 0.0) is None
    for index in range(1, 50):
        assert session.process(unwanted, SIZE, index / 10) is None
    assert (session.stats.late, session.stats.skipped) == (1, 49)
    assert len(detector.seen) == 1


def test_it_says_once_that_frames_pass_without_regions() -> None:
    lines: list[str] = []
    detector = Walker()
    detector.held.clear()
    options = SessionOptions(budget=0)
    with Session(
        FakeRecognizer(), print, stream="gate", options=options, detector=detector, on_warning=lines.append
    ) as session:
        for index in range(300):
            session.process(lambda: IMAGE, SIZE, index / 10)
        detector.held.set()
    assert len(lines) == 1
    assert "gate" in lines[0]


def test_a_slow_model_does_not_hold_frames(live: tuple[Session, FakeRecognizer, Walker], events: list[Event]) -> None:
    session, recognizer, _ = live
    recognizer.held.clear()
    index = 0
    until = time.monotonic() + 60
    while not recognizer.started.is_set() and time.monotonic() < until:
        session.process(lambda: IMAGE, SIZE, index / 10)
        index += 1
    before = session.stats.frames
    for _ in range(20):  # the model is in the middle of a batch
        session.process(lambda: IMAGE, SIZE, index / 10)
        index += 1
    assert session.stats.frames == before + 20
    assert events == []
    recognizer.held.set()
    session.finish()
    assert kinds(events)[0] == ("appeared", 1)
    assert kinds(events)[-1] == ("ended", 1)


def test_closing_does_not_recognise_what_is_due(events: list[Event]) -> None:
    recognizer = FakeRecognizer()
    options = SessionOptions(sync=True, video=VideoOptions(selection=SelectionOptions(max_latency=60, good_quality=2)))
    session = Session(recognizer, events.append, stream="s", options=options)
    for index in range(10):
        session.process(lambda: IMAGE, SIZE, index / 10, [walker(index)])
    assert session.close()
    assert session.close()
    assert recognizer.crops == []
    with pytest.raises(VideoError, match="closed"):
        session.process(lambda: IMAGE, SIZE, 2.0)


def test_shutting_ends_a_stream_that_is_finishing(live: tuple[Session, FakeRecognizer, Walker]) -> None:
    """The first batch of `finish` is running. After it, nothing else is recognised."""
    session, recognizer, _ = live
    recognizer.held.clear()
    for index in range(500):
        session.process(lambda: IMAGE, SIZE, index / 10)
    assert recognizer.started.wait(60)
    finishing = threading.Thread(target=session.finish)
    finishing.start()
    session.shut()
    recognizer.held.set()
    finishing.join(60)
    assert not finishing.is_alive()
    assert len(recognizer.crops) <= 1


def test_in_sync_a_frame_passes_after_shutting() -> None:
    """A pipeline that stops shuts the session while a frame may be in `process`. That is no error."""
    recognizer = FakeRecognizer()
    options = SessionOptions(sync=True, video=VideoOptions(selection=SelectionOptions(max_latency=0)))
    with Session(recognizer, print, stream="s", options=options) as session:
        session.shut()
        found = [session.process(lambda: IMAGE, SIZE, index / 10, [walker(index)]) for index in range(10)]
    assert None in found
    assert recognizer.crops == []


@pytest.mark.parametrize("closing", [0.0, 60.0])  # seconds for the batch: `finish` returns before and after it
def test_after_a_finish_that_takes_too_long_it_recognises_again(
    closing: float,
    live: tuple[Session, FakeRecognizer, Walker],
    events: list[Event],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("seqpar_deploy.video.gstreamer.session._FINISHING", 0.05)
    monkeypatch.setattr("seqpar_deploy.video.gstreamer.session._CLOSING", closing)
    session, recognizer, _ = live
    recognizer.held.clear()
    index = 0

    def go_on(done: Callable[[], bool]) -> None:
        nonlocal index
        until = time.monotonic() + 60
        while not done() and time.monotonic() < until:
            session.process(lambda: IMAGE, SIZE, index / 10)
            index += 1
            time.sleep(0.001)

    go_on(recognizer.started.is_set)
    releasing = threading.Timer(0.3, recognizer.held.set)
    releasing.start()
    session.finish()
    assert recognizer.held.is_set() == (closing > 0)
    assert "longer than" in caplog.text
    releasing.join()
    session.restart()
    before = len(recognizer.crops) + 1  # the batch may be under way
    go_on(lambda: len(recognizer.crops) > before)
    monkeypatch.setattr("seqpar_deploy.video.gstreamer.session._CLOSING", 60)
    session.finish()
    assert len(recognizer.crops) > before
    assert {number for kind, number in kinds(events) if kind == "appeared"} >= {2}


@pytest.mark.parametrize("sync", [True, False])
def test_a_model_that_breaks_is_told_and_raised(sync: bool) -> None:
    errors: list[Exception] = []
    selection = SelectionOptions(max_latency=0)
    options = SessionOptions(sync=sync, budget=10, video=VideoOptions(selection=selection))
    recognizer = FakeRecognizer(fails=True)
    with Session(recognizer, print, stream="s", options=options, on_error=errors.append) as session:

        def go_on() -> None:
            for index in range(10_000):
                session.process(lambda: IMAGE, SIZE, index / 10, [walker(index % 50)])
                time.sleep(0.001)

        with pytest.raises(RuntimeError, match="the model broke"):
            go_on()
        assert len(errors) == (0 if sync else 1)


def test_an_error_that_is_raised_again_keeps_no_frames() -> None:
    """A pad probe may call again after an error. Each entry of a traceback keeps the buffer of a frame."""
    buffers: weakref.WeakSet[Walker] = weakref.WeakSet()
    depths: list[int] = []
    options = SessionOptions(video=VideoOptions(selection=SelectionOptions(max_latency=0)))
    with Session(FakeRecognizer(fails=True), print, stream="s", options=options) as session:

        def probe(index: int) -> None:
            buffer = Walker()
            buffers.add(buffer)
            session.process(lambda: IMAGE, SIZE, index / 10, [walker(index % 50)])

        for index in range(10_000):
            try:
                probe(index)
            except RuntimeError as error:
                depths.append(len(traceback.extract_tb(error.__traceback__)))
            if len(depths) == 50:
                break
            time.sleep(0.001)
        gc.collect()
        assert len(depths) == 50
        assert depths[-1] == depths[1]
        assert len(buffers) <= 1


def test_threads_end_with_the_session() -> None:
    before = threading.active_count()
    for _ in range(3):
        with Session(FakeRecognizer(), print, stream="s") as session:
            session.process(lambda: IMAGE, SIZE, 0.0, [walker(0)])
    assert threading.active_count() == before


def test_a_budget_out_of_range_is_refused() -> None:
    with pytest.raises(VideoError, match="budget"):
        SessionOptions(budget=-1)
