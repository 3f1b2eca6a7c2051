"""Converts foreground blobs to people. A blob may be a person, a part of one, or several people."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.video.detect.height_model import HeightModel

Mask = npt.NDArray[np.bool_]
Part = tuple[int, int, int, int, tuple[int, ...]]  # edges, and the labels of its components

SPECK = 20  # pixels; smaller blobs are noise
WIDTH = 0.4  # width of a person, as a share of the height; so are the other lengths here
FILLED = 0.3  # minimum share of foreground in a person's box
MOST_PEOPLE = 8  # per blob
LEAST_BODY = 0.08  # minimum foreground of a person, as a share of the height squared
NEXT_HEAD = 0.06  # minimum rise of the upper edge to the next head
ASIDE = 0.06  # width of arms and bags on each side
SIDE_BY_SIDE = 0.4  # width from which a blob may be two people
FLAT = 0.8  # width of an upper edge without a head from which a wide blob is a vehicle
GUESSED = 0.6  # score of a person separated from a blob, or of a blob of unlikely size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blob:
    """A region of foreground: its edges, and the mask within them. `cut` means at the picture's edge."""

    left: int
    top: int
    right: int
    bottom: int
    mask: Mask
    cut: bool

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def filled(self) -> float:
        return float(self.mask.mean())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A person: edges in pixels of the mask, and a score."""

    left: int
    top: int
    right: int
    bottom: int
    score: float


def find_blobs(cv2: Any, mask: npt.NDArray[np.uint8], heights: HeightModel) -> list[Blob]:
    """Return the blobs of a mask. If people's heights are known, parts above each other are joined."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    parts: list[Part] = [
        (x, y, x + w, y + h, (label,)) for label, (x, y, w, h, area) in _rows(stats, count) if area >= SPECK
    ]
    if heights.known:
        parts = _stacked(parts, heights)
    height, width = mask.shape
    return [
        Blob(
            left=left,
            top=top,
            right=right,
            bottom=bottom,
            mask=np.isin(labels[top:bottom, left:right], of),
            cut=left <= 1 or top <= 1 or right >= width - 1 or bottom >= height - 1,
        )
        for left, top, right, bottom, of in parts
    ]


def find_people(blob: Blob, heights: HeightModel, smallest: float) -> list[Found]:
    """Return the people in a blob. A blob that looks like one person of `smallest` pixels or more updates `heights`."""
    upright = 1.6 < blob.height / blob.width < 4.5 and blob.filled > FILLED and blob.height >= smallest
    if not heights.known:
        if upright and not blob.cut:
            heights.add(blob.bottom, blob.height)
        return [_whole(blob, GUESSED)] if upright else []
    expected = heights.of_feet(blob.bottom)
    if upright and not blob.cut and 0.6 < blob.height / expected < 1.7:
        heights.add(blob.bottom, blob.height)
    if blob.width > max(0.75 * expected, 1.2 * blob.height) and _flat_top(blob, expected) > FLAT * expected:
        return []
    if blob.height > 1.25 * expected or blob.width > SIDE_BY_SIDE * expected:
        several = [person for person in _taken_off(blob, heights) if person.bottom - person.top >= smallest]
        if len(several) > 1 or blob.height > 1.25 * expected or blob.width > 0.75 * expected:
            return several
    least = 0.4 if blob.cut else 0.55
    if blob.height < max(smallest, least * expected) or blob.filled < FILLED or blob.height < 1.1 * blob.width:
        return []
    return [_whole(blob, 0.9 if blob.height > 0.75 * expected else GUESSED)]


def _flat_top(blob: Blob, height: float) -> int:
    """Return the width of the flat part of a blob's upper edge around its highest point."""
    upper = np.where(blob.mask.any(axis=0), blob.mask.argmax(axis=0), len(blob.mask))
    low = np.flatnonzero(upper > upper.min() + NEXT_HEAD * height)
    highest = int(upper.argmin())
    left, right = low[low < highest], low[low > highest]
    return int(right[0] if len(right) else len(upper)) - int(left[-1] + 1 if len(left) else 0)


