"""Prepare person crops (uint8 RGB, any size) as model input (uint8 RGB, square), for training, export and edge.

Scaling to [0, 1] and normalisation are part of the encoder graph, so the host handles bytes only. The steps follow the
published evaluation transform: centred black padding to a square, then torchvision's `Resize` on a PIL image, which is
Pillow's antialiased bilinear filter.

A person is narrower than a square, so that about half of the square is padding. A model that was made for it reads
trimmed crops: `Trimming` leaves away the patch columns on both sides that hold padding alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from seqpar_deploy.config import PositiveNumber
from seqpar_deploy.errors import ImageError
from seqpar_deploy.machine import usable_cores

Crop = npt.NDArray[np.uint8]  # one person, RGB (h, w, 3), any size
RgbImage = npt.NDArray[np.uint8]  # a frame or any other image, RGB (h, w, 3)
CropBatch = npt.NDArray[np.uint8]  # prepared crops, RGB (B, H, W, 3)
_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Pixels of the squares per thread, which take about 8 ms. With less work, as for 128 crops of 160 pixels, two threads
# took longer than one: they wait for each other's turn at the interpreter.
PIXELS_PER_THREAD = 2_000_000
_FILTER_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}  # input pixels on each side, at scale 1
MAX_PIXELS = 64_000_000  # a person crop has thousands of pixels: a larger image is a mistake or an attack


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Describe how crops are padded, resized and normalised.

    Attributes:
        pad: Pad crops to a square, or not at all. Default: `square`.
        fill: The padding colour, uint8 RGB. Default: black.
        interpolation: The filter of the resize. Default: `bilinear`.
        mean: Mean per RGB channel, on the scale 0 to 1. Default: 0.5.
        std: Standard deviation per RGB channel, on the scale 0 to 1. Default: 0.5.
    """

    pad: Literal["square", "none"] = "square"
    fill: tuple[_Byte, _Byte, _Byte] = (0, 0, 0)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[PositiveNumber, PositiveNumber, PositiveNumber] = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trimming:
    """Describe which patch columns of a prepared crop a model reads.

    What is left away depends on the crop's width and height alone, never on its pixels: a column may go if it holds
    padding that the filter of the resize did not mix with the picture. As many columns go on the left as on the right,
    so that the positions of the others follow from their number. The colour of the padding plays no role.

    Attributes:
        columns: The allowed widths in patch columns, ascending. The last one is the whole square.
        patch_size: Pixels per patch side.
    """

    columns: tuple[int, ...]
    patch_size: int

    def columns_of(self, crop: Crop, preprocessing: Preprocessing) -> int:
        """Return the number of patch columns that are kept of a crop (h, w, 3) of any size: one of `columns`."""
        grid = self.columns[-1]
        height, width = crop.shape[:2]
        if preprocessing.pad != "square" or width >= height:
            return grid
        before, after = _untouched(width, height, grid * self.patch_size, preprocessing.interpolation)
        needed = grid - 2 * (min(before, after) // self.patch_size)
        return next(columns for columns in self.columns if columns >= needed)

    def trim(self, prepared: CropBatch, columns: int) -> CropBatch:
        """Return the middle `columns` patch columns of prepared crops (..., H, W, 3). This is a view."""
        cut = (self.columns[-1] - columns) // 2 * self.patch_size
        return prepared[..., cut : prepared.shape[-2] - cut, :]


def columns_read(crop: Crop, trimming: Trimming | None, preprocessing: Preprocessing) -> int:
    """Return the number of patch columns that a model reads of a crop, or 0 if it reads all of every crop."""
    return 0 if trimming is None else trimming.columns_of(crop, preprocessing)


def default_columns(grid: int) -> tuple[int, ...]:
    """Return the widths for which a new model is made, of `grid` columns: about 3/8, 1/2, 5/8 and all of them.

    People are about 1:3 to 1:2. The same number of columns goes on both sides, so widths are even or odd like `grid`.
    """
    return tuple(sorted({-(-eighths * grid // 8) + (-(-eighths * grid // 8) - grid) % 2 for eighths in (3, 4, 5, 8)}))


def wrong_columns(columns: Sequence[int], grid: int) -> str | None:
    """Return what `columns` of a model with `grid` patch columns must be, or None if they are right or empty."""
    right = all(type(width) is int and 0 < width <= grid and (grid - width) % 2 == 0 for width in columns)
    if not columns or (right and list(columns) == sorted(set(columns)) and columns[-1] == grid):
        return None
    return f"ascending, even or odd like {grid}, and end with {grid}, the whole square"


def batches_by_columns(columns: Sequence[int], size: int) -> list[list[int]]:
    """Group crops into batches of at most `size` with one width each.

    Args:
        columns: The width of each crop.
        size: Crops per batch, 1 or more.

    Returns:
        Indices of crops, ascending in each batch. Batches are ordered by their first crop.
    """
    rows: dict[int, list[int]] = {}
    for row, width in enumerate(columns):
        rows.setdefault(width, []).append(row)
    batches = [some[start : start + size] for some in rows.values() for start in range(0, len(some), size)]
    return sorted(batches)


def check_crop(crop: object, name: str = "crop") -> Crop:
    """Return `crop` unchanged if it is a uint8 RGB image (h, w, 3). Raises ImageError, which calls it `name`."""
    if not isinstance(crop, np.ndarray):
        raise ImageError(
            f"{name} must be a NumPy array, uint8 RGB (h, w, 3), got {type(crop).__name__}; "
            "convert it with numpy.asarray, or read a file with read_image"
        )
    if crop.dtype != np.uint8:
        raise ImageError(f"{name} must have dtype uint8, got {crop.dtype}; scale values to 0 to 255 and convert them")
    if crop.ndim != 3 or crop.shape[2] != 3:
        fix = (
            "repeat a grey image three times, drop an alpha channel"
            if crop.ndim in (2, 3)
            else "pass a list of single crops"
        )
        raise ImageError(f"{name} must have shape (h, w, 3), RGB, got {crop.shape}; {fix}")
    if crop.shape[0] == 0 or crop.shape[1] == 0:
        raise ImageError(f"{name} must have pixels, got shape {crop.shape}; drop boxes that are outside the frame")
    if crop.shape[0] * crop.shape[1] > MAX_PIXELS:
        raise ImageError(
            f"{name} must have at most {MAX_PIXELS} pixels, got {crop.shape[0]} x {crop.shape[1]}; "
            "crop the person first"
        )
    return crop


def prepare(crop: Crop, *, image_size: int, preprocessing: Preprocessing) -> Crop:
    """Pad and resize one crop (h, w, 3) to (image_size, image_size, 3). Raises ImageError."""
    check_crop(crop)
    image = Image.fromarray(crop)
    if preprocessing.pad == "square" and image.width != image.height:
        image = _pad_to_square(image, preprocessing.fill, image_size)
    resized = image.resize((image_size, image_size), FILTERS[preprocessing.interpolation])
    return np.array(resized)


def prepare_batch(
    crops: Sequence[Crop], *, image_size: int, preprocessing: Preprocessing, threads: int | None = None
) -> CropBatch:
    """Pad and resize crops of any sizes to one batch (B, image_size, image_size, 3), on several cores if it is large.

    Args:
        crops: The crops, uint8 RGB (h, w, 3).
        image_size: Side of the model's input in pixels.
        preprocessing: How crops are padded and resized.
        threads: Maximum number of threads. Default: the cores within the CPU quota. There is at most one thread per
            `PIXELS_PER_THREAD` pixels of the squares around the crops.

    Returns:
        The prepared crops, the same bytes for any number of threads.

    Raises:
        ImageError: A crop is not a uint8 RGB image. The first such crop is named.
    """
    work = sum(max(check_crop(crop).shape) ** 2 for crop in crops)
    workers = min(work // PIXELS_PER_THREAD, len(crops))
    if workers > 1:
        workers = min(workers, _cores() if threads is None else threads)
    workers = max(1, workers)
    batch = np.empty((len(crops), image_size, image_size, 3), dtype=np.uint8)

    def fill(first: int) -> None:
        for row in range(first, len(crops), workers):
            batch[row] = prepare(crops[row], image_size=image_size, preprocessing=preprocessing)

    if workers == 1:
        fill(0)
        return batch
    from concurrent.futures import ThreadPoolExecutor  # takes 6 ms, which small batches avoid

    # Pillow resizes without the GIL. The pool ends with the batch: a process that forks must not have threads.
    with ThreadPoolExecutor(workers - 1, thread_name_prefix="prepare") as pool:
        others = [pool.submit(fill, first) for first in range(1, workers)]
        fill(0)
        for other in others:
            other.result()
    return batch


def prepare_trimmed(
    crops: Sequence[Crop],
    columns: int,
    *,
    trimming: Trimming | None,
    image_size: int,
    preprocessing: Preprocessing,
    threads: int | None = None,
) -> CropBatch:
    """Prepare crops that are all read with `columns` patch columns, see `columns_read`.

    Args:
        crops: The crops, uint8 RGB (h, w, 3).
        columns: The patch columns that are read of each. Ignored without `trimming`.
        trimming: The columns that the model leaves away, or None for all padding.
        image_size: As of `prepare_batch`.
        preprocessing: As of `prepare_batch`.
        threads: As of `prepare_batch`.

    Returns:
        The prepared crops (B, H, W, 3).

    Raises:
        ImageError: A crop is not a uint8 RGB image.
    """
    prepared = prepare_batch(crops, image_size=image_size, preprocessing=preprocessing, threads=threads)
    return prepared if trimming is None else np.ascontiguousarray(trimming.trim(prepared, columns))


def prepare_by_columns(
    crops: Sequence[Crop], size: int, *, trimming: Trimming | None, image_size: int, preprocessing: Preprocessing
) -> Iterator[tuple[list[int], CropBatch]]:
    """Prepare crops in batches of one width, and yield (rows, prepared crops). See `batches_by_columns`.

    Args:
        crops: The crops, uint8 RGB (h, w, 3).
        size: Maximum crops per batch.
        trimming: As of `prepare_trimmed`.
        image_size: As of `prepare_batch`.
        preprocessing: As of `prepare_batch`.
    """
    columns = [columns_read(crop, trimming, preprocessing) for crop in crops]
    for rows in batches_by_columns(columns, size):
        yield (
            rows,
            prepare_trimmed(
                [crops[row] for row in rows],
                columns[rows[0]],
                trimming=trimming,
                image_size=image_size,
                preprocessing=preprocessing,
            ),
        )


@functools.cache
def _cores() -> int:
    return usable_cores()  # reads files for 0.4 ms


def _pad_to_square(image: Image.Image, fill: tuple[int, int, int], image_size: int) -> Image.Image:
    size = _size_in_square(image.width, image.height, image_size)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BOX)
    side = max(size)
    square = Image.new("RGB", (side, side), fill)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _size_in_square(width: int, height: int, image_size: int) -> tuple[int, int]:
    """Return the size at which an image is padded to a square.

    Padding an extreme strip (1 x 100,000) would make a square of gigabytes, so it is shortened first: the result has
    `image_size` pixels per side in both cases, and the strip is less than one pixel wide there.
    """
    side = max(width, height)
    if side * side <= MAX_PIXELS:
        return width, height
    shortened = max(image_size, int(MAX_PIXELS**0.5))
    return max(1, round(width * shortened / side)), max(1, round(height * shortened / side))


def _untouched(width: int, height: int, image_size: int, interpolation: str) -> tuple[int, int]:
    """Return how many pixel columns of a prepared tall crop are padding alone, on the left and on the right.

    The reach of the filter is Pillow's (`precompute_coeffs` in its Resample.c): output pixel x reads the input pixels
    from `first` to before `last`.
    """
    width, side = _size_in_square(width, height, image_size)
    left = (side - width) // 2
    if side == image_size:  # Pillow copies, without a filter
        return left, side - left - width
    scale = side / image_size
    reach = _FILTER_SUPPORT[interpolation] * max(scale, 1.0)
    centre = (np.arange(image_size) + 0.5) * scale
    first, last = (centre - reach + 0.5).astype(int), (centre + reach + 0.5).astype(int)
    touched = np.flatnonzero((first < left + width) & (last > left))
    return int(touched[0]), image_size - 1 - int(touched[-1])
