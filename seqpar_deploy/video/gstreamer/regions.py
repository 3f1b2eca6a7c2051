"""Regions of people that an upstream element found: as a detector, and with its track IDs as a tracker."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence

from seqpar_deploy.video.types import Box, Detector, Frame, TrackedBox, Tracker

LABELS = ("person", "pedestrian")  # of DL Streamer's models for people

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """A region of a frame, as an upstream element marked it.

    Attributes:
        left: Left edge in pixels of the frame.
        top: Upper edge in pixels.
        width: Width in pixels.
        height: Height in pixels.
        label: Label of the region, for example "person". Default: none.
        score: The detector's confidence, 0 to 1. Default: 1.
        track_id: Number that an upstream tracker gave to the person, from 1. Default: none.
        key: What the caller needs to find the region again. Default: none.
    """

    left: float
    top: float
    width: float
    height: float
    label: str = ""
    score: float = 1.0
    track_id: int | None = None
    key: object = dataclasses.field(default=None, compare=False)


def of_people(regions: Sequence[Region], labels: Sequence[str] = LABELS) -> list[Region]:
    """Return the regions with one of the labels. Case does not matter, and "*" is any label."""
    if "*" in labels:
        return list(regions)
    wanted = {label.strip().casefold() for label in labels}
    return [region for region in regions if region.label.strip().casefold() in wanted]


class GivenRegions(Detector):
    """A `Detector` that returns the regions passed to `give`. For one stream and one thread."""

    def __init__(self) -> None:
        self._given: Sequence[Region] = ()
        self._found: list[tuple[Box, Region]] = []

    def give(self, regions: Sequence[Region]) -> None:
        """Set the regions of the next frame."""
        self._given = regions

    def detect(self, frame: Frame) -> list[Box]:
        """Return a box for each region, clipped to the frame. Regions outside the frame are left out."""
        height, width = frame.image.shape[:2]
        self._found = []
        for region in self._given:
            left, top = max(0.0, float(region.left)), max(0.0, float(region.top))
            right = min(float(width), float(region.left + region.width))
            bottom = min(float(height), float(region.top + region.height))
            if left < right and top < bottom:
                score = region.score if math.isfinite(region.score) else 1.0
                box = Box(left=left, top=top, right=right, bottom=bottom, score=min(1.0, max(0.0, score)))
                self._found.append((box, region))
        return [box for box, _ in self._found]

    def region_of(self, box: Box) -> Region | None:
        """Return the region of a box of the latest frame. Equal boxes are told apart."""
        equal = None
        for found, region in self._found:
            if found is box:
                return region
            equal = equal or (region if found == box else None)
        return equal

    def close(self) -> None:
        """Forget the regions."""
        self._given, self._found = (), []


class UpstreamTracks(Tracker):
    """A `Tracker` that uses the track IDs of the regions, if the first regions of the stream have them.

    Then regions without an ID are no people yet, because trackers confirm people after some frames. If the first
    regions have none, `otherwise` tracks. The choice holds until the stream ends, so that IDs of both never mix.
    """

    keeps_track_ids = True

    def __init__(self, regions: GivenRegions, otherwise: Callable[[], Tracker]) -> None:
        self._regions, self._otherwise = regions, otherwise
        self._tracker: Tracker | None = None
        self._upstream: bool | None = None
        self._warned = False

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        """Assign boxes to tracks."""
        found = [(box, self._regions.region_of(box)) for box in boxes]
        if self._upstream is None and boxes:
            self._upstream = any(region is not None and region.track_id for _, region in found)
        if not self._upstream:
            self._tracker = self._tracker or self._otherwise()
            return self._tracker.update(frame, boxes)
        tracked: dict[int, TrackedBox] = {}
        for box, region in found:
            number = region.track_id if region is not None else None
            if number is None or number < 1:
                continue
            before = tracked.get(number)
            if before is not None and not self._warned:
                self._warned = True
                _log.warning(
                    "%s: track ID %d is on two regions of a frame; the better one counts", frame.stream, number
                )
            if before is None or box.score > before.box.score:
                tracked[number] = TrackedBox(track_id=number, box=box)
        return list(tracked.values())


class ContinuedNumbers(Tracker):
    """A `Tracker` that adds to the track IDs of another one, so that they do not start again after a seek.

    Args:
        tracker: The tracker, whose IDs start from 1.
        taken: Greatest ID of the stream so far, in a list of one. It is updated.
    """

    keeps_track_ids = True

    def __init__(self, tracker: Tracker, taken: list[int]) -> None:
        self._tracker, self._taken, self._base = tracker, taken, taken[0]

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        """Assign boxes to tracks."""
        tracked = [
            TrackedBox(track_id=one.track_id + self._base, box=one.box) for one in self._tracker.update(frame, boxes)
        ]
        self._taken[0] = max([self._taken[0], *(one.track_id for one in tracked)])
        return tracked
