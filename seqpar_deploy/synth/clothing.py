"""Draws clothes: shoes, trousers, skirts, coats, sleeves and their patterns."""

from __future__ import annotations

import numpy as np

from seqpar_deploy.synth import palette
from seqpar_deploy.synth.attributes import Person
from seqpar_deploy.synth.canvas import Array, Canvas, Colour, Surface, vector
from seqpar_deploy.synth.fabric import Fabric, lower_fabric, sew, upper_fabric
from seqpar_deploy.synth.figure import SIDES, Skeleton


class Outfit:
    """One person's clothes. `add` adds them to the canvas."""

    def __init__(self, canvas: Canvas, person: Person, bones: Skeleton, skin: Colour, rng: np.random.Generator) -> None:
        self.canvas, self.person, self.bones, self.skin, self.rng = canvas, person, bones, skin, rng
        self.body = bones.body
        bright = {"child": 0.7, "adult": 0.0, "senior": -0.5}[person.age]
        if person.short_sleeve:
            bright += 0.3
        self.upper = upper_fabric(person, rng, palette.cloth(rng, bright=bright))
        self.lower = lower_fabric(person, rng, palette.lower_cloth(rng))
        if person.lower == "dress":  # same cloth as the upper part, unless the lower part has a pattern
            if self.lower.pattern == "plain":
                self.lower = Fabric(colour=self.upper.colour)
        elif palette.distance(self.upper.colour, self.lower.colour) < 30 and rng.random() < 0.6:
            self.lower = lower_fabric(person, rng, palette.contrasting(rng, self.upper.colour, least=45))
        self._shared: dict[str, float] = {}
        self._leather = self._shoe_colour()
        self.loose = rng.uniform(0.0, 0.018) + (0.012 if not person.short_sleeve else 0.005)

    def add(self) -> None:
        """Add legs and feet, the lower garment, the trunk with its pattern, and the arms."""
        for side in SIDES:
            self._add_leg(side)
        if self.person.lower in ("skirt", "dress"):
            self._add_skirt()
        self._add_trunk()
        for side in SIDES:
            self._add_arm(side)

    # Below the waist

    def _add_leg(self, side: int) -> None:
        canvas, person, rng, body = self.canvas, self.person, self.rng, self.body
        hip, knee, ankle = self.bones.legs[side]
        near = canvas.near((hip + knee + ankle) / 3)
        start = hip + vector(0, 0.03, 0)
        bare = self.skin
        if person.lower in ("skirt", "dress") and self._pair("tights", 0.4):
            bare = (34, 30, 34)
        skin = canvas.limb([start, knee, ankle], [body.leg, body.leg * 0.68, body.leg * 0.42])
        canvas.add(near, lambda: canvas.fill(skin, bare))
        self._add_foot(side, near)
        if person.lower == "trousers":
            wide = self._value("flare", 0.68, 1.0)
            tube = canvas.limb(
                [start, knee, ankle + vector(0, 0.012, 0)],
                [body.leg * 1.12, body.leg * (0.72 + 0.2 * wide), body.leg * 0.78 * wide],
            )
        elif person.lower == "shorts":
            share = self._value("shorts", 0.45, 1.12)
            end = hip + (knee - hip) * share if share < 1 else knee + (ankle - knee) * (share - 1)
            tube = canvas.limb([start, (start + end) / 2, end], [body.leg * 1.12, body.leg * 1.15, body.leg * 1.2])
        else:
            return
        lower = self.lower
        if lower.pattern == "seam":  # the stripe runs down the outside, or where the side view shows the leg's middle
            on_left = side * np.cos(person.yaw) < 0
            share = 2.0 if person.view == "side" else (-1.0 if on_left else 1.0)
            lower = Fabric(colour=lower.colour, other=lower.other, pattern="seam", share=share)
        canvas.add(near + 0.002, lambda: sew(canvas, tube, lower, rng))

    def _add_foot(self, side: int, near: float) -> None:
        canvas, person = self.canvas, self.person
        ankle = self.bones.legs[side][2]
        tip = ankle + self.bones.toes[side]
        heel = ankle + vector(0, -0.018, -0.018)
        colour = self._leather
        shoe = canvas.limb([heel, (heel + tip) / 2, tip], [0.021, 0.024, 0.017])
        canvas.add(near + 0.004, lambda: canvas.fill(shoe, colour))
        if person.boots:
            knee = self.bones.legs[side][1]
            top = ankle + (knee - ankle) * self._value("shaft", 0.5, 0.92)
            wide = self.body.leg * 0.78
            shaft = canvas.limb([top, (top + ankle) / 2, ankle + vector(0, -0.01, 0)], [wide, wide * 0.92, wide * 0.68])
            canvas.add(near + 0.006, lambda: canvas.fill(shaft, colour))

    def _add_skirt(self) -> None:
        canvas, rng, body = self.canvas, self.rng, self.body
        top, knee, ankle = body.waist_height - 0.01, body.knee_height, 0.05
        long = self._pair("long", 0.25)
        hem = self._value("hem", ankle + 0.06, knee - 0.05) if long else self._value("hem", knee - 0.02, knee + 0.12)
        flare = self._value("flare", 1.05, 1.75)
        sway = max(abs(leg[1, 2] - self.bones.hip_centre[2]) for leg in self.bones.legs.values())
        waist, hip = self.bones.spine(top), self.bones.hip_centre + vector(0, -0.02, 0)
        end = np.array([hip[0], hem, hip[2]])
        surface = canvas.loft(
            [waist, hip, end],
            [body.waist * 1.03, body.hips * 1.06, body.hips * flare],
            [body.depth, body.depth * 1.25, max(body.depth * flare, sway + 0.05)],
        )
        canvas.add(canvas.near(self.bones.hip_centre) + 0.10, lambda: sew(canvas, surface, self.lower, rng))

    # Above the waist

    def _trunk(self, hem: float, extra: float) -> Surface:
        """Return the trunk from the neck to the height `hem`, wider than the body by `extra`."""
        body, bones = self.body, self.bones
        chest = body.shoulder_height - 0.085
        bust = 0.012 if self.person.female and self.person.age != "child" else 0.0
        rows: list[tuple[Array, float, float]] = [
            (bones.spine(body.shoulder_height + 0.028), body.shoulders * 0.40, body.depth * 0.5),
            (bones.spine(body.shoulder_height + 0.006), body.shoulders * 0.76, body.depth * 0.75),
            (bones.spine(body.shoulder_height - 0.022), body.shoulders * 0.96, body.depth * 0.9),
            (bones.spine(body.shoulder_height - 0.05), body.shoulders * 0.97, body.depth * 0.98),
            (bones.spine(chest, bust), body.chest + extra * 0.5, body.depth + bust + extra * 0.4),
            (bones.spine(body.waist_height), body.waist + extra, body.depth * 0.92 + extra),
            (bones.spine(body.hip_height + 0.015), body.hips * 1.03 + extra, body.depth * 1.12 + extra),
        ]
        rows = [row for row in rows if row[0][1] > hem + 0.02 or row is rows[0]]
        if hem < body.hip_height:
            end, flare = np.array([bones.hip_centre[0], hem, bones.hip_centre[2]]), self._value("coat", 1.02, 1.3)
            rows.append((end, body.hips * flare + extra, body.depth * (1.0 + flare * 0.3) + extra))
        else:
            rows.append((bones.spine(hem), body.hips * 1.02 + extra, body.depth * 1.1 + extra))
        centres, a, b = zip(*rows, strict=True)
        return self.canvas.loft(centres, a, b, samples=28)

    def _add_trunk(self) -> None:
        person, rng, body, canvas = self.person, self.rng, self.body, self.canvas
        if person.long_coat:
            hem = self._value("length", body.knee_height - 0.10, body.knee_height + 0.08)
        elif person.lower in ("skirt", "dress"):
            hem = body.waist_height - self._value("length", 0.02, 0.05)
        else:
            hem = body.hip_height + self._value("length", -0.035, 0.035)
        surface = self._trunk(hem, self.loose + (0.012 if person.long_coat else 0.0))
        near = canvas.near(self.bones.spine(body.waist_height)) + (0.115 if person.long_coat else 0.105)
        choice, inner = rng.random(), palette.contrasting(rng, self.upper.colour, least=60)

        def paint() -> None:
            sew(canvas, surface, self.upper, rng)
            if person.splice:
                self._splice(surface, choice)
            if not person.short_sleeve and person.view != "back" and not person.logo and not person.stride:
                self._opening(surface, choice, inner)
            if person.long_coat and choice > 0.5:  # a belt
                canvas.mark(surface.box(0, 1, 0.4, 0.44), palette.mix(self.upper.colour, (0, 0, 0), 0.4))
            if person.logo:
                self._logo(surface)

        canvas.add(near, paint)

    def _splice(self, surface: Surface, choice: float) -> None:
        """Draw a large block in a second colour: yoke, lower half, a broad band or one half."""
        blocks = ((0, 1, 0, 0.42), (0, 1, 0.55, 1), (0, 1, 0.32, 0.66), (0, 0.5, 0, 1))
        weights = (0.35, 0.65, 0.88, 1.0)
        block = next(b for b, w in zip(blocks, weights, strict=True) if choice <= w)
        self.canvas.mark(surface.box(*block), self.upper.other)

    def _opening(self, surface: Surface, choice: float, inner: Colour) -> None:
        """Draw the front of a shirt, jacket or coat: a zip, or open with another colour below."""
        middle = 0.5 + 0.42 * np.sin(self.person.yaw) * (1 if self.person.view == "front" else 1.1)
        dark = palette.mix(self.upper.colour, (0, 0, 0), 0.5)
        if not 0.05 < middle < 0.95:
            return
        if choice < 0.3:
            gap = 0.1
            self.canvas.mark(surface.box(middle - gap, middle + gap, 0.06, 0.9), inner)
            for edge in (middle - gap, middle + gap):
                self.canvas.shade(surface.at(np.full(8, edge), np.linspace(0.06, 0.95, 8)), 0.5, 0.008)
        elif choice < 0.75:
            self.canvas.stroke(surface.at(np.full(8, middle), np.linspace(0.04, 1, 8)), dark, 0.006)

    def _logo(self, surface: Surface) -> None:
        """Draw letters or a picture on the visible side, chest or back."""
        rng, canvas, ink = self.rng, self.canvas, self.upper.other
        turn = self.person.yaw if self.person.view != "back" else self.person.yaw - np.pi * np.sign(self.person.yaw)
        middle = float(np.clip(0.5 + 0.4 * np.sin(turn), 0.3, 0.7))
        unit = 1 / surface.length  # v per stature: a long coat's print is no larger
        wide, top = rng.uniform(0.17, 0.27), rng.uniform(0.085, 0.11) * unit
        kind = rng.random()
        if kind < 0.4:  # lines of letters
            for row in range(int(rng.integers(1, 4))):
                for k in range(int(rng.integers(3, 6))):
                    u, v = middle - wide + k * wide * 0.42, top + row * 0.036 * unit
                    canvas.mark(surface.box(u, u + wide * 0.3, v, v + 0.026 * unit), ink)
        elif kind < 0.7:  # a badge
            centre = surface.at(np.array([middle]), np.array([top + 0.045 * unit]))[0]
            size = wide * self.body.chest * 1.6
            canvas.blob(centre, size, size * rng.uniform(0.7, 1.1), ink, solid=False)
            inner = centre + rng.normal(0, 0.2, 2) * size * canvas.scale
            canvas.blob(inner, size * 0.5, size * 0.4, self.upper.colour, solid=False)
        else:  # a picture
            canvas.mark(surface.box(middle - wide, middle + wide, top, top + rng.uniform(0.05, 0.11) * unit), ink)
            bar = palette.mix(ink, self.upper.colour, 0.6)
            across = surface.box(middle - wide * 0.7, middle + wide * 0.5, top + 0.016 * unit, top + 0.032 * unit)
            canvas.mark(across, bar)

    def _add_arm(self, side: int) -> None:
        canvas, person, rng, body = self.canvas, self.person, self.rng, self.body
        shoulder, elbow, wrist = self.bones.arms[side]
        hand = wrist + (wrist - elbow) / max(float(np.linalg.norm(wrist - elbow)), 1e-6) * 0.038
        ahead = canvas.near((shoulder + elbow + wrist) / 3) - canvas.near(self.bones.spine(body.waist_height))
        # The trunk is painted at the depth of its axis, so an arm beside it is painted in front unless it is behind.
        near = canvas.near(self.bones.spine(body.waist_height)) + (0.13 if ahead > -0.045 else -0.05)
        radius = body.arm
        bare = canvas.limb([shoulder, elbow, wrist], [radius * 0.95, radius * 0.8, radius * 0.6])
        palm = canvas.limb([wrist, hand], [radius * 0.62, radius * 0.6])
        thick = radius + self.loose * 0.6
        sleeve_cloth = self.upper
        if person.splice and self._pair("sleeves", 0.55):
            sleeve_cloth = Fabric(colour=self.upper.other)
        if person.short_sleeve:
            end = shoulder + (elbow - shoulder) * self._value("sleeve", 0.35, 0.85)
            sleeve = canvas.limb([shoulder, end], [thick * 1.08, thick * 1.15])
        else:
            sleeve = canvas.limb([shoulder, elbow, wrist], [thick * 1.08, thick, thick * 0.85])

        def paint() -> None:
            canvas.fill(bare, self.skin)
            canvas.fill(palm, self.skin)
            sew(canvas, sleeve, sleeve_cloth, rng)

        canvas.add(near, paint)

    def _shoe_colour(self) -> Colour:
        """Return the colour of the shoes, mostly of leather. Boots contrast with the garment tucked into them."""
        rng, colour = self.rng, palette.pick(self.rng, palette.LEATHER)
        if self.person.boots and palette.distance(colour, self.lower.colour) < 60:
            return palette.contrasting(rng, self.lower.colour, least=70, bright=-0.3)
        if not self.person.boots and rng.random() < 0.35:
            return palette.cloth(rng, bright=-0.2)
        return colour

    # Random choices that both sides of the body share, by name

    def _value(self, name: str, low: float, high: float) -> float:
        if name not in self._shared:
            self._shared[name] = float(self.rng.random())
        return low + (high - low) * self._shared[name]

    def _pair(self, name: str, probability: float) -> bool:
        return self._value(name, 0, 1) < probability
