"""Draws streets behind the person: ground, walls, steps, trees, cars and passers-by, from simple shapes and noise."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from seqpar_deploy.synth.canvas import Colour, Picture, cloud
from seqpar_deploy.synth.palette import cloth, jitter, mix

_WALLS = ((196, 186, 170), (150, 142, 134), (120, 82, 66), (90, 88, 92), (222, 216, 204), (60, 56, 54), (140, 110, 86))
_GROUNDS = ((170, 166, 160), (126, 124, 122), (92, 92, 96), (190, 180, 164), (120, 112, 100), (150, 158, 170))
_GREENS = ((58, 84, 40), (86, 116, 52), (40, 58, 34), (120, 138, 70))


def street(rng: np.random.Generator, height: int, width: int) -> Picture:
    """Return a background, (height, width, 3), 0 to 1."""
    horizon = float(rng.uniform(0.15, 0.75)) if rng.random() < 0.8 else float(rng.uniform(-0.2, 0.1))
    picture = Image.new("RGB", (width, height), _one(rng, _WALLS))
    draw = ImageDraw.Draw(picture)
    row = int(horizon * height)
    if row > 4:
        _far(rng, draw, width, row)
    ground = jitter(rng, _one(rng, _GROUNDS if rng.random() < 0.82 else _GREENS), 10)
    draw.rectangle((0, row, width, height), fill=ground)
    _ground(rng, draw, width, height, row, ground)
    for _ in range(int(rng.integers(0, 5))):
        _thing(rng, draw, width, height, row)
    soft = picture.filter(ImageFilter.BoxBlur(float(rng.uniform(0.0, 0.9)) * height / 200))
    pixels = np.asarray(soft, dtype=np.float32) / 255
    rough = cloud(rng, height, width, coarse=5, octaves=5) * np.float32(rng.uniform(0.02, 0.11))
    if rng.random() < 0.6:  # leaves, gravel, grass
        speckle = rng.standard_normal((height // 2, width // 2), dtype=np.float32) * np.float32(rng.uniform(0.02, 0.14))
        rough = rough + np.asarray(Image.fromarray(speckle).resize((width, height), Image.Resampling.BILINEAR))
    return np.asarray(np.clip(pixels * (1 + rough[..., None]), 0, 1))


def _one(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    return colours[int(rng.integers(len(colours)))]


def _far(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, row: int) -> None:
    """Draw the part above the ground: a wall with windows, steps, trees or clutter."""
    kind = rng.random()
    base = jitter(rng, _one(rng, _WALLS), 14)
    draw.rectangle((0, 0, width, row), fill=base)
    if kind < 0.25:  # windows and doors
        cell = rng.uniform(0.15, 0.5) * width
        glass = mix(base, (20, 24, 34), rng.uniform(0.4, 0.9))
        for x in np.arange(rng.uniform(-cell, 0), width, cell):
            for y in np.arange(rng.uniform(-cell, 0), row, cell * 1.3):
                draw.rectangle((x, y, x + cell * 0.55, y + cell * 0.8), fill=jitter(rng, glass, 12))
    elif kind < 0.45:  # steps, bricks or panels
        step = rng.uniform(0.02, 0.08) * width * 2
        dark = mix(base, (0, 0, 0), rng.uniform(0.15, 0.6))
        for y in np.arange(0, row, step):
            draw.rectangle((0, y, width, y + step * rng.uniform(0.2, 0.5)), fill=dark)
    elif kind < 0.75:  # foliage
        leaf = _one(rng, _GREENS)
        for _ in range(int(rng.integers(90, 200))):
            x, y, r = rng.uniform(0, width), rng.uniform(-0.1, 1.0) * row, rng.uniform(0.01, 0.08) * width
            colour = mix(leaf, _one(rng, ((0, 0, 0), (220, 230, 150), (150, 100, 60))), rng.uniform(0, 0.8))
            draw.ellipse((x - r, y - r * 0.8, x + r, y + r * 0.8), fill=colour)
    else:  # clutter of every size, the larger things first
        for size in np.sort(rng.uniform(0.02, 0.9, int(rng.integers(6, 60))) ** 2)[::-1] * width:
            x, y = rng.uniform(-0.2, 1) * width, rng.uniform(-0.1, 1) * row
            tall = min(row, y + size * rng.uniform(0.5, 2.5))
            colour = jitter(rng, _one(rng, _WALLS) if rng.random() < 0.8 else cloth(rng), 25)
            (draw.rectangle if rng.random() < 0.6 else draw.ellipse)((x, y, x + size, max(y, tall)), fill=colour)


def _ground(
    rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, row: int, colour: Colour
) -> None:
    """Draw the ground: slabs, a zebra crossing or a kerb, and patches of shade."""
    kind = rng.random()
    line = mix(colour, (0, 0, 0), rng.uniform(0.08, 0.3))
    if kind < 0.3:
        y, gap = float(row), rng.uniform(0.02, 0.05) * height
        while y < height:
            draw.line((0, y, width, y), fill=line)
            gap *= 1.25
            y += gap
        for x in np.linspace(-width, 2 * width, int(rng.integers(5, 14))):
            draw.line((width / 2 + (x - width / 2) * 0.4, row, x, height), fill=line)
    elif kind < 0.5:
        stripe = mix((240, 240, 236), colour, rng.uniform(0, 0.3))
        y, gap = row + rng.uniform(0, 0.3) * (height - row), rng.uniform(0.015, 0.05) * height
        while y < height:
            draw.polygon([(0, y), (width, y), (width, y + gap), (0, y + gap)], fill=stripe)
            y += gap * rng.uniform(1.9, 2.3)
    elif kind < 0.75:
        y = rng.uniform(row, height)
        other = _one(rng, _GROUNDS if rng.random() < 0.5 else _GREENS)
        draw.polygon([(0, y), (width, y + rng.normal(0, 0.06) * height), (width, height), (0, height)], fill=other)
    if rng.random() < 0.3:
        for _ in range(int(rng.integers(2, 8))):
            x, y, r = rng.uniform(0, width), rng.uniform(row, height), rng.uniform(0.05, 0.35) * width
            draw.ellipse((x - r, y - r * 0.25, x + r, y + r * 0.25), fill=mix(colour, (0, 0, 10), 0.35))


def _thing(rng: np.random.Generator, draw: ImageDraw.ImageDraw, width: int, height: int, row: int) -> None:
    """Draw a pole, a car or a distant passer-by on the ground."""
    kind, x = rng.random(), rng.uniform(-0.2, 1.1) * width
    foot = max(0, row) + rng.uniform(0.02, 0.5) * max(height - row, 1)
    if kind < 0.25:
        thick = rng.uniform(0.015, 0.07) * width
        draw.rectangle((x, -1, x + thick, foot), fill=_one(rng, ((50, 50, 52), (120, 120, 118), (76, 58, 44))))
    elif kind < 0.5:
        long, high, paint = rng.uniform(0.5, 1.2) * width, rng.uniform(0.1, 0.2) * height, cloth(rng)
        draw.rounded_rectangle(
            (x - long / 2, foot - high * 0.75, x + long / 2, foot - high * 0.15), high * 0.2, fill=paint
        )
        roof = [(x - long * 0.32, foot - high * 0.7), (x - long * 0.2, foot - high * 1.3)]
        roof += [(x + long * 0.2, foot - high * 1.3), (x + long * 0.32, foot - high * 0.7)]
        draw.polygon(roof, fill=mix(paint, (20, 24, 30), 0.75))
        for wheel in (x - long * 0.3, x + long * 0.3):
            r = high * 0.22
            draw.ellipse((wheel - r, foot - 2 * r, wheel + r, foot), fill=(22, 22, 24))
    else:
        passer_by(rng, draw, x, foot, rng.uniform(0.2, 0.65) * height)


def passer_by(rng: np.random.Generator, draw: ImageDraw.ImageDraw, x: float, foot: float, tall: float) -> None:
    """Draw another person in a few strokes: legs, arms, trunk and head."""
    skin, top, bottom = (190, 145, 115), cloth(rng), mix(cloth(rng), (30, 30, 40), 0.4)
    for side in (-1, 1):
        leg = x + side * rng.uniform(0.02, 0.07) * tall
        draw.line((x + side * 0.03 * tall, foot - 0.5 * tall, leg, foot), fill=bottom, width=max(1, int(0.07 * tall)))
        arm = x + side * rng.uniform(0.11, 0.17) * tall
        draw.line(
            (x + side * 0.09 * tall, foot - 0.8 * tall, arm, foot - 0.5 * tall),
            fill=top,
            width=max(1, int(0.05 * tall)),
        )
    draw.rounded_rectangle(
        (x - 0.11 * tall, foot - 0.84 * tall, x + 0.11 * tall, foot - 0.46 * tall), 0.04 * tall, fill=top
    )
    draw.ellipse((x - 0.055 * tall, foot - tall, x + 0.055 * tall, foot - 0.85 * tall), fill=skin)
    draw.pieslice(
        (x - 0.06 * tall, foot - 1.01 * tall, x + 0.06 * tall, foot - 0.87 * tall), 180, 360, fill=(40, 30, 26)
    )
