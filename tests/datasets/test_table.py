from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqpar_deploy.datasets import Dataset, check_images, load_dataset, split_by_group
from seqpar_deploy.errors import DatasetError, ImageError
from seqpar_deploy.preprocess import Preprocessing
from seqpar_deploy.vocab import Attribute, Group, LabelSet

TINY = LabelSet(
    name="tiny",
    attributes=(
        Attribute(name="Hat", phrase="a hat", group="g"),
        Attribute(name="Boots", phrase="brown boots", group="g"),
        Attribute(name="Skirt&Dress", phrase="skirt and dress", group="g"),
    ),
    groups={"g": Group()},
    preprocessing=Preprocessing(),
)


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def picture(path: Path, width: int = 4, height: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.arange(width * height * 3, dtype=np.uint8).reshape(height, width, 3)
    Image.fromarray(pixels).save(path)


def test_csv_by_name_and_phrase_with_unknowns(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "b.png")
    table = write(
        tmp_path / "people.csv",
        "image,source,group,skirt and dress,Hat,Boots,split",
        "a.png,zoo,anna,1,0,,train",
        "",
        '"b.png",zoo,bert, 0 ,1,1,test',
    )
    dataset = load_dataset(TINY, table)
    assert dataset.images == (tmp_path / "images" / "a.png", tmp_path / "b.png")
    assert dataset.labels.tolist() == [[0, -1, 1], [1, 1, 0]]
    assert dataset.labels.dtype == np.int8
    assert dataset.groups == ("anna", "bert")
    assert dataset.boxes is None
    assert (dataset.name, dataset.split) == ("people", "all")
    check_images(dataset)

    test = load_dataset(TINY, table, "test")
    assert (test.split, test.images) == ("test", (tmp_path / "b.png",))
    with pytest.raises(DatasetError, match=r"split of .*people\.csv .* test, train, got 'val'"):
        load_dataset(TINY, table, "val")


def test_an_attribute_without_a_column_is_unknown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    people = "image,Cape,group,skirt and dress", "a,1,g1,1", "b,1,g2,0", "c,0,g3,"
    dataset = load_dataset(TINY, write(tmp_path / "p.csv", *people))
    assert dataset.labels.tolist() == [[-1, -1, 1], [-1, -1, 0], [-1, -1, -1]]
    (line,) = caplog.messages
    assert "1 of the 3 attributes" in line
    assert line.endswith("Hat, Boots; ignored columns: Cape")
    caplog.clear()
    load_dataset(TINY, write(tmp_path / "q.csv", "image,Hat,Boots,Skirt&Dress", "a,1,0,0"))
    assert caplog.messages == []


def test_csv_boxes_are_cut_out(tmp_path: Path) -> None:
    picture(tmp_path / "scene.png", width=8, height=6)
    table = write(
        tmp_path / "p.csv",
        "image,left,top,right,bottom,Hat,Boots,Skirt&Dress",
        "scene.png,2,1,5.2,4,1,0,0",
        "scene.png,-3,-3,2,2,1,0,0",
        "scene.png,20,1,25,4,1,0,0",
    )
    dataset = load_dataset(TINY, table)
    assert dataset.boxes is not None
    assert dataset.boxes.tolist() == [[2, 1, 5, 4], [-3, -3, 2, 2], [20, 1, 25, 4]]
    whole = np.asarray(Image.open(tmp_path / "scene.png"))
    assert np.array_equal(dataset.crop(0), whole[1:4, 2:5])
    assert np.array_equal(dataset.crop(1), whole[:2, :2])
    with pytest.raises(DatasetError, match=r"box .*scene\.png, 8 x 6 pixels, got 20, 1, 25, 4"):
        dataset.crop(2)


def test_json_lines(tmp_path: Path) -> None:
    people: list[dict[str, object]] = [
        {"image": "a.png", "attributes": ["Hat", "brown boots"], "unknown": ["Skirt&Dress"], "group": 7},
        {"image": "b.png", "attributes": [], "group": "8"},
    ]
    path = write(tmp_path / "p.jsonl", *map(json.dumps, people))
    dataset = load_dataset(TINY, path)
    assert dataset.labels.tolist() == [[1, 1, -1], [0, 0, 0]]
    assert dataset.groups == ("7", "8")
    assert dataset.images == (tmp_path / "a.png", tmp_path / "b.png")

    write(path, json.dumps({**people[0], "box": [1, 2, 3, 4], "split": "test"}))
    boxed = load_dataset(TINY, path, "test")
    assert boxed.boxes is not None
    assert boxed.boxes.tolist() == [[1, 2, 3, 4]]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "column 'image', got no header"),
        (["image,Hat,Boots,Skirt&Dress"], "people, got none"),
        (["image", "a"], "'Hat', got columns image"),
        (["image,Cape,group", "a,1,g"], "'Hat', got columns image, Cape, group"),
        (["image,Hat,Cape", "a,1,1"], "label set tiny, got 'Cape'"),
        (["image,Hat,Boots,Skirt&Dress,Cape", "a,1,0,0,1"], "label set tiny, got 'Cape'"),
        (["image,Hat,a hat,Boots,Skirt&Dress", "a,1,1,0,0"], "got 'Hat' and 'a hat'"),
        (["image,Hat,Hat,Boots,Skirt&Dress", "a,1,1,0,0"], "got 'Hat' twice"),
        (["image,left,Hat,Boots,Skirt&Dress", "a,1,1,0,0"], "column 'top', got image, left, Hat"),
        (["image,Hat,Boots,Skirt&Dress", "a,1,0,yes"], r"line 2: 'Skirt&Dress' must be 1 .*, got 'yes'"),
        (["image,Hat,Boots,Skirt&Dress", "a,1,0,0", "b,1,0"], "line 3: .* 4 columns .* got 3"),
        (["image,Hat,Boots,Skirt&Dress", ",1,0,0"], "line 2: image .*empty"),
        (["image,group,Hat,Boots,Skirt&Dress", "a,g,1,0,0", "b,,1,0,0"], "group for all .* got none for b"),
        (["image,left,top,right,bottom,Hat,Boots,Skirt&Dress", "a,5,5,5,9,1,0,0"], "line 2: box .* got .5, 5, 5, 9."),
        (
            ["image,left,top,right,bottom,Hat,Boots,Skirt&Dress", "a,inf,5,5,9,1,0,0"],
            "line 2: box .* got inf, 5, 5, 9",
        ),
        (
            ["image,left,top,right,bottom,Hat,Boots,Skirt&Dress", "a,1,5,1e30,9,1,0,0"],
            "line 2: box .* 1, 5, 1e[+]30, 9",
        ),
    ],
)
def test_csv_errors_name_file_and_line(tmp_path: Path, lines: list[str], message: str) -> None:
    path = write(tmp_path / "p.csv", *lines)
    with pytest.raises(DatasetError, match=rf"p\.csv.* ?{message}"):
        load_dataset(TINY, path)


