"""Scripted tracks: people of 100 pixels at given places, in frames of 200 x 400, ten per second."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from video.sinks.people import attributes, boxes, event, person

from seqpar_deploy.video.sinks.base import BaseSink
from seqpar_deploy.video.sinks.fan_out import Sinks
from seqpar_deploy.video.sinks.metrics import Metrics
from seqpar_deploy.video.types import Box, Event, Frame, Person, Sighting, TrackedBox, ZoneEvent
from seqpar_deploy.video.zones.settings import LineSettings, SceneSettings, ZoneSettings
from seqpar_deploy.video.zones.watcher import ZoneWatcher

__all__ = ["Kept", "Played", "attributes", "boxes", "event", "line", "person", "standing", "zone"]

HEIGHT = 100.0  # of a person
WIDTH, TALL = 400, 200  # of a frame
Place = tuple[float, float]


def standing(x: float, y: float, height: float = HEIGHT) -> Box:
    """The box of somebody whose feet are at a place."""
    return Box(left=x - 20, top=y - height, right=x + 20, bottom=y)


def line(points: tuple[Place, ...], **values: object) -> LineSettings:
    """A line whose crossings are certain at once, so that a test has few frames."""
    return LineSettings(points=points, **{"hold": 0.0} | values)


def zone(points: tuple[Place, ...], **values: object) -> ZoneSettings:
    """A zone that is entered and left at once."""
    return ZoneSettings(points=points, **{"hold": 0.0} | values)


class Kept(BaseSink):
    """Keeps what it receives, in order."""

    def __init__(self) -> None:
        self.zones: list[ZoneEvent] = []
        self.all: list[ZoneEvent | Event | Frame | str] = []

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        self.all.append(frame)

    def event(self, event: Event) -> None:
        self.all.append(event)

    def zone(self, event: ZoneEvent) -> None:
        self.zones.append(event)
        self.all.append(event)

    def stream_ended(self, stream: str) -> None:
        self.all.append(stream)


class Played:
    """A `ZoneWatcher` on scripted tracks of one stream."""

    def __init__(self, scene: SceneSettings, *, stream: str = "street", **options: object) -> None:
        self.kept, self.metrics, self.stream = Kept(), Metrics(), stream
        self.zones = ZoneWatcher(Sinks([self.kept]), {stream: scene}, metrics=self.metrics, **options)
        self.index, self.people = 0, {}
        self.tracks: set[int] = set()

    def at(self, timestamp: float, places: Mapping[int, Place | Box], size: tuple[int, int] = (TALL, WIDTH)) -> None:
        """A frame with people's feet, or boxes, by track ID."""
        tracked = [
            TrackedBox(track_id=track, box=place if isinstance(place, Box) else standing(*place))
            for track, place in places.items()
        ]
        image = np.zeros((*size, 3), np.uint8)
        frame = Frame(stream=self.stream, index=self.index, timestamp=timestamp, image=image)
        self.index += 1
        self.zones.frame(frame, tracked, dict(self.people))

    def path(self, *places: Place | None, track: int = 1, start: float = 0.0, step: float = 0.1) -> Played:
        """Frames with one person, None for a frame in which the person is lost."""
        for number, place in enumerate(places):
            self.at(start + number * step, {} if place is None else {track: place})
        return self

    def know(
        self, track: int, *yes: str, unknown: Sequence[str] = (), names: Sequence[str] = ("hat", "female")
    ) -> None:
        """From now on a person has attributes."""
        self.people[track] = person(track, stream=self.stream, attributes=attributes(yes, unknown, names))

    def leave(self, track: int) -> None:
        """The person's track ends."""
        who = self.people.pop(track)
        self.zones.event(event("ended", who))

    def found(self) -> list[tuple[object, ...]]:
        """The events so far but for counts: kind or direction, name, track and time."""
        return [
            (one.direction or one.kind, one.zone, one.track_id, round(one.timestamp, 3))
            for one in self.kept.zones
            if one.kind != "counted"
        ]

    @property
    def counts(self) -> list[ZoneEvent]:
        return [one for one in self.kept.zones if one.kind == "counted"]

    def value(self, name: str, **labels: str) -> float | None:
        """The value of a metric."""
        found: float | None = self.metrics.registry.get_sample_value(name, {"stream": self.stream, **labels})
        return found


def sighting(frame: int, timestamp: float, box: Box) -> Sighting:
    return Sighting(frame=frame, timestamp=timestamp, box=box)
