"""Person crop (uint8 RGB, any size) -> model input (uint8 RGB, square). The same for training, export and edge.

Scaling to [0, 1] and normalisation happen inside the encoder graph, so that the host only ever moves bytes.
Follows the published evaluation transform: centred black padding to a square, then torchvision's `Resize` on a PIL
image, which is Pillow's antialiased bilinear filter.
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

Crop = npt.NDArray[np.uint8]  # one person's pixels, RGB (h, w, 3) of any size
RgbImage = npt.NDArray[np.uint8]  # a frame's or any picture's pixels, RGB (h, w, 3)
CropBatch = npt.NDArray[np.uint8]  # crops prepared for the model, RGB (B, H, W, 3)
_Byte = Annotated[int, msgspec.Meta(ge=0, le=255)]

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
MAX_PIXELS = 64_000_000  # a person crop is thousands of pixels; beyond this it is a mistake or an attack


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a crop becomes model input. `mean` and `std` are per RGB channel on the scale [0, 1]; `fill` is uint8 RGB."""

    pad: Literal["square", "none"] = "square"
    fill: tuple[_Byte, _Byte, _Byte] = (0, 0, 0)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[PositiveNumber, PositiveNumber, PositiveNumber] = (0.5, 0.5, 0.5)


def check_crop(crop: object, name: str = "crop") -> Crop:
    """Return `crop` as it is if it is a uint8 RGB image (h, w, 3); raise ImageError otherwise."""
    if not isinstance(crop, np.ndarray):
        raise ImageError(f"{name} is a {type(crop).__name__}, wanted a NumPy array uint8 (h, w, 3) in RGB order")
    if crop.dtype != np.uint8:
        raise ImageError(f"{name} has dtype {crop.dtype}, wanted uint8 (0 to 255), shape (h, w, 3), RGB order")
    if crop.ndim != 3 or crop.shape[2] != 3:
        hint = "; repeat a grey image three times, drop an alpha channel" if crop.ndim in (2, 3) else ""
        raise ImageError(f"{name} has shape {crop.shape}, wanted (h, w, 3) in RGB order{hint}")
    if crop.shape[0] == 0 or crop.shape[1] == 0:
        raise ImageError(f"{name} has shape {crop.shape}: it is empty; drop boxes that lie outside the frame")
    if crop.shape[0] * crop.shape[1] > MAX_PIXELS:
        raise ImageError(f"{name} has {crop.shape[0]} x {crop.shape[1]} pixels, at most {MAX_PIXELS} are taken")
    return crop


def prepare(crop: Crop, *, image_size: int, preprocessing: Preprocessing) -> Crop:
    """Pad and resize one crop (h, w, 3) to (image_size, image_size, 3)."""
    check_crop(crop)
    image = Image.fromarray(crop)
    if preprocessing.pad == "square" and image.width != image.height:
        image = _pad_to_square(image, preprocessing.fill, image_size)
    resized = image.resize((image_size, image_size), FILTERS[preprocessing.interpolation])
    return np.array(resized)


def prepare_batch(crops: Sequence[Crop], *, image_size: int, preprocessing: Preprocessing) -> CropBatch:
    """Pad and resize crops of any sizes to one batch (B, image_size, image_size, 3)."""
    batch = np.empty((len(crops), image_size, image_size, 3), dtype=np.uint8)
    for row, crop in enumerate(crops):
        batch[row] = prepare(crop, image_size=image_size, preprocessing=preprocessing)
    return batch


def _pad_to_square(image: Image.Image, fill: tuple[int, int, int], image_size: int) -> Image.Image:
    side = max(image.size)
    if side * side > MAX_PIXELS:
        # An extreme strip (1 x 100,000) would make a square of gigabytes. Shorten it first: both ways end in
        # `image_size` pixels a side, and the strip is less than one pixel wide there.
        shortened = max(image_size, int(MAX_PIXELS**0.5))
        scale = shortened / side
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image, side = image.resize(size, Image.Resampling.BOX), shortened
    square = Image.new("RGB", (side, side), fill)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
