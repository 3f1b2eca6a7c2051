"""What the stages of the pipeline hand to each other, and the protocols of those that users replace.

source -> Frame -> Detector -> Box -> Tracker -> TrackedBox -> chosen crops -> Recognizer -> fused people -> sinks
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from seqpar_deploy.preprocess import Crop

State = Literal["yes", "no", "unknown"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One picture of a stream, uint8 RGB (h, w, 3).

    `index` counts the frames of this stream from 0, those that were dropped included; `seconds` is the stream's own
    time stamp, counted from its first frame, and goes on across interruptions.
    """

    stream: str
    index: int
    seconds: float
    image: Crop = dataclasses.field(compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A person in a frame: edges in pixels, and how sure the detector is, from 0 to 1."""

    left: float
    top: float
    right: float
    bottom: float
    score: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrackedBox:
    """A box and who it shows: `track` numbers the people of one stream from 1."""

    track: int
    box: Box


class Detector(Protocol):
    """Finds people. Used by one thread; one may serve several streams."""

    def detect(self, frame: Frame) -> list[Box]:
        """Everyone in the frame."""
        ...

    def close(self) -> None:
        """Release what it holds. Safe to call twice."""
        ...


class Tracker(Protocol):
    """Follows people through the frames of one stream, given in order."""

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        """The boxes that belong to someone, with who that is."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """What is believed of one attribute of one person: `probability` that they have it, fused over their crops."""

    state: State
    probability: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """What is believed of one track, at one moment. `attributes` in the label set's order.

    `seconds` are of the stream: when they were first and last seen. `best` is the crop that told most; `best_frame`,
    `best_seconds` and `best_box` are where it is from. `crops` were recognised.
    """

    stream: str
    track: int
    first_seconds: float
    last_seconds: float
    first_frame: int
    last_frame: int
    box: Box
    attributes: Mapping[str, Attribute] = dataclasses.field(hash=False)
    crops: int
    best: Crop = dataclasses.field(compare=False)
    best_frame: int
    best_seconds: float
    best_box: Box

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of what they have: the attributes whose state is yes."""
        return tuple(name for name, attribute in self.attributes.items() if attribute.state == "yes")


EventKind = Literal["appeared", "changed", "ended"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Something to tell: a person's first attributes, a change of them, the end of their track.

    `changed` names the attributes whose state is another than in the track's last event.
    """

    kind: EventKind
    person: Person
    changed: tuple[str, ...] = ()


class Sink(Protocol):
    """Takes what the pipeline finds. Called by one thread; an exception costs this sink alone, and is reported."""

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        """A frame that was tracked, in order within its stream; `people` by track, those that have attributes."""
        ...

    def event(self, event: Event) -> None:
        """Something changed."""
        ...

    def close(self) -> None:
        """Flush and finish: files must play, and read, afterwards. Safe to call twice."""
        ...
