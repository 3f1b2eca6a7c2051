"""The zones and lines of one stream: from the boxes of each frame to events."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from seqpar_deploy.video.sinks.draw_zones import Outline
from seqpar_deploy.video.types import Frame, Person, Sighting, TrackedBox, ZoneEvent
from seqpar_deploy.video.zones.counts import Interval, IntervalCounts
from seqpar_deploy.video.zones.geometry import feet
from seqpar_deploy.video.zones.meters import ZoneMeters
from seqpar_deploy.video.zones.passages import Crossed, Line, Zone
from seqpar_deploy.video.zones.placing import Size, place
from seqpar_deploy.video.zones.settings import LineSettings, SceneSettings, ZoneSettings


@dataclasses.dataclass(slots=True)
class _Shape:
    """A zone or line with its tracks. `passages` are all since the start, by what is counted."""

    name: str
    settings: ZoneSettings | LineSettings
    tracks: Zone | Line
    counts: IntervalCounts
    passages: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def kind(self) -> Literal["zone", "line"]:
        return "zone" if isinstance(self.tracks, Zone) else "line"


class Scene:
    """The zones and lines of a stream.

    Args:
        stream: Name of the stream.
        settings: The zones and lines.
        leave_after: Seconds without a sighting after which a track has left all zones.
        meters: Metrics to update.
        clock: As of `IntervalCounts`.
    """

    def __init__(
        self,
        stream: str,
        settings: SceneSettings,
        *,
        leave_after: float,
        meters: ZoneMeters,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._stream, self._leave_after, self._meters, self._clock = stream, leave_after, meters, clock
        self._settings = settings
        self._size: Size | None = None
        self._shapes: dict[str, _Shape] = {}
        self._sightings: dict[int, Sighting] = {}  # the latest of each track
        self._people: Mapping[int, Person] = {}
        self._now = 0.0

    @property
    def names(self) -> set[str]:
        """Names of the zones and lines."""
        return {*self._shapes}

    def frame(
        self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person], settings: SceneSettings
    ) -> list[ZoneEvent]:
        """Return the events of the next frame. `settings` replace the earlier ones."""
        events = list(self._apply(settings, (frame.image.shape[1], frame.image.shape[0])))
        self._now, self._people = frame.timestamp, people
        for shape in self._shapes.values():
            shape.counts.advance(frame.timestamp)
        for tracked in boxes:
            sighting = Sighting(frame=frame.index, timestamp=frame.timestamp, box=tracked.box)
            self._sightings[tracked.track_id] = sighting
            for shape in self._shapes.values():
                events += self._step(shape, tracked.track_id, sighting)
        for track_id, seen in list(self._sightings.items()):
            if frame.timestamp - seen.timestamp > self._leave_after:
                events += self._leave(track_id)
        for shape in self._shapes.values():
            events += [self._count(shape, interval) for interval in shape.counts.due(frame.timestamp, people)]
        return events

    def ended(self, person: Person) -> list[ZoneEvent]:
        """Return the events of a person whose track has ended, and count the final attributes."""
        events = self._leave(person.track_id, person)
        for shape in self._shapes.values():
            shape.counts.final(person.track_id, person)
        return events

    def end(self) -> list[ZoneEvent]:
        """Return the events at the end of the stream. The scene is empty afterwards."""
        return [event for name in list(self._shapes) for event in self._remove(name)]

    def outlines(self) -> list[Outline]:
        """Return what there is to draw, in pixels of the frames."""
        return [
            Outline(
                name=shape.name,
                kind=shape.kind,
                points=shape.tracks.points,
                inside=len(shape.tracks.inside) if isinstance(shape.tracks, Zone) else 0,
                passages=dict(shape.passages),
            )
            for shape in list(self._shapes.values())
        ]

    def _apply(self, settings: SceneSettings, size: Size) -> Iterator[ZoneEvent]:
        """Adopt settings and frame size. Zones and lines that stay as they are keep their people."""
        if settings is self._settings and size == self._size:
            return
        wanted: dict[str, ZoneSettings | LineSettings] = {**settings.zones, **settings.lines}
        for name, shape in list(self._shapes.items()):
            if wanted.get(name) != shape.settings:
                yield from self._remove(name)
                if name not in wanted:
                    self._meters.forget(self._stream, [name])
        if self._size is not None and size != self._size:
            for shape in self._shapes.values():
                shape.tracks = shape.tracks.moved(place(f"{self._stream}: {shape.name}", shape.settings.points, size))
        known = self._shapes
        self._shapes = {name: known.get(name) or self._new(name, each, size) for name, each in wanted.items()}
        self._settings, self._size = settings, size

    def _new(self, name: str, settings: ZoneSettings | LineSettings, size: Size) -> _Shape:
        points = place(f"{self._stream}: {name}", settings.points, size)
        kind = Zone if isinstance(settings, ZoneSettings) else Line
        counts = IntervalCounts(
            settings.interval,
            settle=self._leave_after + settings.hold,  # a passage is counted by its beginning
            clock=self._clock,
            on_final=lambda what, person: self._meters.final(self._stream, name, what, person),
        )
        tracks = kind(points, margin=settings.margin, hold=settings.hold)
        return _Shape(name=name, settings=settings, tracks=tracks, counts=counts)

    def _remove(self, name: str) -> Iterator[ZoneEvent]:
        shape = self._shapes[name]
        for track_id, sighting in self._sightings.items():
            if isinstance(shape.tracks, Line):
                if crossed := shape.tracks.end(track_id):
                    yield self._crossed(shape, crossed, track_id, sighting)
            elif track_id in shape.tracks.inside:
                yield self._left(shape, shape.tracks, track_id, sighting)
        for interval in shape.counts.rest(self._now, self._people):
            yield self._count(shape, interval)
        del self._shapes[name]

    def _step(self, shape: _Shape, track_id: int, sighting: Sighting) -> Iterator[ZoneEvent]:
        """Yield the events of a track at a zone or line."""
        assert self._size is not None  # of the frame of this sighting
        point, height = feet(sighting.box, self._size[1]), sighting.box.bottom - sighting.box.top
        if isinstance(shape.tracks, Line):
            if crossed := shape.tracks.step(track_id, point, height, sighting.timestamp):
                yield self._crossed(shape, crossed, track_id, sighting)
            return
        moved = shape.tracks.step(track_id, point, height, sighting.timestamp)
        if moved and moved.kind == "left":
            yield self._left(shape, shape.tracks, track_id, sighting, at=moved.since)
        elif moved:
            self._passed(shape, "entered", track_id, moved.since)
            yield self._event("entered", shape, track_id, sighting, timestamp=moved.since)
        if (stay := shape.tracks.inside.get(track_id)) and not stay.long:
            dwell = sighting.timestamp - stay.since
            wanted = shape.settings.dwell if isinstance(shape.settings, ZoneSettings) else None
            if wanted is not None and dwell >= wanted:
                stay.long = True
                yield self._event("stayed", shape, track_id, sighting, dwell=dwell)

    def _leave(self, track_id: int, person: Person | None = None) -> list[ZoneEvent]:
        """Return the events of a track that has ended. It leaves zones at its last sighting."""
        seen = self._sightings.pop(track_id, None)
        events: list[ZoneEvent] = []
        if seen is None:
            return events
        for shape in self._shapes.values():
            if isinstance(shape.tracks, Line):
                if crossed := shape.tracks.end(track_id):
                    events.append(self._crossed(shape, crossed, track_id, seen, person))
                continue
            shape.tracks.forget(track_id)
            if track_id in shape.tracks.inside:
                events.append(self._left(shape, shape.tracks, track_id, seen, person))
        return events

    def _crossed(
        self, shape: _Shape, crossed: Crossed, track_id: int, sighting: Sighting, person: Person | None = None
    ) -> ZoneEvent:
        self._passed(shape, crossed.direction, track_id, crossed.since)
        values: dict[str, Any] = {"timestamp": crossed.since, "direction": crossed.direction, "person": person}
        return self._event("crossed", shape, track_id, sighting, **values)

    def _left(
        self,
        shape: _Shape,
        zone: Zone,
        track_id: int,
        sighting: Sighting,
        person: Person | None = None,
        *,
        at: float | None = None,
    ) -> ZoneEvent:
        at = sighting.timestamp if at is None else at
        dwell = zone.leave(track_id, at)
        self._passed(shape, "left", track_id, at, dwell)
        return self._event("left", shape, track_id, sighting, timestamp=at, dwell=dwell, person=person)

    def _passed(self, shape: _Shape, what: str, track_id: int, timestamp: float, dwell: float | None = None) -> None:
        shape.passages[what] += 1
        shape.counts.add(what, track_id, timestamp, dwell)

    def _event(
        self,
        kind: Literal["entered", "left", "stayed", "crossed"],
        shape: _Shape,
        track_id: int,
        sighting: Sighting,
        *,
        timestamp: float | None = None,
        person: Person | None = None,
        **values: Any,
    ) -> ZoneEvent:
        event = ZoneEvent(
            kind=kind,
            stream=self._stream,
            zone=shape.name,
            timestamp=sighting.timestamp if timestamp is None else timestamp,
            track_id=track_id,
            sighting=sighting,
            person=person or self._people.get(track_id),
            **values,
        )
        self._meters.event(event, len(shape.tracks.inside) if isinstance(shape.tracks, Zone) else None)
        return event

    def _count(self, shape: _Shape, interval: Interval) -> ZoneEvent:
        kinds = ("entered", "left") if shape.kind == "zone" else ("in", "out")
        return ZoneEvent(
            kind="counted",
            stream=self._stream,
            zone=shape.name,
            timestamp=interval.end,
            interval=interval.end - interval.start,
            dwell=interval.dwell,
            people={kind: interval.passages[kind] for kind in kinds},
            attributes={kind: dict(some) for kind in kinds if (some := interval.yes.get(kind))},
            unknown={kind: dict(some) for kind in kinds if (some := interval.unknown.get(kind))},
            unrecognized={kind: count for kind in kinds if (count := interval.unrecognized[kind])},
        )
