"""Colours of people, by which a tracker tells two apart whose boxes meet.

A signature is the colour histogram of three stripes of the box (head, trunk, legs) in CIE L*a*b*. Signatures of one
person are alike by 0.8 to 1 (Bhattacharyya coefficient), and those of two people by 0.3 to 0.8 on the street video.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video.detect.opencv import import_cv2
from seqpar_deploy.video.types import Box, Frame

Signature = npt.NDArray[np.float32]

MEMORY = 1.0  # seconds after which a signature has forgotten 63 % of a person's earlier colours
HIDDEN = 0.3  # overlap (IoU) with another box above which the colours may be of the other person
_STRIPES, _ROWS, _COLUMNS = 3, 12, 12  # stripes, and pixels of each
_SIDES, _ENDS = 0.2, 0.05  # shares of the box left out at each side, and above and below: mostly background
_BINS = (6, 8, 8)  # of lightness and the two colour axes
_WEAKEST, _STRONGEST = (0, 88, 88), (255, 167, 167)  # 128 is grey; stronger colours, which are rare, count as these
_RANGES = (0, 256, 88, 168, 88, 168)


@dataclasses.dataclass(slots=True)
class _Known:
    signature: Signature
    seen: float


class Appearance:
    """The colours of one stream's tracks, and of the boxes of its latest frame."""

    def __init__(self) -> None:
        self._cv2 = import_cv2()
        self._known: dict[int, _Known] = {}
        self._boxes: list[Signature | None] = []

    def see(self, frame: Frame, boxes: Sequence[Box]) -> None:
        """Read the colours of a frame's boxes."""
        self._boxes = [self._signature(frame.image, box) for box in boxes]

    def likeness(self, track_ids: Sequence[int], rows: Sequence[int], unknown: float) -> npt.NDArray[np.float64]:
        """Return how alike tracks and boxes of the latest frame are (tracks, boxes), 0 to 1, or `unknown`."""
        found = np.full((len(track_ids), len(rows)), unknown)
        known = [
            (at, self._known[track_id].signature) for at, track_id in enumerate(track_ids) if track_id in self._known
        ]
        seen = [(at, colours) for at, row in enumerate(rows) if row >= 0 and (colours := self._boxes[row]) is not None]
        if known and seen:
            places = np.ix_([at for at, _ in known], [at for at, _ in seen])
            found[places] = np.stack([one for _, one in known]) @ np.stack([one for _, one in seen]).T
        return found

    def learn(self, timestamp: float, boxes: Sequence[Box], assigned: Iterable[tuple[int, int]]) -> None:
        """Update tracks by the boxes of the latest frame, given as (track ID, row). Hidden boxes teach nothing."""
        hidden = _hidden(boxes)
        for track_id, row in assigned:
            seen, known = self._boxes[row], self._known.get(track_id)
            if seen is None:
                continue
            if known is None:
                self._known[track_id] = _Known(signature=seen, seen=timestamp)
            elif not hidden[row]:
                kept = math.exp((known.seen - timestamp) / MEMORY)
                mixed = kept * known.signature + (1 - kept) * seen
                known.signature, known.seen = mixed / np.linalg.norm(mixed), timestamp

    def forget_all_but(self, track_ids: set[int]) -> None:
        """Drop the tracks that ended."""
        for track_id in self._known.keys() - track_ids:
            del self._known[track_id]

    def _signature(self, image: RgbImage, box: Box) -> Signature | None:
        """Return the roots of the histogram's shares, of length 1. None for a box too small, or outside the picture."""
        height, width = image.shape[:2]
        across, along = _SIDES * (box.right - box.left), _ENDS * (box.bottom - box.top)
        left, right = int(max(0, box.left + across)), int(min(width, box.right - across))
        top, bottom = int(max(0, box.top + along)), int(min(height, box.bottom - along))
        if right - left < 3 or bottom - top < 2 * _STRIPES:
            return None
        cv2, size = self._cv2, (_COLUMNS, _STRIPES * _ROWS)
        small = cv2.resize(image[top:bottom, left:right], size, interpolation=cv2.INTER_AREA)
        lab = np.clip(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), _WEAKEST, _STRONGEST).astype(np.uint8)
        lab = lab.reshape(_STRIPES, _ROWS, _COLUMNS, 3)
        counts = [cv2.calcHist([stripe], [0, 1, 2], None, _BINS, _RANGES).ravel() for stripe in lab]
        return np.asarray(np.sqrt(np.concatenate(counts) / (_STRIPES * _ROWS * _COLUMNS)), dtype=np.float32)


def iou(some: npt.NDArray[Any], others: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the overlap (IoU, 0 to 1) of boxes given as edges (left, top, right, bottom), some x others."""
    start = np.maximum(some[:, None, :2], others[None, :, :2])
    end = np.minimum(some[:, None, 2:], others[None, :, 2:])
    inside = np.clip(end - start, 0, None).prod(axis=2)
    areas, other_areas = ((edges[:, 2:] - edges[:, :2]).prod(axis=1) for edges in (some, others))
    return np.asarray(inside / np.maximum(areas[:, None] + other_areas[None] - inside, 1e-9), dtype=np.float64)


def _hidden(boxes: Sequence[Box]) -> npt.NDArray[np.bool_]:
    """Return which boxes overlap another one by `HIDDEN` or more."""
    edges = np.array([(box.left, box.top, box.right, box.bottom) for box in boxes], dtype=np.float64).reshape(-1, 4)
    return np.asarray((iou(edges, edges) >= HIDDEN).sum(axis=1) > 1)
