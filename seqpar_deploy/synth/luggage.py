"""Draws bags, backpacks, objects in the hands and canes."""

from __future__ import annotations

import numpy as np

from seqpar_deploy.synth import palette
from seqpar_deploy.synth.attributes import Person
from seqpar_deploy.synth.canvas import Array, Canvas, Colour, Surface, vector
from seqpar_deploy.synth.figure import Skeleton

_CORNERS = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)


class Luggage:
    """One person's bags and objects. `add` adds them to the canvas."""

    def __init__(
        self, canvas: Canvas, person: Person, bones: Skeleton, clothes: Colour, rng: np.random.Generator
    ) -> None:
        self.canvas, self.person, self.bones, self.clothes, self.rng = canvas, person, bones, clothes, rng
        self.body = bones.body

    def add(self) -> None:
        """Add all bags and objects."""
        person, rng = self.person, self.rng
        # A bag is on the visible side in seven of eight cases.
        visible = int(-np.sign(np.sin(person.yaw))) if person.view == "side" else int(rng.choice([-1, 1]))
        side = visible if rng.random() < 0.88 or person.view == "side" else -visible
        if person.backpack:
            self._add_backpack()
        if person.shoulder_bag:
            self._add_shoulder_bag(side)
        if person.hand_bag:
            self._add_hand_bag(side)
        if person.holds:
            self._add_object()
        if person.age == "senior" and not person.holds and rng.random() < 0.4:
            self._add_cane(-side if person.hand_bag else side)

    def _box(self, centre: Array, half: Array, colour: Colour, near: float, *, flap: bool = True) -> None:
        """Add a soft box. Its outline is the rounded hull of the projected corners."""
        canvas = self.canvas
        pixels, _ = canvas.project(centre + _CORNERS * half)
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        v = np.linspace(0, 1, 12)
        soft = 1 - 0.35 * np.abs(2 * v - 1) ** 6  # rounded top and bottom
        middle, reach = (low + high) / 2, (high - low) / 2
        down = low[1] + v * (high[1] - low[1])
        left = np.stack([middle[0] - reach[0] * soft, down], axis=1)
        right = np.stack([middle[0] + reach[0] * soft, down], axis=1)
        surface = Surface(left, right, width=float(half[0] * 3), length=float(half[1] * 2))
        dark = palette.mix(colour, (0, 0, 0), 0.45)
        detail = self.rng.random()

        def paint() -> None:
            canvas.fill(surface, colour)
            if flap and detail < 0.7:
                canvas.stroke(surface.at(np.linspace(0.04, 0.96, 6), np.full(6, 0.38)), dark, 0.007)
                canvas.mark(surface.box(0.42, 0.58, 0.34, 0.46), palette.mix(colour, (230, 220, 200), 0.35))
            if flap and detail > 0.45:
                canvas.mark(surface.box(0.2, 0.8, 0.55, 0.86), palette.mix(colour, (0, 0, 0), 0.25))

        canvas.add(near, paint)

    def _strap_colour(self, colour: Colour) -> Colour:
        """Return a darker shade of the bag's colour, unless it is too close to the clothes."""
        strap = palette.mix(colour, (0, 0, 0), 0.3)
        return strap if palette.distance(strap, self.clothes) > 45 else colour

    def _strap(self, points: Array, colour: Colour, near: float, width: float = 0.014) -> None:
        pixels, _ = self.canvas.project(points)
        self.canvas.add(near, lambda: self.canvas.stroke(pixels, colour, width, solid=True))

    def _around(self, height: float, angle: float, grow: float = 1.08) -> Array:
        """Return a point on the trunk's surface. `angle` is 0 at the chest, pi at the back, positive to the left."""
        body = self.body
        t = np.clip((height - body.hip_height) / (body.shoulder_height - body.hip_height), 0, 1)
        wide = np.interp(
            t, [0, 0.4, 0.75, 1], [body.hips, body.waist + 0.01, body.chest + 0.008, body.shoulders * 0.55]
        )
        deep = body.depth * np.interp(t, [0, 0.8, 1], [1.25, 1.15, 0.7])
        return self.bones.spine(height, deep * np.cos(angle) * grow, wide * np.sin(angle) * grow)

    def _add_backpack(self) -> None:
        rng, body, canvas = self.rng, self.body, self.canvas
        small = 0.85 if self.person.age == "child" else 1.0
        half = np.array([rng.uniform(0.07, 0.1), rng.uniform(0.1, 0.135), rng.uniform(0.04, 0.065)]) * small
        half[0] = min(half[0], body.shoulders * 0.92)
        centre = self.bones.spine(body.shoulder_height - half[1] - rng.uniform(0.0, 0.03), -body.depth - half[2] * 0.9)
        vivid = 0.7 if self.person.age == "child" else 0.0
        colour = palette.contrasting(rng, self.clothes, least=55, bright=vivid)
        trunk = canvas.near(self.bones.spine(body.waist_height))
        side_on = canvas.near(centre) - trunk
        self._box(centre, half, colour, trunk + (0.2 if side_on > 0.03 else (0.118 if side_on > -0.05 else -0.12)))
        strap = self._strap_colour(colour)
        for side in (-1, 1):
            x = side * body.shoulders * 0.62
            points = [
                self.bones.spine(body.shoulder_height + 0.02, 0.0, x * 0.85),
                self.bones.spine(body.shoulder_height - 0.04, body.depth * 1.0, x),
                self.bones.spine(body.shoulder_height - 0.13, body.depth * 1.15, x * 1.15),
                self.bones.spine(body.waist_height + 0.02, body.depth * 0.2, x * 1.6),
            ]
            seen = canvas.near(points[1]) > canvas.near(self.bones.spine(body.shoulder_height)) - 0.03
            if seen:
                self._strap(np.stack(points), strap, trunk + 0.122, width=0.021)

    def _add_shoulder_bag(self, side: int) -> None:
        rng, body, canvas = self.rng, self.body, self.canvas
        colour = palette.contrasting(rng, self.clothes, least=60, bright=0.0)
        half = np.array([rng.uniform(0.03, 0.045), rng.uniform(0.05, 0.075), rng.uniform(0.06, 0.09)])
        across = rng.random() < 0.55
        drop = body.hip_height - rng.uniform(-0.05, 0.04) if across else body.waist_height - rng.uniform(0.0, 0.06)
        hip = np.array([side * (max(body.hips, body.waist) + half[0] + 0.012), 0.0, 0.0])
        turn = rng.uniform(-0.03, 0.03)
        centre = self.bones.spine(drop, turn, 0.0) + hip
        if not across:
            centre = centre + vector(side * 0.03, 0, 0)
        trunk = canvas.near(self.bones.spine(body.waist_height))
        beside = canvas.near(centre) - trunk
        near = trunk + (0.16 if beside > -0.07 else -0.06)
        self._box(centre, half, colour, near)
        strap = self._strap_colour(colour)
        shoulder = self.bones.spine(
            body.shoulder_height + 0.012, 0.0, (-side if across else side) * body.shoulders * 0.6
        )
        for face in (0.0, np.pi):  # over the chest, and over the back
            if across:
                heights = np.linspace(body.shoulder_height - 0.05, drop + 0.07, 4)
                angles = np.array([-0.8, -0.3, 0.4, 1.1]) * (side if face == 0.0 else -side)
                way = [self._around(h, face + a) for h, a in zip(heights, angles, strict=True)]
            else:
                angle = side * (0.9 if face == 0.0 else np.pi - 0.9)
                heights = np.linspace(body.shoulder_height - 0.04, drop + half[1], 3)
                way = [self._around(h, angle, 1.14) for h in heights]
            points = np.stack([shoulder, *way, centre + vector(0, half[1] * 0.8, 0)])
            if canvas.near(points[2]) > trunk - 0.012:
                self._strap(points, strap, trunk + 0.124, width=0.015)

    def _add_hand_bag(self, side: int) -> None:
        rng, canvas = self.rng, self.canvas
        wrist, elbow = self.bones.arms[side][2], self.bones.arms[side][1]
        hand = wrist + (wrist - elbow) * 0.2
        shopping = rng.random() < 0.4
        half = np.array([0.022, rng.uniform(0.05, 0.08), rng.uniform(0.055, 0.08)])
        if rng.random() < 0.4:
            half = half[[2, 1, 0]]  # seen flat from the front
        if shopping:
            half[1] *= 1.35
        colour = palette.contrasting(rng, self.clothes, least=55)
        if shopping and rng.random() < 0.6:
            colour = palette.jitter(rng, (232, 232, 228), 8)
        loop = rng.uniform(0.03, 0.07)
        centre = hand + np.array([side * 0.012, -loop - half[1], 0.0])
        trunk = canvas.near(self.bones.spine(self.body.waist_height))
        near = trunk + (0.15 if canvas.near(hand) - trunk > -0.06 else -0.07)
        reach = np.array([half[0] * 0.5, 0, half[2] * 0.5])
        top = centre + vector(0, half[1] * 0.9, 0)
        self._strap(
            np.stack([top - reach, hand, top + reach]), palette.mix(colour, (0, 0, 0), 0.4), near - 0.001, 0.011
        )
        self._box(centre, half, colour, near, flap=not shopping)

    def _add_object(self) -> None:
        """Add an object in the hands, in front of the body: a box, papers or a parcel."""
        rng, canvas, body = self.rng, self.canvas, self.body
        hands = [arm[2] for arm in self.bones.arms.values()]
        raised = [hand for hand in hands if hand[2] > self.bones.neck[2] + 0.06] or [hands[1]]
        middle = np.mean(raised, axis=0)
        kinds = (
            (0.075, 0.055, 0.05),  # a box
            (0.055, 0.075, 0.012),  # papers, a book
            (0.08, 0.10, 0.035),  # a big parcel, a coat
            (0.05, 0.035, 0.03),  # a lunch box
        )
        half = np.array(kinds[int(rng.integers(4))]) * rng.uniform(0.85, 1.25)
        centre = middle + np.array([0.0, rng.uniform(-0.02, 0.03), half[2] + 0.012])
        colour = palette.contrasting(rng, self.clothes, least=85, bright=0.3)
        if rng.random() < 0.3:
            colour = palette.contrasting(rng, self.clothes, least=85) if sum(self.clothes) > 500 else (225, 218, 205)
        trunk = canvas.near(self.bones.spine(body.waist_height))
        self._box(centre, half, colour, trunk + 0.126, flap=bool(rng.random() < 0.4))

    def _add_cane(self, side: int) -> None:
        wrist = self.bones.arms[side][2]
        tip = vector(wrist[0] + side * 0.02, 0.0, wrist[2] + 0.06)
        path = np.stack([wrist + vector(0, 0.01, 0.02), wrist + vector(0, 0, -0.015), tip])
        self._strap(path, (70, 48, 34), self.canvas.near(wrist) + 0.16, 0.012)
