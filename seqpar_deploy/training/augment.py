"""Augmentation of training pictures: `vary_crop` before `prepare`, `vary_prepared` (as published) after it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from seqpar_deploy.preprocess import Crop
from seqpar_deploy.training.recipe import Augmentation


def vary_crop(crop: Crop, options: Augmentation, rng: np.random.Generator) -> Crop:
    """Vary a crop, uint8 (h, w, 3), like another detector, camera or light."""
    if options.margin:
        crop = _move_borders(crop, options.margin, rng)
    if options.blur and rng.random() < options.blur:
        crop = _lose_resolution(crop, rng)
    if options.colour:
        crop = _relight(crop, options.colour, rng)
    if options.erase and rng.random() < options.erase:
        crop = _paint_over(crop, rng)
    return crop


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


def _move_borders(crop: Crop, margin: float, rng: np.random.Generator) -> Crop:
    height, width = crop.shape[:2]
    sides = np.array([height, height, width, width])
    top, bottom, left, right = np.round(rng.uniform(-margin, margin, size=4) * sides).astype(int).tolist()
    grown = np.pad(crop, ((max(0, top), max(0, bottom)), (max(0, left), max(0, right)), (0, 0)), mode="edge")
    cut = grown[max(0, -top) : len(grown) - max(0, -bottom), max(0, -left) : grown.shape[1] - max(0, -right)]
    return cut if cut.size else crop


def _lose_resolution(crop: Crop, rng: np.random.Generator) -> Crop:
    height, width = crop.shape[:2]
    scale = rng.uniform(48, 110) / max(height, width)
    if scale >= 1:
        return crop
    small = Image.fromarray(crop).resize(
        (max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.BILINEAR
    )
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


def _relight(crop: Crop, strength: float, rng: np.random.Generator) -> Crop:
    pixels = crop.astype(np.float32)
    grey = pixels.mean(axis=-1, keepdims=True)
    saturation = np.exp(rng.uniform(-2, 1) * strength)
    pixels = grey + (pixels - grey) * np.float32(saturation)
    contrast, brightness = np.exp(rng.uniform(-1, 1, size=2) * strength)
    white_balance = np.exp(rng.normal(size=3) * strength * 0.2)
    mean = pixels.mean()
    pixels = ((pixels - mean) * contrast + mean * brightness) * white_balance.astype(np.float32)
    pixels += rng.normal(scale=255 * 0.02 * rng.random(), size=pixels.shape).astype(np.float32)
    return pixels.clip(0, 255).astype(np.uint8)


def _paint_over(crop: Crop, rng: np.random.Generator) -> Crop:
    height, width = crop.shape[:2]
    tall, wide = int(height * rng.uniform(0.08, 0.3)), int(width * rng.uniform(0.15, 0.6))
    top, left = rng.integers(0, max(1, height - tall)), rng.integers(0, max(1, width - wide))
    painted = crop.copy()
    painted[top : top + tall, left : left + wide] = rng.integers(0, 256, size=3)
    return painted
