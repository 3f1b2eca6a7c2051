"""The stages together: frames of every source are tracked, their people recognised, and what changed told to the sinks.

    sources (a thread each) -> detect, track -> choose -> recognize -> fuse -> sinks (a thread)

Files are read one after the other, and everything between happens on one thread, frame by frame: a run can be repeated.
Where any source is live they are read at once, recognising has a thread of its own, and frames that come too fast are
dropped at their source. The queues in between are bounded: a slow stage slows those before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.video.attribute_fusion import FusionOptions
from seqpar_deploy.video.crop_selection import ChooserOptions
from seqpar_deploy.video.follow import Follower
from seqpar_deploy.video.queues import BoundedQueue, End, merge
from seqpar_deploy.video.sinks.fan_out import one_line, say
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.source import Source, SourceStats
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Detector, Event, Frame, Person, Sink, TrackedBox, Tracker

_FRAMES = 8  # of each source, waiting to be tracked
_TOLD = 16  # frames and events, waiting for the sinks
_PATIENCE = 20.0  # seconds, at the end, after which a sink that is still busy with one thing counts as hanging
_READING = 0.5  # seconds until the sources' threads have noticed that they are to stop; those that hang are left
_IDLE = 0.02  # seconds between looks for crops that wait
_METERED = 0.5  # seconds between looks at the sources
_STALE = 10.0  # seconds without a picture after which a live source counts as ill; and a stage, busy with one thing

_MAY_WAIT = ("wait for sinks", "choose", "fuse")  # stages that hand events and frames on

Tracked = tuple[Frame, Sequence[TrackedBox], Mapping[int, Person]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run came to: frames tracked and dropped by stream, people told of, those given up as no crop of them could
    be recognised, crops recognised, and the seconds (processor and waiting together) each stage took, with how often it
    was entered. `hung` says that a sink was left behind at the end, and events may be lost."""

    frames: Mapping[str, int]
    dropped: Mapping[str, int]
    failed: Mapping[str, str]  # streams that ended with an error, and which
    people: int
    unanswered: int
    crops: int
    seconds: float
    stages: Mapping[str, tuple[int, float]]
    hung: bool = False


class Pipeline:
    """Runs sources through a detector, trackers and a Recognizer into sinks, which it closes at the end.

    `tracker` makes a tracker for each stream. `batch_size` bounds the crops of one inference. `hand_over` is given each
    event after the sinks, and may take as long as it likes, as long as it returns after `stop`. The caller opens and
    closes detector and Recognizer.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        detector: Detector,
        recognizer: Recognizer,
        sinks: Sink,
        *,
        tracker: Callable[[], Tracker] = ByteTracker,
        chooser: ChooserOptions | None = None,
        fusion: FusionOptions | None = None,
        batch_size: int = 16,
        hand_over: Callable[[Event], object] = lambda _event: None,
        metrics: Metrics | None = None,
        health: Health | None = None,
        report: Callable[[str], None] = say,
    ) -> None:
        self._sources = {source.spec.name: source for source in sources}
        if len(self._sources) < len(sources):
            names = ", ".join(source.spec.name for source in sources)
            raise ValueError(f"sources are named {names}; wanted a name of its own for each")
        self._live = any(source.spec.live for source in sources)
        self._sinks, self._hand_over = sinks, hand_over
        self._told = BoundedQueue[Event | Tracked](_TOLD)
        self._all_tracked = threading.Event()
        self._meters = _Meters(metrics or Metrics())
        self._follower = Follower(
            recognizer,
            self._told.put,
            detector=detector,
            tracker=tracker,
            chooser=chooser,
            fusion=fusion,
            batch_size=batch_size,
            stage=self._meters.stage,
        )
        self._max_latency = (chooser or ChooserOptions()).max_latency
        self._health = health or Health()
        self._beats: dict[str, Callable[[], None]] = {}  # of live sources
        self._report = report
        self._frames: dict[str, int] = defaultdict(int)
        self._failed: dict[str, str] = {}
        self._worker_error: BaseException | None = None
        self._asked_to_stop = self._stopping = self._hung = False
        self._telling_since: float | None = None  # when the sinks were handed what they are busy with
        self._done = threading.Event()
        self._own: list[threading.Thread] = []

    def run(self) -> Summary:
        """Until every source has ended, or `stop`. Raises what a detector, tracker or Recognizer raises, after the
        sinks were closed."""
        start = time.monotonic()
        threads = {
            name: threading.Thread(target=work, name=name, daemon=True)
            for name, work in (("sinks", self._tell), ("meters", self._keep_metering), ("recognize", self._recognizing))
        }
        with contextlib.ExitStack() as ending:  # in the reverse of this order, whatever happens
            ending.callback(self._join, threads)
            ending.callback(self._told.finish)
            ending.callback(self._follower.close)
            ending.callback(self._all_tracked.set)
            ending.callback(self.stop)
            self._health.watch("stages", self._meters.busy)
            for name in self._sources if self._live else ():
                self._beats[name] = self._health.heartbeat(f"source {name}", within=_STALE)
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
            people=self._follower.answered,
            unanswered=self._follower.unanswered,
            crops=self._follower.crops,
            seconds=time.monotonic() - start,
            stages=self._decoding() | self._meters.stages(),
            hung=self._hung,
        )

    def _decoding(self) -> dict[str, tuple[int, float]]:
        """What the sources' threads did, as a stage."""
        stats = [source.stats for source in self._sources.values()]
        frames = sum(each.frames for each in stats)
        return {"decode": (frames, sum(each.decode_seconds for each in stats))} if frames else {}

    def _follow(self) -> None:
        """Track what comes out of the sources, until nothing more does."""
        for name, item in self._items():
            if isinstance(item, End):
                self._finish(name, item.error)
            else:
                self._track(item)
            if self._worker_error:
                return

    def _items(self) -> Iterator[tuple[str, Frame | End]]:
        """Frames and the end of every source: of live ones as they come, of files one after the other."""
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
        """`stop`, soon: safe in a signal's handler, which may interrupt anything."""
        self._asked_to_stop = True

    def stop(self) -> None:
        """Read no more; what was read is still told. For any thread; a signal's handler calls `request_stop`."""
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
            self._told.put((frame, boxes, people))
        if not self._live:
            self._follower.recognize()

    def _recognizing(self) -> None:
        """The recognising thread; of files alone there is nothing for it to do."""
        try:
            while self._live and not self._all_tracked.is_set():
                if not self._follower.recognize(time.monotonic(), within=self._max_latency):
                    self._all_tracked.wait(_IDLE)
        except BaseException as error:
            self._worker_error = error
            self.stop()

    def _keep_metering(self) -> None:
        """Figures of sources change also while no frame comes. Here it is seen, too, that somebody asked to stop, and
        that a sink then keeps the others, and the program, waiting."""
        frames = dict.fromkeys(self._sources, 0)
        while not self._done.wait(_METERED):
            for name, source in self._sources.items():
                self._meters.of_source(source)
                if source.stats.frames != frames[name] and name in self._beats:
                    frames[name] = source.stats.frames
                    self._beats[name]()
            if self._asked_to_stop:
                self.stop()
            begun = self._telling_since
            if self._stopping and begun is not None and time.monotonic() - begun > _PATIENCE:
                self._hung = True
                self._told.close()

    def _join(self, threads: Mapping[str, threading.Thread]) -> None:
        for name in ("recognize", "sinks"):
            while threads[name].is_alive() and not self._hung:
                threads[name].join(_METERED)
            self._health.forget(name)
        if self._hung:
            self._report("a sink hangs, and is left behind: what it had not taken is lost")
        self._done.set()
        threads["meters"].join()
        self._health.forget("meters")
        self._health.forget("stages")

    def _finish(self, stream: str, error: BaseException | None) -> None:
        """A stream has ended; so do the tracks in it."""
        self._health.forget(f"source {stream}")
        if error is not None:
            why = one_line(error)
            self._failed[stream] = why
            self._health.watch(f"source {stream}", lambda: why)
            self._report(f"{stream}: {why}")
        self._follower.finish(stream)

    def _tell(self) -> None:
        """The sinks' thread."""
        try:
            for item in self._told:
                self._telling_since = time.monotonic()
                with self._meters.stage("sinks"):
                    if isinstance(item, Event):
                        self._sinks.event(item)
                    else:
                        self._sinks.frame(*item)
                self._telling_since = None
                if isinstance(item, Event):
                    self._hand_over(item)
        except BaseException as error:
            self._worker_error = error
            self._told.close()
            self.stop()
        finally:
            self._telling_since = time.monotonic()
            self._sinks.close()
            self._telling_since = None