ROWS = "image,Hat,Boots,Skirt&Dress\na.png,1,0,\nb.png,0,,1\n"
WANTED = [[1, 0, -1], [0, -1, 1]]


@pytest.mark.parametrize(
    "content",
    [
        "image,Hat,Boots,Skirt&Dress\na.png,1.0,0.0,\nb.png,0.0,,1.0\n",
        "image,Hat,Boots,Skirt&Dress\na.png,True,False,NaN\nb.png,false,None,true\n",
        "image,Hat,Boots,Skirt&Dress\na.png,1,0,<NA>\nb.png,0,n/a,1\n",
        "image,Hat,Boots,Skirt&Dress\na.png,1e0,0.000,null\nb.png,0,#N/A,1.\n",
        ROWS.replace(",", ";"),
        ROWS.replace(",", "\t"),
        ROWS.replace(",", "|"),
        "image;Hat;Boots;Skirt&Dress\na.png;1,0;0,0;\nb.png;0,0;;1,0\n",  # decimal commas
        "sep=;\n" + ROWS.replace(",", ";"),
        "\ufeff" + ROWS,
        ROWS.replace("\n", "\r\n"),
        ROWS.replace("\n", "\r"),
        "\n\n" + ROWS + "\n,,,\n",
        "\n".join(f'"{line.replace(",", chr(34) + "," + chr(34))}"' for line in ROWS.split()),
        "IMAGE , hat,BOOTS, Skirt&Dress\na.png , 1,0 ,\n b.png,0,,1\n",
        "Unnamed: 0,image,Hat,Boots,Skirt&Dress\n0,a.png,1,0,\n1,b.png,0,,1\n",
        ",image,Hat,Boots,Skirt&Dress\n0,a.png,1,0,\n1,b.png,0,,1\n",
        "image,Hat,Boots,Skirt&Dress,Unnamed: 4\na.png,1,0,,0\nb.png,0,,1,1\n",
        "image,Hat,Boots,Skirt&Dress,,\na.png,1,0,,,\nb.png,0,,1,,\n",
        "image,Hat,Boots,Skirt&Dress\na.png,1,0,,,\nb.png,0,,1,\n",
        "Skirt&Dress,Hat,image,Boots\n,1,a.png,0\n1,0,b.png,\n",
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tables_as_pandas_and_spreadsheets_write_them(tmp_path: Path, content: str, encoding: str) -> None:
    (tmp_path / "p.csv").write_bytes(content.encode(encoding))
    dataset = load_dataset(TINY, tmp_path / "p.csv")
    assert dataset.labels.tolist() == WANTED
    assert [path.name for path in dataset.images] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "lines",
    [
        ['{"image": "a.png", "Hat": true, "Boots": false}', '{"image": "b.png", "hat": 0.0, "Skirt&Dress": 1.0}'],
        ['{"image": "a.png", "Hat": 1, "Boots": 0, "skirt and dress": null}',
         '{"image": "b.png", "Hat": 0, "Boots": NaN, "Skirt&Dress": "1"}'],
        ['{"image": "a.png", "attributes": {"Hat": true, "Boots": 0}}',
         '{"image": "b.png", "attributes": {"Hat": false, "Skirt&Dress": true}}'],
        ['{"image": "a.png", "attributes": ["Hat"], "unknown": ["Skirt&Dress"], "box": null, "split": null}',
         '{"image": "b.png", "attributes": ["skirt&dress"], "unknown": ["Boots"], "group": null}'],
    ],
)  # fmt: skip
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_lines_as_pandas_writes_them(tmp_path: Path, lines: list[str], encoding: str) -> None:
    (tmp_path / "p.jsonl").write_bytes("\r\n".join(lines).encode(encoding))
    assert load_dataset(TINY, tmp_path / "p.jsonl").labels.tolist() == WANTED


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"PK\x03\x04\x14\0", "Excel"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "Excel"),
        (b"PAR1\x15", "Parquet"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
    ],
)
@pytest.mark.parametrize("name", ["p.csv", "p.jsonl"])
def test_what_is_no_text_is_named(tmp_path: Path, content: bytes, named: str, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DatasetError, match=rf"{name} must be a text file.*{named}"):
        load_dataset(TINY, tmp_path / name)


