"""WIDER Attribute: people marked by boxes in pictures of scenes.

The original release has `wider_attribute_trainval.json` and `wider_attribute_test.json`, in the data set's folder or
in `wider_attribute_annotation`, `Annotations` or `Anno` there, beside the folder `Image`. Each file contains
`{"images": [{"file_name": "train/0--Parade/..jpg", "targets": [{"attribute": [...], "bbox": [x, y, width, height]}]}],
"attribute_id_map": {"0": "Male", ...}}`. The pictures of trainval are in folders `train` and `val`, the two splits.

SequencePAR's authors use a copy with the people cut out. This reader takes it if the folder contains it: the pictures
are in `split_image`, and `Annotations` has one line per person in `trainval_name.txt` and `trainval_gt_label.txt`
(`[1, -1, 0, ...]`, in the label set's order), and the same for test. It has 28,330 and 29,161 people, a few less than
the JSON files.

The label 0 means unspecified and -1 means no. SequencePAR's code counts both as no. So does this reader, for comparable
scores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from seqpar_deploy.datasets.annotations import (
    columns_of,
    first_folder,
    json_mistake,
    pick_split,
    read_json,
    reading_text,
    to_labels,
    unlike_published,
)
from seqpar_deploy.datasets.base import NO, YES, BoxError, Dataset, pixels
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.vocab import LabelSet

_MEANING = {1: YES, 0: NO, -1: NO}

# The part of the file name that contains each split.
_SCENE_SPLITS = {"train": "trainval", "val": "trainval", "trainval": "trainval", "test": "test"}
_CUT_OUT_SPLITS = {"trainval": "trainval", "test": "test"}


def load_wider(root: Path, label_set: LabelSet, split: str | None) -> Dataset:
    """Load a split of WIDER Attribute: trainval or test, and from the JSON files also train or val.

    Raises DatasetError.
    """
    if (root / "Annotations" / "trainval_name.txt").is_file():
        return _load_cut_out(root, label_set, *pick_split(_CUT_OUT_SPLITS, split, label_set))
    split, part = pick_split(_SCENE_SPLITS, split, label_set)
    folders = [root, *(root / name for name in ("wider_attribute_annotation", "Annotations", "Anno"))]
    candidates = [folder / f"wider_attribute_{part}.json" for folder in folders]
    return _load_scenes(root, next(filter(Path.is_file, candidates), candidates[0]), label_set, split)


def _load_scenes(root: Path, path: Path, label_set: LabelSet, split: str) -> Dataset:
    content = read_json(path)
    images: list[str] = []
    labels: list[Any] = []
    boxes: list[list[int]] = []
    try:
        name_of = content["attribute_id_map"]
        names = [str(name_of[str(number)]) for number in range(len(name_of))]
        for picture in content["images"]:
            if split in ("train", "val") and not picture["file_name"].startswith(f"{split}/"):
                continue
            for person in picture["targets"]:
                left, top, right, bottom = box = _corners(person["bbox"])
                if left < right and top < bottom:  # a box outside the picture has no pixels
                    images.append(picture["file_name"])
                    labels.append(person["attribute"])
                    boxes.append(box)
        folder = first_folder(root, "Image", "wider_attribute_image/Image")
        paths = tuple(folder / image for image in images)
    except BoxError as error:
        raise DatasetError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise unlike_published(path, "WIDER Attribute", error) from None
    columns = columns_of(label_set, names, source=str(path))
    return Dataset(
        name=label_set.name,
        split=split,
        label_set=label_set,
        images=paths,
        labels=to_labels(labels, _MEANING, columns=len(names), source=str(path))[:, columns],
        boxes=np.array(boxes, np.int64),
    )


def _corners(bbox: Any) -> list[int]:
    """x, y, width, height -> left, top, right, bottom, cut at the picture's left and upper edge."""
    x, y, width, height = (float(number) for number in bbox)
    return [max(0, side) for side in pixels((x, y, x + width, y + height))]


def _load_cut_out(root: Path, label_set: LabelSet, split: str, part: str) -> Dataset:
    names_file, labels_file = (root / "Annotations" / f"{part}_{what}.txt" for what in ("name", "gt_label"))
    names, rows = _lines(names_file), _lines(labels_file)
    if len(names) != len(rows):
        raise DatasetError(
            f"{labels_file} must have {len(names)} lines as {names_file.name}, got {len(rows)}; use the original files"
        )
    labels = []
    for number, row in enumerate(rows, start=1):
        try:
            labels.append(json.loads(row))
        except (ValueError, RecursionError) as error:
            raise DatasetError(
                f"{labels_file} line {number} must be a list of numbers, got {json_mistake(error)}; download it again"
            ) from None
    folder = first_folder(root, "split_image")
    return Dataset(
        name=label_set.name,
        split=split,
        label_set=label_set,
        images=tuple(folder / name for name in names),
        labels=to_labels(labels, _MEANING, columns=len(label_set), source=str(labels_file)),
    )


def _lines(path: Path) -> list[str]:
    with reading_text(path):
        return path.read_text(encoding="utf-8").splitlines()
