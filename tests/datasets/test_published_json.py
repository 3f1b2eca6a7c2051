"""WIDER and MSP60K, written small in their JSON format; and what is missing from any published set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seqpar_deploy.datasets import check_images, load_dataset
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.resources import load_label_set


def write_wider(root: Path, **changes: Any) -> None:
    names = [attribute.name for attribute in load_label_set("wider").attributes]
    first = {"attribute": [1, -1, 0, *[1] * 11], "bbox": [3, 4.6, 10.2, 20]}
    second = {"attribute": [-1] * 13 + [1], "bbox": [-2, 5, 4, 5]}
    outside = {"attribute": [-1] * 14, "bbox": [-9, 5, 4, 5]}
    trainval = {
        "images": [
            {"file_name": "train/0--Parade/a.jpg", "scene_id": 0, "targets": [first, second, outside]},
            {"file_name": "val/1--Fair/b.jpg", "scene_id": 1, "targets": [first]},
        ],
        "attribute_id_map": {str(number): name for number, name in enumerate(names)},
        "scene_id_map": {"0": "Parade", "1": "Fair"},
    }
    (root / "wider_attribute_annotation").mkdir(exist_ok=True)
    (root / "Image").mkdir(exist_ok=True)
    path = root / "wider_attribute_annotation" / "wider_attribute_trainval.json"
    path.write_text(json.dumps({**trainval, **changes}))


def test_wider_scenes(tmp_path: Path) -> None:
    write_wider(tmp_path)
    trainval = load_dataset("wider", tmp_path, "trainval")
    assert [path.relative_to(tmp_path).as_posix() for path in trainval.images] == [
        "Image/train/0--Parade/a.jpg",
        "Image/train/0--Parade/a.jpg",
        "Image/val/1--Fair/b.jpg",
    ]
    assert trainval.boxes is not None
    assert trainval.boxes.tolist() == [[3, 5, 13, 25], [0, 5, 2, 10], [3, 5, 13, 25]]
    assert trainval.labels.tolist()[0] == [1, 0, 0, *[1] * 11]
    assert trainval.labels.tolist()[1] == [0] * 13 + [1]
    assert len(load_dataset("wider", tmp_path, "train")) == 2
    assert len(load_dataset("wider", tmp_path, "val")) == 1
    with pytest.raises(DatasetError, match=r"wider_attribute_test\.json does not exist"):
        load_dataset("wider", tmp_path, "test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [{"file_name": "a.jpg"}]}, "no key 'targets'"),
        ({"images": 5}, "annotation of WIDER Attribute, got"),
        ({"attribute_id_map": {"0": "Cape"}}, "'Male' of label set wider .* got it 0 times among 1"),
        (
            {"images": [{"file_name": "a", "targets": [{"attribute": [1], "bbox": [0, 0, 2, 2]}]}]},
            "be 14 per person",
        ),
        (
            {"images": [{"file_name": "a", "targets": [{"attribute": [1], "bbox": [0, 0]}]}]},
            "annotation of WIDER Attribute, got",
        ),
        (
            {"images": [{"file_name": "a", "targets": [{"attribute": [1], "bbox": [0, 0, 1e30, 2]}]}]},
            r"box .* got 0, 0, 1e\+30, 2",
        ),
        ({"images": []}, ".* people in this split, got none"),
    ],
)
def test_wider_that_is_not_as_published(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_wider(tmp_path, **changes)
    with pytest.raises(DatasetError, match=rf"wider_attribute_trainval\.json.* {message}"):
        load_dataset("wider", tmp_path, "trainval")


def test_wider_cut_out(tmp_path: Path) -> None:
    (tmp_path / "split_image").mkdir()
    annotations = tmp_path / "Annotations"
    annotations.mkdir()
    (annotations / "trainval_name.txt").write_text("a_0.jpg\n")
    (annotations / "test_name.txt").write_text("b_0.jpg\nb_1.jpg\n")
    lines = [[1, -1, 0, *[-1] * 11], [-1] * 13 + [1]]
    (annotations / "test_gt_label.txt").write_text("".join(f"{line}\n" for line in lines))
    test = load_dataset("wider", tmp_path, "test")
    assert test.images == (tmp_path / "split_image" / "b_0.jpg", tmp_path / "split_image" / "b_1.jpg")
    assert test.boxes is None
    assert test.labels.tolist() == [[1] + [0] * 13, [0] * 13 + [1]]
    (annotations / "test_gt_label.txt").write_text(f"{lines[0]}\n")
    with pytest.raises(DatasetError, match=r"test_gt_label\.txt .* 2 lines .*test_name\.txt, got 1"):
        load_dataset("wider", tmp_path, "test")


def test_msp60k(tmp_path: Path) -> None:
    labels = np.random.default_rng(0).integers(0, 2, (5, 57))
    images = [f"{number}.png" for number in range(5)]
    label_of = dict(zip(images, labels.tolist(), strict=True))
    split = {"train": images[:2], "val": images[2:3], "test": images[3:]}
    random = {part: {image: label_of[image] for image in names} for part, names in split.items()}
    (tmp_path / "random_split.json").write_text(json.dumps(random))
    (tmp_path / "images").mkdir()
    for image in images:
        Image.new("RGB", (2, 3)).save(tmp_path / "images" / image)
    test = load_dataset("msp60k", tmp_path, "test")
    assert test.images == (tmp_path / "images" / "3.png", tmp_path / "images" / "4.png")
    assert np.array_equal(test.labels, labels[3:])
    assert np.array_equal(load_dataset("msp60k", tmp_path, "trainval").labels, labels[:3])
    check_images(test)

    scenes = {
        "split": {"split_1": {"trainval": ["park", "mall"], "test": ["snow"]}},
        "image_names": {"park": images[1:2], "mall": images[:1], "snow": images[2:]},
    }
    (tmp_path / "Multi_Sences.json").write_text(json.dumps(scenes))
    (tmp_path / "merged_labels.json").write_text(json.dumps(label_of))
    assert np.array_equal(load_dataset("msp60k", tmp_path, "split_1/trainval").labels, labels[[1, 0]])
    assert np.array_equal(load_dataset("msp60k", tmp_path, "split_1/test").labels, labels[2:])
    with pytest.raises(DatasetError, match=r"Multi_Sences\.json .* split split_2/test, got no key 'split_2'"):
        load_dataset("msp60k", tmp_path, "split_2/test")
    for row in ([1, 0], [10**400] * 57):
        random["test"]["3.png"] = row
        (tmp_path / "random_split.json").write_text(json.dumps(random))
        with pytest.raises(DatasetError, match=r"random_split\.json must be numbers"):
            load_dataset("msp60k", tmp_path, "test")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("peta", r"PETA\.mat does not exist"),
        ("pa100k", r"annotation\.mat does not exist"),
        ("rapv1", r"RAP_annotation\.mat does not exist"),
        ("rap-zs", r"RAP_annotation\.mat does not exist"),
        ("wider", r"wider_attribute_test\.json does not exist"),
        ("msp60k", r"random_split\.json does not exist"),
    ],
)
def test_missing_annotations_are_named(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        load_dataset(name, tmp_path, "test")
    with pytest.raises(DatasetError, match=r"must be one of .*, got none"):
        load_dataset(name, tmp_path)
