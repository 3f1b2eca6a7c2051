"""The type every reader of a data set returns: person crops and their labels."""

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

_FARTHEST = 2**31  # pixels


class BoxError(ValueError):
    """A box that no picture can contain."""


def pixels(box: Iterable[float | str]) -> list[int]:
    """Round a box's sides to whole pixels. Raises BoxError if they are no numbers, or no picture is that large."""
    given = list(box)
    try:
        sides = [float(side) for side in given]
    except OverflowError:
        raise BoxError("box sides must be below 2^31 pixels, got a number above 10^308") from None
    except ValueError:
        raise BoxError(f"box sides must be numbers in pixels, got {', '.join(map(str, given))}") from None
    if not all(abs(side) < _FARTHEST for side in sides):
        got = ", ".join(f"{side:g}" for side in sides)
        raise BoxError(f"box sides must be finite and below 2^31 pixels, got {got}")
    return [round(side) for side in sides]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """One split of a data set of M people. Only `crop` opens pictures.

    Attributes:
        name: Name of the data set.
        split: Name of the split.
        label_set: The label set of n attributes.
        images: M paths, the picture of each person.
        labels: int8 (M, n): 1 yes, 0 no, -1 unknown, in the label set's order.
        boxes: int64 (M, 4): left, top, right, bottom in pixels. None if each picture shows one person only. Default:
            None.
        groups: M names. `split_by_group` keeps people of one name together. None if unknown. Default: None.

    Raises:
        DatasetError: There are no people, or shapes or values do not fit.
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
                f"labels of {self.name} must have shape ({people}, {len(self.label_set)}), a row per picture and a "
                f"column per attribute of label set {self.label_set.name}, got {self.labels.shape}"
            )
        if people == 0:
            raise DatasetError(f"split {self.split} of {self.name} must have one or more people, got none")
        if not np.isin(self.labels, (YES, NO, UNKNOWN)).all():
            raise DatasetError(f"labels of {self.name} must be 1 (yes), 0 (no) or -1 (unknown), got others")
        for field in ("boxes", "groups"):
            values = getattr(self, field)
            if values is not None and len(values) != people:
                raise DatasetError(f"{field} of {self.name} must be one per picture, {people}, got {len(values)}")

    def __len__(self) -> int:
        return len(self.images)

    def crop(self, index: int) -> Crop:
        """Read the crop of one person.

        Args:
            index: Row of the person, from 0.

        Returns:
            The crop, uint8 RGB (h, w, 3).

        Raises:
            ImageError: The picture cannot be read. The message names the file.
            DatasetError: The box lies outside the picture.
        """
        picture = read_image(self.images[index])
        if self.boxes is None:
            return picture
        left, top, right, bottom = self.boxes[index].tolist()
        cut = picture[max(0, top) : max(0, bottom), max(0, left) : max(0, right)]
        if cut.size == 0:
            height, width = picture.shape[:2]
            raise DatasetError(
                f"box must overlap {self.images[index]}, {width} x {height} pixels, got {left}, {top}, {right}, "
                f"{bottom}; correct it in the annotations of {self.name}"
            )
        return cut

    def subset(self, rows: Sequence[int] | npt.NDArray[np.int64], *, split: str | None = None) -> Dataset:
        """Select people.

        Args:
            rows: Rows to keep, from 0, in the order of the result.
            split: Name of the result's split. Default: the name of this split.

        Returns:
            A data set of these people.
        """
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
    """Split a data set in two without dividing a group.

    The side of a group depends only on its name and the seed, so people added later do not move the others.

    Args:
        dataset: A data set with groups.
        fraction: Share of the groups to hold out, above 0 and below 1.
        seed: Seed of the split.

    Returns:
        The remaining people (split `rest`), and the people held out (split `held-out`).

    Raises:
        DatasetError: There are no groups, too few of them, or `fraction` is out of range.

    Example:
        rest, held_out = split_by_group(dataset, 0.2, seed=0)
    """
    if dataset.groups is None:
        raise DatasetError(
            f"{dataset.name} must have groups to be split by, got none; add a column `group` with a name per person, "
            "or per picture if no person is in two pictures"
        )
    if not 0 < fraction < 1:
        raise DatasetError(f"fraction must be above 0 and below 1, got {fraction}")
    held = np.array([_fraction_of(group, seed) < fraction for group in dataset.groups])
    if held.all() or not held.any():
        raise DatasetError(
            f"{dataset.name} must have enough groups to hold out {fraction:g} of them, got "
            f"{len(set(dataset.groups))}; change the fraction or the seed"
        )
    return (
        dataset.subset(np.flatnonzero(~held), split="rest"),
        dataset.subset(np.flatnonzero(held), split="held-out"),
    )


def _fraction_of(group: str, seed: int) -> float:
    """Return a number in [0, 1) for a group, the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{group}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def check_images(dataset: Dataset) -> None:
    """Check that every picture exists, without opening any.

    Args:
        dataset: The data set to check.

    Raises:
        DatasetError: Pictures are missing. The message names the first and counts all.
    """
    # Not `Path.is_file`, which raises for impossible names.
    missing = [path for path in dict.fromkeys(dataset.images) if not os.path.isfile(path)]
    if missing:
        raise DatasetError(
            f"{missing[0]} does not exist; {len(missing)} of the {len(set(dataset.images))} pictures of {dataset.name} "
            f"{dataset.split} are missing"
        )
