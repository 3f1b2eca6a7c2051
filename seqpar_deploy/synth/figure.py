"""Bodies: proportions by age and sex, and the pose of a standing or walking skeleton."""

from __future__ import annotations

import dataclasses

import numpy as np

from seqpar_deploy.synth.attributes import Person
from seqpar_deploy.synth.canvas import Array, vector

SIDES = (-1, 1)  # the person's right and left, the sign of x


@dataclasses.dataclass(frozen=True, kw_only=True)
class Body:
    """Proportions in statures: heights above the ground when upright, half widths, radii."""

    head: float  # half its height
    shoulder_height: float
    waist_height: float
    hip_height: float
    knee_height: float
    shoulders: float
    chest: float
    waist: float
    hips: float
    depth: float
    arm: float
    leg: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Skeleton:
    """Joints in statures: x to the person's left, y up, z forward. Limbs by side: -1 right, 1 left."""

    body: Body
    stoop: float  # radians the back leans forward
    hip_centre: Array
    neck: Array
    head: Array
    arms: dict[int, Array]  # shoulder, elbow, wrist (3, 3)
    legs: dict[int, Array]  # hip, knee, ankle (3, 3)
    toes: dict[int, Array]

    def spine(self, height: float, forward: float = 0.0, side: float = 0.0) -> Array:
        """Return a point of the trunk at `height`, moved in the directions of the trunk."""
        up = height - self.body.hip_height
        bend = self.stoop * max(0.0, min(1.0, up / 0.15))
        cos, sin = np.cos(bend), np.sin(bend)
        return np.asarray(self.hip_centre + vector(side, up * cos - forward * sin, up * sin + forward * cos))


def make_body(person: Person, rng: np.random.Generator) -> Body:
    """Sample proportions: children have large heads and short limbs, women narrower shoulders and wider hips."""
    young = rng.uniform(0.6, 1.0) if person.age == "child" else 0.0
    heavy = rng.normal(1.0, 0.09) * (1.08 if person.age == "senior" else 1.0)
    heavy = float(np.clip(heavy, 0.84, 1.32))
    female = person.female and young < 0.9
    head = 0.060 + 0.036 * young
    hip = 0.515 - 0.045 * young
    shoulder = 1 - 2 * head - 0.045 + 0.012 * young
    return Body(
        head=head,
        shoulder_height=shoulder,
        waist_height=hip + 0.40 * (shoulder - hip),
        hip_height=hip,
        knee_height=0.28 - 0.03 * young,
        shoulders=(0.098 if female else 0.120) * (0.55 + 0.45 * heavy),
        chest=(0.086 if female else 0.110) * heavy,
        waist=(0.070 if female else 0.092) * heavy * (1 + 0.15 * young),
        hips=(0.096 if female else 0.088) * (0.4 + 0.6 * heavy),
        depth=0.074 * heavy,
        arm=(0.028 if female else 0.033) * (0.5 + 0.5 * heavy),
        leg=(0.052 if female else 0.056) * (0.5 + 0.5 * heavy),
    )


def _swing(angle: float, aside: float, side: int, length: float) -> Array:
    """Return a hanging bone, rotated forward by `angle` and away from the body by `aside`."""
    return length * np.array([side * np.sin(aside), -np.cos(angle) * np.cos(aside), np.sin(angle) * np.cos(aside)])


def pose(person: Person, body: Body, rng: np.random.Generator) -> Skeleton:
    """Sample a pose, standing or walking. The arms are in front if the person holds an object."""
    walking = rng.random() < 0.72
    stride = rng.uniform(0.25, 0.55) if walking else rng.uniform(0.0, 0.09)
    if person.age == "senior":
        stride *= 0.65
    phase = rng.uniform(0, 2 * np.pi)
    stoop = rng.uniform(0.16, 0.42) if person.age == "senior" else abs(rng.normal(0, 0.035))

    legs, toes = {}, {}
    thigh, shin = body.hip_height - body.knee_height, body.knee_height - 0.04
    apart = rng.uniform(0.0, 0.07)
    for side in SIDES:
        moment = phase + (np.pi if side > 0 else 0.0)
        forward = stride * np.sin(moment)
        bend = 0.04 + (1.3 * stride * max(0.0, np.cos(moment)) if walking else 0.0)
        hip = np.array([side * body.hips * 0.52, 0.0, 0.0])
        knee = hip + _swing(forward, apart, side, thigh)
        ankle = knee + _swing(forward - bend, apart * 0.5, side, shin)
        legs[side] = np.stack([hip, knee, ankle])
        lift = 0.75 * max(0.0, bend - forward - 0.1)  # the heel leaves the ground behind the body
        toes[side] = np.array([side * 0.014, -np.sin(lift) * 0.06 - 0.012, 0.075 * np.cos(lift)])
    ground = min(leg[2, 1] for leg in legs.values()) - 0.035
    hip_centre = np.array([0.0, -ground, 0.0])
    legs = {side: leg + hip_centre for side, leg in legs.items()}

    frame = Skeleton(
        body=body,
        stoop=float(stoop),
        hip_centre=hip_centre,
        neck=hip_centre,
        head=hip_centre,
        arms={},
        legs={},
        toes={},
    )
    upper, fore = 0.165 * (body.shoulder_height / 0.82), 0.145 * (body.shoulder_height / 0.82)
    arms = {}
    idle = rng.random(2)  # hands in pockets, a hand at the face: not everyone swings the arms
    both = rng.random() < 0.6
    for k, side in enumerate(SIDES):
        shoulder = frame.spine(body.shoulder_height - 0.015, -0.005, side * (body.shoulders - 0.012))
        swing = -0.75 * stride * np.sin(phase + (np.pi if side > 0 else 0.0)) + rng.normal(0, 0.06)
        elbow, aside = rng.uniform(0.08, 0.4), rng.uniform(0.05, 0.2)
        inward = 0.0
        if person.holds and (both or side > 0):
            swing, elbow, aside, inward = rng.uniform(0.1, 0.45), rng.uniform(1.25, 1.75), 0.16, 0.55
        elif idle[k] < 0.12:
            swing, elbow, aside, inward = -0.25, rng.uniform(0.6, 0.9), 0.32, 0.35
        elif idle[k] > 0.96 and not person.hand_bag:
            swing, elbow, aside, inward = 0.4, 2.2, 0.25, 0.25
        bent = shoulder + _swing(swing, aside, side, upper)
        wrist = bent + _swing(swing + elbow, aside * 0.4 - inward, side, fore)
        arms[side] = np.stack([shoulder, bent, wrist])
    nod = 0.5 * float(stoop) + rng.normal(0, 0.05)
    neck = frame.spine(body.shoulder_height + 0.01)
    lift = np.array([0.0, np.cos(nod), np.sin(nod)])
    head = neck + lift * (body.head + 0.028)
    return dataclasses.replace(frame, neck=neck, head=head, arms=arms, legs=legs, toes=toes)
