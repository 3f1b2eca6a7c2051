"""Read image files of cameras, annotation tools and phones as person crops."""

from __future__ import annotations

import glob
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from seqpar_deploy.errors import ImageError
from seqpar_deploy.preprocess import MAX_PIXELS, Crop

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def read_image(path: str | Path) -> Crop:
    """Read an image file as a person crop.

    The EXIF orientation is applied. Grey, palette, CMYK and 16-bit images are converted to 8-bit RGB. Transparent
    pixels are blended with black, the default padding colour of crops.

    Args:
        path: The image file, in a format that Pillow reads, for example PNG or JPEG.

    Returns:
        The pixels, uint8 RGB (h, w, 3).

    Raises:
        ImageError: The file does not exist, is not an image, is damaged, or has more than 64,000,000 pixels.

    Examples:
        >>> read_image("person.jpg").shape
        (256, 128, 3)
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            # Pillow warns about large images. The check below is stricter.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(
                        f"{path} must have at most {MAX_PIXELS} pixels, got {image.width} x {image.height}; "
                        "crop the person first"
                    )
                image.load()
                return np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise ImageError(f"{path} must be an image file, got a folder; name a file in it") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path} must have at most {MAX_PIXELS} pixels, got more; crop the person first") from None
    except UnidentifiedImageError:
        got = "an empty file" if path.stat().st_size == 0 else "a file that Pillow cannot read"
        raise ImageError(f"{path} must be an image, got {got}; convert it to one of {' '.join(SUFFIXES)}") from None
    except ImageError:
        raise
    except Exception as error:  # Pillow raises OSError, SyntaxError, TypeError, struct.error and others for damage
        raise ImageError(f"{path} is damaged: {error}; copy or download it again") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow scales every integer picture of more than 8 bits to 0..65535
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257.0).round().astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, rgba).convert("RGB")
    return image.convert("RGB")


def find_pictures(pictures: list[str]) -> list[Path]:
    """Return the image files that names, folders and globs match, without repeats. Raises ImageError if none match."""
    found: dict[Path, None] = {}
    for name in pictures:
        path = Path(name)
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not inside:
                raise ImageError(f"folder {path} has no images; expected one or more of {' '.join(SUFFIXES)}")
            found.update(dict.fromkeys(inside))
        elif not path.exists() and glob.has_magic(name):
            matches = sorted(Path(match) for match in glob.glob(name, recursive=True))
            if not matches:
                raise ImageError(f"no image matches {name!r}; check the pattern")
            found.update(dict.fromkeys(match for match in matches if match.is_file()))
        else:
            found[path] = None
    if not found:
        raise ImageError(f"no images in {', '.join(pictures)}; name image files, folders or a glob that matches some")
    return list(found)
