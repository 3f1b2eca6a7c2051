"""Crops of other shapes, and crops that are prepared as a bundle wants them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from seqpar_deploy import Bundle
from seqpar_deploy.preprocess import Crop, prepare_batch


def resized(crop: Crop, shape: tuple[int, int]) -> Crop:
    """A crop of this height and width."""
    return np.asarray(Image.fromarray(crop).resize(shape[::-1]))


def prepared(bundle: Bundle, crops: Sequence[Crop]) -> Any:
    """Prepared crops (B, H, W, 3). They have one shape, so they are trimmed to one width."""
    squares = prepare_batch(crops, image_size=bundle.dimensions.image_size, preprocessing=bundle.preprocessing)
    if (trimming := bundle.trimming) is None:
        return squares
    (columns,) = {trimming.columns_of(crop, bundle.preprocessing) for crop in crops}
    return np.ascontiguousarray(trimming.trim(squares, columns))
