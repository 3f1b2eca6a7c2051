"""Data types that the stages of the pipeline exchange, and protocols of the parts that users can replace.

source -> Frame -> Detector -> Box -> Tracker -> TrackedBox -> selected crops -> Recognizer -> Person -> Event -> sinks
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

from seqpar_deploy.calibration.thresholds import State
from seqpar_deploy.preprocess import Crop, RgbImage


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One frame of a stream.

    Attributes:
        stream: Name of the stream.
        index: Number of the frame in its stream, from 0. Dropped frames are counted.
        timestamp: The stream's time in seconds since its first frame. It continues across interruptions.
        image: Pixels, uint8 RGB (h, w, 3).
        received: Time of `time.monotonic` at which the frame was decoded, for its latency. Default: None, unknown.
        dropped: Number of frames of the stream that were dropped for newer ones so far. Default: 0.

    Example:
        Frame(stream="gate", index=0, timestamp=0.0, image=np.zeros((576, 768, 3), np.uint8))
    """

    stream: str
    index: int
    timestamp: float
    image: RgbImage = dataclasses.field(compare=False)
    received: float | None = dataclasses.field(default=None, compare=False)
    dropped: int = dataclasses.field(default=0, compare=False)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """The bounding box of a detected person.

    Attributes:
        left: Left edge in pixels of the frame.
        top: Upper edge in pixels.
        right: Right edge in pixels.
        bottom: Lower edge in pixels.
        score: The detector's confidence, 0 to 1. Default: 1.
        evidence: Evidence of this box for a person, 0 to 1, from a detector that cannot tell people from other changes
            of the picture. Such a track is emitted once its boxes have enough evidence and moved as a body does.
            Default: 1, and no motion is required if all boxes of a track have 1.
    """

    left: float
    top: float
    right: float
    bottom: float
    score: float = 1.0
    evidence: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TrackedBox:
    """A box and the track it belongs to.

    Attributes:
        track_id: Number of the person within the stream, from 1.
        box: The person's box.
    """

    track_id: int
    box: Box


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """The box of a person in one frame.

    Attributes:
        frame: Index of the frame in its stream, as `Frame.index`.
        timestamp: The stream's time in seconds, as `Frame.timestamp`.
        box: The person's box in that frame.
    """

    frame: int
    timestamp: float
    box: Box


class Detector(Protocol):
    """Protocol of a person detector. One thread uses it. One detector may serve several streams.

    Example:
        class MyDetector:
            def detect(self, frame: Frame) -> list[Box]:
                return [Box(left=10, top=20, right=60, bottom=180, score=0.9)]

            def close(self) -> None:
                pass
    """

    def detect(self, frame: Frame) -> list[Box]:
        """Detect people.

        Args:
            frame: The frame.

        Returns:
            A box for each person in the frame, in any order.
        """
        ...

    def close(self) -> None:
        """Release resources. Safe to call twice."""
        ...


@runtime_checkable
class LooksAhead(Protocol):
    """Protocol of a `Detector` that learns from the first seconds of a recording before it detects people in it."""

    def look_ahead(self, frames: Iterable[Frame]) -> None:
        """Learn from frames.

        Args:
            frames: First frames of one stream, in order. They are passed to `detect` again.
        """
        ...


@runtime_checkable
class Readiness(Protocol):
    """Protocol of a `Detector` that cannot tell people at first. Without it, a detector is always ready.

    Until it is ready, `VideoOptions.blur` blurs whole frames.
    """

    def ready(self, stream: str) -> bool:
        """Return whether the latest `detect` of a stream could find people.

        Args:
            stream: Name of the stream.
        """
        ...


@runtime_checkable
class ForgetsStreams(Protocol):
    """Protocol of a `Detector` that learns from the frames of a stream."""

    def forget(self, stream: str) -> None:
        """Forget a stream that has ended. A later one with its name may show another place.

        Args:
            stream: Name of the stream.
        """
        ...


class Tracker(Protocol):
    """Protocol of a tracker, which follows people through the frames of one stream."""

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        """Assign boxes to tracks.

        Args:
            frame: The next frame of the stream.
            boxes: Everyone detected in it.

        Returns:
            The boxes that belong to a track, each with its track ID. IDs differ within a frame.
        """
        ...


