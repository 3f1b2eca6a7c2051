"""Decides what is blurred in each frame of a stream: what the detector finds, and what it found a moment ago."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence

from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video.evidence import overlap
from seqpar_deploy.video.privacy.blur import Blur, Hidden, Place, blurred, place_of, wholly_blurred
from seqpar_deploy.video.types import Box, Frame

# Seconds for which a box without a new one stays blurred. Of the labelled heads of the street video, 92.6 % are covered
# by the boxes of their frame, 95.3, 96.3 and 97.4 % with 0.5, 1 and 2 s, which blur 3.4, 5.5 and 8.9 % of each frame.
MISSED_FOR = 1.0
MISSED_FRAMES = 2  # frames for which it does at least, as few frames per second leave it no second chance
SPEED = 1.0  # heights per second, of the room around such a box; people walk at about 0.8
MOST_ROOM = 1.0  # heights
SAME = 0.2  # minimum overlap (IoU) of a box with the new box of the same person


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Recent:
    """A box of the latest frame, or one before that no new box continues, in which the detector may miss a person."""

    box: Box
    timestamp: float  # of its frame
    frames: int = 0  # since then

    def scaled(self, x: float, y: float) -> _Recent:
        """Return it in frames of another size, which show the same."""
        left, top, right, bottom = x * self.box.left, y * self.box.top, x * self.box.right, y * self.box.bottom
        return dataclasses.replace(self, box=Box(left=left, top=top, right=right, bottom=bottom))

    def room(self, now: float) -> float:
        """Return the pixels that the person may have walked since then."""
        return min(MOST_ROOM, SPEED * (now - self.timestamp)) * (self.box.bottom - self.box.top)


class Veil:
    """Blurs the frames of one stream.

    Call `see` with each frame and its raw detections, and `shown` with each frame in the same order. `shown` may lag
    behind, as recorded frames wait.
    """

    def __init__(self, blur: Blur) -> None:
        self._blur: Blur = blur
        self._recent: list[_Recent] = []
        self._size: tuple[int, int] | None = None  # height and width of the latest frame
        self._waiting: deque[list[Hidden] | None] = deque()  # of the frames that were not shown yet; None is all of it

    def see(self, frame: Frame, found: Sequence[Box], *, ready: bool) -> None:
        """Note what is to be blurred in the next frame. Without a detector that is ready, it is the whole frame."""
        now, size = frame.timestamp, (frame.image.shape[0], frame.image.shape[1])
        if self._size not in (None, size):
            self._recent = [one.scaled(size[1] / self._size[1], size[0] / self._size[0]) for one in self._recent]
        self._size = size
        missed = [dataclasses.replace(one, frames=one.frames + 1) for one in _not_continued(self._recent, found)]
        missed = [one for one in missed if now - one.timestamp <= MISSED_FOR or one.frames <= MISSED_FRAMES]
        self._recent = [*(_Recent(box=box, timestamp=now) for box in found), *missed]
        hidden = [Hidden(box=one.box, room=one.room(now)) for one in self._recent]
        self._waiting.append(hidden if ready else None)

    def places(self, size: tuple[int, int]) -> list[Place] | None:
        """Return the places to blur in the latest frame, of `size` (height, width). None is all of it."""
        hidden = self._waiting[-1]
        return None if hidden is None else [place_of(one, self._blur, size) for one in hidden]

    def shown(self, frame: Frame, people: Sequence[Box]) -> RgbImage:
        """Return the pixels that may be shown of the oldest frame that was not shown yet.

        Args:
            frame: The frame.
            people: Boxes of people in it, some of which the detector did not find there, for example in a filled gap.
        """
        hidden = self._waiting.popleft()
        if hidden is None:
            return wholly_blurred(frame.image)
        others = [Hidden(box=box) for box in people]
        return blurred(frame.image, dict.fromkeys([*hidden, *others]), self._blur)


def _not_continued(recent: Sequence[_Recent], found: Sequence[Box]) -> list[_Recent]:
    """Return the boxes that no new box continues. A new box continues one of them at most, the most similar one."""
    pairs = [(overlap(one.box, box), old, new) for old, one in enumerate(recent) for new, box in enumerate(found)]
    continued, used = set[int](), set[int]()
    for similarity, old, new in sorted(pairs, reverse=True):
        if similarity >= SAME and old not in continued and new not in used:
            continued.add(old)
            used.add(new)
    return [one for old, one in enumerate(recent) if old not in continued]
