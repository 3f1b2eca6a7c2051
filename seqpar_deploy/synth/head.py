"""Draws the head: face, hair, glasses and hats, all on one ellipsoid, so that they turn with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.synth.attributes import Person
from seqpar_deploy.synth.canvas import Array, Canvas, Colour, Surface, vector
from seqpar_deploy.synth.figure import SIDES, Skeleton
from seqpar_deploy.synth.palette import GREY_HAIR, HAIR, contrasting, mix, pick

# Directions spread evenly over the sphere (Fibonacci's spiral), the places of the dots of hair and hats.
_COUNT = 360
_HEIGHT = 1 - 2 * (np.arange(_COUNT) + 0.5) / _COUNT
_TURN = np.pi * (1 + 5**0.5) * np.arange(_COUNT)
_RING = np.sqrt(1 - _HEIGHT**2)
_SPHERE = np.stack([_RING * np.cos(_TURN), _HEIGHT, _RING * np.sin(_TURN)], axis=1)
_DOT = 0.19  # radius of a dot of hair, in head heights / 2


class Head:
    """One person's head. `add` adds it to the canvas."""

    def __init__(self, canvas: Canvas, person: Person, bones: Skeleton, skin: Colour, rng: np.random.Generator) -> None:
        self.canvas, self.person, self.bones, self.skin, self.rng = canvas, person, bones, skin, rng
        self.size = bones.body.head
        self.radii = np.array([self.size * 0.76, self.size, self.size * 0.88])
        grey = person.age == "senior" and rng.random() < 0.93
        self.hair = pick(rng, GREY_HAIR) if grey else pick(rng, HAIR)
        self.look = rng.normal(0, 0.12)  # the head turns a little from the body
        self.near = canvas.near(bones.head)
        self.beard = not person.female and person.age != "child" and rng.random() < 0.25

    def add(self) -> None:
        """Add neck, rear hair, face, front hair, glasses and hat."""
        person, rng, canvas = self.person, self.rng, self.canvas
        neck = canvas.limb([self.bones.head, self.bones.neck - vector(0, 0.03, 0)], [self.radii[0] * 0.62] * 2)
        canvas.add(self.near - 0.02, lambda: canvas.fill(neck, mix(self.skin, (40, 20, 20), 0.18)))
        if person.female and rng.random() < (0.5 if person.age == "senior" else 0.88):
            self._add_long_hair(float(rng.uniform(0.03, 0.19)))
        canvas.add(self.near, self._face)
        bald = not person.female and not person.hat and rng.random() < (0.35 if person.age == "senior" else 0.07)
        edge, tilt = (rng.uniform(0.3, 0.5), 1.0) if bald else (rng.uniform(-0.1, 0.16), rng.uniform(0.5, 0.75))
        canvas.add(self.near + 0.001, lambda: self._dots(self.hair, self._above(edge, tilt), grow=1.08))
        if person.glasses:
            lens = (16, 16, 20) if rng.random() < 0.55 else mix(self.skin, (200, 215, 225), 0.4)
            canvas.add(self.near + 0.002, lambda: self._glasses(lens))
        if person.hat:
            style = str(rng.choice(["cap", "beanie", "sun"], p=[0.5, 0.25, 0.25]))
            colour = contrasting(rng, self.hair, least=40, bright=0.2)
            canvas.add(self.near + 0.004, lambda: self._hat(style, colour))

    def _on(self, directions: Any, grow: float = 1.0) -> tuple[Array, npt.NDArray[np.bool_]]:
        """Return pixels (n, 2) of directions (n, 3) on the head, and whether the camera sees each."""
        cos, sin = np.cos(self.look), np.sin(self.look)
        x, y, z = np.atleast_2d(np.asarray(directions, dtype=np.float64)).T
        turned = np.stack([x * cos + z * sin, y, z * cos - x * sin], axis=1)
        pixels, near = self.canvas.project(self.bones.head + turned * self.radii * grow)
        return pixels, near > self.near - 0.004

    @staticmethod
    def _above(edge: float, tilt: float) -> Array:
        """Return the directions above a plane that is tilted back by `tilt`, `edge` above the head's centre."""
        return np.asarray(_SPHERE[_SPHERE @ np.array([0.0, np.cos(tilt), -np.sin(tilt)]) > edge])

    def _dots(self, colour: Colour, directions: Array, *, grow: float, plain: bool = False) -> None:
        pixels, seen = self._on(directions, grow)
        shades = (
            [colour] if plain else [colour, mix(colour, (0, 0, 0), 0.2), colour, mix(colour, (255, 245, 230), 0.08)]
        )
        middle = self.canvas.project(self.bones.head)[0][0]
        self.canvas.splat(pixels[seen], self.size * _DOT, shades, middle, float(self.radii[0]) * 1.1)

    def _face(self) -> None:
        canvas = self.canvas
        middle = canvas.project(self.bones.head)[0][0]
        wide = float(canvas.spread(self.radii[0], self.radii[2]))
        canvas.blob(middle, wide, self.size, self.skin)
        dark, red = mix(self.skin, (20, 14, 12), 0.78), mix(self.skin, (150, 50, 50), 0.45)
        s = self.size

        def spot(direction: tuple[float, float, float], rx: float, ry: float, colour: Colour) -> None:
            pixels, seen = self._on(direction)
            if seen[0] and canvas.near(self.bones.head + np.array(direction) * self.radii) > self.near + 0.004:
                canvas.blob(pixels[0], rx * s, ry * s, colour, solid=False)

        for side in SIDES:
            spot((side * 0.40, 0.10, 0.9), 0.15, 0.07, dark)
            spot((side * 0.40, 0.27, 0.87), 0.2, 0.04, mix(self.skin, self.hair, 0.6))
            spot((side * 0.98, 0.0, -0.1), 0.1, 0.2, mix(self.skin, (90, 30, 20), 0.2))
        spot((0.0, -0.16, 1.05), 0.13, 0.14, mix(self.skin, (60, 25, 15), 0.25))
        spot((0.0, -0.5, 0.86), 0.24, 0.06, red)
        if self.beard:
            for x in (-0.4, -0.15, 0.15, 0.4):
                spot((x, -0.72, 0.68), 0.26, 0.26, mix(self.skin, self.hair, 0.7))

    def _glasses(self, lens: Colour) -> None:
        canvas, frame = self.canvas, (12, 12, 14)
        for side in SIDES:
            pixels, seen = self._on((side * 0.40, 0.10, 0.94), 1.04)
            if seen[0]:
                canvas.blob(pixels[0], 0.29 * self.size, 0.2 * self.size, frame, solid=False)
                canvas.blob(pixels[0], 0.2 * self.size, 0.12 * self.size, lens, solid=False)
            arm, shown = self._on([(side * 0.45, 0.12, 0.92), (side * 0.8, 0.12, 0.6), (side * 1.0, 0.12, 0.0)], 1.04)
            if shown.all():
                canvas.stroke(arm, frame, 0.11 * self.size)
        bridge, seen = self._on([(-0.4, 0.13, 0.94), (0.4, 0.13, 0.94)], 1.05)
        if seen.all():
            canvas.stroke(bridge, frame, 0.1 * self.size)

    def _hat(self, style: str, colour: Colour) -> None:
        edge, tilt = {"cap": (0.3, 0.12), "beanie": (0.18, 0.3), "sun": (0.34, 0.1)}[style]
        dark = mix(colour, (0, 0, 0), 0.3)
        rim = np.linspace(0, 2 * np.pi, 40)
        if style == "cap":
            front = np.stack([0.8 * np.sin(rim), np.full(40, 0.36), 1.02 + 0.62 * np.cos(rim)], axis=1)
        else:
            front = np.stack([1.6 * np.sin(rim), np.full(40, 0.34), 1.55 * np.cos(rim)], axis=1)
        brim, _ = self._on(front)
        behind = style == "cap" and abs(self.person.yaw) > np.pi / 2
        if style != "beanie" and behind:
            self._brim(brim, dark)
        self._dots(colour, self._above(edge, tilt), grow=1.17, plain=True)
        if style != "beanie" and not behind:
            self._brim(brim, dark)
        if style == "beanie":
            band, seen = self._on(
                np.stack([np.sin(rim), np.full(40, 0.22) + 0.2 * np.cos(rim), np.cos(rim)], axis=1), 1.12
            )
            if seen.sum() > 1:
                order = np.argsort(band[seen][:, 0])
                self.canvas.stroke(band[seen][order], dark, self.size * 0.26, solid=True)

    def _brim(self, outline: Array, colour: Colour) -> None:
        middle = outline.mean(axis=0)
        order = outline[np.argsort(np.arctan2(*(outline - middle).T))]
        self.canvas.stroke(np.concatenate([order, order[:1]]), colour, self.size * 0.1, solid=True)
        self.canvas.mark(order, colour)

    def _add_long_hair(self, length: float) -> None:
        """Add hair that reaches `length` statures below the chin, loose or in a tail."""
        canvas, rng, head, size = self.canvas, self.rng, self.bones.head, self.size
        tail = rng.random() < 0.27
        neck = self.bones.neck
        bottom = neck[1] - length
        back = head + vector(0, size * 0.2, -size * 0.66)
        end = np.array([neck[0], bottom, neck[2] - size * (0.95 if not tail else 1.1)])
        widths = (
            [size * 0.3, size * 0.3, size * 0.16] if tail else [size * 0.74, size * rng.uniform(0.8, 1.02), size * 0.7]
        )
        fall = canvas.loft([back, (back + end) / 2, end], widths, [size * 0.34] * 3)
        behind = canvas.near(end) < canvas.near(neck)
        canvas.add(self.near + (-0.1 if behind else 0.1), self._strands(fall))
        if tail:
            return
        for side in SIDES:  # strands beside the face and over the shoulders
            top = head + vector(side * size * 0.74, size * 0.35, -size * 0.1)
            low = np.array([neck[0] + side * size * 0.92, bottom + rng.uniform(0, 0.04), neck[2] + size * 0.55])
            lock = canvas.limb(
                [top, (top + low) / 2 + vector(side * size * 0.1, 0, 0), low], [size * 0.2, size * 0.3, size * 0.17]
            )
            canvas.add(max(canvas.near(top), canvas.near(low)) - 0.01, self._strands(lock))

    def _strands(self, surface: Surface) -> Callable[[], None]:
        starts = self.rng.uniform(0.1, 0.9, 7)

        def paint() -> None:
            self.canvas.fill(surface, self.hair)
            for k, u in enumerate(starts):
                path = surface.at(np.full(6, u), np.linspace(0.03, 0.97, 6))
                self.canvas.shade(path, 0.72 if k % 2 else 1.15, 0.006)

        return paint
