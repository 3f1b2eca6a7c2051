"""Prepare person crops (uint8 RGB, any size) as model input (uint8 RGB, square), for training, export and edge.

Scaling to [0, 1] and normalisation are part of the encoder graph, so the host handles bytes only. The steps follow the
published evaluation transform: centred black padding to a square, then torchvision's `Resize` on a PIL image, which is
Pillow's antialiased bilinear filter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from seqpar_deploy.config import PositiveNumber
from seqpar_deploy.errors import ImageError

Crop = npt.NDArray[np.uint8]  # one person, RGB (h, w, 3), any size
RgbImage = npt.NDArray[np.uint8]  # a frame or any other image, RGB (h, w, 3)
CropBatch = npt.NDArray[np.uint8]  # prepared crops, RGB (B, H, W, 3)
_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
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


def prepare_batch(crops: Sequence[Crop], *, image_size: int, preprocessing: Preprocessing) -> CropBatch:
    """Pad and resize crops of any sizes to one batch (B, image_size, image_size, 3). Raises ImageError."""
    batch = np.empty((len(crops), image_size, image_size, 3), dtype=np.uint8)
    for row, crop in enumerate(crops):
        batch[row] = prepare(crop, image_size=image_size, preprocessing=preprocessing)
    return batch


def _pad_to_square(image: Image.Image, fill: tuple[int, int, int], image_size: int) -> Image.Image:
    side = max(image.size)
    if side * side > MAX_PIXELS:
        # Padding an extreme strip (1 x 100,000) would make a square of gigabytes. Shorten it first: the result has
        # `image_size` pixels per side in both cases, and the strip is less than one pixel wide there.
        shortened = max(image_size, int(MAX_PIXELS**0.5))
        scale = shortened / side
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image, side = image.resize(size, Image.Resampling.BOX), shortened
    square = Image.new("RGB", (side, side), fill)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
