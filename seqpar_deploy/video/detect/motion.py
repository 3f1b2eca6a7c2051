"""The built-in detector: people who move before a camera that does not. Needs no weights.

Background subtraction gives blobs (`background.py`). How tall people are at each height of the picture is learned from
blobs that look like one person (`people_size.py`), and tells how many a larger blob is (`blobs.py`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from seqpar_deploy.preprocess import Crop
from seqpar_deploy.video.detect.background import Background, edges_of
from seqpar_deploy.video.detect.blobs import Blob, Found, find_blobs, find_people
from seqpar_deploy.video.detect.height_model import PeopleSize
from seqpar_deploy.video.detect.opencv import import_cv2
from seqpar_deploy.video.types import Box, Frame

WORKING_PIXELS = 384 * 288  # of the picture that is looked at
NEARLY_ALL = 0.5  # more foreground than this is a change of light or of the camera's view
MOST_SCENES = 64  # backgrounds that are kept, for the streams that came last
AROUND = 2  # pixels about a person that are not learned from either


@dataclasses.dataclass(frozen=True, kw_only=True)
class MotionOptions:
    """`smallest` is the least height of a person, in pixels of the frame; whoever stands still for longer than
    `patience` seconds becomes background."""

    smallest: int = 40
    patience: float = 60.0


class MotionDetector:
    """A `Detector` for fixed cameras; keeps a background for each stream.

    Cannot tell people from other upright things of their size that move, and is of no use on a camera that moves:
    `OnnxDetector` is for those.
    """

    def __init__(self, options: MotionOptions = MotionOptions()) -> None:
        self._options = options
        self._cv2 = import_cv2()
        self._scenes: dict[str, _Scene] = {}

    def detect(self, frame: Frame) -> list[Box]:
        """Everyone who came into view since the stream began. A frame of another size starts anew."""
        scene = self._scenes.pop(frame.stream, None)
        if scene is None or scene.shape != frame.image.shape:
            scene = _Scene(self._cv2, frame.image.shape, self._options)
        self._scenes[frame.stream] = scene  # in order of their last frames
        if len(self._scenes) > MOST_SCENES:
            del self._scenes[next(iter(self._scenes))]
        return scene.detect(frame.image, frame.seconds)

    def close(self) -> None:
        """Forget the backgrounds."""
        self._scenes.clear()


class _Scene:
    """What one camera sees: its background, and how large people are before it."""

    def __init__(self, cv2: Any, shape: tuple[int, ...], options: MotionOptions) -> None:
        self.shape = shape
        self._cv2 = cv2
        self._scale = min(1.0, math.sqrt(WORKING_PIXELS / (shape[0] * shape[1])))
        self._smallest = options.smallest * self._scale
        self._background = Background(cv2, options.patience)
        self._size = PeopleSize()

    def detect(self, image: Crop, seconds: float) -> list[Box]:
        cv2 = self._cv2
        picture = cv2.resize(image, None, fx=self._scale, fy=self._scale, interpolation=cv2.INTER_AREA)
        mask = self._background.foreground(picture)
        people: list[Found] = []
        if np.count_nonzero(mask) > NEARLY_ALL * mask.size:
            self._background.start_again()
        else:
            blobs = self._without_ghosts(find_blobs(cv2, mask, self._size), picture, mask)
            people = [person for blob in blobs for person in find_people(blob, self._size, self._smallest)]
        covered = np.zeros_like(mask)
        for one in people:
            top, left = max(0, one.top - AROUND), max(0, one.left - AROUND)
            covered[top : one.bottom + AROUND, left : one.right + AROUND] = 255
        self._background.learn(picture, seconds, covered)
        return [self._box(one) for one in people]

    def _without_ghosts(self, blobs: list[Blob], picture: Crop, mask: Any) -> list[Blob]:
        """Without the holes that people leave who were there from the start: what has edges along a ghost's outline is
        the background, not the picture."""
        behind = self._background.edges
        if behind is None or not blobs:
            return blobs
        outline = self._cv2.morphologyEx(mask, self._cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        before = edges_of(self._cv2, picture)
        kept = []
        for blob in blobs:
            region = np.s_[max(0, blob.top - 1) : blob.bottom + 1, max(0, blob.left - 1) : blob.right + 1]
            along = outline[region]
            if before[region][along].sum() >= behind[region][along].sum():
                kept.append(blob)
        return kept

    def _box(self, one: Found) -> Box:
        return Box(
            left=one.left / self._scale,
            top=one.top / self._scale,
            right=min(self.shape[1], one.right / self._scale),
            bottom=min(self.shape[0], one.bottom / self._scale),
            score=one.score,
        )
