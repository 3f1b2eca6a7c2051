"""Measurements of the running pipeline: time per stage, progress through files, overload of live streams."""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence

from seqpar_deploy.progress import OnProgress
from seqpar_deploy.video.sinks.metrics import Metrics
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.state import SourceStats

_STALE = 10.0  # seconds of one call of a stage after which it counts as stuck
_MAY_WAIT = ("wait for sinks", "select", "fuse")  # stages that pass on frames and events
_TRACKING = ("detect", "track", "select", "wait for sinks")  # stages of the thread that reads live frames
_WINDOW = 5.0  # seconds over which dropped frames are counted
_REPEAT = 30.0  # minimum seconds between two warnings about one stream
_PROBING = 0.2  # maximum seconds of probing files per update

_log = logging.getLogger(__name__)


class Meters:
    """Measures the stages and sources, for `Summary` and for Prometheus."""

    def __init__(self, metrics: Metrics) -> None:
        self._stages: dict[str, tuple[int, float]] = {}
        self._counted: weakref.WeakKeyDictionary[Source, SourceStats] = weakref.WeakKeyDictionary()  # in the counters
        self._since: dict[str, float] = {}  # start times of the running stages
        self._of_stage = metrics.histogram("seqpar_stage_seconds", "Time of one call of a stage", "stage")
        self._frames = metrics.counter("seqpar_source_frames_total", "Frames decoded", "stream")
        self._dropped = metrics.counter("seqpar_source_dropped_total", "Frames dropped for newer ones", "stream")
        self._skipped = metrics.counter("seqpar_source_skipped_total", "Frames decoded, but not analysed", "stream")
        self._errors = metrics.counter("seqpar_source_decode_errors_total", "Damaged data", "stream")
        self._reconnects = metrics.counter("seqpar_source_reconnects_total", "Reconnections", "stream")
        self._back_off = metrics.gauge("seqpar_source_back_off_seconds", "Pause before the next retry", "stream")

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure one call of a stage."""
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
        """Update a source's metrics."""
        name, stats = source.spec.name, source.stats
        before, self._counted[source] = self._counted.get(source, SourceStats()), stats
        self._frames.labels(name).inc(stats.frames - before.frames)
        self._dropped.labels(name).inc(stats.dropped - before.dropped)
        self._skipped.labels(name).inc(stats.skipped - before.skipped)
        self._errors.labels(name).inc(stats.decode_errors - before.decode_errors)
        self._reconnects.labels(name).inc(stats.reconnects - before.reconnects)
        self._back_off.labels(name).set(stats.back_off)

    def stages(self) -> dict[str, tuple[int, float]]:
        """Return the number of calls and the total seconds of each stage."""
        return self._stages.copy()

    def spent(self) -> dict[str, float]:
        """Return the seconds spent in each stage so far, including running calls."""
        now = time.perf_counter()
        spent = {name: total for name, (_, total) in self._stages.copy().items()}
        for name, since in self._since.copy().items():
            spent[name] = spent.get(name, 0.0) + now - since
        return spent

    def stuck(self) -> str | None:
        """Describe the stage whose current call takes too long. None if there is none."""
        now = time.perf_counter()
        running = [(now - since, name) for name, since in self._since.copy().items() if name not in _MAY_WAIT]
        seconds, name = max(running, default=(0.0, ""))
        return f"{name}: no progress for {seconds:.0f} s" if seconds > _STALE else None


class OverloadLog:
    """Logs the start and the end of dropped frames in live streams, and names the slowest stage.

    It logs at most one warning per stream in 30 s. `clock` returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()  # start of the window
        self._before: dict[str, tuple[int, int]] = {}
        self._spent: Mapping[str, float] = {}
        self._warned: dict[str, float] = {}
        self._overloaded: set[str] = set()

    def look(self, counts: Mapping[str, tuple[int, int]], spent: Mapping[str, float]) -> None:
        """Process the totals so far: (frames decoded, frames dropped) by stream, and seconds spent by stage."""
        now = self._clock()
        passed = now - self._since
        if passed < _WINDOW:
            return
        for stream, (frames, dropped) in counts.items():
            frames_before, dropped_before = self._before.get(stream, (0, 0))
            if frames < frames_before:  # another source of that name
                frames_before = dropped_before = 0
            lost = dropped - dropped_before
            if lost and now - self._warned.get(stream, -_REPEAT) >= _REPEAT:
                self._warned[stream] = now
                self._overloaded.add(stream)
                slowest, share = self._slowest(spent, passed)
                _log.warning(
                    "%s: %d of %d frames dropped in the last %.0f s; slowest stage: %s (%.0f %% of the time)",
                    *(stream, lost, max(lost, frames - frames_before), passed, slowest, 100 * share),
                )
            elif not lost and stream in self._overloaded:
                self._overloaded.discard(stream)
                _log.info("%s: no frames dropped in the last %.0f s; %d in all", stream, passed, dropped)
        self._since, self._before, self._spent = now, dict(counts), dict(spent)

    def _slowest(self, spent: Mapping[str, float], passed: float) -> tuple[str, float]:
        """Return the stage that took the largest share of the window, and that share."""
        took = {name: spent.get(name, 0.0) - self._spent.get(name, 0.0) for name in _TRACKING}
        name = max(took, key=took.__getitem__)
        return name, min(1.0, took[name] / passed)


class RunProgress:
    """Reports frames read and the total number of frames in all files.

    Lengths come from the containers. Each `look` probes some unopened files. The others are assumed to have the mean
    length.
    """

    def __init__(self, sources: Sequence[Source], on_progress: OnProgress) -> None:
        self._sources, self._on_progress = sources, on_progress
        self._lengths: dict[str, int] = {}
        self._unprobed = [source for source in sources if source.spec.can_be_read_twice]

    def look(self, ahead: int = 0) -> None:
        """Probe some files and report progress. `ahead` frames were read in addition, to learn from them."""
        end = time.monotonic() + _PROBING
        while self._unprobed and time.monotonic() < end:
            source = self._unprobed.pop()
            if source.stats.length == 0:
                self._lengths[source.spec.name] = source.probe_length()
        done, known, unknown = 0, [], 0
        for source in self._sources:
            stats = source.stats
            done += stats.frames
            length = stats.length or self._lengths.get(source.spec.name, 0)
            if stats.state in ("ended", "failed"):
                known.append(stats.frames)
            elif length:
                known.append(max(length, stats.frames))
            else:
                unknown += 1
        if total := sum(known):
            self._on_progress(ahead + done, ahead + max(done, total + unknown * total // len(known)))
