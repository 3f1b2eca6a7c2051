"""All sinks as one, so that a fault costs only the sink it is in."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from seqpar_deploy.errors import ReaderGoneError, SeqparError, SinkError
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.types import Event, Frame, Person, Sink, TrackedBox

_FIRST_REST, _LONGEST_REST = 5.0, 300.0  # seconds
Say = Callable[[str], None]


def say(line: str) -> None:
    """A line for the person at the terminal, if it is still there."""
    with contextlib.suppress(OSError, ValueError):
        print(f"seqpar: {line}", file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """What an error says; of those that are neither ours nor the system's, after their class. FFmpeg's have words as
    the system's have."""
    name, words = type(error).__name__, " ".join(str(getattr(error, "strerror", None) or error).split())
    return words or name if isinstance(error, (SeqparError, OSError)) else ": ".join(filter(None, (name, words)))


@dataclasses.dataclass(kw_only=True)
class _Spell:
    """How one kind of call of a sink fares. After a failure it is left alone until `until`, `rest` seconds on.
    `why` is what it failed with, None while all is well."""

    why: str | None = None
    rest: float = _FIRST_REST
    until: float = 0.0
    missed: int = 0


@dataclasses.dataclass(kw_only=True)
class _State:
    """A sink, how its calls fare, whether it is closed, the error after which it was left out, and whether it lacks
    events or its end."""

    sink: Sink
    name: str
    frames: _Spell = dataclasses.field(default_factory=_Spell)
    events: _Spell = dataclasses.field(default_factory=_Spell)
    closed: bool = False
    fatal: SinkError | None = None
    lacks: bool = False

    def problem(self) -> str | None:
        if self.fatal is not None:
            return f"{one_line(self.fatal)}; it is left out"
        why = self.events.why or self.frames.why
        return why and f"{why}; it is tried again"


class Sinks:
    """A `Sink` that hands everything to several, and never raises.

    A sink that raises SinkError is closed and left out from then on. Where one raises anything else, that kind of call
    (frames, or events) rests, 5 s at first and at most 5 minutes, and is tried again; what it misses is counted. Each
    spell of failures is told in one line when it starts and one when it ends, and is a problem of `health` meanwhile.
    `none_left` is called when the last sink was left out. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        metrics: Metrics | None = None,
        health: Health | None = None,
        none_left: Callable[[], None] = lambda: None,
        report: Say = say,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        metrics = metrics or Metrics()
        self._states = [_State(sink=sink, name=getattr(sink, "name", type(sink).__name__)) for sink in sinks]
        self._report, self._none_left, self._health = report, none_left, health or Health()
        self._clock = clock
        self._failures = metrics.counter("seqpar_sink_failures_total", "Calls of a sink that failed.", "sink")
        self._missed = metrics.counter("seqpar_sink_missed_total", "What a failing sink missed.", "sink", "what")
        self._seconds = metrics.histogram("seqpar_sink_seconds", "Time a call of a sink takes.", "sink")
        self._events = metrics.counter("seqpar_events_total", "Events told.", "stream", "kind")
        for state in self._states:
            self._failures.labels(state.name)  # there from the start, so that an alarm can be set on it
            self._health.watch(state.name, state.problem)

    @property
    def all_lost(self) -> list[SinkError]:
        """Why each sink was left out, where not one is left of those there were."""
        lost = [state.fatal for state in self._states if state.fatal is not None]
        return lost if len(lost) == len(self._states) else []

    @property
    def incomplete(self) -> list[str]:
        """The names of those that were left out, missed events or could not be finished. Who has gone is none."""
        return [state.name for state in self._states if state.lacks]

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        for state in self._states:
            self._call(state, state.frames, "frames", lambda sink: sink.frame(frame, boxes, people))

    def event(self, event: Event) -> None:
        self._events.labels(event.person.stream, event.kind).inc()
        for state in self._states:
            self._call(state, state.events, "events", lambda sink: sink.event(event))

    def close(self) -> None:
        for state in self._states:
            if not state.closed:
                state.closed = True
                try:
                    state.sink.close()
                except Exception as error:
                    state.lacks = True
                    self._failures.labels(state.name).inc()
                    self._report(f"{state.name}: {one_line(error)}; it may lack its end")
                if state.events.missed:
                    self._report(f"{state.name}: {state.events.missed} events were missed")
            if state.fatal is None:
                self._health.forget(state.name)

    def _call(self, state: _State, spell: _Spell, what: str, call: Callable[[Sink], None]) -> None:
        if state.closed:
            return
        if spell.why is None or self._clock() >= spell.until:
            start = time.perf_counter()
            try:
                call(state.sink)
            except Exception as error:
                self._failed(state, spell, error)
            else:
                self._seconds.labels(state.name).observe(time.perf_counter() - start)
                if spell.why is not None:
                    self._report(f"{state.name}: works again, {spell.missed} {what} were missed")
                    spell.why, spell.rest, spell.missed = None, _FIRST_REST, 0
                return
        if what == "events" and not isinstance(state.fatal, ReaderGoneError):
            state.lacks = True
        spell.missed += 1
        self._missed.labels(state.name, what).inc()

    def _failed(self, state: _State, spell: _Spell, error: Exception) -> None:
        self._failures.labels(state.name).inc()
        if isinstance(error, SinkError):
            state.closed, state.fatal, state.lacks = True, error, not isinstance(error, ReaderGoneError)
            if not self.all_lost:
                self._report(f"{state.name}: {one_line(error)}; it is left out from now on, the other outputs go on")
            elif not isinstance(error, ReaderGoneError):  # after `| head` nobody wants to know
                self._report(f"{state.name}: {one_line(error)}; no output is left")
            try:
                state.sink.close()
            except Exception:
                self._failures.labels(state.name).inc()
            if self.all_lost:
                self._none_left()
        elif spell.why is None:
            self._report(f"{state.name}: {one_line(error)}; it is tried again, the other outputs go on")
        spell.why, spell.until = one_line(error), self._clock() + spell.rest
        spell.rest = min(_LONGEST_REST, 2 * spell.rest)