@pytest.mark.parametrize("value", ["2", "-1", "0.5", "inf", "1.0.0", "x", "1,5"])
def test_other_values_are_refused(tmp_path: Path, value: str) -> None:
    write(tmp_path / "p.csv", "image;Hat", f"a.png;{value}")
    with pytest.raises(DatasetError, match=rf"line 2: 'Hat' must be 1 .*, got '{value}'"):
        load_dataset(TINY, tmp_path / "p.csv")
    write(tmp_path / "p.jsonl", json.dumps({"image": "a.png", "Hat": value}))
    with pytest.raises(DatasetError, match=rf"line 1: 'Hat' must be 1 .*, got '{value}'"):
        load_dataset(TINY, tmp_path / "p.jsonl")
    write(tmp_path / "p.jsonl", json.dumps({"image": "a.png", "Hat": 1, "Cape": 0}))
    with pytest.raises(DatasetError, match="label set tiny, got 'Cape'"):
        load_dataset(TINY, tmp_path / "p.jsonl")


@pytest.mark.parametrize(
    ("written", "real"),
    [
        (r"day one\cam 1\a.png", "day one/cam 1/a.png"),
        ("day%20one/cam%201/a.png", "day one/cam 1/a.png"),
        ("Day One/CAM 1/A.PNG", "day one/cam 1/a.png"),
        (r"DAY%20ONE\cam 1\A.png", "images/day one/cam 1/a.png"),
        ("100%25.png", "100%25.png"),  # a file of that name comes before its decoded name
        ("./sub/../a.png", "a.png"),
    ],
)
def test_pictures_are_found_as_other_systems_name_them(tmp_path: Path, written: str, real: str) -> None:
    picture(tmp_path / "sub" / "other.png")
    picture(tmp_path / "100%.png")
    picture(tmp_path / real)
    dataset = load_dataset(TINY, write(tmp_path / "p.csv", "image,Hat", f"{written},1"))
    assert dataset.images[0].resolve() == tmp_path / real
    absolute = load_dataset(TINY, write(tmp_path / "p.csv", "image,Hat", f"{(tmp_path / real).as_uri()},1"))
    assert absolute.images[0] == tmp_path / real


