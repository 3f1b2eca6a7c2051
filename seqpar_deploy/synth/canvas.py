"""A canvas for rounded bodies, with three planes (colour, light, coverage). Parts are painted from back to front."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Array = npt.NDArray[np.float64]
Picture = npt.NDArray[np.float32]  # linear, 0 to 1
Colour = tuple[int, int, int]

_UNLIT = 160.0  # value of the light plane at which a colour is unchanged
_STRIPS = 7  # flat strips per rounded surface, for shading


def cloud(rng: np.random.Generator, height: int, width: int, *, coarse: int = 4, octaves: int = 4) -> Picture:
    """Return 1/f noise, (height, width), mean 0 and standard deviation 1, with `coarse` cells in the first octave."""
    total = np.zeros((height, width), dtype=np.float32)
    for octave in range(octaves):
        cells = coarse * 2**octave
        small = rng.standard_normal((max(2, cells * height // max(width, 1)), max(2, cells))).astype(np.float32)
        grown = Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)
        total += np.asarray(grown) * (0.7**octave)
    return total / max(float(total.std()), 1e-6)


def vector(x: float, y: float, z: float) -> Array:
    """Return a world vector in statures (heights of a person): x to the person's left, y up, z forward."""
    return np.array([x, y, z], dtype=np.float64)


class Surface:
    """A rounded patch between a left and a right edge, (n, 2) pixels each, with u across and v along, both 0 to 1.

    `width` and `length` are its extent in statures, so that a pattern keeps its scale from part to part.
    """

    def __init__(self, left: Array, right: Array, *, width: float, length: float) -> None:
        self.left, self.right, self.width, self.length = left, right, width, length
        self._span = right - left

    def at(self, u: Any, v: Any) -> Array:
        """Return pixels (n, 2) of points. u is an angle around the visible half, so patterns are dense at the rim."""
        across = (1 - np.cos(np.pi * np.minimum(np.maximum(u, 0.0), 1.0))) / 2
        row = np.minimum(np.maximum(v, 0.0), 1.0) * (len(self.left) - 1)
        above = np.minimum(row.astype(np.intp), len(self.left) - 2)
        share = (row - above)[:, None]
        left = self.left[above] * (1 - share) + self.left[above + 1] * share
        span = self._span[above] * (1 - share) + self._span[above + 1] * share
        return np.asarray(left + span * np.reshape(across, (-1, 1)))

    def box(self, u0: float, u1: float, v0: float, v1: float) -> Array:
        """Return the outline of a rectangle in (u, v), bent with the patch."""
        steps = max(2, int(abs(v1 - v0) * len(self.left)) + 1)
        down = v0 + (v1 - v0) / (steps - 1) * np.arange(steps)
        return self.at(np.repeat((u0, u1), steps), np.concatenate([down, down[::-1]]))

    @property
    def outline(self) -> Array:
        return np.concatenate([self.left, self.right[::-1]])


