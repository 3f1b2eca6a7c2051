"""The background model of a fixed camera."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.preprocess import RgbImage

Mask = npt.NDArray[np.uint8]

VARIANCES = 25.0  # squared distance from the background, in variances of a pixel, that is foreground
SHADOW = 127  # MOG2's value for it; foreground is 255
LEARN_EVERY = 0.2  # seconds
FIRST_LOOKS = 10  # that are learned from in equal parts
MEMORY = 10.0  # seconds; what is not a person and stays is background after a tenth of it


class Background:
    """OpenCV's MOG2, which learns from every part of the picture but people, and a picture of the background.

    People are left out because MOG2 takes what stays for background within seconds, and people stop to talk. Whoever
    has stood for longer than `absorb_after` seconds becomes background all the same: it may be a parked bicycle.
    """

    def __init__(self, cv2: Any, absorb_after: float) -> None:
        self._cv2 = cv2
        self._absorb_after = absorb_after
        self._model = cv2.createBackgroundSubtractorMOG2(varThreshold=VARIANCES, detectShadows=True)
        self._looks = 0
        self._learned_at = 0.0
        self._stood: npt.NDArray[np.float32] | None = None  # seconds for which a person was at each pixel
        self.edges: npt.NDArray[np.float32] | None = None

    def foreground(self, picture: RgbImage) -> Mask:
        """0 or 255 at each pixel of a picture (h, w, 3); shadows are background."""
        cv2 = self._cv2
        mask = self._model.apply(picture, learningRate=0 if self._looks else 1)
        mask = cv2.threshold(mask, SHADOW, 255, cv2.THRESH_BINARY)[1]
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
        return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((13, 3), np.uint8)))

    def learn(self, picture: RgbImage, timestamp: float, people: Mask) -> None:
        """Take a picture in, but where `people` is not 0. Most are passed over: the background changes slowly."""
        passed = timestamp - self._learned_at
        if self._looks >= FIRST_LOOKS and 0 <= passed < LEARN_EVERY:  # below 0 the stream started over
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
        """The light or the view has changed: what comes is as new as the first picture."""
        self._looks = 0


def edges_of(cv2: Any, picture: RgbImage) -> npt.NDArray[np.float32]:
    """How much the brightness changes at each pixel."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.magnitude(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)))
