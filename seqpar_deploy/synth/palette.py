"""Colours of people in streets: mostly dark and dull, brighter for children."""

from __future__ import annotations

import colorsys

import numpy as np

from seqpar_deploy.synth.canvas import Colour

SKIN = ((236, 196, 170), (224, 178, 146), (206, 158, 124), (178, 126, 94), (140, 94, 66), (96, 64, 46), (66, 45, 36))
HAIR = ((24, 20, 18), (38, 28, 24), (58, 40, 30), (88, 60, 40), (128, 90, 54), (186, 150, 96), (120, 62, 36))
GREY_HAIR = ((178, 176, 174), (206, 204, 200), (228, 226, 224), (150, 146, 142))
LEATHER = ((26, 24, 24), (44, 32, 26), (82, 54, 34), (128, 88, 54), (40, 42, 60), (110, 30, 36))


def pick(rng: np.random.Generator, colours: tuple[Colour, ...]) -> Colour:
    """Return one of the colours, slightly changed."""
    return jitter(rng, colours[int(rng.integers(len(colours)))], 8)


def jitter(rng: np.random.Generator, colour: Colour, amount: float) -> Colour:
    """Return the colour with each channel changed by about `amount`."""
    return _clip(np.array(colour) + rng.normal(0, amount, 3))


def cloth(rng: np.random.Generator, *, bright: float = 0.0) -> Colour:
    """Return a garment's colour. `bright` is -1 (dull) to 1 (vivid)."""
    kind = rng.random() - 0.3 * bright
    if kind > 0.68:  # black and dark grey
        return _hsv(rng.random(), rng.uniform(0, 0.25), rng.uniform(0.06, 0.26))
    if kind > 0.52:  # greys and whites
        return _hsv(rng.random(), rng.uniform(0, 0.12), rng.uniform(0.35, 0.98))
    if kind > 0.36:  # navy, blue
        return _hsv(rng.uniform(0.57, 0.68), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.75))
    if kind > 0.20:  # beige, brown, khaki
        return _hsv(rng.uniform(0.05, 0.15), rng.uniform(0.2, 0.55), rng.uniform(0.25, 0.85))
    return _hsv(rng.random(), rng.uniform(0.3, 0.85), rng.uniform(0.3, 0.9))


def lower_cloth(rng: np.random.Generator) -> Colour:
    """Return a colour of trousers and skirts: jeans, black, khaki, rarely others."""
    kind = rng.random()
    if kind < 0.34:
        return _hsv(rng.uniform(0.56, 0.64), rng.uniform(0.2, 0.6), rng.uniform(0.25, 0.75))
    if kind < 0.66:
        return _hsv(rng.random(), rng.uniform(0, 0.25), rng.uniform(0.08, 0.3))
    if kind < 0.86:
        return _hsv(rng.uniform(0.07, 0.15), rng.uniform(0.1, 0.45), rng.uniform(0.4, 0.85))
    return cloth(rng)


def contrasting(rng: np.random.Generator, colour: Colour, *, least: float = 75.0, bright: float = 0.2) -> Colour:
    """Return another garment colour, at a distance of `least` or more from this one."""
    for _ in range(12):
        other = cloth(rng, bright=bright)
        if distance(colour, other) >= least:
            return other
    return (235, 235, 230) if sum(colour) < 380 else (28, 28, 34)


def distance(a: Colour, b: Colour) -> float:
    """Return the distance of two colours, 0 to about 441. Brightness counts most, because compression keeps it best."""
    difference = np.array(a, dtype=float) - np.array(b, dtype=float)
    luma = float(difference @ (0.3, 0.59, 0.11))
    return abs(luma) * 1.2 + 0.35 * float(np.abs(difference - luma).sum())


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return a mixture of two colours, with a share `share` of b."""
    return _clip(np.array(a) * (1 - share) + np.array(b) * share)


def _hsv(hue: float, saturation: float, value: float) -> Colour:
    return _clip(np.array(colorsys.hsv_to_rgb(hue, saturation, value)) * 255)


def _clip(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Colour:
    red, green, blue = (int(value) for value in np.clip(values, 4, 250))
    return red, green, blue
