"""All stages together: reads frames of every source, tracks and recognises people, and passes events to the sinks.

    sources (a thread each) -> detect, track -> select -> recognize -> fuse -> sinks (a thread)

Files are read one after the other, and everything between happens on one thread, frame by frame: runs are reproducible.
Live sources are read at once, recognition has a thread of its own, and frames that come too fast are dropped at their
source. The queues in between are bounded: a slow stage slows those before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from seqpar_deploy.progress import OnProgress
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.video.follow import Follower
from seqpar_deploy.video.meters import Meters, OverloadLog, RunProgress
from seqpar_deploy.video.options import VideoOptions
from seqpar_deploy.video.queues import BoundedQueue, End, merge
from seqpar_deploy.video.sinks.fan_out import one_line
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.source import Source
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Detector, Event, Frame, Person, Sink, TrackedBox, Tracker

_FRAMES = 8  # of each source, waiting to be tracked
_WAITING = 16  # frames and events, waiting for the sinks
_HUNG_AFTER = 20.0  # seconds, at the end, after which a sink that is still in one call counts as hung
_READING = 0.5  # seconds until the sources' threads have noticed that they are to stop; hung ones are left
_IDLE = 0.02  # seconds between looks for crops that wait
_LOOK_EVERY = 0.5  # seconds between looks at the sources
_STALE = 10.0  # seconds without a frame after which a live source counts as unhealthy

_log = logging.getLogger(__name__)

Tracked = tuple[Frame, Sequence[TrackedBox], Mapping[int, Person]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """Result of a run.

    Args:
        frames: Frames tracked, by stream.
        dropped: Frames dropped for newer ones, by stream. Only live streams drop frames.
        failed: The error of each stream that ended with one.
        people: People with attributes, each of whom appeared and ended in events.
        unrecognized: People given up: no crop of them could be recognised.
        crops: Crops recognised.
        seconds: Duration of the run.
        stages: Times entered and seconds in all, by stage. Waiting is included.
        hung: Whether a sink hung at the end. Events may be missing then.
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


