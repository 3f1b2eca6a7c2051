"""Prometheus metrics of zones and lines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from seqpar_deploy.video.sinks.metrics import Metrics
from seqpar_deploy.video.types import Person, ZoneEvent

_KINDS = {"in": ("crossed", "in"), "out": ("crossed", "out")}  # kind and direction of what is counted


class ZoneMeters:
    """The metrics of all zones and lines of a run.

    `seqpar_zone_occupancy{stream,zone}` is the number of people in a zone now. `seqpar_zone_events_total{stream,zone,
    kind,direction}` counts events. `seqpar_zone_people_total{stream,zone,kind,direction,attribute}` counts passages of
    people with an attribute once it is final.

    Args:
        metrics: The metrics of the run.
    """

    def __init__(self, metrics: Metrics) -> None:
        place = ("stream", "zone")
        passage = (*place, "kind", "direction")
        self._occupancy = metrics.gauge("seqpar_zone_occupancy", "People in a zone now.", *place)
        self._events = metrics.counter("seqpar_zone_events_total", "Events of zones and lines.", *passage)
        self._people = metrics.counter(
            "seqpar_zone_people_total", "Passages of people with an attribute.", *passage, "attribute"
        )
        self._series: dict[tuple[str, str], set[tuple[Any, tuple[str, ...]]]] = {}

    def present(self, stream: str, zones: Iterable[str], lines: Iterable[str]) -> None:
        """Publish zones and lines from the start with the value 0."""
        for zone in zones:
            self._of(self._occupancy, stream, zone).set(0)
            for kind in ("entered", "left"):
                self._of(self._events, stream, zone, kind, "")
        for line in lines:
            for direction in ("in", "out"):
                self._of(self._events, stream, line, "crossed", direction)

    def event(self, event: ZoneEvent, inside: int | None) -> None:
        """Count an event. `inside` is the number of people in the zone now, None for a line."""
        self._of(self._events, event.stream, event.zone, event.kind, event.direction or "").inc()
        if inside is not None:
            self._of(self._occupancy, event.stream, event.zone).set(inside)

    def final(self, stream: str, name: str, what: str, person: Person | None) -> None:
        """Count a passage by the attributes of the person, None for one without any."""
        kind, direction = _KINDS.get(what, (what, ""))
        for label in person.labels if person else ():
            self._of(self._people, stream, name, kind, direction, label).inc()

    def forget(self, stream: str, names: Iterable[str]) -> None:
        """Remove the series of zones and lines that are no more."""
        for name in names:
            for metric, labels in self._series.pop((stream, name), ()):
                metric.remove(*labels)

    def _of(self, metric: Any, stream: str, name: str, *rest: str) -> Any:
        self._series.setdefault((stream, name), set()).add((metric, (stream, name, *rest)))
        return metric.labels(stream, name, *rest)
