"""The whole pipeline: reads frames of all sources, tracks and recognises people, and passes events to the sinks.

    sources (a thread each) -> detect, track -> select -> recognize -> fuse -> sinks (a thread)

Files are read one after the other, and one thread runs all stages but the sinks, so runs are reproducible. Live sources
are read at the same time, recognition has its own thread, and each source drops frames that arrive too fast. The queues
are bounded, so a slow stage slows the stages before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from seqpar_deploy.errors import VideoError
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.video.follow import Followed, Follower, OnPrediction
from seqpar_deploy.video.meters import Meters, OverloadLog, RunProgress
from seqpar_deploy.video.options import VideoOptions
from seqpar_deploy.video.queues import BoundedQueue, End, Merge
from seqpar_deploy.video.sinks.fan_out import one_line
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sources.live import LiveSources
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Detector, Event, Frame, LooksAhead, Sink, StreamSink, Tracker

_FRAMES = 8  # length of the queue from a file to the tracker
_WAITING = 16  # length of the queue of frames and events to the sinks
_HUNG_AFTER = 20.0  # seconds after which a sink that is still in one call at the end counts as hung
_READING = 0.5  # seconds to wait for the sources' threads at the end; a thread that hangs is abandoned
_IDLE = 0.02  # seconds between two checks for waiting crops
_LOOK_EVERY = 0.5  # seconds between two checks of the sources
_AHEAD_SECONDS = 30.0  # seconds of a file that the detector may learn from before the run
_AHEAD_FRAMES = 300  # the same in frames, so that the look ahead takes a few seconds at most
_STALE = 10.0  # seconds without a frame after which a live source is unhealthy

_log = logging.getLogger(__name__)

OnStart = Callable[[Follower], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Result of a run.

    Attributes:
        frames: Number of frames tracked, by stream.
        dropped: Number of frames dropped for newer ones, by stream. 0 for files.
        failed: Error message of each stream that ended with an error.
        people: Number of people with attributes. Each has an `appeared` and an `ended` event.
        unrecognized: Number of people without attributes, because no crop of them could be recognised.
        crops: Number of crops recognised.
        seconds: Duration of the run.
        stages: Number of calls and total seconds, by stage, including waiting.
        hung: Whether a sink hung at the end and may lack events. Default: False.
    """

    frames: Mapping[str, int]
    dropped: Mapping[str, int]
    failed: Mapping[str, str]
    people: int
    unrecognized: int
    crops: int
    seconds: float
    stages: Mapping[str, tuple[int, float]]
    hung: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class _StreamEnded:
    """The end of a stream, in the queue to the sinks."""

    stream: str


