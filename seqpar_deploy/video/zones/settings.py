"""Zones, lines and masks of a camera, as a configuration file has them. `config.typed` decodes these classes.

    [cameras.gate.lines.door]
    points = [[0.31, 0.52], [0.48, 0.55]]

Points are [x, y] from the upper left corner: shares of the frame if all of a shape are 0 to 1, else pixels.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Annotated

import msgspec

from seqpar_deploy.config import PositiveNumber
from seqpar_deploy.video.zones.geometry import Point, area

MOST_SHAPES = 64  # zones and lines of a camera: metrics have a series per zone and attribute
LONGEST_NAME = 40  # characters
MOST_POINTS = 64
HOUR = 3600.0
MARGIN, HOLD = 0.1, 0.3  # see passages.py

_Interval = Annotated[float, msgspec.Meta(ge=1, le=7 * 86400)]
_Margin = Annotated[float, msgspec.Meta(ge=0, le=1)]
_Hold = Annotated[float, msgspec.Meta(ge=0, le=10)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZoneSettings:
    """A polygon. People whose feet are in it are in the zone.

    Attributes:
        points: The corners, [x, y] each, at least three. The last one is joined to the first.
        dwell: Seconds after which a person who is still inside causes a `stayed` event. Default: none.
        interval: Seconds over which people are counted, 1 to 604,800. Default: 3600.
        margin: Distance outside the zone, as a share of the height of the person's box, 0 to 1, from which the person
            has left. Default: 0.1.
        hold: Seconds, 0 to 10, for which somebody must be inside to have entered, and outside to have left. Default:
            0.3.

    Example:
        ZoneSettings(points=((0.1, 0.4), (0.5, 0.4), (0.5, 0.9), (0.1, 0.9)), dwell=30)
    """

    points: tuple[Point, ...]
    dwell: PositiveNumber | None = None
    interval: _Interval = HOUR
    margin: _Margin = MARGIN
    hold: _Hold = HOLD

    def __post_init__(self) -> None:
        _check_polygon(self.points)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LineSettings:
    """A line between two points. People whose feet cross it are counted, by direction.

    "in" is from the left to the right of somebody who looks from the first to the second point. In a frame, people
    walk in over a line drawn from left to right if they come down.

    Attributes:
        points: The first and the second end, [x, y] each.
        interval: Seconds over which people are counted, 1 to 604,800. Default: 3600.
        margin: Distance beyond the line, as a share of the height of the person's box, 0 to 1, from which the person
            has crossed it. Default: 0.1.
        hold: Seconds, 0 to 10, for which the person must be there, or else the track must end there. Default: 0.3.

    Example:
        LineSettings(points=((0.2, 0.6), (0.8, 0.6)))
    """

    points: tuple[Point, ...]
    interval: _Interval = HOUR
    margin: _Margin = MARGIN
    hold: _Hold = HOLD

    def __post_init__(self) -> None:
        _check_points(self.points)
        if len(self.points) != 2 or self.points[0] == self.points[1]:
            raise ValueError(
                f"points of a line must be two different points, got {_shown(self.points)}; a line with a bend is two "
                "lines"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskSettings:
    """A polygon in which detections are ignored if their feet are in it, for example a screen or a poster.

    Attributes:
        points: The corners, [x, y] each, at least three. The last one is joined to the first.

    Example:
        MaskSettings(points=((0.0, 0.0), (0.3, 0.0), (0.3, 0.2), (0.0, 0.2)))
    """

    points: tuple[Point, ...]

    def __post_init__(self) -> None:
        _check_polygon(self.points)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneSettings:
    """Zones, lines and masks of a camera, by name.

    Attributes:
        zones: The zones. Default: none.
        lines: The lines. No name may be that of a zone. Default: none.
        masks: The masks. Default: none.

    Example:
        SceneSettings(lines={"door": LineSettings(points=((0.2, 0.6), (0.8, 0.6)))})
    """

    zones: dict[str, ZoneSettings] = dataclasses.field(default_factory=dict)
    lines: dict[str, LineSettings] = dataclasses.field(default_factory=dict)
    masks: dict[str, MaskSettings] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for kind, shapes in (("zone", self.zones), ("line", self.lines), ("mask", self.masks)):
            for name in shapes:
                check_name(name, kind)
            if len(shapes) > MOST_SHAPES:
                raise ValueError(f"there must be at most {MOST_SHAPES} {kind}s per camera, got {len(shapes)}")
        if both := sorted({*self.zones} & {*self.lines}):
            raise ValueError(f"names of zones and lines must differ, got two {both[0]!r}; rename one")

    def __bool__(self) -> bool:
        return bool(self.zones or self.lines or self.masks)


def check_name(name: str, kind: str) -> None:
    """Raise ValueError if a zone, line or mask cannot have this name."""
    if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
        raise ValueError(
            f"the name of a {kind} must be 1 to {LONGEST_NAME} printable characters, got {name[:LONGEST_NAME]!r}"
        )


def _check_points(points: tuple[Point, ...]) -> None:
    largest = max((value for point in points for value in point), default=0.0)
    if 1 < largest < 2:
        raise ValueError(
            f"points must be shares of the frame, 0 to 1, or pixels, got {_shown(points)}, whose largest number is "
            f"{largest:g}"
        )
    for x, y in points:
        if not (0 <= x <= 1e5 and 0 <= y <= 1e5):
            raise ValueError(
                f"points must be shares of the frame, 0 to 1, or pixels from its upper left corner, got [{x:g}, {y:g}]"
            )


def _check_polygon(points: tuple[Point, ...]) -> None:
    _check_points(points)
    if not 3 <= len(points) <= MOST_POINTS or not _encloses(points):
        raise ValueError(f"points must be 3 to {MOST_POINTS} corners around an area, got {_shown(points)}")


def _encloses(points: tuple[Point, ...]) -> bool:
    """Whether not all points are on one line. A polygon that crosses itself may have no area by the formula."""
    return any(area((points[0], *pair)) for pair in itertools.pairwise(points))


def _shown(points: Iterable[Point]) -> str:
    listed = ", ".join(f"[{x:g}, {y:g}]" for x, y in points)
    return f"[{listed}]" if len(listed) < 100 else f"[{listed[:97]}...]"