class _Meters:
    """Seconds of each stage, and what became of each source, for `Summary` and for Prometheus."""

    def __init__(self, metrics: Metrics) -> None:
        self._stages: dict[str, tuple[int, float]] = {}
        self._read: dict[str, SourceStats] = {}  # what the counters include already
        self._since: dict[str, float] = {}  # when the stages that are busy were entered
        self._of_stage = metrics.histogram("seqpar_stage_seconds", "Time of one entry into a stage", "stage")
        self._frames = metrics.counter("seqpar_source_frames_total", "Frames decoded", "stream")
        self._dropped = metrics.counter("seqpar_source_dropped_total", "Frames dropped for newer ones", "stream")
        self._errors = metrics.counter("seqpar_source_decode_errors_total", "Damaged data", "stream")
        self._reconnects = metrics.counter("seqpar_source_reconnects_total", "Returns", "stream")
        self._back_off = metrics.gauge("seqpar_source_back_off_seconds", "Pause before the next try", "stream")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self._since[name] = time.perf_counter()
        try:
            yield
        finally:
            del self._since[name]
            seconds = time.perf_counter() - start
            times, total = self._stages.get(name, (0, 0.0))
            self._stages[name] = times + 1, total + seconds  # each stage is entered by one thread at a time
            self._of_stage.labels(name).observe(seconds)

    def of_source(self, source: Source) -> None:
        name, stats = source.spec.name, source.stats
        before, self._read[name] = self._read.get(name, SourceStats()), stats
        self._frames.labels(name).inc(stats.frames - before.frames)
        self._dropped.labels(name).inc(stats.dropped - before.dropped)
        self._errors.labels(name).inc(stats.decode_errors - before.decode_errors)
        self._reconnects.labels(name).inc(stats.reconnects - before.reconnects)
        self._back_off.labels(name).set(stats.back_off)

    def stages(self) -> dict[str, tuple[int, float]]:
        return dict(self._stages)

    def busy(self) -> str | None:
        """What has been busy with one thing for too long, if anything."""
        now = time.perf_counter()
        busy = [(now - since, name) for name, since in self._since.copy().items() if name not in _MAY_WAIT]
        seconds, name = max(busy, default=(0.0, ""))
        return f"{name}: busy with one thing for {seconds:.0f} s" if seconds > _STALE else None
