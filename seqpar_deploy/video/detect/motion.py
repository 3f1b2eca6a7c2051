"""The built-in detector: moving people in front of a fixed camera. It needs no weights.

Background subtraction yields blobs (`background.py`). The detector learns the height of people at each position from
blobs that look like one person (`height_model.py`), and uses it to separate larger blobs into people (`blobs.py`).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video.detect.background import Background, edges_of
from seqpar_deploy.video.detect.blobs import Blob, Found, find_blobs, find_people
from seqpar_deploy.video.detect.height_model import HeightModel
from seqpar_deploy.video.detect.opencv import import_cv2
from seqpar_deploy.video.types import Box, Frame

WORKING_PIXELS = 384 * 288  # frames are scaled down to this size
NEARLY_ALL = 0.5  # share of foreground that means a change of the light or the camera's view
MOST_SCENES = 64  # backgrounds to keep, of the streams with the latest frames
AROUND = 2  # pixels around a person that the background does not learn


@dataclasses.dataclass(frozen=True, kw_only=True)
class MotionOptions:
    """Options of `MotionDetector`.

    Attributes:
        min_height: Minimum height of a person in pixels of the frame. Default: 40.
        absorb_after: Seconds after which a person who stands still becomes background. Default: 60.
    """

    min_height: int = 40
    absorb_after: float = 60.0


class MotionDetector:
    """A `Detector` for fixed cameras, with one background per stream.

    It also detects other moving upright objects of a person's size. For a moving camera use `OnnxDetector`.

    Args:
        options: Options. Default: `MotionOptions()`.

    Raises:
        BackendUnavailableError: OpenCV is not installed.
    """

    def __init__(self, options: MotionOptions = MotionOptions()) -> None:
        self._options = options
        self._cv2 = import_cv2()
        self._scenes: dict[str, _Scene] = {}

    def detect(self, frame: Frame) -> list[Box]:
        """Return the people who came into view since the stream began. A frame of another size starts over."""
        scene = self._scenes.pop(frame.stream, None)
        if scene is None or scene.shape != frame.image.shape:
            scene = _Scene(self._cv2, frame.image.shape, self._options)
        self._scenes[frame.stream] = scene  # the dict is in the order of the latest frames
        if len(self._scenes) > MOST_SCENES:
            del self._scenes[next(iter(self._scenes))]
        return scene.detect(frame.image, frame.timestamp)

    def close(self) -> None:
        """Forget the backgrounds."""
        self._scenes.clear()


class _Scene:
    """State of one camera: its background and height model."""

    def __init__(self, cv2: Any, shape: tuple[int, ...], options: MotionOptions) -> None:
        self.shape = shape
        self._cv2 = cv2
        self._scale = min(1.0, math.sqrt(WORKING_PIXELS / (shape[0] * shape[1])))
        self._smallest = options.min_height * self._scale
        self._background = Background(cv2, options.absorb_after)
        self._heights = HeightModel()

    def detect(self, image: RgbImage, timestamp: float) -> list[Box]:
        cv2 = self._cv2
        picture = cv2.resize(image, None, fx=self._scale, fy=self._scale, interpolation=cv2.INTER_AREA)
        mask = self._background.foreground(picture)
        people: list[Found] = []
        if np.count_nonzero(mask) > NEARLY_ALL * mask.size:
            self._background.start_again()
        else:
            blobs = self._without_ghosts(find_blobs(cv2, mask, self._heights), picture, mask)
            people = [person for blob in blobs for person in find_people(blob, self._heights, self._smallest)]
        covered = np.zeros_like(mask)
        for one in people:
            top, left = max(0, one.top - AROUND), max(0, one.left - AROUND)
            covered[top : one.bottom + AROUND, left : one.right + AROUND] = 255
        self._background.learn(picture, timestamp, covered)
        return [self._box(one) for one in people]

    def _without_ghosts(self, blobs: list[Blob], picture: RgbImage, mask: Any) -> list[Blob]:
        """Drop ghosts: the places of people who were in the first picture and have left.

        Along the outline of a ghost the background has edges, and the frame has none.
        """
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