class Canvas:
    """The three planes of a figure, and its camera.

    World points are in statures: x to the person's left, y up, z forward, with the feet at y = 0. `light` is the
    direction of the light, in radians from straight ahead. `ambient` is the brightness of the side away from it.
    """

    def __init__(
        self, width: int, height: int, *, yaw: float, pitch: float, scale: float, origin: tuple[float, float],
        light: float, ambient: float,
    ) -> None:  # fmt: skip
        self.size = (width, height)
        self.scale, self.origin = scale, origin
        self._cos, self._sin = np.cos(yaw), np.sin(yaw)
        self._up, self._tilt = np.cos(pitch), np.sin(pitch)
        self.albedo = Image.new("RGB", self.size)
        self.light = Image.new("L", self.size, int(_UNLIT))
        self.mask = Image.new("L", self.size, 0)
        self._draws = [ImageDraw.Draw(plane) for plane in (self.albedo, self.light, self.mask)]
        self._parts: list[tuple[float, int, Callable[[], None]]] = []
        angles = (np.arange(_STRIPS) + 0.5) / _STRIPS * np.pi - np.pi / 2
        lambert = np.maximum(0.0, np.cos(angles - light))
        self.strips = _UNLIT * (ambient + (1.15 - ambient) * lambert)
        self.rim = int(_UNLIT * ambient * 0.55)

    # Geometry

    def project(self, points: Any) -> tuple[Array, Array]:
        """Return pixels (n, 2) and nearness to the camera (n,) of world points (n, 3)."""
        points = np.atleast_2d(np.asarray(points, dtype=np.float64))
        x, y, z = points.T
        near = z * self._cos - x * self._sin
        screen = np.stack([x * self._cos + z * self._sin, -(y * self._up - near * self._tilt)], axis=1)
        return screen * self.scale + np.array(self.origin), near

    def spread(self, a: Array, b: Array) -> Array:
        """Return half the visible width of an upright elliptic cylinder of half width a and half depth b."""
        return np.asarray(np.sqrt((a * self._cos) ** 2 + (b * self._sin) ** 2))

    def loft(self, centres: Any, a: Any, b: Any, *, samples: int = 20) -> Surface:
        """Return an upright body of elliptic sections: centres (n, 3), half widths a, half depths b, from the top."""
        centres, a, b = (np.asarray(values, dtype=np.float64) for values in (centres, a, b))
        knots = np.linspace(0, 1, len(a))
        fine = np.linspace(0, 1, samples)
        middle = np.stack([np.interp(fine, knots, centres[:, k]) for k in range(3)], axis=1)
        half_a, half_b = np.interp(fine, knots, a), np.interp(fine, knots, b)
        pixels, _ = self.project(middle)
        offset = np.stack([self.spread(half_a, half_b) * self.scale, np.zeros(samples)], axis=1)
        length = float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())
        return Surface(pixels - offset, pixels + offset, width=float(a.mean() * 3.0), length=length)

    def limb(self, joints: Any, radii: Any, *, samples: int = 14) -> Surface:
        """Return a bent tube through joints (n, 3) with the given radii and rounded ends."""
        joints, radii = np.asarray(joints, dtype=np.float64), np.asarray(radii, dtype=np.float64)
        steps = np.linalg.norm(np.diff(joints, axis=0), axis=1)
        knots = np.concatenate([[0.0], np.cumsum(steps)]) / max(float(steps.sum()), 1e-9)
        fine = np.linspace(0, 1, samples)
        middle = np.stack([np.interp(fine, knots, joints[:, k]) for k in range(3)], axis=1)
        radius = np.interp(fine, knots, radii) * self.scale
        radius[[0, -1]] *= 0.45  # rounded ends
        radius[[1, -2]] *= 0.9
        pixels, _ = self.project(middle)
        along = np.gradient(pixels, axis=0)
        along /= np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6)
        normal = np.stack([along[:, 1], -along[:, 0]], axis=1) * radius[:, None]
        left, right = pixels + normal, pixels - normal
        if float(along[:, 1].mean()) < 0:  # light is computed from the left edge
            left, right = right, left
        return Surface(left, right, width=float(radii.mean() * 3.0), length=float(steps.sum()))

    # Painting

    def add(self, near: float, paint: Callable[[], None]) -> None:
        """Add a part, to be painted in the order of nearness."""
        self._parts.append((near, len(self._parts), paint))

    def finish(self) -> None:
        """Paint all parts, the farthest first."""
        for _, _, paint in sorted(self._parts, key=lambda part: part[:2]):
            paint()
        self._parts.clear()

    def near(self, point: Any) -> float:
        """Return the nearness of a world point to the camera, in statures."""
        return float(self.project(point)[1][0])

    def fill(self, surface: Surface, colour: Colour) -> None:
        """Fill a patch with one colour, shaded as a round body, with a dark rim."""
        outline = _flat(surface.outline)
        albedo, light, mask = self._draws
        light.line([*outline, *outline[:2]], fill=self.rim, width=max(1, round(self.scale * 0.008)))
        albedo.polygon(outline, fill=colour)
        mask.polygon(outline, fill=255)
        edges = np.linspace(0, 1, _STRIPS + 1)
        span = surface.right - surface.left
        across = (1 - np.cos(np.pi * edges)) / 2
        for k, value in enumerate(self.strips):
            strip = np.concatenate([surface.left + span * across[k], (surface.left + span * across[k + 1])[::-1]])
            light.polygon(_flat(strip), fill=int(min(255.0, value)))

    def mark(self, points: Array, colour: Colour) -> None:
        """Colour a polygon of pixels. The light plane is unchanged."""
        if len(points) >= 3:
            self._draws[0].polygon(_flat(points), fill=colour)

    def stroke(self, points: Array, colour: Colour, width: float, *, solid: bool = False) -> None:
        """Draw a line through pixels, `width` in statures. `solid` is for a separate object: a strap or a cane."""
        pixels = max(1, round(width * self.scale))
        albedo, light, mask = self._draws
        path = _flat(points)
        if solid:
            light.line(path, fill=self.rim, width=pixels + 2, joint="curve")
            light.line(path, fill=int(_UNLIT * 0.9), width=pixels, joint="curve")
            mask.line(path, fill=255, width=pixels, joint="curve")
        albedo.line(path, fill=colour, width=pixels, joint="curve")

    def shade(self, points: Array, factor: float, width: float) -> None:
        """Draw a crease: a line on the light plane, `factor` times as bright as flat cloth."""
        self._draws[1].line(_flat(points), fill=int(_UNLIT * factor), width=max(1, round(width * self.scale)))

    def blob(self, centre: Array, rx: float, ry: float, colour: Colour, *, solid: bool = True) -> None:
        """Draw an ellipse at pixel (2,), radii in statures. If `solid`, it is shaded as a ball, else it is flat."""
        (x, y), rx, ry = centre, rx * self.scale, ry * self.scale
        albedo, light, mask = self._draws
        box = (x - rx, y - ry, x + rx, y + ry)
        albedo.ellipse(box, fill=colour)
        if not solid:
            return
        mask.ellipse(box, fill=255)
        turn = int(np.argmax(self.strips)) / (_STRIPS - 1) - 0.5
        for shrink in (1.0, 0.8, 0.55, 0.3):
            value = self.strips.min() + (self.strips.max() - self.strips.min()) * (1.15 - shrink)
            cx, cy = x + turn * rx * (1 - shrink), y - 0.3 * ry * (1 - shrink)
            inner = (cx - rx * shrink, cy - ry * shrink, cx + rx * shrink, cy + ry * shrink)
            light.ellipse(inner, fill=int(min(255.0, value)))

    def splat(self, points: Array, size: float, colours: list[Colour], middle: Array, radius: float) -> None:
        """Draw dots of `size` statures that form a surface, lit as parts of a ball around pixel `middle`."""
        albedo, light, mask = self._draws
        size *= self.scale
        offset = np.clip((points[:, 0] - middle[0]) / max(radius * self.scale, 1e-6), -1, 1)
        values = np.interp(np.arcsin(offset), np.linspace(-np.pi / 2, np.pi / 2, _STRIPS), self.strips)
        for k, (x, y) in enumerate(points.tolist()):
            box = (x - size, y - size, x + size, y + size)
            albedo.ellipse(box, fill=colours[k % len(colours)])
            light.ellipse(box, fill=int(min(255.0, values[k])))
            mask.ellipse(box, fill=255)

    def lit(self, rng: np.random.Generator, *, folds: float) -> tuple[Picture, Image.Image]:
        """Return the figure as linear RGB (h, w, 3), 0 to 1, and its mask. `folds` is the strength of creases."""
        width, height = self.size
        light = self.light.filter(ImageFilter.BoxBlur(self.scale * 0.006))
        shade = np.asarray(light, dtype=np.float32) / _UNLIT
        crumple = cloud(rng, height, width, coarse=9, octaves=3)
        shade = shade * (1 + np.float32(folds) * crumple)
        colour = np.asarray(self.albedo, dtype=np.float32) / 255
        return np.clip(colour * shade[..., None], 0, 1), self.mask


def _flat(points: Array) -> list[float]:
    values: list[float] = points.ravel().tolist()
    return values
