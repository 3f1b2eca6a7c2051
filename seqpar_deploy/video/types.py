"""The data the stages of the pipeline pass on, and the protocols of the parts that users replace.

source -> Frame -> Detector -> Box -> Tracker -> TrackedBox -> selected crops -> Recognizer -> Person -> Event -> sinks
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from seqpar_deploy.preprocess import Crop, RgbImage

State = Literal["yes", "no", "unknown"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One frame of a stream.

    Args:
        stream: Name of the stream.
        index: Number of the frame in its stream, from 0. Dropped frames are counted.
        timestamp: The stream's own time in seconds since its first frame. It goes on across interruptions.
        image: Pixels, uint8 RGB (h, w, 3).
    """

    stream: str
    index: int
    timestamp: float
    image: RgbImage = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A detected person.

    Args:
        left: Left edge in pixels of the frame.
        top: Upper edge in pixels.
        right: Right edge in pixels.
        bottom: Lower edge in pixels.
        score: The detector's confidence, 0 to 1. Default: 1.
    """

    left: float
    top: float
    right: float
    bottom: float
    score: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrackedBox:
    """A box and the person it shows.

    Args:
        track_id: Number of the person within the stream, from 1.
        box: Where the person is.
    """

    track_id: int
    box: Box


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """Where and when a person was seen.

    Args:
        frame: Index of the frame in its stream, as `Frame.index`.
        timestamp: The stream's time in seconds, as `Frame.timestamp`.
        box: Where the person is in that frame.
    """

    frame: int
    timestamp: float
    box: Box


class Detector(Protocol):
    """Finds people. Used by one thread; one detector may serve several streams."""

    def detect(self, frame: Frame) -> list[Box]:
        """Return a box for each person in the frame."""
        ...

    def close(self) -> None:
        """Release resources. Safe to call twice."""
        ...


class Tracker(Protocol):
    """Follows people through the frames of one stream, which come in order."""

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        """Return the boxes that belong to a track, each with its track ID."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """One attribute of one person, aggregated over their crops.

    Args:
        state: "yes", "no" or "unknown".
        probability: That the person has the attribute, 0 to 1.
    """

    state: State
    probability: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A track and its attributes at one moment.

    Args:
        stream: Name of the stream.
        track_id: Number of the person within the stream, from 1.
        first: The first sighting.
        last: The latest sighting.
        best: The sighting of `best_crop`.
        best_crop: The most informative crop, uint8 RGB (h, w, 3), with a margin around the box.
        attributes: State and probability by name, in the label set's order.
        crops: Number of crops recognised so far.
    """

    stream: str
    track_id: int
    first: Sighting
    last: Sighting
    best: Sighting
    best_crop: Crop = dataclasses.field(compare=False)
    attributes: Mapping[str, Attribute] = dataclasses.field(hash=False)
    crops: int

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the attributes whose state is "yes"."""
        return tuple(name for name, attribute in self.attributes.items() if attribute.state == "yes")


EventKind = Literal["appeared", "changed", "ended"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """A person's first attributes, a change of them, or the end of their track.

    Args:
        kind: "appeared", "changed" or "ended".
        person: The person as of this event.
        changed: Names of the attributes whose state differs from the track's previous event.
    """

    kind: EventKind
    person: Person
    changed: tuple[str, ...] = ()


class Sink(Protocol):
    """Receives the pipeline's results. Called by one thread; see `BaseSink` for a class to inherit from.

    An exception disables this sink alone, for a while, and is logged. SinkError disables it for good.
    """

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        """Receive a tracked frame, in order within its stream; `people` by track ID, those that have attributes."""
        ...

    def event(self, event: Event) -> None:
        """Receive an event; those of one track come in order."""
        ...

    def close(self) -> None:
        """Flush and close: files must be complete afterwards. Safe to call twice."""
        ...
