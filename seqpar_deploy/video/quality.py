"""Crop quality, 0 to 1, in a fraction of a millisecond and without a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from seqpar_deploy.preprocess import Crop, RgbImage
from seqpar_deploy.video.types import Box

MARGIN = 0.08  # share of the box's width and height on each side, as in samples/README.md

_FULL_HEIGHT = 100  # pixels; a taller box does not have higher quality
_JUDGED_HEIGHT = 64  # pixels; sharpness is measured at about this height, so that size does not count twice
_SHARP = 0.2  # variance of the Laplacian over the variance of the pixels, from which a crop counts as sharp
_GRID_ROWS, _GRID_COLUMNS = 16, 8  # cells of a box, to count the hidden share
_AT_EDGE = 2  # pixels from the frame's edge within which a box counts as cut
_USUAL_WIDTH = 0.4  # of a person's height
_CUT = 0.7  # maximum quality of a person who is cut by the frame's edge


def cut_out(image: RgbImage, box: Box, margin: float = MARGIN) -> Crop:
    """Copy the box with its margin from a frame. Returns (h, w, 3), within the frame, of at least one pixel."""
    height, width = image.shape[:2]
    dx, dy = margin * (box.right - box.left), margin * (box.bottom - box.top)
    left, top = min(max(round(box.left - dx), 0), width - 1), min(max(round(box.top - dy), 0), height - 1)
    right, bottom = max(round(box.right + dx), left + 1), max(round(box.bottom + dy), top + 1)
    return np.array(image[top:bottom, left:right])


def quality(crop: Crop, box: Box, others: Sequence[Box], size: tuple[int, int]) -> float:
    """Return the quality, 0 to 1, of a crop at `box` in a frame of `size` (height, width) with the boxes `others`."""
    return from_geometry(box, others, size) * sharpness(crop)


def from_geometry(box: Box, others: Sequence[Box], size: tuple[int, int]) -> float:
    """Return an upper bound of the quality, from the boxes alone.

    Occlusion is squared, because the occluder is also a person, whose attributes may be taken for this person's.
    """
    tall = min(1.0, max(0.0, box.bottom - box.top) / _FULL_HEIGHT)
    return tall * (1 - covered(box, others)) ** 2 * uncut(box, size)


def sharpness(crop: Crop) -> float:
    """Return the sharpness of a crop: 1 if sharp, towards 0 if blurred or uniform."""
    grey = Image.fromarray(crop).convert("L")
    pixels = np.asarray(grey.reduce(max(1, round(grey.height / _JUDGED_HEIGHT))), dtype=np.float32)
    if min(pixels.shape) < 3:
        return 0.0
    inner = pixels[1:-1, 1:-1]
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:] - 4 * inner
    energy = float(laplacian.var()) / (float(inner.var()) + 1.0)
    return min(1.0, energy / _SHARP)


def covered(box: Box, others: Sequence[Box]) -> float:
    """Return the share of the box that is hidden by boxes with a lower bottom edge, which are of nearer people."""
    hidden = np.zeros((_GRID_ROWS, _GRID_COLUMNS), dtype=np.bool_)
    width, height = max(1e-6, box.right - box.left), max(1e-6, box.bottom - box.top)
    for other in others:
        if other.bottom <= box.bottom or other is box:
            continue
        rows = [round((edge - box.top) / height * _GRID_ROWS) for edge in (other.top, other.bottom)]
        columns = [round((edge - box.left) / width * _GRID_COLUMNS) for edge in (other.left, other.right)]
        hidden[max(0, rows[0]) : max(0, rows[1]), max(0, columns[0]) : max(0, columns[1])] = True
    return float(hidden.mean())


def uncut(box: Box, size: tuple[int, int]) -> float:
    """Return 1 for a box inside the frame. At the edge, return the visible share of a person of usual proportions."""
    width, height = max(1e-6, box.right - box.left), max(1e-6, box.bottom - box.top)
    factor = 1.0
    if box.left <= _AT_EDGE or box.right >= size[1] - _AT_EDGE:
        factor *= min(_CUT, width / (_USUAL_WIDTH * height))
    if box.top <= _AT_EDGE or box.bottom >= size[0] - _AT_EDGE:
        factor *= min(_CUT, _USUAL_WIDTH * height / width)
    return factor
