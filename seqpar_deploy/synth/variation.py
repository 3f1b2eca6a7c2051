"""Variations of a crop, as another detector, camera or light would make them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from seqpar_deploy.preprocess import Crop


def vary_crop(
    crop: Crop,
    rng: np.random.Generator,
    *,
    margin: float = 0.0,
    blur: float = 0.0,
    colour: float = 0.0,
    erase: float = 0.0,
) -> Crop:
    """Vary a crop like another detector, camera or light.

    Args:
        crop: The crop, uint8 RGB (h, w, 3).
        rng: Random numbers.
        margin: Maximum share of a side to remove or add at each border. Default: 0.
        blur: Share of crops with reduced resolution. Default: 0.
        colour: Approximate variation of brightness, contrast, saturation and white balance. Default: 0.
        erase: Share of crops with a painted rectangle. Default: 0.

    Returns:
        The varied crop, uint8 RGB (h', w', 3).
    """
    if margin:
        crop = _move_borders(crop, margin, rng)
    if blur and rng.random() < blur:
        crop = _lose_resolution(crop, rng)
    if colour:
        crop = _relight(crop, colour, rng)
    if erase and rng.random() < erase:
        crop = _paint_over(crop, rng)
    return crop


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
    return np.array(small.resize((width, height), Image.Resampling.BILINEAR), dtype=np.uint8)


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
    relit: Crop = pixels.clip(0, 255).astype(np.uint8)
    return relit


def _paint_over(crop: Crop, rng: np.random.Generator) -> Crop:
    height, width = crop.shape[:2]
    tall, wide = int(height * rng.uniform(0.08, 0.3)), int(width * rng.uniform(0.15, 0.6))
    top, left = rng.integers(0, max(1, height - tall)), rng.integers(0, max(1, width - wide))
    painted: Crop = crop.copy()
    painted[top : top + tall, left : left + wide] = rng.integers(0, 256, size=3)
    return painted
