"""The crops of the parity gate: real, rendered and adversarial ones. They are the same on every machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np

from seqpar_deploy.images import read_image
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import sample_crops
from seqpar_deploy.synth.render import render_person

Kind = Literal["real", "rendered", "adversarial"]

_RENDERED_SEED = 3000  # not used in training or in other tests
_CALIBRATION_SEED = 3001
_NOISE_SEED = 17


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityCrop:
    """Hold one unprepared crop: its name, its kind and its pixels, uint8 RGB (h, w, 3) of any size."""

    name: str
    kind: Kind
    image: Crop


def calibration_crops(count: int) -> list[Crop]:
    """Return crops to calibrate 8-bit graphs: the sample crops, then rendered ones that are not parity crops."""
    real = [read_image(path) for path in sample_crops()[:count]]
    return real + [render_person(_CALIBRATION_SEED, index)[0] for index in range(count - len(real))]


def parity_crops(*, real: int, rendered: int) -> list[ParityCrop]:
    """Return the first `real` sample crops, `rendered` rendered ones, and all adversarial ones, in this order."""
    return [
        *(ParityCrop(name=path.stem, kind="real", image=read_image(path)) for path in sample_crops()[:real]),
        *(
            ParityCrop(name=f"rendered-{index}", kind="rendered", image=render_person(_RENDERED_SEED, index)[0])
            for index in range(rendered)
        ),
        *adversarial_crops(),
    ]


def adversarial_crops() -> list[ParityCrop]:
    """Return unusual crops that deployments receive by accident. They compress well, to keep golden data small."""
    rng = np.random.default_rng(_NOISE_SEED)
    makers: dict[str, Callable[[], Crop]] = {
        "black": lambda: np.zeros((96, 48, 3), np.uint8),
        "white": lambda: np.full((96, 48, 3), 255, np.uint8),
        "noise": lambda: _noise(rng, 96, 40),
        "noise-odd-sizes": lambda: _noise(rng, 61, 37),
        "one-pixel": lambda: np.array([[[200, 30, 90]]], np.uint8),
        "tiny": lambda: _noise(rng, 3, 2),
        "one-column": lambda: _noise(rng, 300, 1),
        "tall-strip": lambda: np.repeat(_noise(rng, 50, 3), 32, axis=0),
        "wide-strip": lambda: np.repeat(_noise(rng, 3, 50), 32, axis=1),
        "wide": lambda: np.repeat(_noise(rng, 24, 8), 12, axis=1),
        "huge": lambda: np.tile(_noise(rng, 8, 8).repeat(4, axis=0).repeat(3, axis=1), (45, 40, 1)),
        "checkerboard": lambda: _checkerboard(160, 72),
        "red-over-blue": lambda: np.repeat(np.array([[[230, 10, 10]], [[10, 10, 230]]], np.uint8), 60, 0).repeat(50, 1),
        "ramp": lambda: np.linspace((0, 60, 255), (255, 200, 0), 128).astype(np.uint8)[:, None].repeat(64, 1),
        # Shapes of people, so that several crops have each width of trimmed models.
        "1-to-3": lambda: _noise(rng, 30, 10).repeat(5, 0).repeat(5, 1),
        "1-to-3-stripes": lambda: _noise(rng, 1, 60).repeat(180, 0),
        "1-to-2.5": lambda: _noise(rng, 25, 10).repeat(7, 0).repeat(7, 1),
        "1-to-2": lambda: _noise(rng, 20, 10).repeat(9, 0).repeat(9, 1),
    }
    return [ParityCrop(name=name, kind="adversarial", image=make()) for name, make in makers.items()]


def _noise(rng: np.random.Generator, height: int, width: int) -> Crop:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def _checkerboard(height: int, width: int) -> Crop:
    """Return alternating black and white pixels, which a correct resize turns grey."""
    squares = np.add.outer(np.arange(height), np.arange(width)) % 2 * 255
    return np.repeat(squares[..., None], 3, axis=2).astype(np.uint8)
