"""Pictures as cameras, phones and annotators leave them: read right, or refused in one line."""

from __future__ import annotations

import io
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqpar_deploy import read_image
from seqpar_deploy.errors import ImageError

COLOURS = np.array(
    [[[200, 30, 40], [10, 220, 30]], [[0, 0, 255], [255, 255, 255]], [[9, 9, 9], [120, 60, 30]]], np.uint8
)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    return tmp_path / "picture.png"


def test_rgb(picture: Path) -> None:
    Image.fromarray(COLOURS).save(picture)
    np.testing.assert_array_equal(read_image(picture), COLOURS)


def test_grey_becomes_three_equal_channels(picture: Path) -> None:
    Image.fromarray(COLOURS[..., 0]).save(picture)
    np.testing.assert_array_equal(read_image(picture), np.repeat(COLOURS[..., :1], 3, axis=2))


def test_transparent_pixels_lie_over_black(picture: Path) -> None:
    alpha = np.array([[255, 255], [0, 255], [255, 128]], np.uint8)
    Image.fromarray(np.dstack([COLOURS, alpha])).save(picture)
    image = read_image(picture)
    np.testing.assert_array_equal(image[0], COLOURS[0])
    np.testing.assert_array_equal(image[1, 0], [0, 0, 0])
    np.testing.assert_allclose(image[2, 1], COLOURS[2, 1] / 2, atol=1)


def test_palette_with_transparency(tmp_path: Path) -> None:
    path = tmp_path / "palette.png"
    image = Image.fromarray(COLOURS).quantize(8)
    image.save(path, transparency=image.getpixel((0, 0)))
    assert read_image(path)[0, 0].tolist() == [0, 0, 0]


def test_16_bit_grey_is_scaled_by_its_range(picture: Path) -> None:
    Image.fromarray(np.array([[0, 65535], [32896, 257]], np.uint16)).save(picture)
    np.testing.assert_array_equal(read_image(picture)[..., 0], [[0, 255], [128, 1]])


def test_dark_16_bit_grey_stays_dark(picture: Path) -> None:
    Image.fromarray(np.full((2, 2), 200, np.uint16)).save(picture)
    assert read_image(picture).max() <= 1


def test_cmyk(tmp_path: Path) -> None:
    path = tmp_path / "cmyk.jpg"
    Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK").save(path, quality=95)
    np.testing.assert_allclose(read_image(path)[8, 8], [200, 30, 40], atol=12)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "phone.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(COLOURS).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(COLOURS, -1))


def test_truncated(tmp_path: Path, rng: np.random.Generator) -> None:
    for suffix in ("png", "jpg", "bmp", "tif"):
        path = tmp_path / f"cut.{suffix}"
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ImageError, match=rf"cut\.{suffix} "):
            read_image(path)


def test_enormous_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(ImageError, match="at most 64000000 pixels"):
        read_image(path)


def test_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    with pytest.raises(ImageError, match=r"empty\.png .*empty file"):
        read_image(path)


def test_not_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    with pytest.raises(ImageError, match="Pillow cannot read"):
        read_image(path)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        read_image(tmp_path / "nobody.png")
    with pytest.raises(ImageError, match="got a folder"):
        read_image(tmp_path)


def test_damaged_exif_is_one_error(tmp_path: Path) -> None:
    """Pillow answers some of these with TypeError, struct.error or AttributeError."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "maker", 72.0
    whole, path = io.BytesIO(), tmp_path / "exif.jpg"
    Image.new("RGB", (20, 20)).save(whole, "JPEG", exif=exif)
    rng, refusals = random.Random(0), []
    for _ in range(500):
        content = bytearray(whole.getvalue())
        for _ in range(3):
            content[rng.randrange(2, 120)] = rng.randrange(256)
        path.write_bytes(content)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read_image(path)
        except ImageError as error:
            refusals.append(str(error))
    assert 0 < len(refusals) < 500
    assert all(refusal.startswith(str(path)) for refusal in refusals)
