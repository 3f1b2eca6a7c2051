"""Find and read image files of cameras, annotation tools and phones as person crops."""

from __future__ import annotations

import contextlib
import functools
import glob
import importlib
import io
import logging
import math
import os
import stat
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from seqpar_deploy.errors import ImageError
from seqpar_deploy.native_text import native_text_logged
from seqpar_deploy.preprocess import MAX_PIXELS, Crop

# Formats of Pillow that are documents, video or measurements. EPS would run Ghostscript.
_NO_PICTURES = {"BUFR", "EPS", "FLI", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF"}
# Pictures of phones that Pillow reads only with a plugin, or not at all. In folders they are reported, not left out.
_NEEDING_PLUGINS = {".heic", ".heif", ".hif", ".jxl"}
_HEIC = "HEIC, which needs pip install pillow-heif"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_OTHER_CONTENT = {  # first bytes of files that are often named as pictures
    b"%PDF": "a PDF",
    b"%!PS": "a PostScript file",
    b"<!DOCTYPE": "a web page",
    b"<html": "a web page",
    b"<svg": "an SVG drawing",
    b"\xff\x0a": "a JPEG XL file",
    b"\0\0\0\x0cJXL ": "a JPEG XL file",
    b"version https://git-lfs": "a Git LFS pointer (run git lfs pull)",
}
_FULL_SCALE = {"PNG", "PPM", "JPEG2000"}  # formats whose 16-bit values have the range 0 to 65535 by definition
_RANGES = (255, 1023, 4095, 16383, 65535, 2**24 - 1, 2**32 - 1)  # of 8 to 32 bits
_OVERSHOOT = 0.05  # share of the range that resampling may add at both ends

_log = logging.getLogger(__name__)


def read_image(path: str | Path, *, draft_size: int | None = None) -> Crop:
    """Read an image file as a person crop.

    The EXIF orientation is applied. Grey, palette, CMYK and LAB images are converted to 8-bit RGB. Transparent pixels
    are blended with black, the default padding colour of crops. Of several pages or frames, the first is read.

    Grey images of more than 8 bits are scaled to 8. PNG, PPM and JPEG 2000 have the range 0 to 65535. In other formats,
    for example TIFF, the range is the smallest of 8, 10, 12, 14, 16, 24 and 32 bits that holds the largest value, and 0
    to 1 for floats up to 1. Negative values, and floats between these ranges, are refused.

    Args:
        path: The image file, in a format that Pillow reads, for example PNG or JPEG. HEIC needs pillow-heif.
        draft_size: Decode a JPEG at 1/2, 1/4 or 1/8 of its size if its longer side then still has this number of
            pixels or more. This is faster, but the pixels are not those of the published procedure. At twice the
            model's `image_size`, 3 to 6 % of the demo model's sequences changed. Default: full size.

    Returns:
        The pixels, uint8 RGB (h, w, 3).

    Raises:
        ImageError: The file does not exist, is not an image, is damaged, has more than 64,000,000 pixels, or has values
            without a known range. Or `draft_size` is less than 1.

    Examples:
        >>> read_image("person.jpg").shape
        (256, 128, 3)
    """
    path = Path(path)
    if draft_size is not None and draft_size < 1:
        raise ImageError(f"draft_size must be 1 or more pixels, got {draft_size}; leave it out for the full size")
    try:
        _check_kind(path)
        return _decode(path, path, draft_size)
    except FileNotFoundError:
        got = "is a link to a missing file" if path.is_symlink() else "does not exist"
        raise ImageError(f"{path} {got}; check the path") from None
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}; check the file and its permissions") from None
    except ValueError as error:  # of a name that no file can have
        raise ImageError(f"{path} cannot be read: {error}; check the path") from None


def decode_image(content: bytes, name: str) -> Crop:
    """Decode the bytes of an image file as a person crop, as `read_image` does.

    Args:
        content: The bytes of the file.
        name: Name of the image in errors, for example the file's address.

    Returns:
        The pixels, uint8 RGB (h, w, 3).

    Raises:
        ImageError: As `read_image`.
    """
    return _decode(io.BytesIO(content), name, None)


