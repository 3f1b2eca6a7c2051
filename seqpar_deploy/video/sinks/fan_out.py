"""Calls several sinks, so that an error of one does not affect the others."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Container, Mapping, Sequence

from seqpar_deploy.errors import ReaderGoneError, SeqparError, SinkError
from seqpar_deploy.redaction import redacted
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.types import Event, Frame, Person, Sink, StreamSink, TrackedBox, ZoneEvent, ZoneSink

_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0  # seconds

_log = logging.getLogger(__name__)


def one_line(error: BaseException) -> str:
    """Return an error's message in one line, without secrets. Errors of others than us and OSError have their class."""
    name, text = type(error).__name__, " ".join(redacted(str(getattr(error, "strerror", None) or error)).split())
    return text or name if isinstance(error, (SeqparError, OSError)) else ": ".join(filter(None, (name, text)))


def unused(name: str, taken: Container[str]) -> str:
    """Return a name, with a number if it is taken: sinks that share a name would share metrics and health checks."""
    number, found = 1, name
    while found in taken:
        number += 1
        found = f"{name} ({number})"
    return found


def _counted(number: int, what: str) -> str:
    return f"1 {what.removesuffix('s')}" if number == 1 else f"{number} {what}"


@dataclasses.dataclass(kw_only=True)
class _Calls:
    """State of one kind of call (frames or events) of a sink. After a failure, `why`, it pauses until `until`."""

    why: str | None = None
    pause: float = _FIRST_PAUSE
    until: float = 0.0
    missed: int = 0


@dataclasses.dataclass(kw_only=True)
class _State:
    """State of a sink. `fatal` is the error that disabled it. `incomplete` if it lacks events or was not finished."""

    sink: Sink
    name: str
    frames: _Calls = dataclasses.field(default_factory=_Calls)
    events: _Calls = dataclasses.field(default_factory=_Calls)
    closed: bool = False
    fatal: SinkError | None = None
    incomplete: bool = False

    def problem(self) -> str | None:
        if self.fatal is not None:
            return f"{one_line(self.fatal)}; disabled"
        why = self.events.why or self.frames.why
        return why and f"{why}; retrying"


