"""Augmentation of training pictures: `vary` before `prepare`, `vary_prepared` (as published) after it."""

from __future__ import annotations

import numpy as np

from seqpar_deploy.preprocess import Crop
from seqpar_deploy.synth.variation import vary_crop
from seqpar_deploy.training.recipe import Augmentation


def vary(crop: Crop, options: Augmentation, rng: np.random.Generator) -> Crop:
    """Vary a crop, uint8 (h, w, 3), as the recipe says. Small data sets need it."""
    return vary_crop(crop, rng, margin=options.margin, blur=options.blur, colour=options.colour, erase=options.erase)


def vary_prepared(image: Crop, options: Augmentation, rng: np.random.Generator) -> Crop:
    """Pad a prepared crop (H, W, 3) with black, crop it at a random position and flip it, as published."""
    if options.shift:
        pad, (height, width) = options.shift, image.shape[:2]
        padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
        top, left = rng.integers(0, 2 * pad + 1, size=2)
        image = padded[top : top + height, left : left + width]
    if options.flip and rng.random() < 0.5:
        image = image[:, ::-1]
    return np.ascontiguousarray(image)
