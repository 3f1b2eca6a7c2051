"""Reading picture files as person crops, whatever a camera, an annotator or a phone made of them."""

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
    """A picture file as uint8 RGB (h, w, 3).

    Turned upright by its EXIF orientation; grey, palette, CMYK and 16-bit pictures become 8-bit RGB; transparent pixels
    are laid over black, the colour crops are padded with. Raises ImageError.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            # Pillow warns about large pictures before it refuses them; the check below is stricter.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ImageError(
                        f"{path} has {image.width} x {image.height} pixels, at most {MAX_PIXELS} are read; "
                        "cut the person out first"
                    )
                image.load()
                return np.array(_to_rgb(ImageOps.exif_transpose(image)))
    except FileNotFoundError:
        raise ImageError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise ImageError(f"{path} is a folder, wanted a picture file") from None
    except Image.DecompressionBombError:
        raise ImageError(
            f"{path} has too many pixels, at most {MAX_PIXELS} are read; cut the person out first"
        ) from None
    except UnidentifiedImageError:
        what = "is empty" if path.stat().st_size == 0 else "is not a picture Pillow can read"
        raise ImageError(f"{path} {what}; wanted one of {' '.join(SUFFIXES)}") from None
    except ImageError:
        raise
    except Exception as error:  # Pillow meets damage with OSError, SyntaxError, TypeError, struct.error and others
        raise ImageError(f"{path} is damaged: {error}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow scales every integer picture of more than 8 bits to 0..65535
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257.0).round().astype(np.uint8))
    if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        rgba = image.convert("RGBA")
        black = Image.new("RGBA", rgba.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, rgba).convert("RGB")
    return image.convert("RGB")


def find_pictures(pictures: list[str]) -> list[Path]:
    """The picture files that names, folders and globs stand for, no repeats. Raises ImageError if there are none."""
    found: dict[Path, None] = {}
    for name in pictures:
        path = Path(name)
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            if not inside:
                raise ImageError(f"folder {path} holds no pictures ({' '.join(SUFFIXES)})")
            found.update(dict.fromkeys(inside))
        elif not path.exists() and glob.has_magic(name):
            matches = sorted(Path(match) for match in glob.glob(name, recursive=True))
            if not matches:
                raise ImageError(f"no picture matches {name!r}")
            found.update(dict.fromkeys(match for match in matches if match.is_file()))
        else:
            found[path] = None
    if not found:
        raise ImageError(f"no pictures in {', '.join(pictures)}; name files, folders or a glob that matches some")
    return list(found)
