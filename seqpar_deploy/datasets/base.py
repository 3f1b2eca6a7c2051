"""What every reader of a data set gives: person crops, and what is known of each."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seqpar_deploy.errors import DatasetError
from seqpar_deploy.images import read_image
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.vocab import LabelSet

YES, NO, UNKNOWN = 1, 0, -1

Labels = npt.NDArray[np.int8]

_FARTHEST = 2**31  # a pixel's place


def pixels(box: Iterable[float]) -> list[int]:
    """A box's sides as whole pixels. Raises ValueError where a picture can have none such."""
    sides = [float(side) for side in box]
    if not all(abs(side) < _FARTHEST for side in sides):
        raise ValueError(f"box {', '.join(f'{side:g}' for side in sides)} is nowhere in a picture")
    return [round(side) for side in sides]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """One split of a data set of M people. Nothing is read from pictures until `crop` asks for it.

    `labels` (M, n) holds 1 yes, 0 no, -1 unknown, in the label set's order. `boxes` (M, 4), where a picture shows more
    than the person, are left, top, right, bottom in pixels. `groups`, where given, name what must stay on one side of
    a split: pictures of one person.
    """

    name: str
    split: str
    label_set: LabelSet
    images: tuple[Path, ...]
    labels: Labels
    boxes: npt.NDArray[np.int64] | None = None
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        people = len(self.images)
        if self.labels.shape != (people, len(self.label_set)):
            raise DatasetError(
                f"{self.name} has labels of shape {self.labels.shape}, wanted ({people}, {len(self.label_set)}): "
                f"a row for each picture, a column for each attribute of label set {self.label_set.name}"
            )
        if people == 0:
            raise DatasetError(f"split {self.split} of {self.name} is empty")
        if not np.isin(self.labels, (YES, NO, UNKNOWN)).all():
            raise DatasetError(f"{self.name} has labels other than 1 yes, 0 no and -1 unknown")
        for field in ("boxes", "groups"):
            values = getattr(self, field)
            if values is not None and len(values) != people:
                raise DatasetError(f"{self.name} has {len(values)} {field} for {people} pictures")

    def __len__(self) -> int:
        return len(self.images)

    def crop(self, index: int) -> Crop:
        """The person, uint8 RGB (h, w, 3). Raises ImageError that names the file."""
        picture = read_image(self.images[index])
        if self.boxes is None:
            return picture
        left, top, right, bottom = self.boxes[index].tolist()
        cut = picture[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
        if cut.size == 0:
            height, width = picture.shape[:2]
            raise DatasetError(
                f"{self.images[index]} is {width} x {height}, its box {left}, {top}, {right}, {bottom} lies outside"
            )
        return cut

    def subset(self, rows: Sequence[int] | npt.NDArray[np.int64], *, split: str | None = None) -> Dataset:
        """The people at these rows, in this order."""
        index = np.asarray(rows, dtype=np.int64)
        return dataclasses.replace(
            self,
            split=self.split if split is None else split,
            images=tuple(self.images[row] for row in index),
            labels=self.labels[index],
            boxes=None if self.boxes is None else self.boxes[index],
            groups=None if self.groups is None else tuple(self.groups[row] for row in index),
        )


def split_by_group(dataset: Dataset, fraction: float, seed: int) -> tuple[Dataset, Dataset]:
    """(rest, held_out): about `fraction` of the groups are held out, each group wholly on one side.

    A group's side depends on nothing but its name and the seed, so people who are added later move nobody.
    """
    if dataset.groups is None:
        raise DatasetError(
            f"{dataset.name} has no groups to split by; name in `group` who is pictured, "
            "or the picture where nobody is pictured twice"
        )
    if not 0 < fraction < 1:
        raise DatasetError(f"fraction is {fraction}, wanted more than 0 and less than 1")
    held = np.array([_fraction_of(group, seed) < fraction for group in dataset.groups])
    if held.all() or not held.any():
        raise DatasetError(
            f"{dataset.name} has {len(set(dataset.groups))} groups, too few to hold out {fraction:g} of them; "
            "change the fraction or the seed"
        )
    return (
        dataset.subset(np.flatnonzero(~held), split="rest"),
        dataset.subset(np.flatnonzero(held), split="held-out"),
    )


def _fraction_of(group: str, seed: int) -> float:
    """A number in [0, 1) that stays the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def check_images(dataset: Dataset) -> None:
    """Look whether every picture is there, without opening any. Raises DatasetError that names the first missing."""
    missing = [path for path in dict.fromkeys(dataset.images) if not os.path.isfile(path)]  # also names that cannot be
    if missing:
        raise DatasetError(
            f"{missing[0]} does not exist; {len(missing)} of the {len(set(dataset.images))} pictures of {dataset.name} "
            f"{dataset.split} are missing"
        )