class Sinks:
    """A `Sink` that calls several sinks and never raises.

    A sink that raises SinkError is closed and disabled. After any other exception, calls of that kind (frames or
    events) pause for 5 s, then are retried. The pause doubles with each failure, up to 5 minutes. Missed calls are
    counted. The start and the end of a failure are logged, and until its end `health` reports it.

    Args:
        sinks: The sinks to call, in this order.
        metrics: Metrics that count events, failures and missed calls. Default: not published.
        health: Health checks that report failing and disabled sinks. Default: not published.
        none_left: Function to call after the last sink was disabled. Default: none.
        clock: Function that returns monotonic seconds. Default: `time.monotonic`.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        metrics: Metrics | None = None,
        health: Health | None = None,
        none_left: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        metrics = metrics or Metrics()
        self._states: list[_State] = []
        for sink in sinks:
            name, taken = getattr(sink, "name", "") or type(sink).__name__, [state.name for state in self._states]
            self._states.append(_State(sink=sink, name=unused(name, taken)))
        self._none_left, self._health = none_left, health or Health()
        self._clock = clock
        self._failures = metrics.counter("seqpar_sink_failures_total", "Calls of a sink that failed.", "sink")
        self._missed = metrics.counter("seqpar_sink_missed_total", "Calls a failing sink missed.", "sink", "what")
        self._seconds = metrics.histogram("seqpar_sink_seconds", "Time a call of a sink takes.", "sink")
        self._events = metrics.counter("seqpar_events_total", "Events emitted.", "stream", "kind")
        for state in self._states:
            self._failures.labels(state.name)  # present from the start, so that an alert can be set on it
            self._health.watch(state.name, state.problem)

    @property
    def all_lost(self) -> list[SinkError]:
        """The error of each sink if all sinks are disabled, else an empty list."""
        lost = [state.fatal for state in self._states if state.fatal is not None]
        return lost if len(lost) == len(self._states) else []

    @property
    def incomplete(self) -> list[str]:
        """Names of the sinks that were disabled, missed events or failed to close, except those without a reader."""
        return [state.name for state in self._states if state.incomplete]

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        """Pass a frame to all sinks.

        Args:
            frame: The frame.
            boxes: All tracked people in it.
            people: The stream's people who have attributes, by track ID.
        """
        for state in self._states:
            self._call(state, state.frames, "frames", lambda sink: sink.frame(frame, boxes, people))

    def event(self, event: Event) -> None:
        """Pass an event to all sinks.

        Args:
            event: The event.
        """
        self._events.labels(event.person.stream, event.kind).inc()
        for state in self._states:
            self._call(state, state.events, "events", lambda sink: sink.event(event))

    def zone(self, event: ZoneEvent) -> None:
        """Pass an event of a zone or line to all sinks that take them.

        Args:
            event: The event.
        """
        self._events.labels(event.stream, event.kind).inc()
        for state in self._states:
            if isinstance(state.sink, ZoneSink):
                self._call(state, state.events, "events", lambda sink: sink.zone(event))  # type: ignore[attr-defined]

    def stream_ended(self, stream: str) -> None:
        """Pass the end of a stream to all sinks that take it.

        Args:
            stream: Name of the stream.
        """
        for state in self._states:
            if isinstance(state.sink, StreamSink):
                self._call(state, state.events, "events", lambda sink: sink.stream_ended(stream))  # type: ignore[attr-defined]

    def close(self) -> None:
        """Close all sinks. Errors are logged. Safe to call twice."""
        for state in self._states:
            if not state.closed:
                state.closed = True
                try:
                    state.sink.close()
                except Exception as error:
                    state.incomplete = True
                    self._failures.labels(state.name).inc()
                    _log.warning("%s: %s; the end of its output may be missing", state.name, one_line(error))
                if state.events.missed:
                    _log.warning("%s: %s missed", state.name, _counted(state.events.missed, "events"))
            if state.fatal is None:
                self._health.forget(state.name)

    def _call(self, state: _State, calls: _Calls, what: str, call: Callable[[Sink], None]) -> None:
        if state.closed:
            return
        if calls.why is None or self._clock() >= calls.until:
            start = time.perf_counter()
            try:
                call(state.sink)
            except Exception as error:
                self._failed(state, calls, error)
            else:
                self._seconds.labels(state.name).observe(time.perf_counter() - start)
                if calls.why is not None:
                    _log.info("%s: works again; %s missed", state.name, _counted(calls.missed, what))
                    calls.why, calls.pause, calls.missed = None, _FIRST_PAUSE, 0
                return
        if what == "events" and not isinstance(state.fatal, ReaderGoneError):
            state.incomplete = True
        calls.missed += 1
        self._missed.labels(state.name, what).inc()

    def _failed(self, state: _State, calls: _Calls, error: Exception) -> None:
        self._failures.labels(state.name).inc()
        if isinstance(error, SinkError):
            state.closed, state.fatal, state.incomplete = True, error, not isinstance(error, ReaderGoneError)
            if not self.all_lost:
                _log.warning("%s: %s; disabled, other outputs continue", state.name, one_line(error))
            elif not isinstance(error, ReaderGoneError):  # no message after `| head`
                _log.warning("%s: %s; no output is left", state.name, one_line(error))
            try:
                state.sink.close()
            except Exception:
                self._failures.labels(state.name).inc()
            if self.all_lost:
                self._none_left()
        elif calls.why is None:
            _log.warning("%s: %s; retrying, other outputs continue", state.name, one_line(error))
        calls.why, calls.until = one_line(error), self._clock() + calls.pause
        calls.pause = min(_LONGEST_PAUSE, 2 * calls.pause)
