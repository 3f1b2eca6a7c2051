"""Places for labels beside people, so that a label covers neither a person nor another label."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Edges = tuple[int, int, int, int]  # left, top, right, bottom
Size = tuple[int, int]  # width, height
_Floats = npt.NDArray[np.float64]

_NEAR, _FAR = (0.0, 1.0, 2.0), (3.5, 5.0)  # gaps between a box and its label, in heights of the smallest label


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
    """A label's place in a frame.

    Args:
        version: Index of the label's version: 0 is the longest, the last one the shortest.
        edges: Pixels of the frame.
        slot: Position relative to the box, for the next frame to keep.
        inside: Whether the label lies on its own person, because there is no free place.
    """

    version: int
    edges: Edges
    slot: int
    inside: bool = False


def place_labels(
    frame: Size,
    boxes: Mapping[int, Edges],
    labels: Mapping[int, Sequence[Size]],
    before: Mapping[int, Place] | None = None,
) -> dict[int, Place]:
    """Find a free place for each box's label: move it first, then take a shorter version.

    If long labels leave no room for others, all labels start with a shorter version. The shortest version is placed on
    its own box if nothing else is free. A label that would cover another one even there gets no place.

    Args:
        frame: Width and height of the frame.
        boxes: Each person's box by track ID.
        labels: Sizes of each label's versions by track ID, the longest first.
        before: Places in the previous frame. A label keeps its position if that is still free. Default: none.

    Returns:
        Places by track ID.
    """
    most = max((len(versions) for versions in labels.values()), default=0)
    best: tuple[tuple[int, ...], dict[int, Place]] = ((), {})
    for first in range(most):
        places = _place_all(frame, boxes, labels, before or {}, first)
        lost = len(labels) - sum(not place.inside for place in places.values())
        shortest = sum(place.version == len(labels[key]) - 1 > 0 for key, place in places.items())
        cost = (lost, shortest, first)
        if not best[0] or cost < best[0]:
            best = cost, places
        if not lost and not shortest:
            break
    return best[1]


def _place_all(
    frame: Size,
    boxes: Mapping[int, Edges],
    labels: Mapping[int, Sequence[Size]],
    before: Mapping[int, Place],
    first: int,
) -> dict[int, Place]:
    people = np.array([boxes[key] for key in labels], dtype=np.float64).reshape(-1, 4)
    taken: dict[int, Place] = {}
    for key in sorted(labels, key=lambda key: -boxes[key][3]):  # the nearest people choose first
        covered = np.array([place.edges for place in taken.values()], dtype=np.float64).reshape(-1, 4)
        place = _beside(frame, boxes[key], labels[key], np.concatenate([people, covered]), before.get(key), first)
        place = place or _inside(frame, boxes[key], labels[key], people, covered)
        if place:
            taken[key] = place
    return taken


def _beside(
    frame: Size, box: Edges, versions: Sequence[Size], obstacles: _Floats, before: Place | None, first: int
) -> Place | None:
    """The longest version that fits near the box, then the ones that fit farther away."""
    unit = versions[-1][1]
    last = len(versions) - 1
    for version, gaps in _levels(min(first, last), last):
        width, height = versions[version]
        if width > frame[0] or height > frame[1]:
            continue
        slots = np.concatenate([_around(box, (width, height), gap * unit) for gap in gaps])
        slots = np.clip(slots, 0, (frame[0] - width, frame[1] - height)).round()
        places = np.concatenate([slots, np.add(slots, (width, height))], axis=1)
        free = (_overlaps(places, obstacles).sum(axis=1) == 0).tolist()
        if any(free):
            offset = 100 * (gaps is _FAR)
            kept = before.slot - offset if before and before.version == version else -1
            slot = kept if 0 <= kept < len(free) and free[kept] else free.index(True)
            return Place(version=version, edges=_edges(places[slot]), slot=slot + offset)
    return None


def _levels(first: int, last: int) -> Iterator[tuple[int, tuple[float, ...]]]:
    yield from ((version, _NEAR) for version in range(first, last))
    if first < last:
        yield last - 1, _FAR  # attributes at some distance are better than none
    yield from ((last, _NEAR), (last, _FAR))


def _around(box: Edges, size: Size, gap: float) -> _Floats:
    """Upper left corners of a label around a box, the most readable first."""
    (left, top, right, bottom), (width, height) = box, size
    after, before, under, over = right + 1 + gap, left - width - gap, bottom + 1 + gap, top - height - gap
    ended, risen = right - width, bottom - height
    middle, centre = (top + bottom - height) / 2, (left + right - width) / 2
    corners = [(after, top), (before, top), (left, under), (left, over)]
    corners += [(after, risen), (before, risen), (ended, under), (ended, over)]
    corners += [(after, middle), (before, middle), (centre, under), (centre, over)]
    corners += [(after, under), (before, under), (after, over), (before, over)]
    return np.array(corners, dtype=np.float64)


def _inside(frame: Size, box: Edges, versions: Sequence[Size], people: _Floats, labels: _Floats) -> Place | None:
    """The corner of the box, within the frame, that hides least of other people; None if a label is in all of them."""
    width, height = versions[-1]
    left, top, right, bottom = box
    corners = [(x, y) for y in (top, bottom - height) for x in (left, right - width)]
    slots = np.clip(np.array(corners, dtype=np.float64), 0, (max(0, frame[0] - width), max(0, frame[1] - height)))
    places = np.concatenate([slots, np.add(slots, (width, height))], axis=1)
    cost = _overlaps(places, people).sum(axis=1)
    cost[(_overlaps(places, labels) > 0).any(axis=1)] = np.inf
    slot = int(cost.argmin())
    if not np.isfinite(cost[slot]):
        return None
    return Place(version=len(versions) - 1, edges=_edges(places[slot]), slot=-1, inside=True)


def _overlaps(places: _Floats, obstacles: _Floats) -> _Floats:
    """Common area of each place with each obstacle, (places, obstacles)."""
    a, b = places[:, None], obstacles[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    area: _Floats = np.maximum(sides, 0).prod(axis=2)
    return area


def _edges(place: _Floats) -> Edges:
    left, top, right, bottom = (round(float(edge)) for edge in place)
    return left, top, right, bottom
