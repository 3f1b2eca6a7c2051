"""RAP v1, RAP v2 and RAP-ZS: `RAP_annotation/RAP_annotation.mat` beside the folder `RAP_dataset`.

Both versions contain one struct, `RAP_annotation`. The published code reads four fields of v1 by index:

- 0: five random partitions, each a struct of trainval and test indices.
- 1: (41585, 92) labels.
- 3: the attributes' names.
- 5: the pictures' names.

Of v2 it reads `name`, `attribute`, `data` (84928, 152), and `partition_attribute` with `train_index`, `val_index` and
`test_index`. Published results use the first partition: 33,268 and 8,317 pictures of v1, 67,943 and 16,985 of v2.

The label 2 means that the annotators were not sure. Published results count it as no. So does this reader, for
comparable scores.

RAP-ZS is a part of v2 in another split, see `zero_shot.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from seqpar_deploy.datasets.annotations import SPLITS, columns_of, first_folder, pick_split, to_labels
from seqpar_deploy.datasets.base import NO, YES, Dataset
from seqpar_deploy.datasets.matlab import Value, read_mat
from seqpar_deploy.datasets.zero_shot import read_zero_shot
from seqpar_deploy.vocab import LabelSet

_MEANING = {0: NO, 1: YES, 2: NO}

# Indices of the fields of v1's struct, and of a partition in it.
_PARTITIONS, _LABELS, _NAMES, _IMAGES = 0, 1, 3, 5
_V1_SPLITS = {"trainval": 0, "test": 1}


def load_rapv1(root: Path, label_set: LabelSet, split: str | None) -> Dataset:
    """Load a split of RAP v1's first partition: trainval or test. Raises DatasetError."""
    split, place = pick_split(_V1_SPLITS, split, label_set)
    annotation = _read_annotation(root)
    images = annotation.field(_IMAGES).texts()
    rows = annotation.field(_PARTITIONS).cell(0).field(place).indices(len(images))
    return _dataset(root, label_set, split, images, annotation.field(_NAMES), annotation.field(_LABELS), rows)


def load_rapv2(root: Path, label_set: LabelSet, split: str | None) -> Dataset:
    """Load a split of RAP v2's first partition: train, val, trainval or test. Raises DatasetError."""
    return _load_v2(root, label_set, split, zero_shot=False)


def load_rap_zs(root: Path, label_set: LabelSet, split: str | None) -> Dataset:
    """Load a split of RAP-ZS: train, val, trainval or test. Raises DatasetError."""
    return _load_v2(root, label_set, split, zero_shot=True)


def _load_v2(root: Path, label_set: LabelSet, split: str | None, *, zero_shot: bool) -> Dataset:
    split, parts = pick_split(SPLITS, split, label_set)
    annotation = _read_annotation(root)
    images = annotation.field("name").texts()
    if zero_shot:
        rows = read_zero_shot(root, parts, images)
    else:
        partition = annotation.field("partition_attribute").cell(0)
        rows = np.concatenate([partition.field(f"{part}_index").indices(len(images)) for part in parts])
    return _dataset(root, label_set, split, images, annotation.field("attribute"), annotation.field("data"), rows)


def _read_annotation(root: Path) -> Value:
    (annotation,) = read_mat(root / "RAP_annotation" / "RAP_annotation.mat", "RAP_annotation")
    return annotation


def _dataset(
    root: Path,
    label_set: LabelSet,
    split: str,
    images: list[str],
    attributes: Value,
    data: Value,
    rows: npt.NDArray[np.int64],
) -> Dataset:
    names = attributes.texts()
    columns = columns_of(label_set, names, source=attributes.where)
    values = data.matrix(rows=len(images), columns=len(names))
    folder = first_folder(root, "RAP_dataset", "RAP_datasets")
    return Dataset(
        name=label_set.name,
        split=split,
        label_set=label_set,
        images=tuple(folder / images[row] for row in rows),
        labels=to_labels(values[rows][:, columns], _MEANING, columns=len(columns), source=data.where),
    )