def _taken_off(blob: Blob, heights: HeightModel) -> list[Found]:
    """Separate people by the heads on a blob's upper edge, the highest first."""
    left_over = blob.mask.copy()
    people: list[Found] = []
    rows = len(left_over)
    for _ in range(4 * MOST_PEOPLE):
        if len(people) == MOST_PEOPLE or left_over.sum() < SPECK:
            break
        upper = np.where(left_over.any(axis=0), left_over.argmax(axis=0), rows)
        top = int(upper.min())
        height = heights.of_head(blob.top + top)
        left, right = _shoulders(upper, height)
        body = left_over[top : round(top + height) + 1, left:right]
        if body.sum() < LEAST_BODY * height**2:  # too small for a person, for example a raised arm
            left_over[top : top + max(2, round(0.08 * height)), left:right] = False
            continue
        inside_rows = np.flatnonzero(body.any(axis=1))
        inside_columns = np.flatnonzero(body.sum(axis=0) > 0.05 * height)
        people.append(
            Found(
                left=blob.left + left + int(inside_columns[0]),
                top=blob.top + top,
                right=blob.left + left + int(inside_columns[-1]) + 1,
                bottom=blob.top + top + int(inside_rows[-1]) + 1,
                score=GUESSED,
            )
        )
        left_over[top : round(top + 1.12 * height), left:right] = False
    return people


def _shoulders(upper: npt.NDArray[np.int64], height: float) -> tuple[int, int]:
    """Return the columns (first, last + 1) of the person with the highest head of an upper edge.

    They end at a person's width, or at the lowest point before the edge rises to the next head.
    """
    top = int(upper.min())
    crown = np.flatnonzero(upper <= top + 0.06 * height)
    crown = crown[np.abs(crown - int(upper.argmin())) <= 0.15 * height]
    centre = round(float(crown.mean()))
    right = _until_valley(upper[centre + 1 :], height)
    left = _until_valley(upper[:centre][::-1], height)
    return centre - left, centre + 1 + right


def _until_valley(upper: npt.NDArray[np.int64], height: float) -> int:
    """Return the number of columns of an upper edge, from a head outwards, that belong to this head."""
    lowest = np.maximum.accumulate(upper)
    rises = np.flatnonzero(upper < lowest - NEXT_HEAD * height)
    reach = round((WIDTH / 2 + ASIDE) * height)
    end = min(len(upper), reach)
    if len(rises) and rises[0] < end:
        before = upper[: rises[0]]
        end = int(np.flatnonzero(before == before.max()).mean()) + 1
    return end


def _stacked(parts: list[Part], heights: HeightModel) -> list[Part]:
    """Join parts that lie above each other and are together no larger than a person, from the lowest up."""
    waiting, joined = sorted(parts, key=lambda part: -part[3]), []
    while waiting:
        one = waiting.pop(0)
        while (other := next((part for part in waiting if _one_person(one, part, heights)), None)) is not None:
            waiting.remove(other)
            one = _union(one, other)
        joined.append(one)
    return joined


def _one_person(one: Part, other: Part, heights: HeightModel) -> bool:
    left, top, right, bottom, _ = _union(one, other)
    expected = heights.of_feet(bottom)
    overlap = min(one[2], other[2]) - max(one[0], other[0])
    above = overlap >= 0.5 * min(one[2] - one[0], other[2] - other[0])
    return above and bottom - top <= 1.15 * expected and right - left <= 0.6 * expected


def _union(one: Part, other: Part) -> Part:
    return (
        min(one[0], other[0]),
        min(one[1], other[1]),
        max(one[2], other[2]),
        max(one[3], other[3]),
        one[4] + other[4],
    )


def _rows(stats: npt.NDArray[np.int32], count: int) -> list[tuple[int, list[int]]]:
    return [(label, stats[label].tolist()) for label in range(1, count)]


def _whole(blob: Blob, score: float) -> Found:
    return Found(left=blob.left, top=blob.top, right=blob.right, bottom=blob.bottom, score=score)
