"""Renders a picture of one synthetic pedestrian from a seed and an index.

The drawing follows from the labels, and nothing hides a label. People wear glasses only if they are visible: not from
behind, and not in pictures below 100 pixels. Posts in front are thin. A neighbour covers an edge only of people without
bags. Feet are cut off or hidden only without boots, and heads only without hats and glasses.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import ImageFilter

from seqpar_deploy.synth.attributes import Person, labels, sample_person
from seqpar_deploy.synth.background import street
from seqpar_deploy.synth.camera import expose, ground_shadow, occlude, shoot
from seqpar_deploy.synth.canvas import Canvas
from seqpar_deploy.synth.clothing import Outfit
from seqpar_deploy.synth.figure import make_body, pose
from seqpar_deploy.synth.head import Head
from seqpar_deploy.synth.luggage import Luggage
from seqpar_deploy.synth.palette import SKIN, pick

_LARGEST = 400  # maximum height of the drawing in pixels; otherwise it is drawn at twice the picture's size


def person_of(seed: int, index: int) -> tuple[Person, np.random.Generator]:
    """Return the person in picture `index` of a seed, and the random generator for the drawing."""
    rng = np.random.default_rng([seed, index])
    return sample_person(rng), rng


def render_person(seed: int, index: int = 0) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int8]]:
    """Render a synthetic pedestrian. The same arguments return the same picture.

    Args:
        seed: Seed of the data set.
        index: Index of the picture, from 0. Default: 0.

    Returns:
        The picture, uint8 RGB (h, w, 3), 60 to 400 pixels tall, and its PA-100K labels, int8 (26,), 1 yes and 0 no.

    Example:
        picture, labels = render_person(seed=0, index=7)
        Image.fromarray(picture).save("person.png")
    """
    person, rng = person_of(seed, index)
    height = person.height
    width = max(24, int(height * rng.uniform(0.36, 0.54)))
    tall = min(2 * height, _LARGEST)
    wide = max(24, round(tall * width / height))

    # Position of the detector's box: share of the height, and offset; one box in ten is too tight.
    fill = rng.uniform(0.72, 0.97)
    cut = rng.random() < 0.10
    spare = 1 - fill
    head_room = spare * rng.uniform(0.25, 0.75)
    if cut and not person.boots and rng.random() < 0.6:
        fill, head_room = rng.uniform(0.98, 1.06), rng.uniform(0.01, 0.03)
    elif cut and not (person.hat or person.glasses):
        fill, head_room = 0.97, rng.uniform(-0.03, 0.0)
    scale = fill * tall
    ground = (head_room + fill) * tall
    centre = wide / 2 + rng.normal(0, 0.04) * wide
    light, sunny = rng.uniform(-1.2, 1.2), rng.random() < 0.45
    canvas = Canvas(
        wide,
        tall,
        yaw=person.yaw,
        pitch=rng.uniform(0.0, 0.28),
        scale=scale,
        origin=(centre, ground),
        light=light,
        ambient=rng.uniform(0.38, 0.58) if sunny else rng.uniform(0.65, 0.88),
    )
    body = make_body(person, rng)
    bones = pose(person, body, rng)
    skin = pick(rng, SKIN[:5] if rng.random() < 0.8 else SKIN)
    outfit = Outfit(canvas, person, bones, skin, rng)
    outfit.add()
    Head(canvas, person, bones, skin, rng).add()
    Luggage(canvas, person, bones, outfit.upper.colour, rng).add()
    canvas.finish()

    figure, mask = canvas.lit(rng, folds=rng.uniform(0.02, 0.09))
    back = street(rng, tall, wide)
    back = ground_shadow(rng, back, mask, (centre, ground), light=light)
    soft = np.asarray(mask.filter(ImageFilter.BoxBlur(0.7)), dtype=np.float32)[..., None] / 255
    scene = np.asarray(figure * soft + back * (1 - soft), dtype=np.float32)
    if rng.random() < 0.22:
        scene = occlude(rng, scene, person, mask.getbbox() or (0, 0, wide, tall))
    return shoot(rng, expose(rng, scene), height, width), labels(person)
