"""Your own data: a CSV or JSON Lines file beside its pictures.

CSV: the column `image`, optionally `group`, `split` and `left, top, right, bottom`, then one column per attribute. The
header of the column is the attribute's name or phrase, in any case. Values are 1 (yes), 0 (no) or empty (unknown), also
as spreadsheets and pandas write them (`cells.py`). An attribute without a column is unknown for everyone. Other columns
may precede the first attribute.

JSON Lines, one object per person: `{"image": "a.png", "attributes": ["hat"], "unknown": ["boots"], "box": [left, top,
right, bottom], "group": "person 7", "split": "test"}`. All keys but the first two are optional. An attribute that is
neither in `attributes` nor in `unknown` is no. Or, as pandas writes it, `{"image": "a.png", "hat": true, "boots":
null}`: then an attribute that is null or missing is unknown.

Paths are relative to the file, or to a folder `images` beside it. A file with groups but without splits has two splits:
`test` is a fifth of the groups, always the same ones, and `train` is the rest.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seqpar_deploy.datasets.annotations import json_mistake, reading_text
from seqpar_deploy.datasets.base import NO, UNKNOWN, YES, Dataset, pixels, split_by_group
from seqpar_deploy.datasets.cells import encoding_of, find_picture, is_unnamed, label_of, read_rows
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.vocab import LabelSet

SUFFIXES = (".csv", ".jsonl")

_BOX = ("left", "top", "right", "bottom")
_ABOUT = ("image", "group", "split", *_BOX)  # columns that are not attributes
_TEST_SHARE = 0.2
_KEYS = ("image", "attributes", "unknown", "box", "group", "split")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Person:
    image: str
    labels: list[int]
    box: list[int] | None = None
    group: str | None = None
    split: str | None = None

    def __post_init__(self) -> None:
        if not self.image:
            raise ValueError("image must be a path, got an empty value")
        if self.box is not None and (self.box[0] >= self.box[2] or self.box[1] >= self.box[3]):
            raise ValueError(f"box must have left < right and top < bottom in pixels, got {self.box}")


def load_table(path: str | Path, label_set: LabelSet, split: str | None = None) -> Dataset:
    """Load the people of a CSV or JSON Lines file, in its order.

    Args:
        path: The file, ending in `.csv` or `.jsonl`.
        label_set: The attributes. Those without a column in a CSV are unknown (-1), and a warning lists them.
        split: Split to load. Default: all rows.

    Returns:
        The people, named after the file.

    Raises:
        DatasetError: The file cannot be read, or does not match the label set. The message names file and line.
    """
    path = Path(path)
    people = _read(path, label_set)
    splits = sorted({person.split for person in people if person.split})
    if not splits and split in ("train", "test"):
        train, test = split_by_group(_to_dataset(path, label_set, people, "all"), _TEST_SHARE, seed=0)
        return dataclasses.replace(train if split == "train" else test, split=split)
    if split is not None:
        people = [person for person in people if person.split == split]
        if not people:
            if not splits:
                raise DatasetError(f"{path} must have a column or key `split` to select {split!r}; omit the split")
            raise DatasetError(f"split of {path} must be one of {', '.join(splits)}, got {split!r}")
    return _to_dataset(path, label_set, people, split or "all")


def _read(path: Path, label_set: LabelSet) -> list[_Person]:
    read = {".csv": _read_csv, ".jsonl": _read_json_lines}.get(path.suffix.lower())
    if read is None:
        raise DatasetError(f"a data file must end in {' or '.join(SUFFIXES)}, got {path}")
    try:
        with reading_text(path):
            people = list(read(path, label_set))
    except csv.Error:  # a field above 128 kB, mostly because of a quote that is never closed
        raise DatasetError(f"{path} must be a CSV file, got a field above 128 kB; check its quotes") from None
    if not people:
        raise DatasetError(f"{path} must list one or more people, got none")
    return people


def _to_dataset(path: Path, label_set: LabelSet, people: list[_Person], split: str) -> Dataset:
    for field in ("box", "group"):
        without = next((person for person in people if getattr(person, field) is None), None)
        if without and any(getattr(person, field) is not None for person in people):
            raise DatasetError(f"{path} must have a {field} for all people or for no one, got none for {without.image}")
    return Dataset(
        name=path.stem,
        split=split,
        label_set=label_set,
        images=tuple(find_picture(path.parent, person.image) for person in people),
        labels=np.array([person.labels for person in people], np.int8),
        boxes=np.array([person.box for person in people], np.int64) if people[0].box else None,
        groups=tuple(str(person.group) for person in people) if people[0].group is not None else None,
    )


def _columns(label_set: LabelSet) -> dict[str, int]:
    """The index of each attribute by its phrase and by its name, in lower case; a name takes precedence."""
    columns = {attribute.phrase.casefold(): index for index, attribute in enumerate(label_set.attributes)}
    return columns | {attribute.name.casefold(): index for index, attribute in enumerate(label_set.attributes)}


def _read_csv(path: Path, label_set: LabelSet) -> Iterator[_Person]:
    rows = read_rows(path)
    _, header = next(rows, (0, []))
    header = [name.casefold() if name.casefold() in _ABOUT else name for name in header]
    column_of = _attribute_columns(path, header, label_set)
    about = {name: header.index(name) for name in _ABOUT if name in header}
    for line, row in rows:
        try:
            if len(row) != len(header):
                raise ValueError(f"a row must have {len(header)} columns as the header, got {len(row)}")
            given = {name: row[column] for name, column in about.items()}
            labels = [UNKNOWN] * len(label_set)
            for index, column in column_of.items():
                labels[index] = label_of(row[column], header[column])
            yield _Person(
                image=given["image"],
                labels=labels,
                box=pixels(given[side] for side in _BOX) if "left" in given else None,
                group=given.get("group") or None,
                split=given.get("split") or None,
            )
        except ValueError as error:
            raise DatasetError(f"{path} line {line}: {error}") from None


def _attribute_columns(path: Path, header: list[str], label_set: LabelSet) -> dict[int, int]:
    """The column of each attribute that has one, by the attribute's index."""
    known = _columns(label_set)
    if repeated := sorted({name for name in header if name and header.count(name) > 1}):
        raise DatasetError(f"columns of {path} must differ, got {repeated[0]!r} twice; remove one")
    needed = ("image", *_BOX) if set(_BOX) & set(header) else ("image",)
    for name in needed:
        if name not in header:
            got = ", ".join(header[:4]) + ", ..." * (len(header) > 4) or "no header"
            raise DatasetError(f"{path} must have a column {name!r}, got {got}")
    column_of: dict[int, int] = {}
    others: list[str] = []
    for column, name in enumerate(header):
        if name in _ABOUT or is_unnamed(name):
            continue
        index = known.get(name.casefold())
        if index is not None:
            if index in column_of:
                first = header[column_of[index]]
                raise DatasetError(
                    f"{path} must have one column per attribute of {label_set.name}, got {first!r} and {name!r} for "
                    "one; remove one"
                )
            column_of[index] = column
        elif column_of:
            raise DatasetError(
                f"columns of {path} after the first attribute must be attributes of label set {label_set.name}, got "
                f"{name!r}; correct its name, or move it to the left"
            )
        else:
            others.append(name)
    if not column_of:
        raise DatasetError(
            f"{path} must have a column for at least one attribute of label set {label_set.name}, for example "
            f"{label_set.attributes[0].name!r}, got columns {', '.join(header[:4])}{', ...' * (len(header) > 4)}"
        )
    _log_missing(path, label_set, column_of, others)
    return column_of


