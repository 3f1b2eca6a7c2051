"""Zones and lines, drawn thin into a frame, with their names and numbers of people."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

from seqpar_deploy.annotate import fit

_INK, _SHADE = (255, 236, 110), (30, 30, 30)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outline:
    """A zone or line to draw.

    Attributes:
        name: Its name.
        kind: "zone" or "line".
        points: Corners of the zone, or the ends of the line, in pixels of the frame.
        inside: Number of people in the zone now.
        passages: Number of passages since the start, by what is counted: "entered" and "left", or "in" and "out".
    """

    name: str
    kind: Literal["zone", "line"]
    points: Sequence[tuple[float, float]]
    inside: int
    passages: Mapping[str, int]

    @property
    def text(self) -> str:
        """The name with the numbers."""
        if self.kind == "zone":
            return f"{self.name}: {self.inside}"
        return f"{self.name}: in {self.passages.get('in', 0)}, out {self.passages.get('out', 0)}"


Outlines = Callable[[str], Sequence[Outline]]  # the zones and lines of a stream, by its name


def no_outlines(_stream: str) -> Sequence[Outline]:
    """Return no zones and lines."""
    return ()


def draw_zones(sheet: Image.Image, outlines: Sequence[Outline]) -> None:
    """Draw zones and lines into a picture. Call it before people are drawn, who are more important.

    Args:
        sheet: The picture. It is changed.
        outlines: The zones and lines, in pixels of the picture.
    """
    draw = ImageDraw.Draw(sheet)
    size = max(10, round(sheet.height / 48))
    thin = max(1, sheet.height // 500)
    font = ImageFont.load_default(size=size)
    for outline in outlines:
        points = [*outline.points, outline.points[0]] if outline.kind == "zone" else [*outline.points]
        for colour, width in ((_SHADE, thin + 2), (_INK, thin)):
            draw.line(points, fill=colour, width=width)
        if outline.kind == "line":
            _arrow(draw, outline.points, size, thin)
        _label(draw, sheet.size, outline, font, size)


def _arrow(draw: ImageDraw.ImageDraw, ends: Sequence[tuple[float, float]], size: int, thin: int) -> None:
    """Draw an arrow at the middle of a line, in the direction "in"."""
    (x0, y0), (x1, y1) = ends
    length = math.dist(*ends)
    right = (y0 - y1) / length, (x1 - x0) / length  # of somebody who looks from the first to the second point
    ahead = (x1 - x0) / length, (y1 - y0) / length
    middle = (x0 + x1) / 2, (y0 + y1) / 2
    tip = middle[0] + 1.6 * size * right[0], middle[1] + 1.6 * size * right[1]
    wings = [
        (tip[0] - 0.6 * size * (right[0] + way * ahead[0]), tip[1] - 0.6 * size * (right[1] + way * ahead[1]))
        for way in (-1, 1)
    ]
    for colour, width in ((_SHADE, thin + 2), (_INK, thin)):
        draw.line([middle, tip], fill=colour, width=width)
        draw.line([wings[0], tip, wings[1]], fill=colour, width=width)


def _label(
    draw: ImageDraw.ImageDraw,
    sheet: tuple[int, int],
    outline: Outline,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: int,
) -> None:
    """Write the text beside the first point, inside the picture."""
    text = fit(draw, outline.text, font, 20 * size)
    width, height = draw.textlength(text, font=font) + 6, round(1.3 * size)
    x = min(max(0.0, outline.points[0][0] + 4), sheet[0] - width)
    y = min(max(0.0, outline.points[0][1] - height - 3), sheet[1] - height)
    draw.rectangle((x, y, x + width, y + height), fill=_SHADE)
    draw.text((x + 3, y + height / 2), text, font=font, fill=_INK, anchor="lm")