class Pipeline:
    """Runs sources through a detector, trackers and a Recognizer into sinks, which it closes at the end.

    `tracker` makes a tracker for each stream. `hand_over` is called with each event after the sinks; it may block until
    `stop`. `on_progress` is called with (frames read, frames in all) of files, from a thread of its own. The caller
    closes detector and Recognizer.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        detector: Detector,
        recognizer: Recognizer,
        sinks: Sink,
        *,
        options: VideoOptions = VideoOptions(),
        tracker: Callable[[], Tracker] = ByteTracker,
        hand_over: Callable[[Event], object] = lambda _event: None,
        metrics: Metrics | None = None,
        health: Health | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self._sources = {source.spec.name: source for source in sources}
        if len(self._sources) < len(sources):
            names = ", ".join(source.spec.name for source in sources)
            raise ValueError(f"names of sources must differ, got {names}")
        self._live = any(source.spec.live for source in sources)
        self._sinks, self._hand_over = sinks, hand_over
        self._results = BoundedQueue[Event | Tracked](_WAITING)
        self._all_tracked = threading.Event()
        self._meters = Meters(metrics or Metrics())
        self._follower = Follower(
            recognizer,
            self._results.put,
            options=options,
            detector=detector,
            tracker=tracker,
            stage=self._meters.stage,
        )
        self._max_latency = options.selection.max_latency
        self._health = health or Health()
        self._heartbeats: dict[str, Callable[[], None]] = {}  # of live sources
        self._overload = OverloadLog() if self._live else None
        self._progress = RunProgress(sources, on_progress) if on_progress and not self._live else None
        self._frames: dict[str, int] = defaultdict(int)
        self._failed: dict[str, str] = {}
        self._worker_error: BaseException | None = None
        self._stop_requested = self._stopping = self._hung = False
        self._in_sinks_since: float | None = None  # when the current call of the sinks started
        self._done = threading.Event()
        self._own: list[threading.Thread] = []

    def run(self) -> Summary:
        """Run until every source has ended, or `stop`. An exception of the detector, a tracker or the Recognizer is
        raised after the sinks are closed."""
        start = time.monotonic()
        threads = {
            name: threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("sinks", self._run_sinks), ("meters", self._observe), ("recognize", self._recognize))
        }
        with contextlib.ExitStack() as ending:  # in the reverse of this order, whatever happens
            ending.callback(self._join, threads)
            ending.callback(self._results.finish)
            ending.callback(self._follower.close)
            ending.callback(self._all_tracked.set)
            ending.callback(self.stop)
            self._health.watch("stages", self._meters.stuck)
            for name in self._sources if self._live else ():
                self._heartbeats[name] = self._health.heartbeat(f"source {name}", within=_STALE)
            self._own = [threading.current_thread(), *threads.values()]
            for thread in threads.values():
                thread.start()
                self._health.thread(thread)
            self._follow()
        if self._worker_error:
            raise self._worker_error
        return Summary(
            frames=dict(self._frames),
            dropped={name: source.stats.dropped for name, source in self._sources.items()},
            failed=self._failed,
            people=self._follower.recognized,
            unrecognized=self._follower.unrecognized,
            crops=self._follower.crops,
            seconds=time.monotonic() - start,
            stages=self._decoding() | self._meters.stages(),
            hung=self._hung,
        )

    def _decoding(self) -> dict[str, tuple[int, float]]:
        """Decoding, in the sources' threads, as a stage."""
        stats = [source.stats for source in self._sources.values()]
        frames = sum(each.frames for each in stats)
        return {"decode": (frames, sum(each.decode_seconds for each in stats))} if frames else {}

    def _follow(self) -> None:
        """Track the frames of the sources until all have ended."""
        for name, item in self._items():
            if isinstance(item, End):
                self._finish(name, item.error)
            else:
                self._track(item)
            if self._worker_error:
                return

    def _items(self) -> Iterator[tuple[str, Frame | End]]:
        """Yield frames and the end of every source: live ones as they come, files one after the other."""
        if self._live:
            yield from merge({name: source.start(_FRAMES) for name, source in self._sources.items()})
            return
        for name, source in self._sources.items():
            if self._stopping:
                return
            yield from merge({name: source.start(_FRAMES)})

    def runs_in(self, thread: threading.Thread) -> bool:
        """Whether the run waits for this thread at its end."""
        return thread in self._own

    def request_stop(self) -> None:
        """Stop soon. Safe in a signal handler, which may interrupt anything."""
        self._stop_requested = True

    def stop(self) -> None:
        """Stop reading; frames already read are processed. For any thread; a signal handler calls `request_stop`."""
        self._stopping = True
        for source in self._sources.values():
            source.close(within=0)
        patient = time.monotonic() + _READING
        for source in self._sources.values():
            source.close(within=max(0.0, patient - time.monotonic()))

    def _track(self, frame: Frame) -> None:
        boxes, people = self._follower.track(frame)
        self._frames[frame.stream] += 1
        with self._meters.stage("wait for sinks"):
            self._results.put((frame, boxes, people))
        if not self._live:
            self._follower.recognize()

    def _recognize(self) -> None:
        """The recognition thread, of live sources alone."""
        try:
            while self._live and not self._all_tracked.is_set():
                if not self._follower.recognize(time.monotonic(), within=self._max_latency):
                    self._all_tracked.wait(_IDLE)
        except BaseException as error:
            self._worker_error = error
            self.stop()

    def _observe(self) -> None:
        """The observing thread: updates metrics of sources, which change also while no frame comes, reports progress
        and overload, and notices a requested stop and a sink that hangs after it."""
        frames = dict.fromkeys(self._sources, 0)
        while not self._done.wait(_LOOK_EVERY):
            counts: dict[str, tuple[int, int]] = {}
            for name, source in self._sources.items():
                self._meters.of_source(source)
                stats = source.stats
                counts[name] = stats.frames, stats.dropped
                if stats.frames != frames[name] and name in self._heartbeats:
                    frames[name] = stats.frames
                    self._heartbeats[name]()
            if self._overload is not None:
                self._overload.look(counts, self._meters.spent())
            if self._progress is not None:
                self._progress.look()
            if self._stop_requested:
                self.stop()
            since = self._in_sinks_since
            if self._stopping and since is not None and time.monotonic() - since > _HUNG_AFTER:
                self._hung = True
                self._results.close()
        if self._progress is not None:
            self._progress.look()

    def _join(self, threads: Mapping[str, threading.Thread]) -> None:
        for name in ("recognize", "sinks"):
            while threads[name].is_alive() and not self._hung:
                threads[name].join(_LOOK_EVERY)
            self._health.forget(name)
        if self._hung:
            _log.warning("a sink hangs and is abandoned; it loses the events it has not taken")
        self._done.set()
        threads["meters"].join()
        self._health.forget("meters")
        self._health.forget("stages")

    def _finish(self, stream: str, error: BaseException | None) -> None:
        """End a stream and the tracks in it."""
        self._health.forget(f"source {stream}")
        if error is not None:
            why = one_line(error)
            self._failed[stream] = why
            self._health.watch(f"source {stream}", lambda: why)
            _log.warning("%s: %s", stream, why)
        self._follower.finish(stream)

    def _run_sinks(self) -> None:
        """The sinks' thread."""
        try:
            for item in self._results:
                self._in_sinks_since = time.monotonic()
                with self._meters.stage("sinks"):
                    if isinstance(item, Event):
                        self._sinks.event(item)
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
