"""All sinks as one, so that a fault costs only the sink it is in."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from seqpar_deploy.errors import SinkError
from seqpar_deploy.video.sinks.metrics import Metrics
from seqpar_deploy.video.types import Event, Frame, Person, Sink, TrackedBox

_FIRST_REST, _LONGEST_REST = 5.0, 300.0  # seconds
Say = Callable[[str], None]


def say(line: str) -> None:
    """A line for the person at the terminal."""
    print(f"seqpar: {line}", file=sys.stderr, flush=True)


@dataclasses.dataclass(kw_only=True)
class _State:
    """How one sink fares. `rest` is how long it is left alone after the next failure, `until` when that ends."""

    sink: Sink
    name: str
    rest: float = _FIRST_REST
    until: float = 0.0
    failing: bool = False
    gone: bool = False
    missed: int = 0  # events


class Sinks:
    """A `Sink` that hands everything to several, and never raises.

    A sink that raises SinkError is closed and left out from then on. One that raises anything else rests, 5 s at first
    and at most 5 minutes, and is tried again; events it misses are counted. Each spell of failures is told in one line
    when it starts and one when it ends. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        metrics: Metrics | None = None,
        report: Say = say,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        metrics = metrics or Metrics()
        self._states = [_State(sink=sink, name=getattr(sink, "name", type(sink).__name__)) for sink in sinks]
        self._report = report
        self._clock = clock
        self._failures = metrics.counter("seqpar_sink_failures_total", "Calls of a sink that failed.", "sink")
        self._missed = metrics.counter("seqpar_sink_missed_events_total", "Events a failing sink missed.", "sink")
        self._seconds = metrics.histogram("seqpar_sink_seconds", "Time a call of a sink takes.", "sink")
        self._events = metrics.counter("seqpar_events_total", "Events told.", "stream", "kind")
        for state in self._states:
            self._failures.add(0, state.name)  # there from the start, so that an alarm can be set on it

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        for state in self._states:
            if self._is_up(state):
                self._call(state, lambda sink: sink.frame(frame, boxes, people))

    def event(self, event: Event) -> None:
        self._events.add(1, event.person.stream, event.kind)
        for state in self._states:
            if not self._is_up(state) or not self._call(state, lambda sink: sink.event(event)):
                state.missed += 1
                self._missed.add(1, state.name)

    def close(self) -> None:
        for state in self._states:
            if not state.gone:
                state.gone = True
                try:
                    state.sink.close()
                except Exception as error:
                    self._failures.add(1, state.name)
                    self._report(f"{state.name}: {_one_line(error)}; it may lack its end")
            if state.missed:
                self._report(f"{state.name}: {state.missed} events were missed")
                state.missed = 0

    def _is_up(self, state: _State) -> bool:
        return not state.gone and (not state.failing or self._clock() >= state.until)

    def _call(self, state: _State, call: Callable[[Sink], None]) -> bool:
        """Whether it went well."""
        start = time.perf_counter()
        try:
            call(state.sink)
        except Exception as error:
            self._failed(state, error)
            return False
        self._seconds.observe(time.perf_counter() - start, state.name)
        if state.failing:
            state.failing, state.rest = False, _FIRST_REST
            self._report(f"{state.name}: works again, {state.missed} events were missed")
            state.missed = 0
        return True

    def _failed(self, state: _State, error: Exception) -> None:
        self._failures.add(1, state.name)
        if not state.failing:
            end = "it is left out from now on" if isinstance(error, SinkError) else "it is tried again"
            self._report(f"{state.name}: {_one_line(error)}; {end}, the other outputs go on")
        state.failing, state.until = True, self._clock() + state.rest
        state.rest = min(_LONGEST_REST, 2 * state.rest)
        if isinstance(error, SinkError):
            state.gone = True
            try:
                state.sink.close()
            except Exception:
                self._failures.add(1, state.name)


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    words = " ".join(str(error).split())
    return words if isinstance(error, SinkError) else f"{type(error).__name__}: {words}"
