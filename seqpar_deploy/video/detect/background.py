"""The background model of a fixed camera."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.preprocess import RgbImage

Mask = npt.NDArray[np.uint8]

VARIANCES = 25.0  # squared distance from the background, in variances of a pixel, from which it is foreground
SHADOW = 127  # MOG2's value for shadows; foreground is 255
LEARN_EVERY = 0.2  # seconds
FIRST_LOOKS = 10  # number of first pictures that are averaged with equal weights
MEMORY = 10.0  # seconds; a still object that is not a person becomes background after a tenth of it
NEAR = 20  # grey levels from the median within which a pixel is background


class Background:
    """OpenCV's MOG2, which learns from the picture without people, and the edges of the background.

    MOG2 learns a still object as background within seconds. People are excluded, because they stop to talk. A person
    who has stood still for `absorb_after` seconds becomes background, because it may be a parked bicycle.
    """

    def __init__(self, cv2: Any, absorb_after: float) -> None:
        self._cv2 = cv2
        self._absorb_after = absorb_after
        self._model = self._new_model()
        self._looks = 0
        self._learned_at = 0.0
        self._stood: npt.NDArray[np.float32] | None = None  # seconds that a person has been at each pixel
        self.edges: npt.NDArray[np.float32] | None = None

    def _new_model(self) -> Any:
        return self._cv2.createBackgroundSubtractorMOG2(varThreshold=VARIANCES, detectShadows=True)

    def learn_from(self, background: RgbImage, pictures: Sequence[RgbImage]) -> None:
        """Learn anew from a picture of the background, and how each pixel varies in pictures around it."""
        self._model = self._new_model()
        self._model.apply(background, learningRate=1)
        for look, picture in enumerate(pictures, 2):
            away = np.abs(picture.astype(np.int16) - background).max(axis=2, keepdims=True)
            self._model.apply(np.where(away <= NEAR, picture, background), learningRate=1 / look)
        self._looks = max(self._looks, FIRST_LOOKS + 1)
        self.edges = edges_of(self._cv2, background)

    def foreground(self, picture: RgbImage) -> Mask:
        """Return the foreground of a picture (h, w, 3): 0 or 255 (h, w). Shadows are background."""
        cv2 = self._cv2
        mask = self._model.apply(picture, learningRate=0 if self._looks else 1)
        mask = cv2.threshold(mask, SHADOW, 255, cv2.THRESH_BINARY)[1]
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((13, 3), np.uint8)))

    def learn(self, picture: RgbImage, timestamp: float, people: Mask) -> None:
        """Learn from a picture where `people` is 0, at most every `LEARN_EVERY` seconds."""
        passed = timestamp - self._learned_at
        if self._looks >= FIRST_LOOKS and 0 <= passed < LEARN_EVERY:  # below 0 if the stream started over
            return
        self._learned_at = timestamp
        if self._stood is None:
            self._stood = np.zeros(picture.shape[:2], dtype=np.float32)
        self._stood = np.where(people > 0, self._stood + passed, 0).astype(np.float32)
        if self._looks:
            background = self._model.getBackgroundImage()
            people = np.where(self._stood < self._absorb_after, people, 0).astype(np.uint8)
            self._cv2.copyTo(background, people, picture := picture.copy())
            self.edges = edges_of(self._cv2, background)
        self._looks += 1
        first = 1 / self._looks if self._looks <= FIRST_LOOKS else 0.0
        self._model.apply(picture, learningRate=min(1.0, max(first, passed / MEMORY)))

    def start_again(self) -> None:
        """Learn from the next picture as from the first one: the light or the view has changed."""
        self._looks = 0


def edges_of(cv2: Any, picture: RgbImage) -> npt.NDArray[np.float32]:
    """Return the gradient of the brightness at each pixel."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)))
