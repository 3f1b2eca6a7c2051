"""Decides which tracks are people, for detectors that cannot tell people from other changes of the picture."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from seqpar_deploy.video.types import Box, Frame, TrackedBox

ENOUGH = 2.0  # sum of a track's evidence
SHIFT = 0.2  # minimum motion of a body, in heights: opposite edges moved by this in one direction
FORGET_AFTER = 3.0  # seconds without a box after which a track or a thing is forgotten
CONTINUES = 0.3  # minimum overlap (IoU) of a track's first box with the last box of the person whom it continues
STILL_FOR = 1.0  # seconds after which the box of a track without motion is a thing
SAME_PLACE = 0.8  # minimum overlap (IoU) with a thing


@dataclasses.dataclass(slots=True)
class _Track:
    first: Box
    last: Box
    began: float
    seen: float
    evidence: float = 0.0
    person: bool = False
    still_until: float = -math.inf


@dataclasses.dataclass(slots=True)
class _Thing:
    box: Box
    seen: float


class Evidence:
    """The tracks of one stream, and which of them have shown that they are people.

    Boxes that stay in place from their start are of things, for example of a spot from which an object was taken.
    If somebody passes a thing, the tracker may mistake one for the other. So the places of things are remembered.
    """

    def __init__(self) -> None:
        self._tracks: dict[int, _Track] = {}
        self._things: dict[int, _Thing] = {}  # by the track that showed them first

    def observe(self, frame: Frame, boxes: Sequence[TrackedBox]) -> list[TrackedBox]:
        """Add a frame's boxes, and return those that are not of things."""
        now = frame.timestamp
        self._tracks = {number: track for number, track in self._tracks.items() if now - track.seen <= FORGET_AFTER}
        self._things = {number: thing for number, thing in self._things.items() if now - thing.seen <= FORGET_AFTER}
        shown = [one for one in boxes if not self._is_thing(one, now)]
        for one in shown:
            self._add(one, now)
        return shown

    def _is_thing(self, one: TrackedBox, now: float) -> bool:
        """Whether the box is where another track showed a thing."""
        for number, thing in self._things.items():
            if one.box.evidence < 1 and number != one.track_id and overlap(thing.box, one.box) >= SAME_PLACE:
                thing.seen = now
                return True
        return False

    def _add(self, one: TrackedBox, now: float) -> None:
        box, track = one.box, self._tracks.get(one.track_id)
        if track is None:
            person = box.evidence > 0 and self._continues(box, now)
            track = self._tracks[one.track_id] = _Track(first=box, last=box, began=now, seen=now, person=person)
        elif track.evidence == 0:
            track.first, track.began = box, now
        track.evidence += box.evidence
        track.last, track.seen = box, now
        away = moved(track.first, box)
        track.person |= box.evidence == 1 or (track.evidence >= ENOUGH and away >= SHIFT)
        if not track.person and now - track.began >= STILL_FOR and overlap(track.first, box) >= SAME_PLACE:
            self._things[one.track_id] = _Thing(box=box, seen=now)
            track.still_until = now

    def people(self, frame: Frame, boxes: Sequence[TrackedBox]) -> list[TrackedBox]:
        """Return the boxes of a frame, now or before, that are of people as far as is known."""
        tracks = [(one, self._tracks.get(one.track_id)) for one in boxes]
        return [one for one, of in tracks if of is not None and of.person and frame.timestamp > of.still_until]

    def knows(self, track_id: int) -> bool:
        """Whether a track had a box before."""
        return track_id in self._tracks

    def _continues(self, box: Box, now: float) -> bool:
        """Whether a person was lost at this place."""
        lost = [track for track in self._tracks.values() if track.person and track.seen < now]
        return any(overlap(track.last, box) >= CONTINUES for track in lost)


def moved(first: Box, last: Box) -> float:
    """Return how far a box moved as a whole, in heights: by how much the edge that moved less did."""
    height = max(1.0, last.bottom - last.top)
    across = _both(last.left - first.left, last.right - first.right)
    along = _both(last.top - first.top, last.bottom - first.bottom)
    return max(across, along) / height


def _both(one: float, other: float) -> float:
    return min(abs(one), abs(other)) if one * other > 0 else 0.0


def overlap(one: Box, other: Box) -> float:
    """Return the intersection over union of two boxes."""
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    inside = max(0.0, width) * max(0.0, height)
    areas = sum((box.right - box.left) * (box.bottom - box.top) for box in (one, other))
    return inside / (areas - inside) if areas > inside else 0.0