@runtime_checkable
class KeepsTrackIds(Protocol):
    """Protocol of a `Tracker` whose track IDs are used as they are, also after its stream was finished and goes on.

    IDs of other trackers, which begin with 1, are counted on then, so that none comes twice.
    """

    keeps_track_ids: bool


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """One attribute of one person, aggregated over their crops.

    Attributes:
        state: "yes", "no" or "unknown".
        probability: Probability that the person has the attribute, 0 to 1.
    """

    state: State
    probability: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Person:
    """A track and its attributes at one moment.

    Attributes:
        stream: Name of the stream.
        track_id: Number of the person within the stream, from 1.
        first: The first sighting.
        last: The latest sighting.
        best: The sighting of `best_crop`.
        best_crop: The most informative crop, uint8 RGB (h, w, 3), with a margin around the box.
        attributes: State and probability of each attribute by name, in the label set's order.
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
    """A person's first attributes, a change of them, or the end of the track.

    Attributes:
        kind: "appeared", "changed" or "ended".
        person: The person at the time of this event.
        changed: Names of the attributes whose state differs from the track's previous event. Default: none.
    """

    kind: EventKind
    person: Person
    changed: tuple[str, ...] = ()


ZoneEventKind = Literal["entered", "left", "stayed", "crossed", "counted"]
Direction = Literal["in", "out"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ZoneEvent:
    """A person in a zone or across a line, or the count of an interval.

    Attributes:
        kind: "entered" or "left" a zone, "stayed" in it for its dwell time, "crossed" a line, or "counted", after the
            end of an interval.
        stream: Name of the stream.
        zone: Name of the zone or of the line.
        timestamp: The stream's time in seconds at which it happened, some tenths of a second before the event. Of a
            count, the end of the interval.
        track_id: Number of the person within the stream. None for a count.
        sighting: The sighting that made it certain. Default: None, for a count.
        person: The person, or None for a count and for a person without attributes yet. Default: None.
        direction: Direction across a line. Default: None.
        dwell: Seconds that the person was in the zone so far, of "left" and "stayed". Of a count of a zone, the mean of
            those who left it. Default: None.
        interval: Length of the interval of a count in seconds. Default: None.
        people: Number of passages in a count, by what is counted: "entered" and "left" of a zone, "in" and "out" of a
            line. Somebody who passes twice is counted twice. Default: none.
        attributes: Number of passages in a count by what is counted, and by the name of the attribute whose state was
            "yes". Names without any are absent. Default: none.
        unknown: As `attributes`, of those whose state was "unknown". Default: none.
        unrecognized: Number of passages in a count, by what is counted, of people without any attributes. Default:
            none.
    """

    kind: ZoneEventKind
    stream: str
    zone: str
    timestamp: float
    track_id: int | None = None
    sighting: Sighting | None = None
    person: Person | None = None
    direction: Direction | None = None
    dwell: float | None = None
    interval: float | None = None
    people: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)
    attributes: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict, hash=False)
    unknown: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict, hash=False)
    unrecognized: Mapping[str, int] = dataclasses.field(default_factory=dict, hash=False)


@runtime_checkable
class ZoneSink(Protocol):
    """Protocol of a `Sink` that also takes the events of zones and lines. `BaseSink` has it."""

    def zone(self, event: ZoneEvent) -> None:
        """Receive an event of a zone or line.

        Args:
            event: The event.
        """
        ...


@runtime_checkable
class StreamSink(Protocol):
    """Protocol of a `Sink` that is also told when a stream ends. `BaseSink` has it."""

    def stream_ended(self, stream: str) -> None:
        """Receive the end of a stream, after the last frame and event of it.

        Args:
            stream: Name of the stream. A later stream may have the same name.
        """
        ...


class Sink(Protocol):
    """Protocol of an output of the pipeline. One thread calls it. `BaseSink` is a class to inherit from.

    If a method raises, the error is logged and only this sink pauses, for 5 s at first. SinkError disables it for good.
    """

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        """Receive a tracked frame. Frames of one stream arrive in order.

        Args:
            frame: The frame.
            boxes: All tracked people in it.
            people: The stream's people who have attributes, by track ID.
        """
        ...

    def event(self, event: Event) -> None:
        """Receive an event. Events of one track arrive in order.

        Args:
            event: The event.
        """
        ...

    def close(self) -> None:
        """Flush and close. Files must be complete afterwards. Safe to call twice."""
        ...
