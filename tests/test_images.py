"""Pictures as cameras, phones and annotators leave them: read right, or refused in one line."""

from __future__ import annotations

import io
import os
import random
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqpar_deploy import read_image
from seqpar_deploy.errors import ImageError
from seqpar_deploy.images import find_pictures, picture_suffixes

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


def tiff(path: Path, values: np.ndarray, *, photometric: int = 1) -> Path:
    """Write a grey TIFF of any sample type, which Pillow cannot write."""
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    height, width = values.shape
    content = values.astype(values.dtype.newbyteorder("<")).tobytes()
    tags = {256: width, 257: height, 258: 8 * values.dtype.itemsize, 259: 1, 262: photometric, 273: 8, 277: 1}
    tags |= {278: height, 279: len(content), 339: sample_format}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + len(content)) + content + directory)
    return path


RAMP = np.linspace(0, 1, 12).reshape(3, 4)


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (RAMP.astype(np.float32), 1),
        ((RAMP * 255).astype(np.float32), 255),
        ((RAMP * 65535).astype(np.float32), 65535),
        ((RAMP * 1.04 - 0.02).astype(np.float32), 1),  # resampling overshoots
        ((RAMP * 4095).astype(np.uint16), 4095),  # 12 bits in 16
        ((RAMP * 1023).astype(np.uint16), 1023),
        ((RAMP * 65535).astype(np.uint16), 65535),
        ((RAMP * 255).astype(np.uint16), 255),
        ((RAMP * 32767).astype(np.int16), 32767),
        ((RAMP * (2**32 - 1)).astype(np.uint32), 2**32 - 1),
        ((RAMP * 65535).astype(np.int32), 65535),
        ((RAMP * 255).astype(np.uint8), 255),
    ],
    ids=lambda value: value.dtype.name if isinstance(value, np.ndarray) else str(value),
)
def test_tiffs_of_every_depth_are_scaled(tmp_path: Path, values: np.ndarray, white: int) -> None:
    image = read_image(tiff(tmp_path / "deep.tif", values))
    wanted = np.clip(values.astype(np.float64) / white, 0, 1) * 255
    np.testing.assert_allclose(image[..., 1], wanted, atol=1)


def test_white_is_zero(tmp_path: Path) -> None:
    values = (RAMP * 65535).astype(np.uint16)
    image = read_image(tiff(tmp_path / "negative.tif", values, photometric=0))
    np.testing.assert_allclose(image[..., 0], 255 * (1 - RAMP), atol=1)


@pytest.mark.parametrize(
    "values",
    [
        2 * RAMP - 1,
        RAMP * 3,
        RAMP * 1e-4,
        RAMP * 1e12,
        np.where(RAMP > 0.5, np.nan, RAMP),
        np.where(RAMP > 0.5, np.inf, RAMP),
        (RAMP * 2000 - 1000).astype(np.int16),
    ],
    ids=["negative", "3", "tiny", "huge", "nan", "inf", "signed"],
)
def test_values_of_no_known_range_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    deep = values if values.dtype == np.int16 else values.astype(np.float32)
    with pytest.raises(ImageError, match=r"deep\.tif must be 0 to 1, .*convert"):
        read_image(tiff(tmp_path / "deep.tif", deep))


def test_a_sample_type_that_pillow_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"deep\.tif "):
        read_image(tiff(tmp_path / "deep.tif", RAMP))  # 64-bit floats


def test_a_dark_16_bit_png_is_named(picture: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray((RAMP * 4095).astype(np.uint16)).save(picture)
    assert read_image(picture).max() == 16
    assert "picture.png" in caplog.text
    assert "4095" in caplog.text


def test_other_modes(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False], [False, True]])).save(tmp_path / "bits.png")
    assert read_image(tmp_path / "bits.png")[..., 2].tolist() == [[255, 0], [0, 255]]
    red = Image.new("RGB", (8, 8), (200, 30, 40))
    red.convert("YCbCr").save(tmp_path / "ycbcr.tif")
    red.convert("LAB").save(tmp_path / "lab.tif")
    red.convert("CMYK").save(tmp_path / "cmyk.tif")
    for name in ("ycbcr", "lab", "cmyk"):
        np.testing.assert_allclose(read_image(tmp_path / f"{name}.tif")[4, 4], [200, 30, 40], atol=3)


