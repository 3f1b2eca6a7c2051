"""Blurs people or heads so that nobody can be recognised again, at any resolution.

A place is averaged to a few cells, whose size follows from the person and not from the picture, and whose colours are
rounded. The cells are then drawn smoothly. So a head of 10 or of 1000 pixels keeps the same one or two cells. A
Gaussian would not do: it can be undone as far as the noise allows, and its strength in pixels fits one distance only.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video.detect.opencv import import_cv2
from seqpar_deploy.video.types import Box

Blur = Literal["heads", "people"]
"""What is blurred: heads and shoulders, or whole people."""

MARGIN = 0.1  # of the person's longer side, around the box: hair, hats and hands reach beyond it
HEAD = 0.3  # upper share of a box that holds the head of somebody who stands or walks; the head itself is about 0.13
UPRIGHT = 0.7  # width over height from which a box is no single upright person: the head may be anywhere in it
CELLS = 10.0  # along an upright person, whose head of 0.13 then has 1.3
CELLS_OF_ANY = 6.0  # along the longer side of any other box, and the shorter one of a frame: a head may fill it
LEAST_CELL = 4.0  # pixels
LEVELS = 16  # per channel; with rounded colours, a sequence of frames tells little more than one frame
_AT_EDGE = 2  # pixels from the frame's edge within which a box counts as cut


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Hidden:
    """Somebody to blur.

    Attributes:
        box: The person's box.
        room: Pixels around the box, on each side, in which the person may be as well. Default: 0.
    """

    box: Box
    room: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Pixels to blur, from `left`, `top` to before `right`, `bottom`, and the side of a cell in pixels."""

    left: int
    top: int
    right: int
    bottom: int
    cell: float


def place_of(hidden: Hidden, blur: Blur, size: tuple[int, int]) -> Place:
    """Return the pixels to blur in a frame of `size` (height, width).

    Of heads, it is the upper part of the box. It is the whole box if the frame cuts it above or below, or if it is
    wide, because the head may be anywhere then. A margin is added on each side.
    """
    box, (height, width) = hidden.box, size
    tall, wide = box.bottom - box.top, box.right - box.left
    around = MARGIN * max(tall, wide) + hidden.room
    cut = box.top <= _AT_EDGE or box.bottom >= height - _AT_EDGE
    upright = not cut and wide <= UPRIGHT * tall
    bottom = box.top + HEAD * tall if blur == "heads" and upright else box.bottom
    return Place(
        left=min(max(0, math.floor(box.left - around)), width - 1),
        top=min(max(0, math.floor(box.top - around)), height - 1),
        right=max(1, min(width, math.ceil(box.right + around))),
        bottom=max(1, min(height, math.ceil(bottom + around))),
        cell=max(LEAST_CELL, max(tall, wide) / (CELLS if upright else CELLS_OF_ANY)),
    )


def blurred(image: RgbImage, people: Iterable[Hidden], blur: Blur) -> RgbImage:
    """Return a picture with the people in it blurred. The picture itself is not changed.

    Args:
        image: Pixels, uint8 RGB (h, w, 3).
        people: Where they are.
        blur: What to blur of them.

    Returns:
        A copy, or without people the picture itself.
    """
    shown = None
    for hidden in people:
        if shown is None:
            shown = np.array(image)
        _blur_place(shown, place_of(hidden, blur, image.shape[:2]))
    return image if shown is None else shown


def wholly_blurred(image: RgbImage) -> RgbImage:
    """Return a picture of which nothing is left but a few cells of colour."""
    height, width = image.shape[:2]
    shown = np.array(image)
    _blur_place(shown, Place(left=0, top=0, right=width, bottom=height, cell=min(height, width) / CELLS_OF_ANY))
    return shown


def _blur_place(image: npt.NDArray[np.uint8], place: Place) -> None:
    """Blur pixels in place. The cells are anchored to the place, so that they move with the person."""
    cv2 = _opencv()
    pixels = image[place.top : place.bottom, place.left : place.right]
    height, width = pixels.shape[:2]
    cells = (max(1, int(width / place.cell)), max(1, int(height / place.cell)))  # rounded down: never finer
    averages = cv2.resize(pixels, cells, interpolation=cv2.INTER_AREA)
    step = 256 // LEVELS
    rounded = averages // step * step + step // 2
    pixels[:] = cv2.resize(rounded, (width, height), interpolation=cv2.INTER_LINEAR)


@functools.cache
def _opencv() -> Any:
    """Import OpenCV, which takes a quarter of the time of Pillow here: 0.2 ms for a person of 290 x 600 pixels."""
    return import_cv2("blurring")
