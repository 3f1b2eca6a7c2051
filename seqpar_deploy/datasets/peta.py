"""PETA and PETA-ZS: `PETA.mat` beside the folder `images`.

PETA.mat is one struct, `peta`. The published code reads three of its fields by index:

- 0: (19000, 109) numbers. Four describe the picture, 105 are attributes.
- 1: the attributes' names.
- 3: five random partitions, each a struct of train, val and test indices. Published results use the first: trainval has
  11,400 pictures and test 7,600.

Pictures are 00001.png to 19000.png. PETA-ZS is the same data in another split, see `zero_shot.py`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seqpar_deploy.datasets.annotations import SPLITS, columns_of, first_folder, pick_split, to_labels
from seqpar_deploy.datasets.base import NO, YES, Dataset
from seqpar_deploy.datasets.matlab import read_mat
from seqpar_deploy.datasets.zero_shot import read_zero_shot
from seqpar_deploy.vocab import LabelSet

# Indices of the fields of the struct `peta`, and of a partition.
_DATA, _NAMES, _PARTITIONS = 0, 1, 3
_PLACE_OF_PART = {"train": 0, "val": 1, "test": 2}

_ABOUT = 4  # columns of data before the first attribute


def load_peta(root: Path, label_set: LabelSet, split: str | None) -> Dataset:
    """Load a split of PETA's first partition: train, val, trainval or test. Raises DatasetError."""
    return _load(root, label_set, split, zero_shot=False)


def load_peta_zs(root: Path, label_set: LabelSet, split: str | None) -> Dataset:
    """Load a split of PETA-ZS: train, val, trainval or test. Raises DatasetError."""
    return _load(root, label_set, split, zero_shot=True)


def _load(root: Path, label_set: LabelSet, split: str | None, *, zero_shot: bool) -> Dataset:
    split, parts = pick_split(SPLITS, split, label_set)
    path = root / "PETA.mat"
    (peta,) = read_mat(path, "peta")
    names = peta.field(_NAMES).texts()
    columns = columns_of(label_set, names, source=str(path))
    data = peta.field(_DATA).matrix(columns=_ABOUT + len(names))[:, _ABOUT:]
    images = [f"{number:05}.png" for number in range(1, len(data) + 1)]
    if zero_shot:
        rows = read_zero_shot(root, parts, images)
    else:
        partition = peta.field(_PARTITIONS).cell(0)
        rows = np.concatenate([partition.field(_PLACE_OF_PART[part]).indices(len(data)) for part in parts])
    folder = first_folder(root, "images")
    return Dataset(
        name=label_set.name,
        split=split,
        label_set=label_set,
        images=tuple(folder / images[row] for row in rows),
        labels=to_labels(data[rows][:, columns], {0: NO, 1: YES}, columns=len(columns), source=str(path)),
    )
