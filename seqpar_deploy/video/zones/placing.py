"""Places the points of zones, lines and masks in frames, and warns of points that no longer fit."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from seqpar_deploy.video.zones.geometry import Point, are_shares, in_pixels

Size = tuple[int, int]  # width and height of frames

_log = logging.getLogger(__name__)


def place(title: str, points: Sequence[Point], size: Size) -> tuple[Point, ...]:
    """Return points in pixels of frames of this size. Warns if a point is outside."""
    width, height = size
    placed = in_pixels(points, width, height)
    if any(x > width or y > height for x, y in placed):
        _log.warning(
            "%s: points must be in the frame of %d x %d pixels, got one outside; draw it anew with seqpar zones",
            title, width, height,
        )  # fmt: skip
    return placed


def warn_of_pixels(title: str, points: Sequence[Point], before: Size, size: Size) -> None:
    """Warn if points are pixels of frames of another size than now."""
    if not are_shares(points):
        _log.warning(
            "%s: points are pixels of a frame of %d x %d, and frames are %d x %d now; draw it anew with seqpar zones",
            title, *before, *size,
        )  # fmt: skip
