"""Converts a clean drawing to a street camera's crop: shadow, occluders, light, blur and noise."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from seqpar_deploy.synth.attributes import Person
from seqpar_deploy.synth.background import passer_by
from seqpar_deploy.synth.canvas import Picture, cloud
from seqpar_deploy.synth.palette import cloth, mix


def ground_shadow(
    rng: np.random.Generator, picture: Picture, mask: Image.Image, feet: tuple[float, float], *, light: float
) -> Picture:
    """Draw the shadow of the figure on the ground, away from the light, and a spot under the feet."""
    height = mask.size[1]
    x, y = feet
    # The affine transform maps a point of the ground to the point of the mask that shadows it.
    flat, lean = rng.uniform(0.12, 0.4), -np.tan(np.clip(light, -1.0, 1.0)) * rng.uniform(0.5, 1.3)
    up = rng.choice([-1.0, 1.0])  # the shadow falls towards the camera or away from it
    a = (1.0, up * lean / flat, x - x - up * lean / flat * y, 0.0, up / flat, y - up * y / flat)
    cast = mask.transform(mask.size, Image.Transform.AFFINE, a, Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(cast)
    spread = height * 0.07
    draw.ellipse((x - spread, y - spread * 0.22, x + spread, y + spread * 0.22), fill=220)
    soft = np.asarray(cast.filter(ImageFilter.BoxBlur(rng.uniform(0.5, 3.0) * height / 200)), dtype=np.float32)
    return np.asarray(picture * (1 - np.float32(rng.uniform(0.15, 0.65) / 255) * soft[..., None]))


def occlude(
    rng: np.random.Generator, scene: Picture, person: Person, box: tuple[float, float, float, float]
) -> Picture:
    """Draw an object in front of the person in `box`. It never hides a label (`render.py` has the rules)."""
    picture = Image.fromarray((scene * 255).astype(np.uint8))
    left, top, right, bottom = box
    tall = bottom - top
    draw = ImageDraw.Draw(picture)
    kind = rng.random()
    if kind < 0.35:  # a thin post anywhere
        x, thick = rng.uniform(left, right), rng.uniform(0.012, 0.03) * tall
        draw.rectangle((x, -1, x + thick, picture.height), fill=mix(cloth(rng), (90, 90, 90), 0.6))
    elif kind < 0.7 and not (person.hand_bag or person.shoulder_bag):  # a neighbour at the edge
        side = left - 0.10 * tall if rng.random() < 0.5 else right + 0.10 * tall
        passer_by(rng, draw, side, bottom + 0.03 * tall, tall * rng.uniform(0.9, 1.08))
    elif (
        kind >= 0.7 and not person.boots and person.lower in ("trousers", "shorts")
    ):  # a hedge, a wall, a bonnet before the shins
        y = bottom - rng.uniform(0.03, 0.15) * tall
        colour = (64, 84, 46) if rng.random() < 0.5 else cloth(rng)
        draw.rectangle((-1, y, picture.width, picture.height), fill=colour)
        for _ in range(20):
            x, r = rng.uniform(0, picture.width), rng.uniform(0.01, 0.025) * tall
            draw.ellipse((x - r, y - r, x + r, y + r), fill=mix(colour, (0, 0, 0), rng.uniform(0, 0.4)))
    return np.asarray(np.asarray(picture, dtype=np.float32) / 255)


def expose(rng: np.random.Generator, picture: Picture) -> Picture:
    """Vary light, contrast, colour cast and haze, as cameras and weather do."""
    height, width = picture.shape[:2]
    cast = rng.normal(1.0, 0.04 if rng.random() < 0.85 else 0.10, 3).astype(np.float32)
    gamma, gain = np.float32(np.exp(rng.normal(-0.18, 0.2))), np.float32(rng.uniform(0.9, 1.2))
    out = np.clip(picture, 0, 1) ** gamma * cast * gain
    out = out.mean() + (out - out.mean()) * np.float32(rng.uniform(0.9, 1.2))
    grey = out.mean(axis=2, keepdims=True)
    out = grey + (out - grey) * np.float32(rng.uniform(0.5, 1.1))
    if rng.random() < 0.15:  # haze, or a lens against the sun
        out = out * np.float32(rng.uniform(0.6, 0.9)) + np.float32(rng.uniform(0.1, 0.3)) * cast
    if rng.random() < 0.3:  # dappled shade over everything
        dapple = cloud(rng, height, width, coarse=3, octaves=2)
        out = out * (1 - np.float32(rng.uniform(0.1, 0.3)) * np.clip(3 * dapple - 0.5, 0, 1)[..., None])
    slope = np.linspace(-1, 1, height, dtype=np.float32)[:, None, None] * np.float32(rng.normal(0, 0.08))
    return np.asarray(np.clip(out * (1 + slope), 0, 1), dtype=np.float32)


def shoot(rng: np.random.Generator, picture: Picture, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Blur, sample at (height, width), sharpen, add noise and compress. Returns uint8 RGB (height, width, 3)."""
    image = Image.fromarray((np.clip(picture, 0, 1) * 255).astype(np.uint8))
    if rng.random() < 0.25:  # out of focus, but a belt stays visible
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.8)) * image.height / 160))
    if rng.random() < 0.12:  # motion blur
        image = _smear(image, max(1, int(rng.uniform(0.004, 0.02) * image.height)))
    if rng.random() < 0.2 and height > 150:  # enlarged from fewer pixels
        share = rng.uniform(0.45, 0.9)
        image = image.resize((int(width * share), int(height * share)), Image.Resampling.BOX)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.UnsharpMask(1.0, int(rng.integers(40, 160)), 0))
    pixels = np.asarray(image, dtype=np.float32)
    noise = rng.standard_normal(pixels.shape, dtype=np.float32) * min(float(rng.exponential(3.0)), 10.0)
    noisy = np.clip(pixels + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=int(rng.integers(35, 92)))
        with Image.open(buffer) as compressed:
            return np.array(compressed)
    return noisy


def _smear(image: Image.Image, reach: int) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    total = sum(np.roll(pixels, shift, axis=1) for shift in range(-reach, reach + 1))
    return Image.fromarray((np.asarray(total) / (2 * reach + 1)).astype(np.uint8))
