"""Tracks and recognises the frames of one stream for an element or a probe. It needs no GStreamer.

With `sync`, `process` returns when a frame is recognised, so that results depend on the frames alone. Without, it
returns within a budget: a thread detects and tracks, another one recognises, and frames that come meanwhile pass.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import queue
import threading
import time
import types
from collections.abc import Callable, Sequence

import numpy as np

from seqpar_deploy.errors import VideoError
from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.video.follow import Follower
from seqpar_deploy.video.gstreamer.gate import Gate, ShutError
from seqpar_deploy.video.gstreamer.regions import (
    LABELS,
    ContinuedNumbers,
    GivenRegions,
    Region,
    UpstreamTracks,
    of_people,
)
from seqpar_deploy.video.options import VideoOptions
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Box, Detector, Event, Frame, Person, TrackedBox, Tracker

_IDLE = 0.02  # seconds between two checks for waiting crops, as in pipeline.py
_STEP = 1 / 25  # seconds from frame to frame without a timestamp
_BACK = 1.0  # seconds that a timestamp may go back before the stream counts as a new one
_FINISHING = 30.0  # seconds that the end of a stream waits for the last crops
_CLOSING = 10.0  # seconds that `close` waits for the current batch and frame
_JUDGED_AFTER = 100  # frames after which a detector that is slower than the budget is warned of

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionOptions:
    """Options of a `Session`.

    Attributes:
        video: Options of crop selection, fusion and track lifetime. Default: `VideoOptions()`.
        sync: Recognise within `process`, however long it takes. Default: False.
        budget: Seconds that `process` may wait for the tracks of a frame without `sync`. Default: 0.04.
        use_track_ids: Use the track IDs of given regions if they have any. Default: True.
        labels: Labels of given regions that are people. "*" is any. Default: person and pedestrian.

    Raises:
        VideoError: The budget is out of range.
    """

    video: VideoOptions = VideoOptions()
    sync: bool = False
    budget: float = 0.04
    use_track_ids: bool = True
    labels: tuple[str, ...] = LABELS

    def __post_init__(self) -> None:
        if not 0 <= self.budget <= 10:
            raise VideoError(f"budget must be 0 to 10 seconds, got {self.budget:g}")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Tracked:
    """A person in a frame.

    Attributes:
        track_id: Number of the person within the stream.
        box: Where the person is.
        region: The given region, or None if the session's detector found the person.
        person: The person's attributes so far, or None before the first recognised crop.
    """

    track_id: int
    box: Box
    region: Region | None
    person: Person | None


@dataclasses.dataclass(kw_only=True)
class SessionStats:
    """Counts of a `Session` since its start.

    Attributes:
        frames: Frames passed to `process`.
        skipped: Frames that were not looked at, because the frame before was not done.
        late: Frames whose tracks were not ready within the budget. They count for attributes and events.
        people: People with attributes.
        crops: Crops recognised.
    """

    frames: int = 0
    skipped: int = 0
    late: int = 0
    people: int = 0
    crops: int = 0


class _Job:
    """Work of the tracking thread, and its result."""

    def __init__(self, work: Callable[[], list[Tracked] | None]) -> None:
        self._work = work
        self.done = threading.Event()
        self.result: list[Tracked] | None = None
        self.error: Exception | None = None

    def run(self, on_error: Callable[[Exception], object]) -> None:
        try:
            self.result = self._work()
        except Exception as error:
            self.error = error
            on_error(error)
        finally:
            self.done.set()


class Session:
    """Tracks and recognises people in the frames of one stream, for a GStreamer element or a pad probe.

    One thread at a time calls `process`, `restart`, `finish` and `close`. It is a context manager that calls `close`.

    Args:
        recognizer: Classifies the crops. The caller closes it after the session.
        on_event: Called with each event, from any thread, one at a time. It must not call the session.
        stream: Name of the stream, for frames and events.
        options: Options. Default: `SessionOptions()`.
        detector: Detects people. Default: the regions that are passed to `process`.
        on_error: Called once with the first error of the threads. `process` raises it as well. Default: none.
        on_warning: Called with a line if the detector is slower than the budget. Default: none.
        after: The highest track ID that the stream has had before. Default: 0.

    Attributes:
        stats: Counts since the start.
        last_id: The highest track ID of our own tracker so far, else `after`.

    Example:
        with Session(recognizer, print, stream="gate", options=SessionOptions(sync=True)) as session:
            region = Region(left=10, top=20, width=50, height=160, label="person")
            for one in session.process(lambda: image, image.shape[:2], 0.0, [region]) or ():
                print(one.track_id, one.person)
    """

    def __init__(
        self,
        recognizer: AnyRecognizer,
        on_event: Callable[[Event], object],
        *,
        stream: str,
        options: SessionOptions = SessionOptions(),
        detector: Detector | None = None,
        on_error: Callable[[Exception], object] = lambda _error: None,
        on_warning: Callable[[str], object] = lambda _line: None,
        after: int = 0,
    ) -> None:
        self.stats = SessionStats()
        self._stream, self._options = stream, options
        self._on_error, self._on_warning = on_error, on_warning
        self._gate = Gate(recognizer)
        self._regions = GivenRegions() if detector is None else None
        self._taken = [after]
        self._follower = Follower(
            self._gate, on_event, options=options.video, detector=detector or self._regions, tracker=self._new_tracker
        )
        self._first: float | None = None  # the caller's time of the first frame since the latest restart
        self._last = 0.0  # timestamp of the latest frame
        self._error: Exception | None = None
        self._origin: types.TracebackType | None = None  # traceback of the error within its thread
        self._stopping = threading.Event()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._current: _Job | None = None
        self._closed = False
        self._judged = False
        self._threads: list[threading.Thread] = []
        if not options.sync:
            for name, work in (("track", self._run_jobs), ("recognize", self._recognize)):
                self._threads.append(threading.Thread(target=work, name=f"seqpar-{name}", daemon=True))
            for thread in self._threads:
                thread.start()

    def process(
        self,
        picture: Callable[[], RgbImage],
        size: tuple[int, int],
        seconds: float | None,
        regions: Sequence[Region] = (),
    ) -> list[Tracked] | None:
        """Track the people of the next frame, and recognise them.

        Args:
            picture: Returns the frame, uint8 RGB (h, w, 3), in memory that stays as it is. It is called before this
                method returns, and only if the pixels are needed.
            size: Height and width of the frame in pixels.
            seconds: Time of the frame in seconds of any clock. None is 0.04 after the previous frame. If it goes back
                by more than a second, the stream starts anew.
            regions: Regions of people. Only without a detector. Default: none.

        Returns:
            Everyone in the frame, or None if that is not known within the budget. With `sync`, None if `shut` was
            called and crops are due.

        Raises:
            VideoError: The session is closed, or recognition or tracking failed.
            SeqparError: The detector or the recognizer failed.
        """
        if self._closed:
            raise VideoError("process must be called before close, got a closed session; create another")
        if self._error is not None:
            raise self._error.with_traceback(self._origin)  # each raise adds the caller's frame, and its buffer
        number, self.stats.frames = self.stats.frames, self.stats.frames + 1
        timestamp = self._timestamp(seconds)
        if self._current is not None and not self._current.done.is_set():
            self.stats.skipped += 1
            self._judge()
            return None
        given = of_people(regions, self._options.labels) if self._regions is not None else []
        needed = self._regions is None or given
        image = picture() if needed else np.broadcast_to(np.zeros(3, np.uint8), (*size, 3))  # only the clock goes on
        frame = Frame(stream=self._stream, index=number, timestamp=timestamp, image=image)
        if self._options.sync:
            try:
                return self._look(frame, given)
            except ShutError:  # another thread stops the pipeline meanwhile
                return None
        self._current = job = _Job(lambda: self._look(frame, given))
        self._jobs.put(job)
        if not job.done.wait(self._options.budget):
            self.stats.late += 1
            self._judge()
            return None
        if job.error is not None:
            raise job.error
        return job.result

    def restart(self) -> None:
        """End all tracks, for example after a seek. Crops that wait are recognised first, without `sync` later."""
        self._first = None
        if self._options.sync:
            self._end()
        else:
            self._jobs.put(_Job(self._end))

    def finish(self) -> None:
        """End the stream: recognise the crops that are due, and end all tracks.

        Without `sync` it waits for 30 s, and at most 10 s more for the current batch. Crops that are left then are not
        recognised. The session can go on with `process`, for example after a seek.

        Raises:
            SeqparError: As `process`.
        """
        self._first = None
        if self._options.sync:
            self._end()
            return
        job = _Job(self._end)
        self._jobs.put(job)
        if not job.done.wait(_FINISHING):
            self._gate.pause()
            self._jobs.put(_Job(self._gate.resume))  # after `job`, however long that takes
            _log.warning(
                "%s: recognition takes longer than %g s at the end; the rest is left out", self._stream, _FINISHING
            )
            job.done.wait(_CLOSING)
        if job.error is not None:
            raise job.error

    def shut(self) -> None:
        """Recognise nothing more, so that a `finish` of another thread returns after the current batch.

        Safe in any thread. `close` must follow.
        """
        self._gate.shut()

    def close(self) -> bool:
        """End all tracks without further recognition, and stop the threads. Safe to call twice.

        Returns:
            Whether all threads ended within 10 s. If not, the recognizer is still in use.
        """
        self._closed = True
        self._gate.shut()
        self._stopping.set()
        self._jobs.put(None)
        until = time.monotonic() + _CLOSING
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        if any(thread.is_alive() for thread in self._threads):
            _log.warning("%s: detection or recognition hangs, and is abandoned", self._stream)
            return False
        self._ignoring_closed(self._follower.close)
        return True

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _look(self, frame: Frame, regions: Sequence[Region]) -> list[Tracked]:
        if self._regions is not None:
            self._regions.give(regions)
        boxes, people = self._follower.update(frame) if self._options.sync else self._follower.track(frame)
        self._count()
        return [self._tracked(one, people.get(one.track_id)) for one in boxes]

    def _tracked(self, one: TrackedBox, person: Person | None) -> Tracked:
        region = None if self._regions is None else self._regions.region_of(one.box)
        return Tracked(track_id=one.track_id, box=one.box, region=region, person=person)

    def _end(self) -> None:
        self._ignoring_closed(lambda: self._follower.finish(self._stream))
        self._count()

    def _ignoring_closed(self, call: Callable[[], object]) -> None:
        try:
            call()
        except ShutError:
            _log.debug("%s: the last crops are not recognised", self._stream)

    @property
    def last_id(self) -> int:
        return self._taken[0]

    def _new_tracker(self) -> Tracker:
        def own() -> Tracker:
            return ContinuedNumbers(ByteTracker(), self._taken)

        if self._regions is not None and self._options.use_track_ids:
            return UpstreamTracks(self._regions, own)
        return own()

    def _timestamp(self, seconds: float | None) -> float:
        """Return the stream's time, which starts at 0 and never goes back."""
        if seconds is None or not math.isfinite(seconds):
            self._last += _STEP if self.stats.frames > 1 else 0.0
            return self._last
        if self._first is not None and seconds - self._first < self._last - _BACK:
            self.restart()
        if self._first is None:
            self._first = seconds - (self._last + _STEP if self.stats.frames > 1 else 0.0)
        self._last = max(self._last, round(seconds - self._first, 9))  # clocks count nanoseconds
        return self._last

    def _count(self) -> None:
        self.stats.people, self.stats.crops = self._follower.recognized, self._follower.crops

    def _judge(self) -> None:
        """Warn once if most frames pass without their regions."""
        missed = self.stats.late + self.stats.skipped
        if not self._judged and self.stats.frames >= _JUDGED_AFTER and 2 * missed > self.stats.frames:
            self._judged = True
            self._on_warning(
                f"{self._stream}: {missed} of {self.stats.frames} frames passed without regions, because detection "
                f"takes longer than the budget of {1000 * self._options.budget:g} ms; raise it, or use another detector"
            )

    def _run_jobs(self) -> None:
        """Run the tracking thread."""
        while (job := self._jobs.get()) is not None and not self._stopping.is_set():
            job.run(self._fail)

    def _recognize(self) -> None:
        """Run the recognition thread."""
        while not self._stopping.is_set():
            try:
                if self._follower.recognize(time.monotonic(), within=self._options.video.selection.max_latency):
                    self._count()
                    continue
            except ShutError:
                pass  # the stream ends, and another may follow
            except Exception as error:
                self._fail(error)
                return
            self._stopping.wait(_IDLE)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._origin, self._error = error.__traceback__, error
            self._on_error(error)
