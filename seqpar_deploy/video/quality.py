"""Crop quality, 0 to 1, in a fraction of a millisecond and without a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from seqpar_deploy.preprocess import Crop, RgbImage
from seqpar_deploy.video.types import Box

MARGIN = 0.08  # of the box's width and height, on each side, as in samples/README.md

_FULL_HEIGHT = 100  # pixels; more do not help
_JUDGED_HEIGHT = 64  # sharpness is judged at about this height, so that size does not count twice
_SHARP = 0.2  # energy of the Laplacian over the variance, from which on a crop is sharp
_GRID_ROWS, _GRID_COLUMNS = 16, 8  # cells of a box in which what is covered is counted
_AT_EDGE = 2  # pixels
_USUAL_WIDTH = 0.4  # of a person's height
_CUT = 0.7  # what being cut costs at least


def cut_out(image: RgbImage, box: Box, margin: float = MARGIN) -> Crop:
    """Copy the box with its margin out of a frame: (h, w, 3), within the frame, at least one pixel."""
    height, width = image.shape[:2]
    dx, dy = margin * (box.right - box.left), margin * (box.bottom - box.top)
    left, top = min(max(round(box.left - dx), 0), width - 1), min(max(round(box.top - dy), 0), height - 1)
    right, bottom = max(round(box.right + dx), left + 1), max(round(box.bottom + dy), top + 1)
    return np.array(image[top:bottom, left:right])


def quality(crop: Crop, box: Box, others: Sequence[Box], size: tuple[int, int]) -> float:
    """Quality of a crop at `box`, in a frame of `size` (height, width) with the boxes `others`: 0 worthless, 1 best."""
    return from_geometry(box, others, size) * sharpness(crop)


def from_geometry(box: Box, others: Sequence[Box], size: tuple[int, int]) -> float:
    """Upper bound of the quality, from the boxes alone.

    Occlusion counts twice: the occluder is a person as well, whose attributes may be taken for these.
    """
    tall = min(1.0, max(0.0, box.bottom - box.top) / _FULL_HEIGHT)
    return tall * (1 - covered(box, others)) ** 2 * uncut(box, size)


def sharpness(crop: Crop) -> float:
    """1 for a sharp crop, towards 0 for a blurred or uniform one."""
    grey = Image.fromarray(crop).convert("L")
    pixels = np.asarray(grey.reduce(max(1, round(grey.height / _JUDGED_HEIGHT))), dtype=np.float32)
    if min(pixels.shape) < 3:
        return 0.0
    inner = pixels[1:-1, 1:-1]
    laplacian = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:] - 4 * inner
    energy = float(laplacian.var()) / (float(inner.var()) + 1.0)
    return min(1.0, energy / _SHARP)


def covered(box: Box, others: Sequence[Box]) -> float:
    """Share of the box hidden by boxes that reach lower in the frame, as those of nearer people do."""
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
    """1 for a box inside the frame; at the edge, the share of a person of usual proportions, less a penalty."""
    width, height = max(1e-6, box.right - box.left), max(1e-6, box.bottom - box.top)
    factor = 1.0
    if box.left <= _AT_EDGE or box.right >= size[1] - _AT_EDGE:
        factor *= min(_CUT, width / (_USUAL_WIDTH * height))
    if box.top <= _AT_EDGE or box.bottom >= size[0] - _AT_EDGE:
        factor *= min(_CUT, _USUAL_WIDTH * height / width)
    return factor
