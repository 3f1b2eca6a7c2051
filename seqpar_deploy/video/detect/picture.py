"""Converts frames to a detector's input, and its boxes to pixels of the frame."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video.detect.opencv import import_cv2

Fit = Literal["letterbox", "stretch"]
Scaling = Literal["unit", "imagenet", "imagenet-bgr", "0-255", "0-255-bgr"]
FloatArray = npt.NDArray[np.float32]

GREY = 114  # padding of YOLO's letterbox
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PictureInput:
    """The graph's picture input. `channels` is the place of their axis; `batched` if the first axis is of pictures."""

    name: str
    channels: Literal["first", "last"]
    height: int
    width: int
    dtype: npt.DTypeLike
    batched: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        size = (3, self.height, self.width) if self.channels == "first" else (self.height, self.width, 3)
        return (1, *size) if self.batched else size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """Position of a frame in the graph's picture: scales from frame to picture, and the frame's corner."""

    x_scale: float
    y_scale: float
    left: int
    top: int

    def to_frame(self, edges: FloatArray) -> FloatArray:
        """Convert edges (N, 4) in pixels of the picture to pixels of the frame."""
        offset = np.array([self.left, self.top, self.left, self.top], dtype=np.float32)
        scale = np.array([self.x_scale, self.y_scale, self.x_scale, self.y_scale], dtype=np.float32)
        return np.asarray((edges - offset) / scale, dtype=np.float32)


def place(image: RgbImage, target: PictureInput, fit: Fit) -> tuple[RgbImage, Placement]:
    """Resize a frame (h, w, 3) to the height and width of the input.

    "letterbox" keeps the aspect ratio, centred on grey, with bilinear interpolation as in YOLO's tools. "stretch" does
    not keep it, and averages when it shrinks, which is close to the antialiased filter of the DETR family's training.
    """
    cv2 = import_cv2()
    height, width = image.shape[:2]
    if fit == "stretch":
        shrinks = width > target.width or height > target.height
        filter_ = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        picture = cv2.resize(image, (target.width, target.height), interpolation=filter_)
        return picture, Placement(x_scale=target.width / width, y_scale=target.height / height, left=0, top=0)
    scale = min(target.width / width, target.height / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    left, top = (target.width - size[0]) // 2, (target.height - size[1]) // 2
    picture = np.full((target.height, target.width, 3), GREY, dtype=np.uint8)
    picture[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return picture, Placement(x_scale=size[0] / width, y_scale=size[1] / height, left=left, top=top)


def to_tensor(picture: RgbImage, target: PictureInput, scaling: Scaling) -> npt.NDArray[Any]:
    """Convert a picture, uint8 (H, W, 3), to the graph's input. A uint8 input needs a scaling of 0 to 255."""
    values: npt.NDArray[Any] = picture
    if target.dtype != np.uint8:
        values = picture.astype(np.float32)
        if not scaling.startswith("0-255"):
            values = values / np.float32(255)
        if scaling.startswith("imagenet"):
            values = (values - IMAGENET_MEAN) / IMAGENET_STD
    if scaling.endswith("-bgr"):
        values = values[..., ::-1]
    if target.channels == "first":
        values = values.transpose(2, 0, 1)
    return np.ascontiguousarray(values[None] if target.batched else values, dtype=target.dtype)
