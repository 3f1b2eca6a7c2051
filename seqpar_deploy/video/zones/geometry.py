"""Points, lines and polygons in pixels, x to the right and y down."""

from __future__ import annotations

import math
from collections.abc import Sequence

from seqpar_deploy.video.types import Box

Point = tuple[float, float]


def feet(box: Box, rows: int) -> Point:
    """Return the middle of a box's lower edge, where the person stands.

    If the person is cut off below, it is in the last of the frame's `rows`, where polygons in pixels end. It is too
    high if the feet are hidden.
    """
    return (box.left + box.right) / 2, min(box.bottom, rows - 1)


def are_shares(points: Sequence[Point]) -> bool:
    """Whether points are shares of the frame: all coordinates are 0 to 1."""
    return all(0 <= value <= 1 for point in points for value in point)


def in_pixels(points: Sequence[Point], width: int, height: int) -> tuple[Point, ...]:
    """Return points, which may be shares, in pixels of a frame."""
    if are_shares(points):
        return tuple((x * width, y * height) for x, y in points)
    return tuple(points)


def area(polygon: Sequence[Point]) -> float:
    """Return twice the area, without sign. The parts of a polygon that crosses itself may cancel each other."""
    pairs = zip(polygon, (*polygon[1:], polygon[0]), strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairs))


def outside(polygon: Sequence[Point], point: Point) -> float:
    """Return the distance of a point from a polygon, 0 in it and on its boundary."""
    return 0.0 if contains(polygon, point) else distance(polygon, point)


def contains(polygon: Sequence[Point], point: Point) -> bool:
    """Whether a point is in a polygon, by the even-odd rule. Points on its boundary may be in or out."""
    x, y = point
    found = False
    x0, y0 = polygon[-1]
    for x1, y1 in polygon:
        if (y0 > y) != (y1 > y) and x < x0 + (y - y0) / (y1 - y0) * (x1 - x0):
            found = not found
        x0, y0 = x1, y1
    return found


def distance(polygon: Sequence[Point], point: Point) -> float:
    """Return the distance of a point from the boundary of a polygon."""
    return min(_from_segment(a, b, point) for a, b in zip(polygon, (*polygon[1:], polygon[0]), strict=True))


def _from_segment(a: Point, b: Point, point: Point) -> float:
    along, length = (b[0] - a[0], b[1] - a[1]), math.dist(a, b)
    if not length:
        return math.dist(a, point)
    share = ((point[0] - a[0]) * along[0] + (point[1] - a[1]) * along[1]) / length**2
    share = min(1.0, max(0.0, share))
    return math.dist((a[0] + share * along[0], a[1] + share * along[1]), point)


def beyond(line: tuple[Point, Point], point: Point) -> float:
    """Return the distance of a point from the line through two points.

    It is above 0 on the right of somebody who looks from the first to the second point, and below 0 on the left.
    """
    (x0, y0), (x1, y1) = line
    return ((x1 - x0) * (point[1] - y0) - (y1 - y0) * (point[0] - x0)) / math.dist(*line)


def along(line: tuple[Point, Point], point: Point) -> float:
    """Return the place of a point along a line: 0 beside the first end, 1 beside the second one."""
    (x0, y0), (x1, y1) = line
    return ((point[0] - x0) * (x1 - x0) + (point[1] - y0) * (y1 - y0)) / math.dist(*line) ** 2


def between(a: Point, b: Point, share: float) -> Point:
    """Return the point at a share of the way from one point to another."""
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])