def _log_missing(path: Path, label_set: LabelSet, column_of: dict[int, int], others: list[str]) -> None:
    """Log the attributes without a column, and the ignored columns: one may be a misspelt attribute."""
    missing = [attribute.name for index, attribute in enumerate(label_set.attributes) if index not in column_of]
    if missing:
        _log.warning(
            "%s has columns for %d of the %d attributes of label set %s; unknown for everyone: %s%s",
            *(path, len(column_of), len(label_set), label_set.name, ", ".join(missing)),
            f"; ignored columns: {', '.join(others)}" if others else "",
        )


def _read_json_lines(path: Path, label_set: LabelSet) -> Iterator[_Person]:
    known = _columns(label_set)
    with path.open(encoding=encoding_of(path)) as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line.strip())
            except (ValueError, RecursionError) as error:
                raise DatasetError(f"{path} line {number} must be a JSON object, got {json_mistake(error)}") from None
            try:
                yield _json_person(values, known, label_set)
            except ValueError as error:
                raise DatasetError(f"{path} line {number}: {error}") from None


def _json_person(values: Any, known: dict[str, int], label_set: LabelSet) -> _Person:
    if not isinstance(values, dict) or not isinstance(values.get("image"), str):
        raise ValueError('a person must be an object with "image", a path, and "attributes", a list of names')
    about = {key: value for key, value in values.items() if key in _KEYS}
    rest = {key: value for key, value in values.items() if key not in _KEYS}
    if isinstance(about.get("attributes"), dict):
        rest |= about.pop("attributes")
    if "attributes" in about:
        if rest:
            raise ValueError(f"keys must be of {', '.join(_KEYS)}, got {min(rest)!r}")
        labels = _listed_labels(about, known, label_set)
    elif not rest:
        raise ValueError('a person must have "attributes", a list of names, or a value per attribute, got neither')
    else:
        labels = [UNKNOWN] * len(label_set)
        for name, value in rest.items():
            if name.casefold() not in known:
                raise ValueError(f"keys must be {', '.join(_KEYS)} or of label set {label_set.name}, got {name!r}")
            labels[known[name.casefold()]] = label_of(value, name)
    box = about.get("box")
    if box is not None:
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, (int, float)) for side in box):
            raise ValueError(f'"box" must be [left, top, right, bottom] in pixels, got {box!r}')
        box = pixels(box)
    group, split = (None if about.get(key) is None else str(about[key]) for key in ("group", "split"))
    return _Person(image=about["image"], labels=labels, box=box, group=group, split=split)


def _listed_labels(values: dict[str, Any], known: dict[str, int], label_set: LabelSet) -> list[int]:
    """Return the labels of a person with lists of attributes. An attribute in no list is no. Raises ValueError."""
    labels = [NO] * len(label_set)
    for key, label in (("attributes", YES), ("unknown", UNKNOWN)):
        names = [] if values.get(key) is None else values[key]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f'"{key}" must be a list of names, got {names!r}')
        for name in names:
            index = known.get(name.casefold())
            if index is None:
                raise ValueError(f'"{key}" must be names or phrases of label set {label_set.name}, got {name!r}')
            if labels[index] != NO:
                raise ValueError(f"each attribute must be listed once, got {name!r} twice")
            labels[index] = label
    return labels
