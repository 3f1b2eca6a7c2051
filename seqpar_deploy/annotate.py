"""Pictures with their attributes drawn beside the person."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from seqpar_deploy.files import write_whole
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.recognizer import Prediction

_HEIGHT = 480  # of the person, pixels
_MARGIN = 14
_LINE = 24
_PANEL = 330
BACKGROUND, INK, _FAINT, _BAR = (250, 250, 248), (32, 34, 38), (222, 224, 226), (58, 122, 184)


def annotate(crop: Crop, prediction: Prediction) -> Image.Image:
    """The person at a readable size, and beside it each attribute with its score as number and bar."""
    person = Image.fromarray(crop)
    scale = min(_HEIGHT / person.height, _HEIGHT / person.width)
    size = (max(1, round(person.width * scale)), max(1, round(person.height * scale)))
    person = person.resize(size, Image.Resampling.BICUBIC)
    height = max(person.height, _LINE * len(prediction.attributes)) + 2 * _MARGIN
    sheet = Image.new("RGB", (person.width + _PANEL + 3 * _MARGIN, height), BACKGROUND)
    sheet.paste(person, (_MARGIN, _MARGIN))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    left, right = person.width + 2 * _MARGIN, sheet.width - _MARGIN
    if not prediction.attributes:
        draw.text((left, _MARGIN), "no attributes", font=font, fill=INK)
    for line, (name, score) in enumerate(zip(prediction.attributes, prediction.scores, strict=True)):
        top = _MARGIN + line * _LINE
        bar_left = right - 110
        draw.text((left, top), fit(draw, name, font, bar_left - left - 10), font=font, fill=INK)
        draw.rectangle((bar_left, top + 4, right - 44, top + 14), fill=_FAINT)
        draw.rectangle((bar_left, top + 4, bar_left + round((right - 44 - bar_left) * score), top + 14), fill=_BAR)
        draw.text((right, top), f"{score:.2f}", font=font, fill=INK, anchor="ra")
    return sheet


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all. Raises SeqparError."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())


def fit(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """As much of a text as `width` pixels take, its end told by an ellipsis."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"
