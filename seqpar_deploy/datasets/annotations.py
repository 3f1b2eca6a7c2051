"""What the readers of published data sets share: splits, folders, labels and the names of attributes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from seqpar_deploy.datasets.base import Labels
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.vocab import LabelSet

# The parts that make up each split, where a set has all three.
SPLITS = {"train": ("train",), "val": ("val",), "trainval": ("train", "val"), "test": ("test",)}

_T = TypeVar("_T")


def pick_split(splits: Mapping[str, _T], split: str | None, label_set: LabelSet) -> tuple[str, _T]:
    """The split's name and what stands for it. Raises DatasetError that lists the splits there are."""
    if split is None or split not in splits:
        asked = "" if split is None else f", not {split!r}"
        raise DatasetError(f"{label_set.name} has splits {', '.join(splits)}{asked}; name one of them")
    return split, splits[split]


def first_folder(root: Path, *names: str) -> Path:
    """The first of these folders in `root` that is there; sets are unpacked in several ways."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DatasetError(f"{root} holds no folder {' or '.join(names)}; the pictures belong there")


def read_json(path: Path) -> Any:
    """A JSON file's content. Raises DatasetError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: broken UTF-8, broken JSON
        raise DatasetError(f"{path} cannot be read as JSON: {error}") from None


def columns_of(label_set: LabelSet, names: Sequence[str], *, source: str) -> list[int]:
    """The column of each attribute in an annotation that names its columns, in the label set's order.

    Case, blanks and punctuation do not count. Raises DatasetError for an attribute with no column, or several.
    """
    plain = [_plain(name) for name in names]
    for attribute in label_set.attributes:
        if (found := plain.count(_plain(attribute.name))) != 1:
            raise DatasetError(
                f"{source} names {len(names)} attributes, {attribute.name!r} of label set {label_set.name} "
                f"{'several times' if found else 'is not among them'}; is this the label set of that data set?"
            )
    return [plain.index(_plain(attribute.name)) for attribute in label_set.attributes]


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def to_labels(values: npt.ArrayLike, meaning: Mapping[int, int], *, columns: int, source: str) -> Labels:
    """An annotation's numbers, (people, columns), as labels; `meaning` says what each number that may occur stands for.

    Raises DatasetError for any other number and any other shape.
    """
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise DatasetError(f"{source} has labels that are not numbers, or rows of different lengths") from None
    if len(numbers) == 0:
        raise DatasetError(f"{source} lists nobody in this split")
    if numbers.shape[1:] != (columns,):
        raise DatasetError(f"{source} has labels of shape {numbers.shape}, wanted {columns} for each person")
    labels = np.zeros(numbers.shape, np.int8)
    known = np.zeros(numbers.shape, np.bool_)
    for number, label in meaning.items():
        labels[numbers == number] = label
        known |= numbers == number
    if not known.all():
        strange = numbers[~known][0]
        raise DatasetError(f"{source} has a label {strange:g}, wanted one of {', '.join(map(str, sorted(meaning)))}")
    return labels
