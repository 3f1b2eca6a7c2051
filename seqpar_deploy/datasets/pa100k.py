"""PA-100K: `annotation.mat` beside a folder of pictures.

The file contains the attributes' names and, for each of train, val and test, the pictures' names and labels. Published
results train on trainval (90,000 pictures) and test on 10,000.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seqpar_deploy.datasets.annotations import SPLITS, columns_of, first_folder, pick_split, to_labels
from seqpar_deploy.datasets.base import NO, YES, Dataset
from seqpar_deploy.datasets.matlab import read_mat
from seqpar_deploy.vocab import LabelSet

RENDERED_MARK = "SYNTHETIC.txt"  # `seqpar synth` writes it to its folders


def load_pa100k(root: Path, label_set: LabelSet, split: str | None) -> Dataset:
    """Load a split of PA-100K: train, val, trainval or test. Raises DatasetError."""
    split, parts = pick_split(SPLITS, split, label_set)
    path = root / "annotation.mat"
    attributes, *values = read_mat(
        path, "attributes", *(f"{part}_{what}" for part in parts for what in ("images_name", "label"))
    )
    names = attributes.texts()
    columns = columns_of(label_set, names, source=str(path))
    folder = first_folder(root, "data", "release_data/release_data", "release_data", "images")
    images: list[Path] = []
    labels = []
    for image_names, label in zip(values[::2], values[1::2], strict=True):
        part_images = [folder / name for name in image_names.texts()]
        images += part_images
        labels.append(label.matrix(rows=len(part_images), columns=len(names))[:, columns])
    return Dataset(
        # Another name, so that no score on drawings is reported for the real set.
        name=f"{label_set.name}-rendered" if (root / RENDERED_MARK).is_file() else label_set.name,
        split=split,
        label_set=label_set,
        images=tuple(images),
        labels=to_labels(np.concatenate(labels), {0: NO, 1: YES}, columns=len(columns), source=str(path)),
    )
