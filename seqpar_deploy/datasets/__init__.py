"""Data sets of people and their attributes: published ones from their original files, your own from CSV or JSON Lines.

Labels are `YES` (1), `NO` (0) or `UNKNOWN` (-1).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from seqpar_deploy.datasets.annotations import reading_text
from seqpar_deploy.datasets.base import NO, UNKNOWN, YES, Dataset, check_images, split_by_group
from seqpar_deploy.datasets.msp60k import load_msp60k
from seqpar_deploy.datasets.pa100k import load_pa100k
from seqpar_deploy.datasets.peta import load_peta, load_peta_zs
from seqpar_deploy.datasets.rap import load_rap_zs, load_rapv1, load_rapv2
from seqpar_deploy.datasets.table import SUFFIXES, load_table
from seqpar_deploy.datasets.wider import load_wider
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.vocab import LabelSet

__all__ = ["NO", "UNKNOWN", "YES", "Dataset", "check_exists", "check_images", "load_dataset", "split_by_group"]

_READERS: dict[str, Callable[[Path, LabelSet, str | None], Dataset]] = {
    "msp60k": load_msp60k,
    "pa100k": load_pa100k,
    "peta": load_peta,
    "peta-zs": load_peta_zs,
    "rap-zs": load_rap_zs,
    "rapv1": load_rapv1,
    "rapv2": load_rapv2,
    "wider": load_wider,
}


def load_dataset(name: str | Path | LabelSet, root: str | Path, split: str | None = None) -> Dataset:
    """Load one split of a data set. Pictures are not opened, and need not exist (see `check_images`).

    Args:
        name: The label set: the name of one that ships, for example `pa100k`, a TOML file, or a `LabelSet`.
        root: The folder of the published data set of that name, or your own CSV or JSON Lines file.
        split: Split to load, for example `test`. Required for a folder. Default: all rows of a file.

    Returns:
        The people of the split, in the order of the files.

    Raises:
        DatasetError: The data set cannot be found or read, or does not match the label set.
        LabelSetError: The label set cannot be found or read.

    Example:
        dataset = load_dataset("pa100k", "PA100K", "test")
        print(len(dataset), dataset.labels.shape)  # 10000 (10000, 26)
    """
    label_set = name if isinstance(name, LabelSet) else load_label_set(name)
    root = Path(root)
    check_exists(root)
    if not os.path.isdir(root):
        return load_table(root, label_set, split)
    if label_set.name not in _READERS:
        raise DatasetError(
            f"the label set of a folder must be one of {', '.join(_READERS)}, got {label_set.name} for {root}; "
            "name a CSV or JSON Lines file"
        )
    return _READERS[label_set.name](root, label_set, split)


def check_exists(root: str | Path) -> None:
    """Check that data can be opened, before any other work.

    Args:
        root: The folder of a data set, or a CSV or JSON Lines file.

    Raises:
        DatasetError: It does not exist, is neither, or cannot be read.
    """
    if os.path.isdir(root):
        return
    if Path(root).suffix.lower() not in SUFFIXES:
        raise DatasetError(f"data must be a data set's folder, or a file ending in {' or '.join(SUFFIXES)}, got {root}")
    with reading_text(Path(root)):
        if os.path.exists(root) and not os.path.isfile(root):
            raise DatasetError(f"{root} must be a file, got a pipe or device; save the data to a file")
        open(root, "rb").close()
