"""The crops of the gate, how the published code prepares them, and that a reference survives as golden data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.exporting.checkpoint_reference import published_crop, published_images
from seqpar_deploy.parity.crops import parity_crops
from seqpar_deploy.parity.reference import golden_arrays, reference_from_golden
from seqpar_deploy.preprocess import Preprocessing, check_crop, prepare


def test_crops_are_the_same_every_time_and_of_all_kinds() -> None:
    people, again = (parity_crops(real=2, rendered=2) for _ in range(2))
    assert [person.kind for person in people[:5]] == ["real", "real", "rendered", "rendered", "adversarial"]
    assert len({person.name for person in people}) == len(people)
    for person, same in zip(people, again, strict=True):
        check_crop(person.image)
        assert np.array_equal(person.image, same.image)
    sizes = [person.image.shape[:2] for person in people]
    assert min(height * width for height, width in sizes) == 1
    assert max(height * width for height, width in sizes) > 1e6
    assert max(height / width for height, width in sizes) > 100
    assert min(height / width for height, width in sizes) < 1 / 100


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("pad", ["square", "none"])
def test_ours_prepares_as_torchvision_does(pad: str, interpolation: str) -> None:
    how = Preprocessing(pad=pad, interpolation=interpolation, fill=(9, 99, 200))  # type: ignore[arg-type]
    for person in parity_crops(real=1, rendered=1):
        ours = prepare(person.image, image_size=32, preprocessing=how)
        assert np.array_equal(ours, published_crop(person.image, 32, how)), person.name


def test_published_images_are_normalised() -> None:
    crop = np.zeros((1, 2, 2, 3), np.uint8)
    crop[0, 0, 1] = 255, 0, 51
    images = published_images(crop, Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 0.1)))
    assert images.shape == (1, 3, 2, 2)
    assert images[0, :, 0, 1].tolist() == pytest.approx([1, -1, 2])


def test_golden_data_hold_the_reference(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    reference = reference_from_golden(bundle)
    assert reference.attributes == tuple(attribute.name for attribute in bundle.label_set.attributes)
    assert len(reference.beamed) == 8
    made = {person.name: person.image for person in parity_crops(real=4, rendered=3)}
    assert [person.name for person in reference.people] == list(made)
    assert all(np.array_equal(person.image, made[person.name]) for person in reference.people)
    again = golden_arrays(reference)
    for name, array in bundle.golden().items():
        assert np.array_equal(array, again[name]), name


def test_golden_data_made_before_still_open(bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = Bundle.open(bundle_dir).golden()
    old = {name: golden[name] for name in ("crops", "tokens", "log_probs")}
    monkeypatch.setattr(Bundle, "golden", lambda _: old)
    reference = reference_from_golden(Bundle.open(bundle_dir))
    assert (reference.people, reference.attributes, reference.beamed, reference.suspects) == ((), (), [], ())
