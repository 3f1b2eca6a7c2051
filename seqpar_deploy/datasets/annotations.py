"""Shared by the readers of published data sets: splits, folders, labels and attribute names."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
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
    """Return a split's name and its value. Raises DatasetError that lists the splits."""
    if split is None or split not in splits:
        got = "none" if split is None else repr(split)
        raise DatasetError(f"split of {label_set.name} must be one of {', '.join(splits)}, got {got}")
    return split, splits[split]


def first_folder(root: Path, *names: str) -> Path:
    """Return the first of these folders that exists in `root`; users unpack data sets in several ways."""
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise DatasetError(f"{root} must contain the pictures in a folder {' or '.join(names)}, got none of them")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises DatasetError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path} must be JSON, got {json_mistake(error)}; download it again") from None


@contextlib.contextmanager
def reading_text(path: Path) -> Iterator[None]:
    """Raise the errors of reading a UTF-8 file within the block as DatasetError."""
    try:
        yield
    except FileNotFoundError:
        raise DatasetError(f"{path} does not exist") from None
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{path} must be UTF-8, got another byte at offset {error.start}; save it as UTF-8"
        ) from None


def json_mistake(error: ValueError | RecursionError) -> str:
    """Describe in a few words why a text is not JSON, and the place."""
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if "\n" in error.doc.strip() else ""
        return f"a syntax error at {line}column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return f"a byte that is not UTF-8 at offset {error.start}"
    return "values that are nested too deeply" if isinstance(error, RecursionError) else "a number that is too long"


def unlike_published(path: Path, name: str, error: Exception) -> DatasetError:
    """Return the error for a JSON file whose structure differs from the published annotation of data set `name`."""
    got = f"no key {error}" if isinstance(error, KeyError) else "values of another kind"
    return DatasetError(f"{path} must be the annotation of {name}, got {got}; use the data set's original file")


def columns_of(label_set: LabelSet, names: Sequence[str], *, source: str) -> list[int]:
    """Return the column of each attribute in an annotation that names its columns, in the label set's order.

    Case, blanks and punctuation are ignored. Raises DatasetError for an attribute with no column, or several.
    """
    plain = [_plain(name) for name in names]
    for attribute in label_set.attributes:
        if (found := plain.count(_plain(attribute.name))) != 1:
            raise DatasetError(
                f"{source} must name {attribute.name!r} of label set {label_set.name} once, got it {found} times among "
                f"{len(names)} attributes; check that --label-set is the label set of this data set"
            )
    return [plain.index(_plain(attribute.name)) for attribute in label_set.attributes]


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()


def to_labels(values: npt.ArrayLike, meaning: Mapping[int, int], *, columns: int, source: str) -> Labels:
    """Convert an annotation's numbers, (people, columns), to labels; `meaning` maps each allowed number to a label.

    Raises DatasetError for any other number and any other shape.
    """
    try:
        numbers = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise DatasetError(f"labels in {source} must be numbers in rows of one length, got others") from None
    if len(numbers) == 0:
        raise DatasetError(f"{source} must list one or more people in this split, got none")
    if numbers.shape[1:] != (columns,):
        raise DatasetError(f"labels in {source} must be {columns} per person, got shape {numbers.shape}")
    labels = np.zeros(numbers.shape, np.int8)
    known = np.zeros(numbers.shape, np.bool_)
    for number, label in meaning.items():
        labels[numbers == number] = label
        known |= numbers == number
    if not known.all():
        strange = numbers[~known][0]
        raise DatasetError(f"labels in {source} must be {', '.join(map(str, sorted(meaning)))}, got {strange:g}")
    return labels
