from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image, ImageFilter

from seqpar_deploy.preprocess import Crop
from seqpar_deploy.video.quality import covered, cut_out, from_geometry, quality, sharpness, uncut
from seqpar_deploy.video.types import Box

SIZE = (576, 768)


def box(left: float, top: float, right: float, bottom: float) -> Box:
    return Box(left=left, top=top, right=right, bottom=bottom)


def test_real_crops_are_sharp_and_blurred_ones_are_not(crops: list[Crop]) -> None:
    for crop in crops:
        blurred = np.array(Image.fromarray(crop).filter(ImageFilter.GaussianBlur(len(crop) / 20)))
        assert sharpness(crop) > 0.9
        assert sharpness(blurred) < 0.5
    assert sharpness(np.full((80, 40, 3), 90, np.uint8)) == 0
    assert sharpness(np.zeros((2, 1, 3), np.uint8)) == 0


def test_only_who_is_nearer_covers() -> None:
    person = box(100, 100, 140, 200)
    assert covered(person, []) == 0
    assert covered(person, [person, box(100, 90, 140, 190)]) == 0  # ends higher: further away
    assert covered(person, [box(120, 100, 200, 260)]) == pytest.approx(0.5)
    assert covered(person, [box(120, 100, 200, 260), box(120, 100, 140, 220)]) == pytest.approx(0.5)  # not twice
    assert covered(person, [box(0, 0, 300, 300)]) == 1


def test_the_frame_cuts() -> None:
    assert uncut(box(100, 100, 140, 200), SIZE) == 1
    assert uncut(box(0, 100, 10, 200), SIZE) == pytest.approx(0.25)
    assert uncut(box(0, 100, 40, 200), SIZE) < 1
    assert uncut(box(100, 550, 140, 576), SIZE) < 0.3


def test_larger_is_better_up_to_a_size() -> None:
    heights = [from_geometry(box(100, 100, 100 + 0.4 * h, 100 + h), [], SIZE) for h in (20, 60, 100, 200)]
    assert heights == pytest.approx([0.2, 0.6, 1, 1])


def test_a_crop_is_a_copy_with_a_margin_inside_the_frame() -> None:
    image = np.arange(576 * 768 * 3, dtype=np.uint32).reshape(576, 768, 3).astype(np.uint8)
    crop = cut_out(image, box(100, 100, 150, 200))
    assert np.array_equal(crop, image[92:208, 96:154])
    assert not np.shares_memory(crop, image)
    assert np.array_equal(cut_out(image, box(-20, 500, 20, 600), 0), image[500:576, :20])
    assert cut_out(image, box(900, 900, 950, 990)).shape == (1, 1, 3)
    assert cut_out(image, box(-90, -90, -50, -20)).shape == (1, 1, 3)


def test_quality_costs_little(rng: np.random.Generator) -> None:
    crop = rng.integers(0, 256, (300, 120, 3), dtype=np.uint8)
    person = box(100, 100, 220, 400)
    others = [box(x, 100, x + 100, 420) for x in range(0, 700, 100)]
    start = time.process_time()
    for _ in range(100):
        quality(crop, person, others, SIZE)
    assert (time.process_time() - start) / 100 < 0.003  # measured: 0.2 ms
