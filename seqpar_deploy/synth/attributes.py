"""Samples the attributes of one person, before anything is drawn."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

# The columns of PA-100K's annotation.mat, in its order; models/pa100k.toml has the same names.
NAMES = (
    "Female", "AgeOver60", "Age18-60", "AgeLess18", "Front", "Side", "Back", "Hat", "Glasses", "HandBag",
    "ShoulderBag", "Backpack", "HoldObjectsInFront", "ShortSleeve", "LongSleeve", "UpperStride", "UpperLogo",
    "UpperPlaid", "UpperSplice", "LowerStripe", "LowerPattern", "LongCoat", "Trousers", "Shorts", "Skirt&Dress",
    "boots",
)  # fmt: skip

_LEGIBLE = 100  # pixels of picture height below which glasses are neither worn nor labelled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Person:
    """The attributes of one person, and the height of the picture in pixels. Each field changes the drawing."""

    female: bool
    age: str  # child, adult, senior
    view: str  # front, side, back
    yaw: float  # radians: 0 faces the camera, pi turns the back to it
    hat: bool
    glasses: bool
    hand_bag: bool
    shoulder_bag: bool
    backpack: bool
    holds: bool
    short_sleeve: bool
    stride: bool
    logo: bool
    plaid: bool
    splice: bool
    lower_stripe: bool
    lower_pattern: bool
    long_coat: bool
    lower: str  # trousers, shorts, skirt, dress
    boots: bool
    height: int  # of the picture, pixels


def sample_person(rng: np.random.Generator) -> Person:
    """Sample a person with frequencies like PA-100K's, but with more of the rare attributes."""

    def chance(probability: float) -> bool:
        return bool(rng.random() < probability)

    height = int(np.exp(rng.uniform(np.log(60 if chance(0.12) else 100), np.log(400 if chance(0.3) else 230))))
    female = chance(0.46)
    age = str(rng.choice(["child", "adult", "senior"], p=[0.13, 0.75, 0.12]))
    view = str(rng.choice(["front", "side", "back"], p=[0.40, 0.25, 0.35]))
    # The ranges leave gaps, because the view of a person turned by, for example, 50 degrees is ambiguous.
    turn = {"front": (-38, 38), "side": (62, 114), "back": (142, 218)}[view]
    yaw = float(np.radians(rng.uniform(*turn))) * float(rng.choice([-1, 1]))
    hat = chance(0.16 if age == "adult" else 0.26)
    glasses = height >= _LEGIBLE and view != "back" and chance(0.36 if age == "senior" else 0.27)

    short_sleeve = chance(0.46)
    long_coat = not short_sleeve and chance(0.24)
    lower = str(
        rng.choice(
            ["trousers", "shorts", "skirt", "dress"],
            p=(0.50, 0.13, 0.20, 0.17) if female else (0.80, 0.185, 0.01, 0.005),
        )
    )
    if long_coat and lower in ("shorts", "dress"):
        lower = "skirt" if lower == "dress" else "trousers"
    pattern = "plain"
    if chance(0.44):
        kinds = ["stride", "logo", "plaid", "splice"]
        pattern = str(rng.choice(kinds, p=(0.08, 0.12, 0.35, 0.45) if long_coat else (0.23, 0.33, 0.21, 0.23)))
    lower_style = str(rng.choice(["plain", "stripe", "pattern"], p=[0.80, 0.09, 0.11]))
    if long_coat and lower == "skirt":  # the coat would hide it
        lower_style = "plain"
    boots = lower != "shorts" and chance(0.17 if female else 0.09)

    backpack = chance(0.38 if age == "child" else 0.17)
    shoulder_bag = chance(0.08 if backpack else 0.24)
    if backpack and view == "back" and pattern == "logo":  # the bag would hide it
        pattern = "plain"
    hand_bag = chance(0.2 if female else 0.13)
    holds = view != "back" and chance(0.10 if hand_bag else 0.24)
    return Person(
        female=female,
        age=age,
        view=view,
        yaw=yaw,
        hat=hat,
        glasses=glasses,
        hand_bag=hand_bag,
        shoulder_bag=shoulder_bag,
        backpack=backpack,
        holds=holds,
        short_sleeve=short_sleeve,
        stride=pattern == "stride",
        logo=pattern == "logo",
        plaid=pattern == "plaid",
        splice=pattern == "splice",
        lower_stripe=lower_style == "stripe",
        lower_pattern=lower_style == "pattern",
        long_coat=long_coat,
        lower=lower,
        boots=boots,
        height=height,
    )


def labels(person: Person) -> npt.NDArray[np.int8]:
    """Return the person's row of the annotation, int8 (26,) of 0 and 1."""
    p = person
    truth = (
        p.female, p.age == "senior", p.age == "adult", p.age == "child", p.view == "front", p.view == "side",
        p.view == "back", p.hat, p.glasses, p.hand_bag, p.shoulder_bag, p.backpack, p.holds, p.short_sleeve,
        not p.short_sleeve, p.stride, p.logo, p.plaid, p.splice, p.lower_stripe, p.lower_pattern, p.long_coat,
        p.lower == "trousers", p.lower == "shorts", p.lower in ("skirt", "dress"), p.boots,
    )  # fmt: skip
    return np.array(truth, dtype=np.int8)
