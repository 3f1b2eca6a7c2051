"""PETA, PA-100K and RAP, written small in their MATLAB format, checked with the published code's expressions."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from seqpar_deploy.datasets import check_images, load_dataset
from seqpar_deploy.datasets.matlab import read_mat
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.resources import load_label_set

Ints = npt.NDArray[np.int64]


def cells(values: list[Any], *, row: bool = False) -> npt.NDArray[Any]:
    """A MATLAB cell array: a column, or a row."""
    array = np.empty((1, len(values)) if row else (len(values), 1), object)
    array.ravel()[:] = values
    return array


def names_of(name: str) -> list[str]:
    return [attribute.name for attribute in load_label_set(name).attributes]


def random_labels(people: int, attributes: int) -> Ints:
    return np.random.default_rng(people + attributes).integers(0, 2, (people, attributes))


def touch(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 3)).save(folder / name)


# PETA: 7 pictures, the 35 evaluated attributes scattered among others, five partitions of columns.
def write_peta(root: Path) -> tuple[list[str], Ints]:
    others = ["upperBodyBlack", "hairBald", "personalFemale"]
    names = [*others, *reversed(names_of("peta"))]
    labels = random_labels(7, len(names))
    partitions = [
        {"train": column([1, 7, 3]), "val": column([2]), "test": column([6, 4, 5])},
        *({"train": column([1]), "val": column([2]), "test": column([3])} for _ in range(4)),
    ]
    peta = {
        "data": np.hstack([np.arange(28).reshape(7, 4), labels]),
        "attribute": cells(names),
        "selected_attribute": column(range(4, 39)),
        "partition": cells(partitions),
    }
    savemat(root / "PETA.mat", {"peta": peta}, do_compression=True)
    touch(root / "images", [f"{number:05}.png" for number in range(1, 8)])
    return names, labels


def column(values: Any) -> Ints:
    return np.array(list(values)).reshape(-1, 1)


def test_peta(tmp_path: Path) -> None:
    names, labels = write_peta(tmp_path)
    published = loadmat(tmp_path / "PETA.mat")["peta"]
    assert [cell[0][0] for cell in published[0][0][1]] == names
    test_rows = published[0][0][3][0][0][0][0][2][:, 0] - 1

    test = load_dataset("peta", tmp_path, "test")
    assert [path.name for path in test.images] == ["00006.png", "00004.png", "00005.png"]
    order = [names.index(name) for name in names_of("peta")]
    assert np.array_equal(test.labels, published[0][0][0][:, 4:][test_rows][:, order])
    assert np.array_equal(test.labels, labels[[5, 3, 4]][:, order])
    check_images(test)

    trainval = load_dataset("peta", tmp_path, "trainval")
    assert [path.name for path in trainval.images] == ["00001.png", "00007.png", "00003.png", "00002.png"]
    assert len(load_dataset("peta", tmp_path, "train")) == 3
    assert len(load_dataset("peta", tmp_path, "val")) == 1


def test_peta_zs(tmp_path: Path) -> None:
    names, labels = write_peta(tmp_path)
    with pytest.raises(DatasetError, match=r"zero_shot\.json does not exist; docs/datasets\.md"):
        load_dataset("peta-zs", tmp_path, "test")
    parts = {"train": ["00002.png"], "val": ["00007.png"], "test": ["00004.png", "00001.png"]}
    (tmp_path / "zero_shot.json").write_text(json.dumps(parts))
    test = load_dataset("peta-zs", tmp_path, "test")
    assert [path.name for path in test.images] == parts["test"]
    assert np.array_equal(test.labels, labels[[3, 0]][:, [names.index(name) for name in names_of("peta-zs")]])
    assert [path.name for path in load_dataset("peta-zs", tmp_path, "trainval").images] == ["00002.png", "00007.png"]

    (tmp_path / "zero_shot.json").write_text(json.dumps({"train": [], "val": [], "test": ["9.png"]}))
    with pytest.raises(DatasetError, match=r"test in .*zero_shot\.json .* got '9\.png'"):
        load_dataset("peta-zs", tmp_path, "test")
    (tmp_path / "zero_shot.json").write_text("[]")
    with pytest.raises(DatasetError, match="got no list 'test'"):
        load_dataset("peta-zs", tmp_path, "test")


def write_pa100k(root: Path, names: list[str] | None = None, label: int = 1) -> dict[str, Ints]:
    sizes = {"train": 4, "val": 2, "test": 3}
    labels = {part: random_labels(size, 26) for part, size in sizes.items()}
    labels["test"][0, 0] = label
    contents: dict[str, Any] = {"attributes": cells(names or names_of("pa100k"))}
    number = 0
    for part, size in sizes.items():
        images = [f"{number + i + 1:06}.jpg" for i in range(size)]
        number += size
        contents |= {f"{part}_images_name": cells(images), f"{part}_label": labels[part].astype(np.uint8)}
        touch(root / "release_data" / "release_data", images)
    savemat(root / "annotation.mat", contents)
    return labels


def test_pa100k(tmp_path: Path) -> None:
    labels = write_pa100k(tmp_path)
    published = loadmat(tmp_path / "annotation.mat")
    test = load_dataset("pa100k", tmp_path, "test")
    folder = tmp_path / "release_data" / "release_data"
    assert test.images == tuple(folder / published["test_images_name"][i][0][0] for i in range(3))
    assert np.array_equal(test.labels, published["test_label"])
    check_images(test)
    trainval = load_dataset("pa100k", tmp_path, "trainval")
    assert np.array_equal(trainval.labels, np.vstack([labels["train"], labels["val"]]))
    assert [path.name for path in trainval.images] == [f"{number:06}.jpg" for number in range(1, 7)]

    assert test.name == "pa100k"
    (tmp_path / "SYNTHETIC.txt").touch()  # `seqpar synth` leaves it: such scores are not PA-100K's
    assert load_dataset("pa100k", tmp_path, "test").name == "pa100k-rendered"

    (tmp_path / "data").mkdir()  # the other way it is unpacked
    assert load_dataset("pa100k", tmp_path, "val").images[0] == tmp_path / "data" / "000005.jpg"


def test_pa100k_columns_are_found_by_name(tmp_path: Path) -> None:
    names = names_of("pa100k")
    labels = write_pa100k(tmp_path, [*names[1:], " FEMALE "])
    assert np.array_equal(load_dataset("pa100k", tmp_path, "val").labels, np.roll(labels["val"], 1, axis=1))


@pytest.mark.parametrize(
    ("names", "label", "message"),
    [
        (["Cape"], 1, r"annotation\.mat .*'Female' of label set pa100k .* got it 0 times among 26"),
        (["AgeOver60"], 1, "'Female' of label set pa100k .* got it 0 times"),
        ([], 3, r"annotation\.mat must be 0, 1, got 3"),
    ],
)
def test_annotations_that_disagree_with_the_label_set(
    tmp_path: Path, names: list[str], label: int, message: str
) -> None:
    write_pa100k(tmp_path, [*names, *names_of("pa100k")[len(names) :]], label)
    with pytest.raises(DatasetError, match=message):
        load_dataset("pa100k", tmp_path, "test")


def test_shapes_that_disagree(tmp_path: Path) -> None:
    contents: dict[str, Any] = {
        "attributes": cells(names_of("pa100k")),
        "test_images_name": cells(["1.jpg", "2.jpg"]),
        "test_label": random_labels(3, 26),
    }
    touch(tmp_path / "data", ["1.jpg"])
    savemat(tmp_path / "annotation.mat", contents)
    with pytest.raises(DatasetError, match=r"annotation\.mat: test_label .* 2 rows, got 3"):
        load_dataset("pa100k", tmp_path, "test")
    savemat(tmp_path / "annotation.mat", contents | {"test_label": random_labels(2, 25)})
    with pytest.raises(DatasetError, match=r"test_label .* 26 columns, got 25"):
        load_dataset("pa100k", tmp_path, "test")
    savemat(tmp_path / "annotation.mat", contents | {"test_images_name": np.ones((2, 1))})
    with pytest.raises(DatasetError, match=r"test_images_name .* cell array, got a 2 x 1"):
        load_dataset("pa100k", tmp_path, "test")
    with pytest.raises(DatasetError, match="variable train_images_name"):
        load_dataset("pa100k", tmp_path, "train")


# RAP v1: fields by place, partitions of rows; a label 2 is "not sure".
def write_rapv1(root: Path, test: list[int]) -> Ints:
    names = [*names_of("rapv1"), "faceFront", "up-Black"]
    labels = random_labels(5, len(names))
    labels[4, 0] = 2
    images = [f"CAM01_{number}.png" for number in range(5)]
    annotation = {
        "partion": cells([{"train_index": np.array([[3, 1, 2]]), "test_index": np.array([test])}] * 5),
        "label": labels,
        "attribute_chinese": cells(["女"] * len(names)),
        "attribute_eng": cells(names),
        "position": np.zeros((5, 4)),
        "imagesname": cells(images),
        "attribute_exp": cells(["-"]),
    }
    (root / "RAP_annotation").mkdir()
    savemat(root / "RAP_annotation" / "RAP_annotation.mat", {"RAP_annotation": annotation})
    touch(root / "RAP_dataset", images)
    return labels


def test_rapv1(tmp_path: Path) -> None:
    labels = write_rapv1(tmp_path, [5, 4])
    published = loadmat(tmp_path / "RAP_annotation" / "RAP_annotation.mat")["RAP_annotation"]
    rows = published[0][0][0][0][0][0][0][1][0, :] - 1
    test = load_dataset("rapv1", tmp_path, "test")
    assert test.images == tuple(tmp_path / "RAP_dataset" / published[0][0][5][row][0][0] for row in rows)
    assert published[0][0][3][8][0][0] == "Clerk"
    expected = labels[rows][:, :51]
    assert expected[0, 0] == 2
    assert np.array_equal(test.labels, np.where(expected == 2, 0, expected))
    check_images(test)
    assert [path.name for path in load_dataset("rapv1", tmp_path, "trainval").images] == [
        "CAM01_2.png",
        "CAM01_0.png",
        "CAM01_1.png",
    ]
    with pytest.raises(DatasetError, match="rapv1 must be one of trainval, test, got 'val'"):
        load_dataset("rapv1", tmp_path, "val")


def test_indices_outside_the_set(tmp_path: Path) -> None:
    write_rapv1(tmp_path, [5, 0])
    with pytest.raises(DatasetError, match=r"partion\{1\}\.test_index .* 1 to 5"):
        load_dataset("rapv1", tmp_path, "test")


# RAP v2: fields by name, the evaluated attributes out of order, partitions in a row of cells.
def write_rapv2(root: Path) -> tuple[list[str], Ints]:
    names = [*sorted(names_of("rapv2")), "AgeBiger60", "ub-ColorBlack"]
    labels = random_labels(6, len(names))
    part = {"train_index": np.array([[1, 5]]), "val_index": np.array([[6]]), "test_index": np.array([[4, 2, 3]])}
    annotation = {
        "name": cells([f"CAM{number}.png" for number in range(6)]),
        "data": labels,
        "attribute": cells(names),
        "selected_attribute": np.arange(1, 55).reshape(1, -1),
        "partition_attribute": cells([part] * 5, row=True),
    }
    (root / "RAP_annotation").mkdir()
    path = root / "RAP_annotation" / "RAP_annotation.mat"
    savemat(path, {"RAP_annotation": annotation}, do_compression=True)
    touch(root / "RAP_datasets", [f"CAM{number}.png" for number in range(6)])
    return names, labels


def test_rapv2(tmp_path: Path) -> None:
    names, labels = write_rapv2(tmp_path)
    published = loadmat(tmp_path / "RAP_annotation" / "RAP_annotation.mat")["RAP_annotation"]
    rows = published["partition_attribute"][0][0][0][0]["test_index"][0][0][0] - 1
    test = load_dataset("rapv2", tmp_path, "test")
    assert test.images == tuple(tmp_path / "RAP_datasets" / published["name"][0][0][row][0][0] for row in rows)
    order = [names.index(name) for name in names_of("rapv2")]
    assert np.array_equal(test.labels, published["data"][0][0][rows][:, order])
    assert np.array_equal(load_dataset("rapv2", tmp_path, "trainval").labels, labels[[0, 4, 5]][:, order])
    check_images(test)


def test_rap_zs(tmp_path: Path) -> None:
    names, labels = write_rapv2(tmp_path)
    parts = {"train": ["CAM2.png"], "val": ["CAM0.png"], "test": ["CAM5.png", "CAM1.png"]}
    (tmp_path / "zero_shot.json").write_text(json.dumps(parts))
    test = load_dataset("rap-zs", tmp_path, "test")
    assert test.labels.shape == (2, 53)
    assert np.array_equal(test.labels, labels[[5, 1]][:, [names.index(name) for name in names_of("rap-zs")]])
    assert [path.name for path in test.images] == parts["test"]


def test_missing_folder_of_pictures_is_named(tmp_path: Path) -> None:
    write_peta(tmp_path)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match=r"00006\.png does not exist; 3 of the 3 pictures of peta test"):
        check_images(load_dataset("peta", tmp_path, "test"))
    (tmp_path / "images").rmdir()
    with pytest.raises(DatasetError, match="pictures in a folder images, got none"):
        load_dataset("peta", tmp_path, "test")


def damaged(content: bytes, seed: int) -> bytes:
    """Cut short, or with some bytes changed."""
    generator = np.random.default_rng(seed)
    if seed % 2:
        return content[: int(generator.integers(0, len(content)))]
    changed = bytearray(content)
    for place in generator.integers(0, len(content), 4):
        changed[place] ^= int(generator.integers(1, 256))
    return bytes(changed)


@pytest.mark.parametrize(
    ("write", "name", "file"),
    [(write_peta, "peta", "PETA.mat"), (write_rapv2, "rapv2", "RAP_annotation/RAP_annotation.mat")],
)
def test_damaged_files_are_one_line(tmp_path: Path, write: Callable[[Path], Any], name: str, file: str) -> None:
    write(tmp_path)
    content = (tmp_path / file).read_bytes()
    for seed in range(60):
        (tmp_path / file).write_bytes(damaged(content, seed))
        with pytest.raises(DatasetError) as refusal:
            load_dataset(name, tmp_path, "test")
        assert str(refusal.value).startswith(str(tmp_path / file))
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("compressed", [False, True])
def test_elements_of_no_known_type_do_not_reach_scipy(tmp_path: Path, compressed: bool) -> None:
    """SciPy crashes on them."""
    savemat(tmp_path / "x.mat", {"names": cells(["one", "two"])}, do_compression=compressed)
    (names,) = read_mat(tmp_path / "x.mat", "names")
    assert names.texts() == ["one", "two"]
    content = (tmp_path / "x.mat").read_bytes()
    head, body = content[:128], content[128:]
    body = zlib.decompress(body[8:]) if compressed else body
    place = body.index(b"one") - 8 if body.count(b"one\0\0\0\0\0") else body.index(b"one") - 4
    for kind in (0x2010, 40, 8):
        changed = body[:place] + kind.to_bytes(2, "little") + body[place + 2 :]
        if compressed:
            changed = zlib.compress(changed)
            changed = b"\x0f\0\0\0" + len(changed).to_bytes(4, "little") + changed
        (tmp_path / "x.mat").write_bytes(head + changed)
        with pytest.raises(DatasetError, match=r"x\.mat .*damaged"):
            read_mat(tmp_path / "x.mat", "names")


def test_version_7_3_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "PETA.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(100))
    with pytest.raises(DatasetError, match=r"PETA\.mat .* version 7\.3.* -v7"):
        load_dataset("peta", tmp_path, "test")
    savemat(tmp_path / "PETA.mat", {"peta": 5})
    with pytest.raises(DatasetError, match=r"PETA\.mat: peta .* struct, got a 1 x 1 array"):
        load_dataset("peta", tmp_path, "test")
    savemat(tmp_path / "PETA.mat", {"peta": {"data": 5}})
    with pytest.raises(DatasetError, match="field 1, got fields data"):
        load_dataset("peta", tmp_path, "test")


def test_without_scipy_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DatasetError, match=r"pip install 'seqpar-deploy\[eval\]'"):
        load_dataset("peta", tmp_path, "test")
