"""Counts of a zone or line per interval, by attribute.

An interval is emitted some seconds after its end, because the attributes of the people in it are those of the end of
their tracks: when all of them have left the picture, or 30 s after its end with the attributes known by then.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping

from seqpar_deploy.video.types import Person

PATIENCE = 30.0  # seconds after the end of an interval until it is emitted at the latest

OnFinal = Callable[[str, Person | None], object]


@dataclasses.dataclass(slots=True)
class Interval:
    """An interval. `waiting` has, by track, what it was counted for, until its attributes are final."""

    start: float
    end: float
    passages: Counter[str] = dataclasses.field(default_factory=Counter)
    yes: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)
    unknown: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)
    unrecognized: Counter[str] = dataclasses.field(default_factory=Counter)
    waiting: dict[int, list[str]] = dataclasses.field(default_factory=dict)
    stays: int = 0
    stayed: float = 0.0

    @property
    def dwell(self) -> float | None:
        """Mean seconds inside, of the stays that ended in this interval."""
        return self.stayed / self.stays if self.stays else None

    def final(self, track_id: int, person: Person | None) -> Iterator[str]:
        """Count a track's attributes, and yield what it was counted for."""
        for what in self.waiting.pop(track_id, ()):
            if person is None:
                self.unrecognized[what] += 1
            else:
                states = [(name, attribute.state) for name, attribute in person.attributes.items()]
                self.yes.setdefault(what, Counter()).update(name for name, state in states if state == "yes")
                self.unknown.setdefault(what, Counter()).update(name for name, state in states if state == "unknown")
            yield what


class IntervalCounts:
    """The intervals of one zone or line that are not emitted yet.

    Args:
        length: Length of an interval in seconds of the stream's time.
        settle: Seconds after which a track without a sighting has left. No interval is emitted before.
        clock: Function that returns the time of day in seconds, whose multiples of `length` begin intervals. Default:
            none, intervals begin with the stream.
        on_final: Called with each passage whose attributes are final: what was counted, and the person. Default: none.
    """

    def __init__(
        self,
        length: float,
        *,
        settle: float,
        clock: Callable[[], float] | None = None,
        on_final: OnFinal = lambda _what, _person: None,
    ) -> None:
        self._length, self._settle, self._clock, self._on_final = length, settle, clock, on_final
        self._open: deque[Interval] = deque()

    def add(self, what: str, track_id: int, timestamp: float, dwell: float | None = None) -> None:
        """Count a passage. Call `advance` with the frame's time before."""
        interval = next((one for one in reversed(self._open) if one.start <= timestamp), self._open[0])
        interval.passages[what] += 1
        interval.waiting.setdefault(track_id, []).append(what)
        if dwell is not None:
            interval.stays += 1
            interval.stayed += dwell

    def final(self, track_id: int, person: Person | None) -> None:
        """Count the attributes of a person who has left."""
        for interval in self._open:
            for what in interval.final(track_id, person):
                self._on_final(what, person)

    def advance(self, now: float) -> None:
        """Begin the interval of a frame. Intervals without a frame are left out."""
        if self._open and now < self._open[-1].end:
            return
        start = now
        if self._open:
            end = self._open[-1].end
            start = end + math.floor((now - end) / self._length) * self._length
        self._open.append(Interval(start, self._end(start, now)))

    def _end(self, start: float, now: float) -> float:
        if self._clock is None:
            return start + self._length
        rest = self._length - (start + self._clock() - now) % self._length
        if self._open and rest < self._length / 2:  # the clock says that the interval before was a little too short
            rest += self._length
        return start + rest

    def due(self, now: float, people: Mapping[int, Person]) -> Iterator[Interval]:
        """Yield the intervals that have ended and are final. `people` by track ID, for those who are still there."""
        while len(self._open) > 1:  # the last one has not ended
            first = self._open[0]
            late = now - first.end
            if late <= self._settle or (first.waiting and late <= PATIENCE):
                return
            yield self._finish(people)

    def rest(self, now: float, people: Mapping[int, Person]) -> Iterator[Interval]:
        """Yield the remaining intervals at the end of a stream. The last one ends at `now`."""
        while self._open:
            if len(self._open) == 1:
                self._open[0].end = now
            interval = self._finish(people)
            if interval.end > interval.start or interval.passages:
                yield interval

    def _finish(self, people: Mapping[int, Person]) -> Interval:
        interval = self._open.popleft()
        for track_id in list(interval.waiting):
            person = people.get(track_id)
            for what in interval.final(track_id, person):
                self._on_final(what, person)
        return interval
