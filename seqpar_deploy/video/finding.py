"""Detects and tracks everyone in the frames of a stream, and holds recorded frames back until it is known who they are.

A track of unsure boxes (`Box.evidence`) becomes a person only after some frames. Live frames cannot wait, so the person
is emitted from then on. Recorded frames wait, so that the person is emitted from the first sighting, and in frames in
which the detector missed the person for a moment.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Iterator, Sequence

from seqpar_deploy.errors import DetectorError, VideoError
from seqpar_deploy.video.evidence import Evidence, overlap
from seqpar_deploy.video.types import Box, Detector, Frame, KeepsTrackIds, TrackedBox, Tracker

HOLD = 2.0  # seconds that a recorded frame waits at most
GAP = 1.0  # seconds without a box that are filled
MOST_HELD = 128_000_000  # bytes of frames that wait
SAME = 0.2  # minimum overlap (IoU) of a track's first box with a box of the frame before


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """Everyone in a frame.

    Attributes:
        frame: The frame.
        found: Raw detections, also of what may be no person.
        tracked: Those that belong to a track.
        evidence: What is known of the tracks. Another one after the size of the frames has changed.
    """

    frame: Frame
    found: Sequence[Box]
    tracked: list[TrackedBox]
    evidence: Evidence


class Finder:
    """Detects and tracks people in one stream.

    Args:
        detector: Detects people.
        tracker: Tracks them.
        after: The highest track ID that the stream has had before. Default: 0.
    """

    def __init__(self, detector: Detector, tracker: Tracker, *, after: int = 0) -> None:
        self._detector = detector
        self.last_id = after
        self.size: tuple[int, int] | None = None  # height and width of the latest frame
        self.start_over(tracker)
        self._held: deque[Seen] = deque()
        self._unsure_at = -math.inf  # timestamp of the latest frame with a box that is not certainly a person

    def start_over(self, tracker: Tracker) -> None:
        """Begin new tracks, for frames of another size, whose boxes cannot be compared. Frames that wait still do."""
        self._tracker = tracker
        self._after = 0 if isinstance(tracker, KeepsTrackIds) and tracker.keeps_track_ids else self.last_id
        self._evidence = Evidence()

    def detect(self, frame: Frame) -> list[Box]:
        """Return the raw detections, clipped to the frame. Raises DetectorError if one is invalid."""
        return _within(frame, self._detector.detect(frame))

    def track(self, frame: Frame, found: Sequence[Box]) -> None:
        """Track the detections of the next frame. The frame then waits for `people` or `decided`."""
        self.size = (frame.image.shape[0], frame.image.shape[1])
        tracked = self._tracker.update(frame, found)
        if self._after:
            tracked = [dataclasses.replace(one, track_id=self._after + one.track_id) for one in tracked]
        self.last_id = max([self.last_id, *(one.track_id for one in tracked)])
        if len({one.track_id for one in tracked}) < len(tracked):
            track_ids = sorted(one.track_id for one in tracked)
            raise VideoError(f"track IDs of a frame must differ, got {track_ids}; fix the tracker")
        if any(box.evidence < 1 for box in found):
            self._unsure_at = frame.timestamp
        self._add_first_boxes(tracked)
        tracked = self._evidence.observe(frame, tracked)
        seen = Seen(frame=frame, found=found, tracked=tracked, evidence=self._evidence)
        self._fill_gaps(seen)
        self._held.append(seen)

    def decided(self, *, wait: bool) -> Iterator[tuple[Frame, list[TrackedBox]]]:
        """Yield the frames that need not wait any more, with the people in them: all frames if `wait` is false."""
        while self._held and not (wait and self._undecided()):
            seen = self._held.popleft()
            yield seen.frame, seen.evidence.people(seen.frame, seen.tracked)

    def _undecided(self) -> bool:
        """Whether the oldest frame waits: something in it may turn out to be a person."""
        first, last = self._held[0].frame.timestamp, self._held[-1].frame.timestamp
        full = sum(seen.frame.image.nbytes for seen in self._held) > MOST_HELD
        return first - self._unsure_at < HOLD and last - first < HOLD and not full

    def _add_first_boxes(self, tracked: Sequence[TrackedBox]) -> None:
        """Add boxes of the frame before to tracks that begin in this one: a tracker reports them a frame late."""
        if not self._held or self._held[-1].evidence is not self._evidence:
            return
        before = self._held[-1]
        taken = {id(one.box) for one in before.tracked}
        for one in tracked:
            if self._evidence.knows(one.track_id) or one.box.evidence == 1:
                continue
            free = [box for box in before.found if id(box) not in taken and overlap(box, one.box) >= SAME]
            if free:
                box = max(free, key=lambda box: overlap(box, one.box))
                taken.add(id(box))
                before.tracked.append(TrackedBox(track_id=one.track_id, box=box))

    def _fill_gaps(self, now: Seen) -> None:
        """Add boxes to the waiting frames between two boxes of a track."""
        for one in now.tracked:
            gap: list[Seen] = []
            for seen in reversed([each for each in self._held if each.evidence is self._evidence]):
                before = next((other for other in seen.tracked if other.track_id == one.track_id), None)
                if before is not None or now.frame.timestamp - seen.frame.timestamp > GAP or one.box.evidence == 1:
                    break
                gap.append(seen)
            else:
                before = None
            if before is not None:
                passed = now.frame.timestamp - seen.frame.timestamp
                for missed in gap:
                    share = (missed.frame.timestamp - seen.frame.timestamp) / passed
                    box = _between(before.box, one.box, share)
                    missed.tracked.append(TrackedBox(track_id=one.track_id, box=box))


def _between(one: Box, other: Box, share: float) -> Box:
    """Return the box at a share of the way from one box to another, 0 to 1."""
    starts, ends = dataclasses.astuple(one), dataclasses.astuple(other)
    return Box(
        **{
            field.name: start + share * (end - start)
            for field, start, end in zip(dataclasses.fields(Box), starts, ends, strict=True)
        }
    )


def _within(frame: Frame, boxes: Sequence[Box]) -> list[Box]:
    """Clip boxes to the frame and drop those outside it."""
    height, width = frame.image.shape[:2]
    found = []
    for box in boxes:
        if not (box.left <= box.right < math.inf and box.top <= box.bottom < math.inf and box.score >= 0):
            raise DetectorError(
                f"boxes must have left <= right, top <= bottom and score >= 0, got {box} in frame {frame.index}; "
                "fix the detector"
            )
        if box.left < 0 or box.top < 0 or box.right > width or box.bottom > height:
            left, top, right, bottom = max(0, box.left), max(0, box.top), min(width, box.right), min(height, box.bottom)
            box = dataclasses.replace(box, left=left, top=top, right=right, bottom=bottom)
        if box.left < box.right and box.top < box.bottom:
            found.append(box)
    return found
