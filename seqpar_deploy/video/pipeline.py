"""The stages together: frames of every source are tracked, their people recognised, and what changed told to the sinks.

    sources (a thread each) -> detect, track -> choose -> recognise -> fuse -> sinks (a thread)

Where all sources are files everything between happens on one thread, frame by frame, so that a run can be repeated.
Where any is live, recognising has a thread of its own, and frames that come too fast are dropped at their source. The
queues in between are bounded: a slow stage slows those before it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.video.choose import Chooser, ChooserOptions
from seqpar_deploy.video.fuse import Fusion, FusionOptions
from seqpar_deploy.video.queues import BoundedQueue, End, merge
from seqpar_deploy.video.sinks.fan_out import say
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.source import Source
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Detector, Event, Frame, Person, Sink, TrackedBox, Tracker

_FRAMES = 8  # of each source, waiting to be tracked
_TOLD = 64  # frames and events, waiting for the sinks
_IDLE = 0.02  # seconds between looks for crops that wait
_METERED = 0.5  # seconds between looks at the sources
_STALE = 10.0  # seconds without a frame after which a source counts as ill

Tracked = tuple[Frame, Sequence[TrackedBox], Mapping[int, Person]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run came to: frames tracked and dropped by stream, people told of, crops recognised, and the seconds
    (processor and waiting together) each stage took, with how often it was entered."""

    frames: Mapping[str, int]
    dropped: Mapping[str, int]
    failed: Mapping[str, str]  # streams that ended with an error, and which
    people: int
    crops: int
    seconds: float
    stages: Mapping[str, tuple[int, float]]


