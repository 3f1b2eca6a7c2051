"""The hash of fitting data changes with all that a fit reads, and with nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqpar_deploy.datasets import Dataset
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.evaluation.fitting.data import groups_of, hash_of_data
from seqpar_deploy.vocab import LabelSet


@pytest.fixture
def people(tmp_path: Path, label_set: LabelSet) -> Dataset:
    paths = []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (4, 6), (number, 0, 0)).save(paths[-1])
    rng = np.random.default_rng(0)
    return Dataset(
        name="people",
        split="all",
        label_set=label_set,
        images=tuple(paths),
        labels=rng.integers(-1, 2, (3, len(label_set))).astype(np.int8),
        boxes=np.array([[0, 0, 2, 3], [0, 0, 4, 6], [1, 1, 4, 6]]),
        groups=("a", "b", "b"),
    )


def test_order_and_paths_do_not_count(people: Dataset, tmp_path: Path) -> None:
    moved = tmp_path / "moved.png"
    people.images[2].rename(moved)
    other = dataclasses.replace(people, name="other", split="test", images=(*people.images[:2], moved))
    assert hash_of_data(other.subset([2, 0, 1])) == hash_of_data(other)
    moved.rename(people.images[2])
    assert hash_of_data(people) == hash_of_data(people.subset([1, 2, 0]))


def test_pictures_boxes_labels_groups_and_people_count(people: Dataset) -> None:
    before = hash_of_data(people)
    labels, boxes = people.labels.copy(), people.boxes.copy()  # type: ignore[union-attr]
    labels[1, 4] = 1 if labels[1, 4] == 0 else 0
    boxes[0, 3] += 1
    changed = [
        dataclasses.replace(people, labels=labels),
        dataclasses.replace(people, boxes=boxes),
        dataclasses.replace(people, boxes=None),
        dataclasses.replace(people, groups=("a", "a", "b")),
        dataclasses.replace(people, images=(people.images[1], *people.images[1:])),
        people.subset([0, 1]),
        people.subset([0, 1, 2, 2]),
    ]
    hashes = {hash_of_data(one) for one in changed}
    assert len(hashes) == len(changed)
    assert before not in hashes
    Image.new("RGB", (4, 6), (0, 9, 0)).save(people.images[0])
    assert hash_of_data(people) != before


def test_a_missing_picture_is_named(people: Dataset) -> None:
    people.images[1].unlink()
    with pytest.raises(DatasetError, match=r"1\.png"):
        hash_of_data(people)


def test_people_without_groups_are_groups_of_their_own(people: Dataset) -> None:
    assert groups_of(people) == ["a", "b", "b"]
    assert len(set(groups_of(dataclasses.replace(people, groups=None)))) == 3
