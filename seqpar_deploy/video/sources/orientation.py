"""Makes decoded pictures upright RGB images with square pixels.

A container describes the orientation with a matrix, which is one of eight: four rotations, each also mirrored. An angle
alone would lose the mirrors.
"""

from __future__ import annotations

import logging
import math
import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from seqpar_deploy.preprocess import MAX_PIXELS, RgbImage
from seqpar_deploy.video.sources.state import Tally

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter
    from av.video.stream import VideoStream

_WIDEST, _NARROWEST = 4.0, 0.25  # pixel aspects outside are mistakes; the widest in use is 2:1, a half-height field 1:2
Matrix = tuple[float, float, float, float]  # a, b, c, d: a pixel at (x, y) moves to (a x + c y, b x + d y)


class Upright:
    """Converts the pictures of a stream to RGB, makes their pixels square, and turns and mirrors them as it says."""

    def __init__(self, name: str, tally: Tally, reformatter: VideoReformatter) -> None:
        self._name, self._tally = name, tally
        self._reformatter = reformatter
        self._of_container: Fraction | None = None  # pixel aspect that overrides the codec's
        self._matrix: Matrix | None = None
        self._warned = False

    def begin(self, stream: VideoStream) -> None:
        """Prepare for the pictures of a stream, before the first one is decoded."""
        said, of_codec = stream.sample_aspect_ratio, stream.codec_context.sample_aspect_ratio
        self._of_container = said if said and said != of_codec else None  # as FFmpeg's players decide
        self._matrix = None

    def matrix_of(self, picture: VideoFrame) -> Matrix | None:
        """Return the display matrix of a picture. Call it with each one, in order."""
        matrix = _display_matrix(picture)
        if matrix is None and not picture.key_frame:
            matrix = self._matrix  # one within H.264 stands in the key frame and holds until the next one
        self._matrix = matrix
        return matrix

    def __call__(self, picture: VideoFrame, stream: VideoStream, matrix: Matrix | None) -> RgbImage:
        """Return the upright image of a picture. Raises FFmpegError if it cannot be converted."""
        aspect = self._aspect(stream, matrix)
        width, height = max(1, round(picture.width * aspect)), picture.height
        if width * height > MAX_PIXELS:
            width, height = picture.width, max(1, round(picture.height / aspect))
        rgb: Any = self._reformatter.reformat(picture, width=width, height=height, format="rgb24")
        image: RgbImage = rgb.to_ndarray()
        return np.ascontiguousarray(oriented(image, matrix)) if matrix else image

    def _aspect(self, stream: VideoStream, matrix: Matrix | None) -> float:
        """Return the width of a pixel over its height. It may change within a stream."""
        stated = self._of_container or stream.codec_context.sample_aspect_ratio or stream.sample_aspect_ratio
        aspect = float(stated) if stated else 1.0
        if matrix and _swaps_axes(matrix) and math.isclose(aspect, _scaling(matrix), rel_tol=0.01):
            aspect = 1 / aspect  # FFmpeg derives it from the matrix, for the axes after the rotation
        if _NARROWEST <= aspect <= _WIDEST:
            return aspect
        if not self._warned:
            self._warned = True
            self._tally.log(
                logging.WARNING, "%s: pixel aspect must be 1:4 to 4:1, got %.5g:1; ignoring it", self._name, aspect
            )
        return 1.0


def oriented(image: RgbImage, matrix: Matrix) -> RgbImage:
    """Return a view of the image in the nearest of the eight orientations to the matrix."""
    a, b, c, d = _directions(matrix)
    if _swaps_axes(matrix):
        image, flip_x, flip_y = image.swapaxes(0, 1), c < 0, b < 0
    else:
        flip_x, flip_y = a < 0, d < 0
    return image[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def _swaps_axes(matrix: Matrix) -> bool:
    a, b, c, d = _directions(matrix)
    return abs(b) + abs(c) > abs(a) + abs(d)


def _directions(matrix: Matrix) -> tuple[float, float, float, float]:
    """Return the matrix without its scaling, which the frame's pixel aspect already has."""
    a, b, c, d = matrix
    x, y = math.hypot(a, b) or 1.0, math.hypot(c, d) or 1.0
    return a / x, b / x, c / y, d / y


def _scaling(matrix: Matrix) -> float:
    """Return the pixel aspect that FFmpeg derives from a matrix."""
    a, b, c, d = matrix
    return math.hypot(a, c) / (math.hypot(b, d) or 1.0)


def _display_matrix(picture: VideoFrame) -> Matrix | None:
    """Return a, b, c and d of the display matrix, None if there is none or it says nothing."""
    from av.sidedata.sidedata import SideDataContainer

    # picture.side_data would refer to the picture that holds it, and keep its pixels until Python collects garbage.
    side_data: Any = SideDataContainer  # PyAV's annotations are wrong
    for data in side_data(picture):
        if data.type.name == "DISPLAYMATRIX":
            a, b, _u, c, d, *_rest = struct.unpack("=9i", bytes(data))
            return (a, b, c, d) if any((a, b, c, d)) else None
    return None
