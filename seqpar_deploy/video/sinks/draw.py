"""Frames with people's boxes, numbers and attributes drawn in."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

from seqpar_deploy.annotate import BACKGROUND, INK, fit
from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video.types import Person, TrackedBox

_MOST_LINES = 7
_COLOURS = ((0, 114, 178), (190, 76, 0), (0, 128, 94), (156, 62, 122), (112, 92, 0), (90, 79, 207))
Edges = tuple[int, int, int, int]  # left, top, right, bottom
_PAPER = (*BACKGROUND, 205)  # the scene shows through


def draw_people(image: RgbImage, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> Image.Image:
    """Draw each box with its track ID beside it, and below that the attributes the person has."""
    sheet = Image.fromarray(image)
    draw = ImageDraw.Draw(sheet)
    size = max(10, round(image.shape[0] / 46))
    found = {tracked.track_id: _edges(tracked) for tracked in boxes}
    for track_id, edges in found.items():
        draw.rectangle(edges, outline=_colour(track_id), width=max(2, size // 6))
    taken: list[Edges] = []
    for track_id, edges in sorted(found.items(), key=lambda pair: -pair[1][3]):  # the nearest choose first
        person = people.get(track_id)
        panel = _panel(track_id, _words(person) if person else (), _colour(track_id), size)
        place = _place(panel, edges, sheet, [*taken, *(other for key, other in found.items() if key != track_id)])
        sheet.paste(panel, place[:2], panel)
        taken.append(place)
    return sheet


def _colour(track_id: int) -> tuple[int, int, int]:
    return _COLOURS[track_id % len(_COLOURS)]


def _edges(tracked: TrackedBox) -> Edges:
    left, top = round(tracked.box.left), round(tracked.box.top)
    return left, top, max(left, round(tracked.box.right)), max(top, round(tracked.box.bottom))


def _place(panel: Image.Image, edges: Edges, sheet: Image.Image, others: Sequence[Edges]) -> Edges:
    """Right of the box, left of it, below or above, even with one of its ends: where it hides least, in this order."""
    left, top, right, bottom = edges
    after, before, under, over = right + 1, left - panel.width, bottom + 1, top - panel.height
    ended, risen = right - panel.width, bottom - panel.height
    corners = [(after, top), (before, top), (left, under), (left, over)]
    corners += [(after, risen), (before, risen), (ended, under), (ended, over)]
    least, best = float("inf"), (0, 0, 0, 0)
    for rank, (x, y) in enumerate(corners):
        x, y = _within(x, sheet.width - panel.width), _within(y, sheet.height - panel.height)
        place = (x, y, x + panel.width, y + panel.height)
        cost = sum(_overlap(place, other) for other in (edges, *others)) + 0.05 * rank * panel.width * panel.height
        if cost < least:
            least, best = cost, place
    return best


def _within(value: int, most: int) -> int:
    return max(0, min(value, most))


def _overlap(a: Edges, b: Edges) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _words(person: Person) -> tuple[str, ...]:
    """The attributes the person has, the surest first where there are many."""
    found = [(name, attribute.probability) for name, attribute in person.attributes.items() if attribute.state == "yes"]
    if len(found) > _MOST_LINES:
        found = sorted(found, key=lambda pair: -pair[1])[: _MOST_LINES - 1]
        return (*(name for name, _ in found), "\N{HORIZONTAL ELLIPSIS}")
    return tuple(name for name, _ in found)


@functools.lru_cache(maxsize=64)
def _panel(track_id: int, words: tuple[str, ...], colour: tuple[int, int, int], size: int) -> Image.Image:
    """The number on the track's colour, and the words below it on paper; RGBA."""
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
