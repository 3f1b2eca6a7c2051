"""What each step sees depends on the seed and the step alone, and everybody comes as often as the shares say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from seqpar_deploy.datasets import load_dataset
from seqpar_deploy.preprocess import Crop, Preprocessing
from seqpar_deploy.training.augment import vary, vary_prepared
from seqpar_deploy.training.loader import Loader, Schedule, Source
from seqpar_deploy.training.recipe import Augmentation

EVERYTHING = Augmentation(flip=True, shift=2, margin=0.1, colour=0.2, erase=0.5, blur=0.5)


@pytest.fixture
def schedule(squares: Path) -> Schedule:
    dataset = load_dataset("pa100k", squares)
    sources = (Source(dataset=dataset, share=3.0), Source(dataset=dataset.subset(range(8)), share=1.0))
    return Schedule(sources=sources, pictures_per_epoch=40, batch_size=8, seed=5)


def loader(schedule: Schedule, *, workers: int = 0, rank: int = 0, world: int = 1) -> Loader:
    return Loader(
        schedule=schedule,
        image_size=16,
        preprocessing=Preprocessing(),
        augmentation=EVERYTHING,
        workers=workers,
        rank=rank,
        world=world,
    )


def test_an_epoch_takes_the_shares_and_everybody_in_turn(schedule: Schedule) -> None:
    epochs = [[key for batch in schedule.epoch(epoch) for key in batch] for epoch in range(32)]
    assert all(Counter(source for source, _, _ in keys) == {0: 30, 1: 10} for keys in epochs)
    seen = Counter((source, person) for keys in epochs for source, person, _ in keys)
    assert {seen[0, person] for person in range(64)} == {15}
    assert {seen[1, person] for person in range(8)} == {40}
    assert max(Counter(key for keys in epochs for key in keys).values()) == 1  # so that no two sights are varied alike


def test_without_a_size_an_epoch_is_everybody_once(squares: Path) -> None:
    dataset = load_dataset("pa100k", squares)
    schedule = Schedule(sources=(Source(dataset=dataset),), pictures_per_epoch=0, batch_size=8, seed=0)
    assert schedule.steps_per_epoch == 8
    orders = [[person for batch in schedule.epoch(epoch) for _, person, _ in batch] for epoch in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(64))
    assert orders[0] != orders[1]


def test_a_later_start_sees_what_an_earlier_one_saw(schedule: Schedule) -> None:
    whole = list(loader(schedule).batches(0, 12))
    late = list(loader(schedule, workers=1).batches(7, 12))
    assert len(late) == 5
    for (images, labels, _), (late_images, late_labels, _) in zip(whole[7:], late, strict=True):
        assert torch.equal(images, late_images)
        assert torch.equal(labels, late_labels)


def test_processes_share_a_batch_without_overlap(schedule: Schedule) -> None:
    whole = next(loader(schedule).batches(3, 4))[0]
    parts = [next(loader(schedule, rank=rank, world=2).batches(3, 4))[0] for rank in (0, 1)]
    assert torch.equal(torch.stack(parts, dim=1).flatten(0, 1), whole)


def test_variations_are_pictures_of_the_same_kind(crops: list[Crop], rng: np.random.Generator) -> None:
    tiny = np.full((1, 1, 3), 7, np.uint8)
    for crop in [*crops, tiny]:
        for _ in range(5):
            varied = vary(crop, EVERYTHING, rng)
            assert varied.dtype == np.uint8
            assert varied.ndim == 3
            assert varied.size > 0
            assert abs(len(varied) - len(crop)) <= 0.2 * len(crop) + 2


def test_published_variation_shifts_over_black_and_flips(rng: np.random.Generator) -> None:
    image = np.arange(1, 6 * 6 * 3 + 1, dtype=np.uint8).reshape(6, 6, 3)
    published = Augmentation(flip=True, shift=2)
    seen = {vary_prepared(image, published, rng).tobytes() for _ in range(600)}
    assert len(seen) == 5 * 5 * 2  # every shift by up to 2 pixels, flipped and not
    assert vary_prepared(image, Augmentation(flip=False, shift=0), rng).tobytes() == image.tobytes()