class Pipeline:
    """Runs sources through a detector, trackers and a Recognizer into sinks, which it closes at the end.

    `tracker` makes a tracker for each stream. `batch_size` bounds the crops of one inference. The caller opens and
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
        metrics: Metrics | None = None,
        health: Health | None = None,
        report: Callable[[str], None] = say,
    ) -> None:
        self._sources = {source.spec.name: source for source in sources}
        self._live = any(source.spec.live for source in sources)
        self._detector, self._recognizer, self._sinks = detector, recognizer, sinks
        self._new_tracker = tracker
        self._trackers: dict[str, Tracker] = {}
        self._chooser, self._fusion = Chooser(chooser), Fusion(recognizer.bundle.label_set, fusion)
        self._believing = threading.RLock()  # around both, until their events are queued: events stay in order
        self._batch_size = batch_size
        self._told = BoundedQueue[Event | Tracked](_TOLD)
        self._all_tracked = threading.Event()
        self._meters = _Meters(metrics or Metrics())
        self._health = health or Health()
        self._report = report
        self._frames: dict[str, int] = defaultdict(int)
        self._failed: dict[str, str] = {}
        self._people = self._crops = 0
        self._newest = 0.0  # seconds of the frame that is furthest on: the time it is, where all sources are files
        self._worker_error: BaseException | None = None

    def run(self) -> Summary:
        """Until every source has ended, or `stop`. Raises what a detector, tracker or Recognizer raises, after the
        sinks were closed."""
        start = time.monotonic()
        telling = threading.Thread(target=self._tell, name="sinks")
        metering = threading.Thread(target=self._keep_metering, name="meters")
        recognising = threading.Thread(target=self._keep_recognising, name="recognise") if self._live else None
        queues = {name: source.start(_FRAMES) for name, source in self._sources.items()}
        beats = {name: self._health.heartbeat(f"source {name}", within=_STALE) for name in queues}
        telling.start()
        metering.start()
        self._health.thread(telling)
        if recognising:
            recognising.start()
            self._health.thread(recognising)
        try:
            for name, item in merge(queues):
                if isinstance(item, End):
                    self._health.forget(f"source {name}")
                    self._finish(name, item.error)
                    continue
                beats[name]()
                self._track(item)
                if not self._live:
                    self._recognise()
                if self._worker_error:
                    break
        finally:
            self.stop()
            self._all_tracked.set()
            if recognising:
                recognising.join()
            with contextlib.ExitStack() as closing:
                closing.callback(metering.join)
                closing.callback(telling.join)
                closing.callback(self._told.finish)
                closing.callback(self._finish_all)
        if self._worker_error:
            raise self._worker_error
        return Summary(
            frames=dict(self._frames),
            dropped={name: source.stats.dropped for name, source in self._sources.items()},
            failed=self._failed,
            people=self._people,
            crops=self._crops,
            seconds=time.monotonic() - start,
            stages=self._meters.stages(),
        )

    def stop(self) -> None:
        """Read no more; what was read is still told. Any thread, or a signal's handler, may call it."""
        for source in self._sources.values():
            source.close()

    def _track(self, frame: Frame) -> None:
        with self._meters.stage("detect"):
            boxes = self._detector.detect(frame)
        with self._meters.stage("track"):
            if frame.stream not in self._trackers:
                self._trackers[frame.stream] = self._new_tracker()
            tracked = self._trackers[frame.stream].update(frame, boxes)
        with self._meters.stage("choose"), self._believing:
            self._tell_later(self._fusion.seen(frame, tracked))
            people = self._fusion.people(frame.stream)
            self._chooser.offer(frame, tracked, people)
        self._frames[frame.stream] += 1
        self._newest = max(self._newest, frame.seconds)
        with self._meters.stage("wait for sinks"):
            self._told.put((frame, tracked, people))

    def _recognise(self) -> bool:
        """Recognise crops that wait; whether there were any."""
        with self._believing:
            batch = self._chooser.take(self._batch_size, time.monotonic() if self._live else self._newest)
        if not batch:
            return False
        with self._meters.stage("recognise"):
            predictions = self._recognizer.predict([candidate.crop for candidate in batch])
        self._crops += len(batch)
        with self._meters.stage("fuse"), self._believing:
            for candidate, prediction in zip(batch, predictions, strict=True):
                self._tell_later(self._fusion.add(candidate, prediction))
        return True

    def _keep_recognising(self) -> None:
        """The recognising thread of live pipelines."""
        try:
            while not self._all_tracked.is_set():
                if not self._recognise():
                    self._all_tracked.wait(_IDLE)
        except BaseException as error:
            self._worker_error = error
            self.stop()

    def _keep_metering(self) -> None:
        """Figures of sources change also while no frame comes."""
        while not self._all_tracked.wait(_METERED):
            for source in self._sources.values():
                self._meters.of_source(source)

    def _finish(self, stream: str, error: BaseException | None) -> None:
        """A stream has ended: whoever was never answered is, and everyone's track ends."""
        if error is not None:
            self._failed[stream] = " ".join(str(error).split())
            self._report(f"{stream}: {self._failed[stream]}")
        with self._believing:
            self._chooser.finish(stream)
            if self._worker_error is None:
                while self._recognise():
                    pass
            self._tell_later(self._fusion.finish(stream))
        self._trackers.pop(stream, None)

    def _finish_all(self) -> None:
        for stream in self._sources:
            if stream in self._trackers:
                self._finish(stream, None)

    def _tell_later(self, events: Sequence[Event]) -> None:
        for event in events:
            self._people += event.kind == "appeared"
            self._told.put(event)

    def _tell(self) -> None:
        """The sinks' thread."""
        try:
            for item in self._told:
                with self._meters.stage("sinks"):
                    if isinstance(item, Event):
                        self._sinks.event(item)
                    else:
                        self._sinks.frame(*item)
        except BaseException as error:
            self._worker_error = error
            self._told.close()
            self.stop()
        finally:
            self._sinks.close()


class _Meters:
    """Seconds of each stage, and what became of each source, for `Summary` and for Prometheus."""

    def __init__(self, metrics: Metrics) -> None:
        self._stages: dict[str, tuple[int, float]] = {}
        self._of_stage = metrics.histogram("seqpar_stage_seconds", "Time of one entry into a stage", "stage")
        self._frames = metrics.gauge("seqpar_source_frames", "Frames decoded", "stream")
        self._dropped = metrics.gauge("seqpar_source_dropped", "Frames dropped for newer ones", "stream")
        self._errors = metrics.gauge("seqpar_source_decode_errors", "Damaged packets and pictures", "stream")
        self._reconnects = metrics.gauge("seqpar_source_reconnects", "Connections that came back", "stream")
        self._back_off = metrics.gauge("seqpar_source_back_off_seconds", "Pause before the next try", "stream")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - start
            times, total = self._stages.get(name, (0, 0.0))
            self._stages[name] = times + 1, total + seconds  # each stage is entered by one thread at a time
            self._of_stage.observe(seconds, name)

    def of_source(self, source: Source) -> None:
        name, stats = source.spec.name, source.stats
        self._frames.set(stats.frames, name)
        self._dropped.set(stats.dropped, name)
        self._errors.set(stats.decode_errors, name)
        self._reconnects.set(stats.reconnects, name)
        self._back_off.set(stats.back_off, name)

    def stages(self) -> dict[str, tuple[int, float]]:
        return dict(self._stages)
