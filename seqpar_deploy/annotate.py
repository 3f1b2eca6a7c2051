"""Pictures with their attributes drawn beside the person."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from seqpar_deploy.files import write_whole
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.preprocess import Crop

UNCERTAIN_BELOW = 0.6  # score; a video's attributes become "yes" at the same probability by default
_HEIGHT = 480  # of the person, pixels
_MARGIN = 14
_LINE = 24
_PANEL = 330
_SCORE, _BAR = 44, 66  # width of a score and of its bar
BACKGROUND, INK = (250, 250, 248), (32, 34, 38)
_PALE, _TRACK, _FULL = (112, 118, 126), (222, 224, 226), (58, 122, 184)


def annotate(crop: Crop, prediction: Prediction) -> Image.Image:
    """Draw the person at a readable size and, beside it, each attribute with its score as a number and a bar.

    Attributes with a score below 0.6 are listed separately, in grey and with hollow bars: they are guesses.

    Args:
        crop: The person, uint8 RGB (h, w, 3).
        prediction: The attributes to list.

    Returns:
        The picture. It is 372 pixels wider than the person's image, which is at most 480 pixels high and wide.
    """
    person = Image.fromarray(crop)
    scale = min(_HEIGHT / person.height, _HEIGHT / person.width)
    size = (max(1, round(person.width * scale)), max(1, round(person.height * scale)))
    person = person.resize(size, Image.Resampling.BICUBIC)
    sure, uncertain = split_by_score(prediction)
    lines = 1 + max(1, len(sure)) + (1.5 + len(uncertain) if uncertain else 0)
    height = max(person.height, round(_LINE * lines)) + 2 * _MARGIN
    sheet = Image.new("RGB", (person.width + _PANEL + 3 * _MARGIN, height), BACKGROUND)
    sheet.paste(person, (_MARGIN, _MARGIN))
    panel = _Panel(sheet, person.width + 2 * _MARGIN)
    panel.heading("attributes" if sure else "no attributes" if not uncertain else "no certain attributes")
    panel.rows(sure, INK, hollow=False)
    if uncertain:
        panel.top += _LINE // 2 if sure else 0
        panel.heading(f"uncertain, score below {UNCERTAIN_BELOW:g}")
        panel.rows(uncertain, _PALE, hollow=True)
    return sheet


def split_by_score(prediction: Prediction) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """Return the attributes with a score of at least 0.6, and those below, as pairs of name and score."""
    pairs = list(zip(prediction.attributes, prediction.scores, strict=True))
    sure = [pair for pair in pairs if pair[1] >= UNCERTAIN_BELOW]
    return sure, [pair for pair in pairs if not pair[1] >= UNCERTAIN_BELOW]


class _Panel:
    """The list beside the person; `top` is the upper edge of the next line."""

    def __init__(self, sheet: Image.Image, left: int) -> None:
        self._draw = ImageDraw.Draw(sheet)
        self._font, self._small = ImageFont.load_default(size=15), ImageFont.load_default(size=13)
        self._left, self._right, self.top = left, sheet.width - _MARGIN, _MARGIN

    def heading(self, words: str) -> None:
        self._draw.text((self._left, self.top), words, font=self._small, fill=_PALE)
        self.top += _LINE

    def rows(self, pairs: Sequence[tuple[str, float]], ink: tuple[int, int, int], *, hollow: bool) -> None:
        end = self._right - _SCORE
        start = end - _BAR
        for name, score in pairs:
            words = fit(self._draw, name, self._font, start - self._left - 10)
            self._draw.text((self._left, self.top), words, font=self._font, fill=ink)
            reached = start + round(_BAR * max(0.0, min(score, 1.0)))
            edges = (start, self.top + 4, reached, self.top + 14)
            if hollow:
                self._draw.rectangle((start, self.top + 9, end, self.top + 9), fill=_TRACK)
                self._draw.rectangle(edges, fill=BACKGROUND, outline=_PALE)
            else:
                self._draw.rectangle((start, self.top + 4, end, self.top + 14), fill=_TRACK)
                self._draw.rectangle(edges, fill=_FULL)
            self._draw.text((self._right, self.top), f"{score:.2f}", font=self._font, fill=ink, anchor="ra")
            self.top += _LINE


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG, whole or not at all. Raises SeqparError."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    write_whole(path, buffer.getvalue())


def fit(draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """Return the text, shortened with an ellipsis if it is wider than `width` pixels."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"