def _decode(file: Path | io.BytesIO, name: Path | str, draft_size: int | None) -> Crop:
    """Decode a file or its bytes. Raises ImageError, and OSError with a number if the file cannot be read."""
    try:
        with warnings.catch_warnings():
            # Pillow warns about large images. The check below is stricter.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                return _read(name, image, draft_size)
    except Image.DecompressionBombError:
        raise ImageError(f"{name} must have at most {MAX_PIXELS} pixels, got more; crop the person first") from None
    except UnidentifiedImageError:
        if (content := _content(file)) == _HEIC and "HEIF" not in Image.OPEN and _load_heif():
            return _decode(file, name, draft_size)
        raise ImageError(f"{name} must be an image, got {content}; convert it to PNG or JPEG") from None
    except ImageError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, TypeError, struct.error and others for damage
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ImageError(f"{name} is damaged: {error}; copy or download it again") from None


def _check_kind(path: Path) -> None:
    """Raise ImageError unless the path is a file: opening a named pipe would wait without end."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(f"{path} must be an image file, got a folder; name a file in it")
    piped = stat.S_ISFIFO(mode) and path.is_relative_to("/dev")  # /dev/stdin, or /dev/fd/63 of a shell's <(command)
    if not stat.S_ISREG(mode) and not piped:
        raise ImageError(f"{path} must be an image file, got a pipe, device or socket; name a file")


def _read(path: Path | str, image: Image.Image, draft_size: int | None) -> Crop:
    if image.format in _NO_PICTURES:
        raise ImageError(f"{path} must be an image, got {image.format}; convert it to PNG or JPEG")
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"{path} must have at most {MAX_PIXELS} pixels, got {image.width} x {image.height}; crop the person first"
        )
    if draft_size is not None:
        share = min(1.0, draft_size / max(image.size))  # Pillow keeps at least these sides; only JPEG has drafts
        image.draft(None, (math.ceil(image.width * share), math.ceil(image.height * share)))
    if image.format == "TIFF" and (pages := getattr(image, "n_frames", 1)) > 1:
        _log.warning("%s has %d pages; only the first is read", path, pages)
    with native_text_logged() if image.format == "TIFF" else contextlib.nullcontext():
        image.load()  # libtiff prints a line about damage, and about tags that it does not know
    return np.array(_to_rgb(path, image))


def _to_rgb(path: Path | str, image: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(image)
    if image.mode[0] in "IF":
        grey = _to_8_bits(path, image, np.asarray(upright))
        return Image.fromarray(grey).convert("RGB")
    if "transparency" in upright.info or upright.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = upright.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, rgba).convert("RGB")
    return upright.convert("RGB")


def _to_8_bits(path: Path | str, image: Image.Image, values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Scale grey values of more than 8 bits, as `read_image` states. Raises ImageError if their range is unknown."""
    if image.mode == "I" and image.format == "TIFF" and _tag(image, 258) == 32 and _tag(image, 339) != 2:
        values = values.view(np.uint32)  # Pillow reads unsigned 32-bit values as signed ones
    numbers = values.astype(np.float64)
    low, high = float(numbers.min()), float(numbers.max())  # NaN if any value is NaN
    ranges: tuple[float, ...] = (65535,) if image.format in _FULL_SCALE else _RANGES
    if image.mode == "F":
        ranges = (1,) if high <= 1 + _OVERSHOOT else tuple(size for size in _RANGES if high > 16)
    elif _tag(image, 339) == 2:
        ranges = tuple(sorted((*_RANGES, 2**15 - 1, 2**31 - 1)))
    slack = _OVERSHOOT if image.mode == "F" else 0.0
    size = next((size for size in ranges if high <= size * (1 + slack)), None)
    if size is None or not low >= -size * slack or (image.mode == "F" and 0 < high < size / 255):
        raise ImageError(
            f"grey values of {path} must be 0 to 1, or 0 to 255, 4095 or 65535, got {low:.4g} to {high:.4g}; convert "
            "it to 8 bits"
        )
    if image.format in _FULL_SCALE and 0 < high <= 4095:
        _log.warning("%s is almost black: its 16-bit values reach %d of 65535; scale them if they have 12 bits",
                     path, high)  # fmt: skip
    grey = (numbers * (255 / size)).clip(0, 255).round()
    inverted = image.format == "TIFF" and _tag(image, 262) == 0  # 0 is white, which Pillow applies to 8 bits only
    eight_bits: npt.NDArray[np.uint8] = (255 - grey if inverted else grey).astype(np.uint8)
    return eight_bits