def test_a_picture_in_another_case_must_be_the_only_one(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "A.png")
    table = write(tmp_path / "p.csv", "image,Hat", "a.PNG,1")
    with pytest.raises(DatasetError, match=r"a\.PNG does not exist"):
        check_images(load_dataset(TINY, table))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "JSON .* column 2"),
        ("[]", 'an object with "image"'),
        ('{"image": "a"}', '"attributes", a list of names'),
        ('{"image": "a", "attributes": ["Cape"]}', "label set tiny, got 'Cape'"),
        ('{"image": "a", "attributes": ["Hat"], "unknown": ["a hat"]}', "once, got 'a hat' twice"),
        ('{"image": "a", "attributes": "Hat"}', "a list of names, got 'Hat'"),
        ('{"image": "a", "attributes": [], "unkown": []}', "keys .* got 'unkown'"),
        ('{"image": "a", "attributes": [], "box": [1, 2]}', r"\[left, top, right, bottom\] .* got \[1, 2\]"),
        (
            '{"image": "a", "attributes": [], "box": [1, 2, null, 4]}',
            r"\[left, .*, got \[1, 2, None, 4\]",
        ),
        ('{"image": "a", "attributes": [], "box": [1, 2, 1e30, 4]}', r"box .* got 1, 2, 1e[+]30, 4"),
        ("[" * 100_000, "JSON .* nested too deeply"),
        ("1" * 5000, "JSON .* a number that is too long"),
        ('{"image": "a", "attributes": [], "box": [1, 2, 1' + 400 * "0" + ", 4]}", "box .* 2.31 pixels"),
    ],
)
def test_json_lines_errors_name_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "p.jsonl", line)
    with pytest.raises(DatasetError, match=rf"p\.jsonl line 1.*{message}"):
        load_dataset(TINY, path)


def test_what_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none\.csv does not exist"):
        load_dataset(TINY, tmp_path / "none.csv")
    with pytest.raises(DatasetError, match=r"ending in \.csv or \.jsonl, got .*people\.xls"):
        load_dataset(TINY, tmp_path / "people.xls")
    with pytest.raises(DatasetError, match=r"one of msp60k, .*, got tiny"):
        load_dataset(TINY, tmp_path)
    (tmp_path / "latin.csv").write_bytes("image,Hät".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"latin\.csv must be UTF-8"):
        load_dataset(TINY, tmp_path / "latin.csv")


def test_missing_pictures_are_named(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    path = write(tmp_path / "p.csv", "image,Hat,Boots,Skirt&Dress", "a.png,1,0,0", "b.png,1,0,0")
    dataset = load_dataset(TINY, path)
    with pytest.raises(DatasetError, match=r"b\.png does not exist; 1 of the 2 pictures of p all are missing"):
        check_images(dataset)
    endless = load_dataset(TINY, write(tmp_path / "q.csv", "image,Hat,Boots,Skirt&Dress", f"{'a' * 999}.png,1,0,0"))
    with pytest.raises(DatasetError, match=r"aaa\.png does not exist"):
        check_images(endless)
    with pytest.raises(ImageError, match=r"b\.png does not exist"):
        dataset.crop(1)


def people(groups: list[str]) -> Dataset:
    return Dataset(
        name="people",
        split="all",
        label_set=TINY,
        images=tuple(Path(f"{number}.png") for number in range(len(groups))),
        labels=np.zeros((len(groups), 3), np.int8),
        groups=tuple(groups),
    )


def test_groups_stay_together_and_do_not_move_when_people_are_added() -> None:
    groups = [f"person {number % 300}" for number in range(1000)]
    rest, held_out = split_by_group(people(groups), 0.2, seed=1)
    assert rest.groups is not None
    assert held_out.groups is not None
    assert not set(rest.groups) & set(held_out.groups)
    assert len(rest) + len(held_out) == 1000
    assert 0.14 < len(set(held_out.groups)) / 300 < 0.26
    assert (rest.split, held_out.split) == ("rest", "held-out")

    more_rest, more_held_out = split_by_group(people([*groups, *(f"new {n}" for n in range(500))]), 0.2, seed=1)
    assert set(rest.groups) <= set(more_rest.groups or ())
    assert set(held_out.groups) <= set(more_held_out.groups or ())
    assert set(held_out.groups) != set(split_by_group(people(groups), 0.2, seed=2)[1].groups or ())


def test_a_split_is_the_same_on_every_machine() -> None:
    rest, held_out = split_by_group(people(list("abcdefgh")), 0.5, seed=0)
    assert rest.groups == tuple("abce")
    assert held_out.groups == tuple("dfgh")


def test_splits_that_cannot_be() -> None:
    with pytest.raises(DatasetError, match=r"hold out 0\.5 .* got 1"):
        split_by_group(people(["one"] * 5), 0.5, seed=0)
    with pytest.raises(DatasetError, match=r"fraction .* got 1\.5"):
        split_by_group(people(["a", "b"]), 1.5, seed=0)
    one = people(["a"])
    alone = Dataset(name="p", split="all", label_set=TINY, images=one.images, labels=one.labels)
    with pytest.raises(DatasetError, match=r"p must have groups .* column `group`"):
        split_by_group(alone, 0.5, seed=0)
