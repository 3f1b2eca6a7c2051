"""Warns once per stream if a detector's boxes cannot be right: nobody despite motion, absurd boxes, or always the same.

Every 0.4 s a picture of 96 x 54 cells is compared with the previous one, until people were found, the stream was
warned of, or 10 minutes have passed. After that a frame costs two comparisons.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video.detect.picture import FloatArray
from seqpar_deploy.video.types import Frame

_STEP = 0.4  # seconds between compared pictures; a walking person moves by about their width
_MOVING = 8  # compared pictures with motion of a person's size, and nobody found
_FEW = 5  # of them at the end of a stream
_COMPARED = 1500  # pictures, 10 minutes, after which an empty stream is trusted
_FOUND = 3  # frames with people, after which a stream is not compared any more
_JUDGED = 20  # boxes judged per stream
_ROWS, _COLUMNS = 54, 96
_CHANGE = 12  # least change of a cell, of 255
_NOISE = 6.0  # and in medians of all cells' changes
_MOST = 0.2  # share of cells; if more change, the light or the camera does
_RESTLESS = 0.25  # share of comparisons; places that change more often are leaves or water
_UPRIGHT = 0.4  # least share of upright regions in all that changed

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class _Stream:
    checked: float = -1e9  # timestamp of `picture`
    picture: FloatArray | None = None
    changes: npt.NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.zeros((_ROWS, _COLUMNS), np.int64))
    compared: int = 0
    moving: int = 0
    found: int = 0
    judged: int = 0
    absurd: int = 0
    same: int = 0
    boxes: FloatArray | None = None
    motion_done: bool = False
    boxes_done: bool = False


class Sanity:
    """Judges the boxes of the first frames. `name` begins each warning, `advice` returns its end."""

    def __init__(self, name: str, advice: Callable[[], str]) -> None:
        self._name, self._advice = name, advice
        self._streams: dict[str, _Stream] = {}

    def see(self, frame: Frame, edges: FloatArray) -> None:
        """Judge edges (N, 4) in pixels of the frame, before they are clipped to it."""
        stream = self._streams.get(frame.stream)
        if stream is None:
            stream = self._streams[frame.stream] = _Stream()
        if not stream.boxes_done:
            self._judge(stream, frame, edges)
        if not stream.motion_done:
            self._compare(stream, frame, edges)

    def close(self) -> None:
        """Warn of streams that ended before enough pictures were compared."""
        for name, stream in self._streams.items():
            if not stream.motion_done and not stream.found and stream.moving >= _FEW:
                self._warn_of_nobody(name, stream)
        self._streams.clear()

    def _judge(self, stream: _Stream, frame: Frame, edges: FloatArray) -> None:
        height, width = frame.image.shape[:2]
        stream.judged += len(edges)
        stream.absurd += int(_absurd(edges, width, height).sum())
        if stream.judged >= _JUDGED:
            stream.boxes_done = True
            if stream.absurd > stream.judged / 2:
                self._warn(
                    frame.stream,
                    f"gives {stream.absurd} of {stream.judged} boxes that no person has (as large as the frame, "
                    "outside it, wider than tall, or without size)",
                )

    def _compare(self, stream: _Stream, frame: Frame, edges: FloatArray) -> None:
        stream.found += len(edges) > 0
        if 0 <= frame.timestamp - stream.checked < _STEP:
            return
        picture = _small(frame.image)
        if picture is None or stream.compared >= _COMPARED:
            stream.motion_done = True
            return
        moving = _moves(stream, picture)
        same = len(edges) > 0 and stream.boxes is not None and np.array_equal(stream.boxes, edges)
        stream.moving += moving and not stream.found
        stream.same = stream.same + moving if same else 0
        stream.checked, stream.picture, stream.boxes = frame.timestamp, picture, edges
        if stream.same >= _MOVING:
            stream.motion_done = True
            self._warn(frame.stream, "gives the same boxes although the picture changes")
        elif stream.moving >= _MOVING and not stream.found:
            self._warn_of_nobody(frame.stream, stream)
        elif stream.found >= _FOUND and stream.compared and not same:
            stream.motion_done = True

    def _warn_of_nobody(self, name: str, stream: _Stream) -> None:
        stream.motion_done = True
        self._warn(name, f"found nobody, although something of a person's size moved {stream.moving} times")

    def _warn(self, stream: str, what: str) -> None:
        _log.warning("%s %s in %s; %s", self._name, what, stream, self._advice())


def _absurd(edges: FloatArray, width: int, height: int) -> npt.NDArray[np.bool_]:
    """Return which boxes no person has: nearly the whole frame, outside it, far wider than tall, or without size."""
    with np.errstate(invalid="ignore"):
        wide, tall = edges[:, 2] - edges[:, 0], edges[:, 3] - edges[:, 1]
        outside = (edges[:, 2] <= 0) | (edges[:, 3] <= 0) | (edges[:, 0] >= width) | (edges[:, 1] >= height)
        whole = (wide >= 0.97 * width) & (tall >= 0.97 * height)
        return np.asarray(~((wide >= 1) & (tall >= 1)) | outside | whole | (wide > 1.5 * tall))


def _small(image: RgbImage) -> FloatArray | None:
    """Return the green channel averaged to 54 x 96 cells, None for a picture too small for it."""
    high, wide = image.shape[0] // _ROWS, image.shape[1] // _COLUMNS
    if not high or not wide:
        return None
    green = image[: high * _ROWS, : wide * _COLUMNS, 1]
    cells = green.reshape(_ROWS, high, _COLUMNS, wide)[:, ::2, :, ::2]
    return np.asarray(cells.mean(axis=(1, 3)), dtype=np.float32)


def _moves(stream: _Stream, picture: FloatArray) -> bool:
    """Return whether most of the change is upright regions, 7 % to 90 % of the picture high, in places at rest."""
    if stream.picture is None:
        return False
    change = np.abs(picture - stream.picture)
    changed = change > max(_CHANGE, _NOISE * float(np.median(change)))
    restless = _near(_near(stream.changes).mean(axis=0) > _RESTLESS * max(stream.compared, 4)).any(axis=0)
    stream.changes += changed
    stream.compared += 1
    if changed.mean() > _MOST:
        return False
    regions = _regions(changed & ~restless)
    upright = sum(len(region) for region in regions if _is_upright(region))
    return upright > 0 and upright >= _UPRIGHT * sum(map(len, regions))


def _near(cells: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return each cell and its eight neighbours (9, rows, columns)."""
    padded = np.pad(cells, 1, mode="edge")
    return np.stack([padded[i : i + _ROWS, j : j + _COLUMNS] for i in range(3) for j in range(3)])


def _is_upright(region: list[tuple[int, int]]) -> bool:
    rows, columns = (len({place[axis] for place in region}) for axis in (0, 1))
    return 4 <= rows <= 0.9 * _ROWS and rows >= 1.2 * columns and len(region) >= 5  # a cell of 16:9 is a square


def _regions(changed: npt.NDArray[np.bool_]) -> list[list[tuple[int, int]]]:
    """Return the connected cells."""
    left = set(zip(*(axis.tolist() for axis in np.nonzero(changed)), strict=True))
    regions = []
    while left:
        region, edge = [], [left.pop()]
        while edge:
            row, column = edge.pop()
            region.append((row, column))
            near = {(row + down, column + across) for down in (-1, 0, 1) for across in (-1, 0, 1)} & left
            left -= near
            edge.extend(near)
        regions.append(region)
    return regions
