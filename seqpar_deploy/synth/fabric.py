"""Draws patterns on cloth (stripes, checks, blocks, prints) in the coordinates of the cloth."""

from __future__ import annotations

import dataclasses

import numpy as np

from seqpar_deploy.synth.attributes import Person
from seqpar_deploy.synth.canvas import Canvas, Colour, Surface
from seqpar_deploy.synth.palette import contrasting, mix


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fabric:
    """A cloth: its colours, its pattern and the pattern's period in statures.

    Patterns: plain, rings (horizontal stripes), bars (vertical stripes), plaid, print (flowers, camouflage), seam (one
    stripe down the outside).
    """

    colour: Colour
    other: Colour = (0, 0, 0)
    pattern: str = "plain"
    period: float = 0.04
    share: float = 0.5


def upper_fabric(person: Person, rng: np.random.Generator, colour: Colour) -> Fabric:
    """Return the cloth of the upper garment. Blocks and prints also use its second colour."""
    other = contrasting(rng, colour, bright=0.3)
    if person.stride:
        pattern, period, share = "rings" if rng.random() < 0.8 else "bars", (0.035, 0.075), (0.35, 0.6)
    elif person.plaid:
        pattern, period, share = "plaid", (0.032, 0.06), (0.3, 0.5)
    else:
        return Fabric(colour=colour, other=other)
    return Fabric(colour=colour, other=other, pattern=pattern, period=rng.uniform(*period), share=rng.uniform(*share))


def lower_fabric(person: Person, rng: np.random.Generator, colour: Colour) -> Fabric:
    """Return the cloth of trousers, shorts or skirt."""
    other = contrasting(rng, colour, least=95, bright=0.3)
    if person.lower_stripe:
        legs = person.lower in ("trousers", "shorts")
        pattern = str(rng.choice(["seam", "bars", "rings"], p=(0.55, 0.15, 0.3) if legs else (0, 0.25, 0.75)))
        return Fabric(colour=colour, other=other, pattern=pattern, period=rng.uniform(0.035, 0.06), share=0.45)
    if person.lower_pattern:
        pattern = "plaid" if rng.random() < 0.35 else "print"
        return Fabric(colour=colour, other=other, pattern=pattern, period=rng.uniform(0.03, 0.055), share=0.45)
    return Fabric(colour=colour, other=other)


def sew(canvas: Canvas, surface: Surface, fabric: Fabric, rng: np.random.Generator) -> None:
    """Paint a patch of the body in this cloth."""
    canvas.fill(surface, fabric.colour)
    _PATTERNS[fabric.pattern](canvas, surface, fabric, rng)
    _creases(canvas, surface, rng)


def _plain(canvas: Canvas, surface: Surface, fabric: Fabric, rng: np.random.Generator) -> None:
    pass


def _rings(canvas: Canvas, surface: Surface, fabric: Fabric, rng: np.random.Generator) -> None:
    count = max(1, round(surface.length / fabric.period))
    for k in range(count):
        canvas.mark(surface.box(0, 1, (k + 0.25) / count, (k + 0.25 + fabric.share) / count), fabric.other)


def _bars(canvas: Canvas, surface: Surface, fabric: Fabric, rng: np.random.Generator) -> None:
    count = max(2, round(surface.width / fabric.period))
    for k in range(count):
        canvas.mark(surface.box((k + 0.25) / count, (k + 0.25 + fabric.share) / count, 0, 1), fabric.other)


def _plaid(canvas: Canvas, surface: Surface, fabric: Fabric, rng: np.random.Generator) -> None:
    across, down = (max(2, round(extent / fabric.period)) for extent in (surface.width, surface.length))
    half = mix(fabric.colour, fabric.other, 0.55)
    share = fabric.share
    for k in range(across):
        canvas.mark(surface.box((k + 0.2) / across, (k + 0.2 + share) / across, 0, 1), half)
    for j in range(down):
        v0, v1 = (j + 0.2) / down, (j + 0.2 + share) / down
        canvas.mark(surface.box(0, 1, v0, v1), half)
        for k in range(across):
            canvas.mark(surface.box((k + 0.2) / across, (k + 0.2 + share) / across, v0, v1), fabric.other)


def _print(canvas: Canvas, surface: Surface, fabric: Fabric, rng: np.random.Generator) -> None:
    count = int(np.clip(surface.width * surface.length / fabric.period**2 * 0.75, 8, 90))
    spots = surface.at(rng.uniform(0.04, 0.96, count), rng.uniform(0.02, 0.98, count))
    third = mix(fabric.other, (240, 220, 200), 0.5)
    for k, spot in enumerate(spots):
        size = fabric.period * rng.uniform(0.2, 0.42, 2)
        canvas.blob(spot, float(size[0]), float(size[1]), third if k % 4 == 0 else fabric.other, solid=False)


def _seam(canvas: Canvas, surface: Surface, fabric: Fabric, rng: np.random.Generator) -> None:
    centre = 0.14 if fabric.share < 0 else 0.86 if fabric.share <= 1 else 0.5
    canvas.mark(surface.box(centre - 0.1, centre + 0.1, 0, 1), fabric.other)


_PATTERNS = {"plain": _plain, "rings": _rings, "bars": _bars, "plaid": _plaid, "print": _print, "seam": _seam}


def _creases(canvas: Canvas, surface: Surface, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(2, 6))):
        u, v = rng.uniform(0.1, 0.9), rng.uniform(0.05, 0.95)
        ends = surface.at([u, u + rng.uniform(-0.3, 0.3)], [v, np.clip(v + rng.uniform(-0.12, 0.12), 0, 1)])
        canvas.shade(ends, float(rng.choice([0.62, 0.75, 1.15])), 0.007)
