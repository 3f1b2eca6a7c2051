"""JPEG drafts: decoded at a part of their size, if the caller asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seqpar_deploy import read_image
from seqpar_deploy.errors import ImageError


def _jpeg(path: Path, size: tuple[int, int], **options: Any) -> Path:
    gradient = Image.radial_gradient("L").resize(size)
    Image.merge("RGB", (gradient, gradient.rotate(180), gradient.transpose(Image.Transpose.FLIP_LEFT_RIGHT))).save(
        path, **options
    )
    return path


@pytest.mark.parametrize(
    ("size", "draft_size", "expected"),
    [
        ((400, 1000), 500, (500, 200)),
        ((400, 1000), 501, (1000, 400)),  # half would be too small
        ((1000, 400), 120, (50, 125)),
        ((401, 1003), 100, (126, 51)),  # 1/8 is the smallest, rounded up
        ((30, 90), 256, (90, 30)),  # smaller already
        ((1, 64), 8, (64, 1)),  # no side vanishes
    ],
)
def test_a_draft_is_never_smaller_than_asked(
    size: tuple[int, int], draft_size: int, expected: tuple[int, int], tmp_path: Path
) -> None:
    path = _jpeg(tmp_path / "person.jpg", size, quality=95)
    full, draft = read_image(path), read_image(path, draft_size=draft_size)
    assert full.shape == (size[1], size[0], 3)
    assert draft.shape == (*expected, 3)
    shrunk = np.asarray(Image.fromarray(full).resize(expected[::-1], Image.Resampling.BOX))
    assert np.abs(shrunk.astype(int) - draft).mean() < 3


@pytest.mark.parametrize("orientation", [6, 8])
def test_a_draft_is_turned_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _jpeg(tmp_path / "phone.jpg", (800, 400), exif=exif)
    assert read_image(path, draft_size=200).shape == (200, 100, 3)


@pytest.mark.parametrize(("mode", "format_"), [("L", "JPEG"), ("CMYK", "JPEG"), ("RGB", "PNG"), ("RGB", "WEBP")])
def test_drafts_of_other_kinds_are_pictures_too(mode: str, format_: str, tmp_path: Path) -> None:
    path = tmp_path / "picture"
    Image.radial_gradient("L").convert(mode).save(path, format=format_)
    side = 128 if format_ == "JPEG" else 256
    assert read_image(path, draft_size=100).shape == (side, side, 3)


@pytest.mark.parametrize("draft_size", [0, -5])
def test_a_draft_has_pixels(draft_size: int, tmp_path: Path) -> None:
    picture = _jpeg(tmp_path / "person.jpg", (40, 90))
    with pytest.raises(ImageError, match=f"draft_size must be 1 or more.*got {draft_size}"):
        read_image(picture, draft_size=draft_size)
