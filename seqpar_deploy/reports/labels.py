"""Places for the labels of a chart, so that they cover neither each other nor points and lines."""

from __future__ import annotations

from collections.abc import Sequence

Rectangle = tuple[float, float, float, float]  # left, top, right, bottom, in units of the chart

_LETTER, _OTHER, _HEIGHT = 8.0, 4.2, 13.0  # a letter or digit, a comma or space, and a line; about


def label_size(content: str) -> tuple[float, float]:
    """Return width and height of a label."""
    return sum(_LETTER if letter.isalnum() else _OTHER for letter in content) + 2, _HEIGHT


def place_label(
    content: str, anchors: Sequence[tuple[float, float]], obstacles: Sequence[Rectangle], within: Rectangle
) -> Rectangle:
    """Return the place that covers least; the earliest of equals.

    Args:
        content: The label's text.
        anchors: Upper left corners to choose from, the best first.
        obstacles: Areas that must stay visible.
        within: Area for labels. A part of a label outside it counts as covered.
    """
    width, height = label_size(content)
    places = [(left, top, left + width, top + height) for left, top in anchors]
    return min(places, key=lambda place: sum(covered(place, other) for other in obstacles) + _outside(place, within))


def covered(a: Rectangle, b: Rectangle) -> float:
    """Return the common area of two rectangles."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(place: Rectangle, within: Rectangle) -> float:
    return (place[2] - place[0]) * (place[3] - place[1]) - covered(place, within)
