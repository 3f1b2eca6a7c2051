"""MSP60K: JSON files beside the folder `images`.

`random_split.json`, a random split: `{"train": {picture: [57 labels]}, "val": ..., "test": ...}`.

Cross-domain splits train and test on different scenes. `Multi_Sences.json` (so spelled):
`{"split": {"split_1": {"trainval": [scenes], "test": [scenes]}, ...}, "image_names": {scene: [pictures]}}`;
`merged_labels.json`: `{picture: [57 labels]}`. Labels are bare vectors in the label set's order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqpar_deploy.datasets.annotations import SPLITS, first_folder, pick_split, read_json, to_labels, unlike_published
from seqpar_deploy.datasets.base import NO, YES, Dataset
from seqpar_deploy.vocab import LabelSet


def load_msp60k(root: Path, label_set: LabelSet, split: str | None) -> Dataset:
    """Load a split of MSP60K: train, val, trainval or test of the random split, or one of the cross-domain splits, for
    example `split_1/trainval` or `split_1/test`. Raises DatasetError."""
    if split is not None and "/" in split:
        path = root / "Multi_Sences.json"
        if not path.is_file():  # LLM-PAR's code uses this name
            path = root / "Multi_Sences2.json"
        read = _cross_domain
    else:
        path = root / "random_split.json"
        read = _random
        split, _ = pick_split(SPLITS, split, label_set)
    try:
        label_of = read(path, split)
    except (KeyError, TypeError, AttributeError) as error:
        raise unlike_published(path, f"MSP60K with split {split}", error) from None
    folder = first_folder(root, "images", "degrade_image", "degrade_images")
    return Dataset(
        name=label_set.name,
        split=split,
        label_set=label_set,
        images=tuple(folder / image for image in label_of),
        labels=to_labels(list(label_of.values()), {0: NO, 1: YES}, columns=len(label_set), source=str(path)),
    )


def _random(path: Path, split: str) -> dict[str, Any]:
    content = read_json(path)
    return {image: labels for part in SPLITS[split] for image, labels in content[part].items()}


def _cross_domain(path: Path, split: str) -> dict[str, Any]:
    scenes = read_json(path)
    labels = read_json(path.with_name("merged_labels.json"))
    name, _, part = split.partition("/")
    images = [image for scene in scenes["split"][name][part] for image in scenes["image_names"][scene]]
    return {image: labels[image] for image in images}