class Pipeline:
    """Runs sources through a detector, trackers and a Recognizer into sinks, and closes the sinks at the end.

    `tracker` returns a tracker for a stream. `hand_over` is called with each event after the sinks, and may block until
    `stop`. `on_prediction` is as of `Follower`. `on_last` is called after the last prediction, before the sinks are
    closed. For files, another thread calls `on_progress` with (frames read, total frames). The caller closes detector
    and Recognizer.

    An `open_ended` pipeline is for live sources that come and go: `replace` changes them while it runs, and it runs
    until `stop`, also without a source.

    Attributes:
        follower: The stages without threads. Only `set_thresholds` may be called before the run.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        detector: Detector,
        recognizer: AnyRecognizer,
        sinks: Sink,
        *,
        options: VideoOptions = VideoOptions(),
        tracker: Callable[[], Tracker] = ByteTracker,
        hand_over: Callable[[Event], object] = lambda _event: None,
        on_prediction: Sequence[OnPrediction] = (),
        on_last: Callable[[], object] = lambda: None,
        metrics: Metrics | None = None,
        health: Health | None = None,
        on_progress: OnProgress | None = None,
        open_ended: bool = False,
    ) -> None:
        self._sources = {source.spec.name: source for source in sources}
        if len(self._sources) < len(sources):
            names = ", ".join(source.spec.name for source in sources)
            raise ValueError(f"names of sources must differ, got {names}; rename one")
        self._detector = detector
        self._live = open_ended or any(source.spec.live for source in sources)
        self._sinks, self._hand_over, self._on_last = sinks, hand_over, on_last
        self._results = BoundedQueue[Event | Followed | _StreamEnded](_WAITING)
        self._all_tracked = threading.Event()
        self._meters = Meters(metrics or Metrics())
        self.follower = Follower(
            recognizer,
            self._results.put,
            options=options,
            detector=detector,
            tracker=tracker,
            stage=self._meters.stage,
            on_prediction=on_prediction,
        )
        self._max_latency = options.selection.max_latency
        self._health = health or Health()
        self._heartbeats: dict[str, Callable[[], None]] = {}  # of live sources
        self._overload = OverloadLog() if self._live else None
        self._progress = RunProgress(sources, on_progress) if on_progress and not self._live else None
        self._frames: dict[str, int] = defaultdict(int)
        self._ahead = 0  # frames read to look ahead
        self._failed: dict[str, str] = {}
        self._live_sources = LiveSources(self._sources, started=self._watch_source, open_ended=open_ended)
        self._worker_error: BaseException | None = None
        self._stop_requested = self._stopping = self._hung = False
        self._in_sinks_since: float | None = None  # start time of the current call of the sinks
        self._done = threading.Event()
        self._own: list[threading.Thread] = []

    def run(self) -> Summary:
        """Run until all sources have ended, or `stop`.

        Raises an exception of the detector, a tracker or the Recognizer after the sinks were closed.
        """
        start = time.monotonic()
        threads = {
            name: threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("sinks", self._run_sinks), ("meters", self._observe), ("recognize", self._recognize))
        }
        with contextlib.ExitStack() as ending:  # callbacks run in reverse order, also after an exception
            ending.callback(self._join, threads)
            ending.callback(self._results.finish)
            ending.callback(self._on_last)
            ending.callback(self.follower.close)
            ending.callback(self._pass_on_waiting)
            ending.callback(self._all_tracked.set)
            ending.callback(self.stop)
            self._health.watch("stages", self._meters.stuck)
            self._own = [threading.current_thread(), *threads.values()]
            for thread in threads.values():
                thread.start()
                self._health.thread(thread)
            self._follow()
        if self._worker_error:
            raise self._worker_error
        return Summary(
            frames=dict(self._frames),
            dropped=self._dropped(),
            failed=self._failed,
            people=self.follower.recognized,
            unrecognized=self.follower.unrecognized,
            crops=self.follower.crops,
            seconds=time.monotonic() - start,
            stages=self._decoding() | self._meters.stages(),
            hung=self._hung,
        )

    def _decoding(self) -> dict[str, tuple[int, float]]:
        """Return decoding, which the sources' threads do, as a stage."""
        stats = [source.stats for source in self._sources.values()]
        frames = sum(each.frames for each in stats)
        return {"decode": (frames, sum(each.decode_seconds for each in stats))} if frames else {}

    def _dropped(self) -> dict[str, int]:
        before = self._live_sources.dropped
        now = {name: source.stats.dropped for name, source in self._sources.items()}
        return {name: before.get(name, 0) + now.get(name, 0) for name in {**before, **now}}

    def _follow(self) -> None:
        """Track the frames of all sources until the last one has ended."""
        for name, item in self._items():
            if isinstance(item, End):
                self._finish(name, item.error)
                if self._live_sources.ended(name):
                    self._failed.pop(name, None)
            else:
                self._track(item)
            if self._worker_error:
                return

    def _items(self) -> Iterator[tuple[str, Frame | End]]:
        """Yield the frames and the end of every source: live ones as they arrive, files one after the other."""
        if self._live:
            yield from self._live_sources
            return
        for name, source in self._sources.items():
            self._look_ahead(source)
            if self._stopping:
                return
            yield from Merge({name: source.start(_FRAMES)})

    def replace(self, name: str, source: Source | None, on_start: OnStart = lambda _follower: None) -> bool:
        """Add, change or remove a source of an open-ended pipeline. Safe in any thread.

        A source of that name is closed, its tracks end, and only then the new one starts. Other sources go on.

        Args:
            name: Name of the stream.
            source: The new source of that name, or None to remove it.
            on_start: Called in the thread that tracks, with the Follower, between the end of the old source and the
                start of the new one. Default: none.

        Returns:
            Whether it took the place of one that had not started yet, and never will.
        """
        return self._live_sources.replace(name, source, lambda: on_start(self.follower))

    def _watch_source(self, name: str) -> None:
        self._heartbeats[name] = self._health.heartbeat(f"source {name}", within=_STALE)

    def _look_ahead(self, source: Source) -> None:
        """Let the detector learn from the first seconds of a file. Errors are left to the reading proper."""
        if not isinstance(self._detector, LooksAhead) or not source.spec.can_be_read_twice:
            return
        with (
            self._meters.stage("look ahead"),
            Source(source.spec, quiet=True) as ahead,
            contextlib.suppress(VideoError),
        ):
            self._detector.look_ahead(self._first_frames(ahead))

    def _first_frames(self, source: Source) -> Iterator[Frame]:
        for number, frame in enumerate(source, 1):
            self._ahead += 1
            yield frame
            if self._stopping or number >= _AHEAD_FRAMES or frame.timestamp >= _AHEAD_SECONDS:
                return

    def runs_in(self, thread: threading.Thread) -> bool:
        """Return whether the run waits for this thread at its end."""
        return thread in self._own

    def request_stop(self) -> None:
        """Request a stop within half a second. Safe in a signal handler, because it takes no lock."""
        self._stop_requested = True

    def stop(self) -> None:
        """Stop reading. Frames already read are processed. Safe in any thread, but not in a signal handler."""
        self._stopping = True
        self._live_sources.stop()
        sources = list(self._sources.values())
        for source in sources:
            source.close(within=0)
        patient = time.monotonic() + _READING
        for source in sources:
            source.close(within=max(0.0, patient - time.monotonic()))

    def _track(self, frame: Frame) -> None:
        self._frames[frame.stream] += 1
        for followed in self.follower.follow(frame, wait=not self._live):
            self._pass_on(followed)
            if not self._live:  # else another thread does
                self.follower.recognize()

    def _pass_on(self, followed: Followed) -> None:
        with self._meters.stage("wait for sinks"):
            self._results.put(followed)

    def _recognize(self) -> None:
        """Run the recognition thread, for live sources only."""
        try:
            while self._live and not self._all_tracked.is_set():
                if not self.follower.recognize(time.monotonic(), within=self._max_latency):
                    self._all_tracked.wait(_IDLE)
        except BaseException as error:
            self._worker_error = error
            self.stop()

    def _observe(self) -> None:
        """Run the observer thread: update the sources' metrics, report progress and overload, stop on request.

        It also abandons a sink that hangs after a stop.
        """
        frames: dict[str, int] = {}
        while not self._done.wait(_LOOK_EVERY):
            counts: dict[str, tuple[int, int]] = {}
            for name, source in self._sources.copy().items():
                self._meters.of_source(source)
                stats = source.stats
                counts[name] = stats.frames, stats.dropped
                if stats.frames != frames.get(name, 0) and (beat := self._heartbeats.get(name)):
                    frames[name] = stats.frames
                    beat()
            if self._overload is not None:
                self._overload.look(counts, self._meters.spent())
            if self._stop_requested:
                self.stop()
            since = self._in_sinks_since
            if self._stopping and since is not None and time.monotonic() - since > _HUNG_AFTER:
                self._hung = True
                self._results.close()
            if self._progress is not None:
                self._progress.look(self._ahead)  # it opens files, which may take long
        if self._progress is not None:
            self._progress.look(self._ahead)

    def _join(self, threads: Mapping[str, threading.Thread]) -> None:
        for name in ("recognize", "sinks"):
            while threads[name].is_alive() and not self._hung:
                threads[name].join(_LOOK_EVERY)
            self._health.forget(name)
        if self._hung:
            _log.warning("a sink hangs for %.0f s and is abandoned; it lacks the remaining events", _HUNG_AFTER)
        self._done.set()
        threads["meters"].join()
        self._health.forget("meters")
        self._health.forget("stages")

    def _finish(self, stream: str, error: BaseException | None) -> None:
        """End a stream and the tracks in it."""
        self._heartbeats.pop(stream, None)
        self._health.forget(f"source {stream}")
        if error is not None:
            why = one_line(error)
            self._failed[stream] = why
            self._health.watch(f"source {stream}", lambda: why)
            _log.warning("%s: %s", stream, why)
        for followed in self.follower.rest(stream):
            self._pass_on(followed)
            self.follower.recognize()
        self.follower.finish(stream)
        self._results.put(_StreamEnded(stream))

    def _pass_on_waiting(self) -> None:
        """Pass on the frames that still wait after a failure."""
        for stream in self._frames:
            for followed in self.follower.rest(stream):
                self._pass_on(followed)

    def _run_sinks(self) -> None:
        """Run the sinks' thread."""
        try:
            for item in self._results:
                self._in_sinks_since = time.monotonic()
                with self._meters.stage("sinks"):
                    if isinstance(item, Event):
                        self._sinks.event(item)
                    elif isinstance(item, _StreamEnded):
                        if isinstance(self._sinks, StreamSink):
                            self._sinks.stream_ended(item.stream)
                    else:
                        self._sinks.frame(*item)
                self._in_sinks_since = None
                if isinstance(item, Event):
                    self._hand_over(item)
        except BaseException as error:
            self._worker_error = error
            self._results.close()
            self.stop()
        finally:
            self._in_sinks_since = time.monotonic()
            self._sinks.close()
            self._in_sinks_since = None