def _tag(image: Image.Image, number: int) -> int | None:
    """Return the first value of a TIFF tag, or None."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value


def _content(file: Path | io.BytesIO) -> str:
    """Describe a file that Pillow does not identify."""
    try:
        with file.open("rb") if isinstance(file, Path) else io.BytesIO(file.getvalue()) as opened:
            head = opened.read(64).lstrip(b"\xef\xbb\xbf \r\n\t")
    except OSError as error:
        return f"a file that cannot be read: {error.strerror}"
    if not head:
        return "an empty file"
    if head[4:8] == b"ftyp":
        return _HEIC if head[8:12] in _HEIF_BRANDS else "a video"
    return next((kind for start, kind in _OTHER_CONTENT.items() if head.startswith(start)), "a file Pillow cannot read")


def _load_heif() -> bool:
    """Register pillow-heif if it is installed. It is no dependency, because of its licence and size."""
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except (ImportError, AttributeError):
        return False
    return "HEIF" in Image.OPEN


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """Return the suffixes of files that count as pictures in folders, in lower case: all that Pillow can open."""
    Image.init()
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in Image.OPEN.keys() | {"MPO"}}
    no_pictures = {suffix for suffix, name in Image.registered_extensions().items() if name in _NO_PICTURES}
    return frozenset(known - no_pictures | _NEEDING_PLUGINS)


def _raise(error: ImageError) -> None:
    raise error


def encode_png(crop: Crop) -> bytes:
    """Return a crop, uint8 RGB (h, w, 3), as a PNG file, quickly: 2 ms for 100 x 250 pixels."""
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def find_pictures(pictures: list[str], on_problem: Callable[[ImageError], None] = _raise) -> list[Path]:
    """Return the image files that names, folders and globs match, without repeats.

    Files in folders count by their suffix, in any case. Linked folders are followed, each real folder once.

    Args:
        pictures: Names of files and folders, and globs. A file whose name looks like a glob is that file.
        on_problem: Called with each folder that cannot be read. Default: raise the error.

    Raises:
        ImageError: A folder or a glob has no images.
    """
    found: dict[Path, None] = {}
    for name in pictures:
        if not name:
            raise ImageError("a picture must be a file, folder or glob, got an empty name; omit it")
        path = Path(name)
        if os.path.isdir(path):
            inside = _in_folder(path, on_problem)
            if not inside:
                raise ImageError(f"folder {path} has no images; expected files such as .png, .jpg or .tif")
            found.update(dict.fromkeys(inside))
        elif not os.path.lexists(path) and glob.has_magic(name):
            matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]
            if not matches:
                raise ImageError(f"no image matches {name!r}; check the pattern")
            for match in matches:
                found.update(dict.fromkeys(_in_folder(match, on_problem) if os.path.isdir(match) else [match]))
        else:
            found[path] = None
    if not found:
        raise ImageError(f"no images in {', '.join(pictures)}; name image files, folders or a glob that matches some")
    return list(found)


def _in_folder(folder: Path, on_problem: Callable[[ImageError], None]) -> list[Path]:
    """Return the pictures in a folder and below, sorted. Pipes and broken links too: reading reports them."""

    def failed(error: OSError) -> None:
        on_problem(ImageError(f"folder {error.filename} cannot be read: {error.strerror}; check its permissions"))

    found: list[Path] = []
    seen: set[str] = set()
    pending = [str(folder)]  # linked folders come last, so that pictures have the name without a link if there is one
    while pending:
        for place, folders, files in os.walk(pending.pop(0), onerror=failed):
            if (real := os.path.realpath(place)) in seen:
                folders.clear()
                continue
            seen.add(real)
            pending += [link for name in sorted(folders) if os.path.islink(link := os.path.join(place, name))]
            suffixes = picture_suffixes()
            # macOS keeps a second file ._NAME beside each on foreign disks, which is no picture.
            found += [
                Path(place, name)
                for name in files
                if os.path.splitext(name)[1].lower() in suffixes and not name.startswith("._")
            ]
    return sorted(found)
