"""The section of the people report on zones and lines: who passed, by attribute and by interval."""

from __future__ import annotations

import dataclasses
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.numbers import counted
from seqpar_deploy.reports.page import table
from seqpar_deploy.video.types import ZoneEvent

ZONES_STYLE = """
#zones { margin: 18px 0 10px; }
#zones .scroll { margin: 10px 0; }
#zones th span { display: block; }
"""
_MOST_INTERVALS = 48  # of a zone or line, the latest
_MOST_PLACES = 100  # zones and lines; a page has room for no more

Place = tuple[str, str]  # stream and name


@dataclasses.dataclass(kw_only=True)
class _Totals:
    """The counts of a zone or line, by what is counted."""

    people: Counter[str] = dataclasses.field(default_factory=Counter)
    yes: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)
    unknown: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)
    unrecognized: Counter[str] = dataclasses.field(default_factory=Counter)
    stays: int = 0
    stayed: float = 0.0
    latest: deque[ZoneEvent] = dataclasses.field(default_factory=lambda: deque(maxlen=_MOST_INTERVALS))

    def add(self, event: ZoneEvent) -> None:
        self.people.update(event.people)
        self.unrecognized.update(event.unrecognized)
        for own, counts in ((self.yes, event.attributes), (self.unknown, event.unknown)):
            for what, by in counts.items():
                own.setdefault(what, Counter()).update(by)
        if event.dwell is not None:
            left = event.people.get("left", 0)
            self.stays += left
            self.stayed += left * event.dwell
        self.latest.append(event)

    @property
    def dwell(self) -> str | None:
        return f"{self.stayed / self.stays:.1f} s" if self.stays else None


class ZoneTotals:
    """Sums of the counts of all intervals. Its memory is bounded."""

    def __init__(self) -> None:
        self._places: dict[Place, _Totals] = {}
        self._left_out: set[Place] = set()
        self.version = 0

    def add(self, event: ZoneEvent) -> None:
        """Add the count of an interval. Other events are ignored."""
        place = event.stream, event.zone
        if event.kind != "counted":
            return
        if place not in self._places and len(self._places) >= _MOST_PLACES:
            self._left_out.add(place)
            return
        self._places.setdefault(place, _Totals()).add(event)
        self.version += 1

    def section(self, attributes: Sequence[str]) -> Html | None:
        """Return the section, None before the first interval has ended. `attributes` in the label set's order."""
        if not self._places:
            return None
        several = len({stream for stream, _ in self._places}) > 1
        columns = [
            (f"{stream}: {zone}" if several else zone, what, totals)
            for (stream, zone), totals in self._places.items()
            for what in totals.people
        ]
        passages = sum(totals.people[what] for _, what, totals in columns)
        note = (
            "Each passage counts, so somebody who comes back counts twice. The attributes are those of the end of the "
            "track. In brackets: passages of people whose state is unknown."
        )
        return tag(
            "details",
            tag("summary", f"Zones and lines: {counted(passages, 'passage')}"),
            tag("p", note, class_="note"),
            self._note_left_out(),
            table(
                ("", *(join(name, tag("span", what)) for name, what, _ in columns)),
                _rows(columns, attributes),
                label="passages by attribute",
            ),
            _intervals(self._places.items(), several),
            open="",
            id="zones",
        )

    def _note_left_out(self) -> Html | None:
        if not self._left_out:
            return None
        left_out = counted(len(self._left_out), "zone or line", "zones and lines")
        return tag("p", f"The first {_MOST_PLACES} are shown. The events have {left_out} more.", class_="note")


def _rows(columns: Sequence[tuple[str, str, _Totals]], attributes: Sequence[str]) -> Iterable[Sequence[object]]:
    yield ("people", *(totals.people[what] for _, what, totals in columns))
    if any(totals.dwell for *_, totals in columns):
        yield ("mean dwell time", *(totals.dwell or "" if what == "left" else "" for _, what, totals in columns))
    for name in attributes:
        cells = [_cell(totals, what, name) for _, what, totals in columns]
        if any(cells):
            yield (name, *cells)
    if any(totals.unrecognized.total() for *_, totals in columns):
        yield ("not recognised", *(totals.unrecognized[what] or "" for _, what, totals in columns))


def _cell(totals: _Totals, what: str, name: str) -> str:
    yes, unknown = totals.yes.get(what, Counter())[name], totals.unknown.get(what, Counter())[name]
    return f"{yes} ({unknown})" if unknown else str(yes) if yes else ""


def _intervals(places: Iterable[tuple[Place, _Totals]], several: bool) -> Html | None:
    """Return a table of the latest intervals, if any place has several."""
    rows = [
        (
            f"{stream}: {zone}" if several else zone,
            f"{clock(event.timestamp - (event.interval or 0))} \N{EN DASH} {clock(event.timestamp)}",
            ", ".join(f"{what} {count}" for what, count in event.people.items()),
        )
        for (stream, zone), totals in places
        if len(totals.latest) > 1
        for event in reversed(totals.latest)
    ]
    if not rows:
        return None
    heads = ("zone or line", "interval", "people")
    return tag(
        "details", tag("summary", "By interval"), table(heads, rows, label="passages by interval", words=(0, 1, 2))
    )


def clock(seconds: float) -> str:
    """`1:02:03`, `2:03`"""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
