"""Frames with people's boxes, track IDs and attributes drawn in."""

from __future__ import annotations

import functools
from collections.abc import Mapping, MutableMapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from seqpar_deploy.annotate import BACKGROUND, INK, fit
from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video.sinks.draw_zones import Outline, draw_zones
from seqpar_deploy.video.sinks.placing import Edges, Place, place_labels
from seqpar_deploy.video.types import Person, TrackedBox

_MOST_LINES, _SHORT_LINES = 7, 3
_COLOURS = ((0, 114, 178), (190, 76, 0), (0, 128, 94), (156, 62, 122), (112, 92, 0), (90, 79, 207))
_PAPER = (*BACKGROUND, 205)  # the scene shows through


def draw_people(
    image: RgbImage,
    boxes: Sequence[TrackedBox],
    people: Mapping[int, Person],
    places: MutableMapping[int, Place] | None = None,
    outlines: Sequence[Outline] = (),
) -> Image.Image:
    """Draw each box and, beside it, a panel with the track ID and the attributes that the person has.

    A panel covers neither a person nor another panel: it moves, then shortens to its most certain attributes, then to
    the track ID. A line connects a panel to its box if there is a gap between them.

    Args:
        image: The frame, uint8 RGB (h, w, 3). It is not changed.
        boxes: The people in the frame.
        people: Attributes by track ID. People without any get their track ID only.
        places: Places of the panels in the previous frame, which panels keep if they can. It is updated. Default: none.
        outlines: Zones and lines to draw below the people. Default: none.

    Returns:
        The frame with everything drawn in.
    """
    sheet = Image.fromarray(image)
    draw_zones(sheet, outlines)
    draw = ImageDraw.Draw(sheet)
    size = max(10, round(image.shape[0] / 46))
    found = {tracked.track_id: _edges(tracked) for tracked in boxes}
    for track_id, edges in found.items():
        draw.rectangle(edges, outline=_colour(track_id), width=max(2, size // 6))
    panels = {track_id: _panels(track_id, people.get(track_id), size) for track_id in found}
    sizes = {track_id: [panel.size for panel in versions] for track_id, versions in panels.items()}
    placed = place_labels(sheet.size, found, sizes, places)
    for track_id, place in placed.items():
        _connect(draw, found[track_id], place, _colour(track_id))
    for track_id, place in placed.items():
        panel = panels[track_id][place.version]
        sheet.paste(panel, place.edges[:2], panel)
    if places is not None:
        places.clear()
        places.update(placed)
    return sheet


def _colour(track_id: int) -> tuple[int, int, int]:
    return _COLOURS[track_id % len(_COLOURS)]


def _edges(tracked: TrackedBox) -> Edges:
    left, top = round(tracked.box.left), round(tracked.box.top)
    return left, top, max(left, round(tracked.box.right)), max(top, round(tracked.box.bottom))


def _connect(draw: ImageDraw.ImageDraw, box: Edges, place: Place, colour: tuple[int, int, int]) -> None:
    """Draw a line from the box to its panel, between their nearest points, if they do not touch."""
    (start, end), (upper, lower) = (_nearest(box[i::2], place.edges[i::2]) for i in (0, 1))
    if max(abs(start - end), abs(upper - lower)) > 2:
        draw.line((start, upper, end, lower), fill=colour, width=2)


def _nearest(a: Sequence[int], b: Sequence[int]) -> tuple[int, int]:
    """A point of each of two ranges, as near to each other as possible."""
    low, high = max(a[0], b[0]), min(a[1], b[1])
    if low <= high:
        return (low + high) // 2, (low + high) // 2
    return (a[1], b[0]) if a[1] < b[0] else (a[0], b[1])


def _panels(track_id: int, person: Person | None, size: int) -> list[Image.Image]:
    """The panel with all attributes, with the most certain ones, and with none; no two of the same length."""
    found = [(name, one.probability) for name, one in person.attributes.items() if one.state == "yes"] if person else []
    counts = {len(found) if len(found) <= _MOST_LINES else _MOST_LINES - 1: None}
    if len(found) > _SHORT_LINES:
        counts[_SHORT_LINES - 1] = None
    counts[0] = None
    surest = sorted(found, key=lambda pair: -pair[1])
    colour, panels = _colour(track_id), []
    for count in counts:
        words = [name for name, probability in found if (name, probability) in surest[:count]]
        more = (f"+{len(found) - count} more",) if 0 < count < len(found) else ()
        panels.append(_panel(track_id, (*words, *more), colour, size))
    return panels


@functools.lru_cache(maxsize=256)
def _panel(track_id: int, words: tuple[str, ...], colour: tuple[int, int, int], size: int) -> Image.Image:
    """The track ID on the track's colour, and the words below it on paper; RGBA."""
    font = _font(size)
    probe = ImageDraw.Draw(Image.new("L", (1, 1)))
    number, line, margin = f"#{track_id}", round(size * 1.25), max(2, size // 4)
    words = tuple(fit(probe, word, font, 15 * size) for word in words)
    width = max(round(probe.textlength(text, font=font)) for text in (number, *words)) + 2 * margin
    sheet = Image.new("RGBA", (width, line * (1 + len(words)) + (margin if words else 0)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((0, 0, width, line - 1), fill=(*colour, 255))
    draw.text((margin, line / 2), number, font=font, fill=(255, 255, 255, 255), anchor="lm")
    for row, word in enumerate(words, 1):
        draw.text((margin, row * line + line / 2), word, font=font, fill=(*INK, 255), anchor="lm")
    return sheet


@functools.lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