def test_only_the_first_page_is_read_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pages = [Image.new("L", (4, 4), 10 * number) for number in range(1, 4)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    assert read_image(tmp_path / "scan.tif").max() == 10
    assert "scan.tif has 3 pages" in caplog.text


# Without .im, which Pillow 13 deprecates with a warning.
WRITTEN = {
    suffix: kind for suffix, kind in Image.registered_extensions().items() if kind in Image.SAVE and kind != "IM"
}


@pytest.mark.parametrize("suffix", sorted(picture_suffixes() & set(WRITTEN)))
def test_a_folder_has_every_kind_that_is_read_when_named(tmp_path: Path, suffix: str) -> None:
    """Pictures of each format that Pillow also writes, with the suffix in capitals."""
    path = tmp_path / f"photo{suffix.upper()}"
    mode = {".xbm": "1", ".msp": "1", ".pbm": "1", ".blp": "P", ".pfm": "F", ".pgm": "L", ".bw": "L"}.get(suffix, "RGB")
    with path.open("wb") as file:
        Image.new(mode, (16, 16), 1).save(file, format=WRITTEN[suffix])
    assert find_pictures([str(tmp_path)]) == [path]
    assert read_image(path).dtype == np.uint8


def test_documents_video_and_other_files_are_no_pictures(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.eps", "c.mpg", "d.h5", "e.txt", "f.wmf", "._photo.jpg", "photo", "photo.jpg.part"):
        (tmp_path / name).touch()
    with pytest.raises(ImageError, match="no images"):
        find_pictures([str(tmp_path)])


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "pillow-heif"),
        (b"\xff\x0a" + bytes(20), "JPEG XL"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\0\0\0\x18ftypisom", "a video"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "EPS"),
    ],
)
def test_what_is_named_as_a_picture_is_told(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(ImageError, match=r"photo\.jpg must be an image") as caught:
        read_image(tmp_path / "photo.jpg")
    assert named in str(caught.value)


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    for name in ("all/a.png", "all/sub/b.png", "elsewhere/c.png", "elsewhere/deep/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(COLOURS).save(tmp_path / name)
    (folder / "away").symlink_to(tmp_path / "elsewhere")
    (folder / "again").symlink_to(tmp_path / "elsewhere" / "deep")  # reached through `away`, or by itself: once
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "here").symlink_to(".")
    found = find_pictures([str(folder)])
    assert sorted(path.name for path in found) == ["a.png", "b.png", "c.png", "d.png"]
    assert len({path.resolve() for path in found}) == 4


def test_a_link_to_a_folder_above_ends(tmp_path: Path) -> None:
    (tmp_path / "top" / "below").mkdir(parents=True)
    (tmp_path / "top" / "below" / "up").symlink_to(tmp_path)
    Image.fromarray(COLOURS).save(tmp_path / "side.png")
    Image.fromarray(COLOURS).save(tmp_path / "top" / "below" / "own.png")
    assert [path.name for path in find_pictures([str(tmp_path / "top" / "below")])] == ["own.png", "side.png"]


def test_a_subfolder_that_cannot_be_read_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    scan = os.scandir

    def refuse(path: str) -> object:  # as root, permissions refuse nothing
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr("os.scandir", refuse)
    problems: list[ImageError] = []
    assert [path.name for path in find_pictures([str(tmp_path)], problems.append)] == ["a.png"]
    assert len(problems) == 1
    assert str(tmp_path / "closed") in str(problems[0])
    with pytest.raises(ImageError, match="closed"):
        find_pictures([str(tmp_path)])


def test_pipes_devices_and_broken_links_are_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    messages = {"pipe.png": "pipe", "zero.png": "device", "gone.png": "missing", "loop.png": "cannot be read"}
    found = find_pictures([str(tmp_path)])
    assert {path.name for path in found} == set(messages)
    for path in found:
        with pytest.raises(ImageError, match=messages[path.name]) as caught:
            read_image(path)
        assert path.name in str(caught.value)


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    for name in ("photo[1].png", "photo1.png", "[red]x[red].png", "what?.png"):
        Image.fromarray(COLOURS).save(tmp_path / name)
    assert find_pictures([str(tmp_path / "photo[1].png")]) == [tmp_path / "photo[1].png"]
    assert find_pictures([str(tmp_path / "what?.png")]) == [tmp_path / "what?.png"]
    assert find_pictures([str(tmp_path / "photo[0-9].png")]) == [tmp_path / "photo1.png"]
    assert len(find_pictures([str(tmp_path / "*.png")])) == 4


def test_a_pattern_also_matches_folders(tmp_path: Path) -> None:
    (tmp_path / "day1").mkdir()
    Image.fromarray(COLOURS).save(tmp_path / "day1" / "a.png")
    Image.fromarray(COLOURS).save(tmp_path / "b.png")
    assert [path.name for path in find_pictures([str(tmp_path / "*")])] == ["b.png", "a.png"]


def test_names_that_no_file_can_have_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="empty name"):
        find_pictures([""])  # not the current folder
    for name in ("a" * 300 + ".png", "zero\0byte.png"):
        (path,) = find_pictures([str(tmp_path / name)])
        with pytest.raises(ImageError):
            read_image(path)


@pytest.mark.parametrize("name", ["person.eps", "person.png", "person.jpg"])
def test_eps_starts_no_program(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", None)  # of Ghostscript
    Image.new("RGB", (4, 6)).save(tmp_path / name, "EPS")
    with pytest.raises(ImageError, match="got EPS"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("compression", ["tiff_deflate", "tiff_lzw", "jpeg"])
def test_libtiff_prints_nothing(tmp_path: Path, compression: str, capfd: pytest.CaptureFixture[str]) -> None:
    Image.effect_noise((60, 60), 50).save(tmp_path / "a.tif", compression=compression)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[20:60] = 40 * b"\xff"
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(ImageError, match=r"a\.tif"):
        read_image(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""
