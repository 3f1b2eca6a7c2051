"""The built-in detector: moving people in front of a fixed camera. It needs no weights.

Background subtraction yields blobs (`background.py`). The detector learns the height of people at each position from
blobs that look like one person (`height_model.py`), and uses it to separate larger blobs into people (`blobs.py`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video.detect.background import Background, edges_of
from seqpar_deploy.video.detect.blobs import GUESSED, Blob, Found, find_blobs, find_people
from seqpar_deploy.video.detect.height_model import HeightModel
from seqpar_deploy.video.detect.opencv import import_cv2
from seqpar_deploy.video.types import Box, Frame

WORKING_PIXELS = 384 * 288  # frames are scaled down to this size
HALVED = 0.5  # scale below which frames are halved first, which OpenCV does 15 times as fast as other scales
NEARLY_ALL = 0.5  # share of foreground that means a change of the light or the camera's view
MOST_SCENES = 64  # backgrounds to keep, of the streams with the latest frames
AROUND = 2  # pixels around a person that the background does not learn
LEARN_FOR = 3.0  # seconds from the start of a stream, or a change of the light, in which the background is unlearned
LOOK_EVERY = 0.1  # seconds between the pictures that the background is learned from
FEWEST_LOOKS = 10  # pictures of a live stream
MOST_LOOKS = 100  # pictures; 33 MB
GHOST = 0.7  # share of edges left below which somebody is removed from the median
LEAST_GHOST = 100  # pixels
FITS = 0.9  # evidence of a box with the height of a person
LIKELY = 0.5  # evidence of a box of another height, or that was separated from a larger blob


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

    def ready(self, stream: str) -> bool:
        """Return whether the background of a stream is known."""
        scene = self._scenes.get(stream)
        return scene is not None and scene.was_learned

    def look_ahead(self, frames: Iterable[Frame]) -> None:
        """Learn the background and the height of people from the first seconds of a recording, before `detect`."""
        scene: _Scene | None = None
        for frame in frames:
            if scene is None or scene.shape != frame.image.shape:
                scene = self._scenes[frame.stream] = _Scene(self._cv2, frame.image.shape, self._options)
            scene.look(frame.image, frame.timestamp)
        if scene is not None:
            scene.learn()

    def forget(self, stream: str) -> None:
        """Forget the background of a stream that has ended."""
        self._scenes.pop(stream, None)

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
        self.was_learned = False  # before the latest picture
        self._look_again()

    def _look_again(self) -> None:
        """Learn the background anew from the next pictures."""
        self._looks: list[RgbImage] = []  # pictures to learn the background from
        self._looked: list[float] = []  # their timestamps
        self._look_every = LOOK_EVERY
        self._learned = False

    def look(self, image: RgbImage, timestamp: float) -> None:
        """Keep a picture to learn the background from, if enough time has passed since the last one."""
        if not self._looked or not 0 <= timestamp - self._looked[-1] < self._look_every - 0.001:
            self._looks.append(self._picture(image))
            self._looked.append(timestamp)
        if len(self._looks) > MOST_LOOKS:
            self._looks, self._looked = self._looks[::2], self._looked[::2]
            self._look_every *= 2

    def learn(self) -> None:
        """Learn the background, and the height of people, from the pictures that were kept."""
        behind: RgbImage = np.median(np.stack(self._looks), axis=0).astype(np.uint8)
        self._background.learn_from(behind, self._looks)
        if self._remove_ghosts(behind):
            self._background.learn_from(behind, self._looks)
        for picture in self._looks:
            self._find(picture, self._background.foreground(picture))
        self._looks, self._looked, self._learned = [], [], True

    def _remove_ghosts(self, behind: RgbImage) -> bool:
        """Remove people from the median, who stood still for most of its time, and return whether there were any."""
        ghosts = False
        for picture in self._looks:
            mask = self._background.foreground(picture)
            blobs = find_blobs(self._cv2, mask, self._heights)
            for blob, share in zip(blobs, self._edges_left(blobs, picture, mask), strict=True):
                if share < GHOST and np.count_nonzero(blob.mask) > LEAST_GHOST:
                    place = np.zeros_like(mask)
                    place[blob.top : blob.bottom, blob.left : blob.right] = blob.mask
                    self._cv2.copyTo(picture, self._cv2.dilate(place, np.ones((5, 5), np.uint8)), behind)
                    ghosts = True
        return ghosts

    def detect(self, image: RgbImage, timestamp: float) -> list[Box]:
        self.was_learned = self._learned
        picture = self._picture(image)
        mask = self._background.foreground(picture)
        people: list[Found] = []
        if np.count_nonzero(mask) > NEARLY_ALL * mask.size:
            self._background.start_again()
            self._look_again()
            self.was_learned = False
        else:
            people = self._find(picture, mask)
        boxes = [self._box(one) for one in people]
        covered = np.zeros_like(mask)
        for one in people:
            top, left = max(0, one.top - AROUND), max(0, one.left - AROUND)
            covered[top : one.bottom + AROUND, left : one.right + AROUND] = 255
        self._background.learn(picture, timestamp, covered)
        if not self._learned:
            self.look(image, timestamp)
            if len(self._looks) >= FEWEST_LOOKS and self._looked[-1] - self._looked[0] >= LEARN_FOR:
                self.learn()
        return boxes

    def _picture(self, image: RgbImage) -> RgbImage:
        return scaled_down(self._cv2, image, self._scale)

    def _find(self, picture: RgbImage, mask: Any) -> list[Found]:
        blobs = self._without_ghosts(find_blobs(self._cv2, mask, self._heights), picture, mask)
        return [person for blob in blobs for person in find_people(blob, self._heights, self._smallest)]

    def _without_ghosts(self, blobs: list[Blob], picture: RgbImage, mask: Any) -> list[Blob]:
        """Drop ghosts: the places of people who were in the first picture and have left."""
        shares = self._edges_left(blobs, picture, mask)
        return [blob for blob, share in zip(blobs, shares, strict=True) if share >= 1]

    def _edges_left(self, blobs: list[Blob], picture: RgbImage, mask: Any) -> list[float]:
        """Return the edges along each blob's outline, as a share of the background's. A ghost has few or none."""
        behind = self._background.edges
        if behind is None or not blobs:
            return [1.0] * len(blobs)
        outline = self._cv2.morphologyEx(mask, self._cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        before = edges_of(self._cv2, picture)
        shares = []
        for blob in blobs:
            region = np.s_[max(0, blob.top - 1) : blob.bottom + 1, max(0, blob.left - 1) : blob.right + 1]
            along = outline[region]
            shares.append(float((before[region][along].sum() + 1) / (behind[region][along].sum() + 1)))
        return shares

    def _box(self, one: Found) -> Box:
        return Box(
            left=one.left / self._scale,
            top=one.top / self._scale,
            right=min(self.shape[1], one.right / self._scale),
            bottom=min(self.shape[0], one.bottom / self._scale),
            score=one.score,
            evidence=(FITS if one.score > GUESSED else LIKELY) if self._learned else 0.0,
        )


def scaled_down(cv2: Any, image: RgbImage, scale: float) -> RgbImage:
    """Average pixels down to `scale`, by halving first if it is small. For the whole picture, not for crops."""
    while scale < HALVED:
        even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]
        image, scale = cv2.resize(even, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), 2 * scale
    picture: RgbImage = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return picture
