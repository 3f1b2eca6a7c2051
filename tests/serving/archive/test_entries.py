"""Listing: which entries inputs have, with their IDs, cameras and times."""

from __future__ import annotations

import datetime
import io
import os
import tarfile
from pathlib import Path

import pytest
from fakes.archives import json_lines, picture

from seqpar_deploy.errors import ArchiveError
from seqpar_deploy.serving.archive.entries import Entry, list_entries
from seqpar_deploy.serving.archive.naming import Naming
from seqpar_deploy.serving.archive.places import absolute
from seqpar_deploy.serving.archive.reading import read_pictures


def listed(*inputs: Path | str, naming: Naming = Naming(), without: str = "") -> list[Entry]:
    return list(list_entries([absolute(str(name)) for name in inputs], naming, without=without))


def utc(*parts: int) -> int:
    return int(datetime.datetime(*parts, tzinfo=datetime.timezone.utc).timestamp() * 1e6)  # type: ignore[misc, arg-type]


def tar_of(path: Path, files: list[Path], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for number, file in enumerate(files):
            archive.add(file, f"{number:03d}.jpg.png")
            info = tarfile.TarInfo(f"{number:03d}.json")
            info.size = 2
            archive.addfile(info, io.BytesIO(b"{}"))
    return path


def test_a_folder_is_listed_in_order_without_hidden_and_other_files(pictures: Path) -> None:
    (pictures / "a" / "notes.txt").write_text("x")
    picture(pictures / ".cache" / "9.png")
    (pictures / "a" / "video.mp4").write_bytes(b"x")
    found = listed(pictures)
    assert [Path(entry.source).name for entry in found] == [*(f"{n}.png" for n in range(4)), "video.mp4", *(
        f"{n}.png" for n in (4, 5, 6)
    )]  # fmt: skip
    assert [entry.kind for entry in found].count("video") == 1
    assert all(os.path.isabs(entry.id) for entry in found)


def test_a_folder_of_links_that_form_a_circle_is_listed_once(pictures: Path) -> None:
    (pictures / "a" / "again").symlink_to(pictures)
    assert len(listed(pictures)) == 7


def test_globs_name_files_and_folders(pictures: Path) -> None:
    assert len(listed(f"{pictures}/*/[0-2].png")) == 3
    assert len(listed(f"{pictures}/?")) == 7


def test_the_job_itself_is_left_out(pictures: Path) -> None:
    picture(pictures / "job" / "1.png")
    assert len(listed(pictures, without=str(pictures / "job"))) == 7


@pytest.mark.parametrize("mode", ["w", "a"])
def test_members_of_a_tar_are_read_by_offset(tmp_path: Path, pictures: Path, mode: str) -> None:
    files = sorted(pictures.rglob("*.png"))
    archive = tar_of(tmp_path / "people.tar", files, mode)
    found = listed(archive)
    assert [entry.entry for entry in found] == [f"{number:03d}.jpg.png" for number in range(7)]
    assert found[2].id == f"{archive}#002.jpg.png"
    for entry, file in zip(found, files, strict=True):
        assert archive.read_bytes()[entry.offset : (entry.offset or 0) + (entry.size or 0)] == file.read_bytes()
    assert [image.mean() for _, image in read_pictures(found)] == [20 * n for n in range(7)]  # type: ignore[union-attr]


def test_rows_of_parquet_have_camera_and_time(parquet_of_pictures: Path) -> None:
    found = listed(parquet_of_pictures)
    assert [(entry.entry, entry.camera) for entry in found] == [(str(n), f"gate-{n}") for n in range(7)]
    assert {entry.captured_at for entry in found} == {utc(2026, 5, 1, 8)}
    some = [found[1], found[2], found[3], found[6]]
    assert [image.mean() for _, image in read_pictures(some)] == [20, 40, 60, 120]  # type: ignore[union-attr]


def test_tables_name_pictures_boxes_cameras_and_times(tmp_path: Path, pictures: Path) -> None:
    (tmp_path / "people.csv").write_text(
        "image,left,top,right,bottom,camera,captured_at\n"
        "crops/a/1.png,0,0,8,20,gate-3,2026-05-01T10:00:00Z\n"
        "crops/a/1.png,8,0,16,20,gate-4,\n"
    )
    rows: list[dict[str, object]] = [{"image": "crops/b/5.png", "box": [0, 10, 16, 40]}, {"image": "crops/b/6.png"}]
    found = listed(tmp_path / "people.csv", json_lines(tmp_path / "more.jsonl", rows))
    assert [entry.box for entry in found] == [(0, 0, 8, 20), (8, 0, 16, 20), (0, 10, 16, 40), None]
    assert [entry.entry for entry in found] == ["0,0,8,20", "8,0,16,20", "0,10,16,40", None]
    assert [entry.camera for entry in found] == ["gate-3", "gate-4", None, None]
    assert found[0].captured_at == utc(2026, 5, 1, 10)
    assert found[1].captured_at is None
    shapes = [image.shape[:2] for _, image in read_pictures(found)]  # type: ignore[union-attr]
    assert shapes == [(20, 8), (20, 8), (30, 16), (40, 16)]


@pytest.mark.parametrize("text", ["image,left\na.png,x\n", "image,left,top,right,bottom\na.png,5,0,4,9\n"])
def test_a_wrong_box_names_the_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "people.csv").write_text(text)
    with pytest.raises(ArchiveError, match=r"people\.csv line 2: .*box|people\.csv line 2"):
        listed(tmp_path / "people.csv")


@pytest.mark.parametrize("row", [{"image": "a.png", "captured_at": 5}, {"image": "a.png", "captured_at": "noon"}])
def test_a_wrong_time_names_the_line(tmp_path: Path, row: dict[str, object]) -> None:
    with pytest.raises(ArchiveError, match=r"people\.jsonl line 1"):
        listed(json_lines(tmp_path / "people.jsonl", [row]))


def test_an_address_of_fsspec_is_listed_and_read(pictures: Path, tmp_path: Path) -> None:
    """`file://` is local; `dir://` of fsspec goes the way of s3:// and others."""
    assert listed(f"file://{pictures}")[0].source == str(pictures / "a" / "0.png")
    import fsspec

    memory = fsspec.filesystem("memory")
    for file in sorted(pictures.rglob("*.png")):
        memory.pipe(f"/people/{file.name}", file.read_bytes())
    tar_of(tmp_path / "people.tar", sorted(pictures.rglob("*.png")))
    memory.pipe("/people.tar", (tmp_path / "people.tar").read_bytes())
    found = listed("memory://people", "memory://people.tar", "memory://people/[12].png")
    assert len(found) == 16
    assert found[0].source == "memory:///people/0.png"
    assert [image.mean() for _, image in read_pictures(found[:7])] == [20 * n for n in range(7)]  # type: ignore[union-attr]
    assert [image.mean() for _, image in read_pictures(found[7:14])] == [20 * n for n in range(7)]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("no-such", "no-such"),
        ("*.png", "one file or more"),
        ("empty", "got none"),
        ("notes.txt", ".txt"),
        ("people.tar.gz", "unpack"),
        ("damaged.tar", "damaged.tar"),
        ("damaged.parquet", "damaged.parquet"),
        ("s3://key:secret@bucket/x", "credentials"),
        ("https://host/a.png?X-Amz-Signature=abc", "credentials"),
        ("nosuch://bucket/x", "nosuch"),
    ],
)
def test_an_input_without_entries_is_one_line(tmp_path: Path, name: str, fact: str) -> None:
    (tmp_path / "empty").mkdir()
    for file in ("notes.txt", "people.tar.gz", "damaged.tar", "damaged.parquet"):
        (tmp_path / file).write_bytes(b"nothing of this kind" * 100)
    with pytest.raises(ArchiveError, match=fact.replace(".", r"\.")) as caught:
        listed(name if "://" in name else tmp_path / name)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_parquet_without_pictures_is_left_out_of_folders_only(tmp_path: Path, pictures: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"label": [1]}), pictures / "labels.parquet")
    assert len(listed(pictures)) == 7
    with pytest.raises(ArchiveError, match="column `image`"):
        listed(pictures / "labels.parquet")


def test_names_tell_camera_and_time(tmp_path: Path) -> None:
    picture(tmp_path / "gate-3" / "cam-7_20260501-100203.png")
    picture(tmp_path / "gate-4" / "cam-x_20261301-100203.png")
    naming = Naming(camera=r"cam-(\d+)", captured_at="%Y%m%d-%H%M%S", time_zone="Europe/Berlin")
    first, second = listed(tmp_path, naming=naming)
    assert (first.camera, first.captured_at) == ("7", utc(2026, 5, 1, 8, 2, 3))
    assert (second.camera, second.captured_at) == (None, None)
    assert {entry.camera for entry in listed(tmp_path, naming=Naming(camera="yard"))} == {"yard"}


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("%s", "cam/1777629723.jpg", 1777629723 * 1_000_000),
        ("%Y-%m-%d/%H.%M", "x/2026-05-01/10.02/1.jpg", utc(2026, 5, 1, 10, 2)),
        ("%y%j", "26121.jpg", utc(2026, 5, 1)),
        ("%Y-%m-%dT%H%M%S%z", "2026-05-01T100000+0200.jpg", utc(2026, 5, 1, 8)),
        ("%Y%m%d", "2020202020260501.jpg", None),
        ("%Y%m%d", "20250101/20260501.jpg", utc(2026, 5, 1)),
    ],
)
def test_times_in_names(pattern: str, name: str, expected: int | None) -> None:
    assert Naming(captured_at=pattern).captured_at_of(name) == expected


@pytest.mark.parametrize(
    ("values", "fact"),
    [
        ({"captured_at": "%H%M"}, "date"),
        ({"captured_at": "%Q"}, "%Q"),
        ({"camera": "(a)(b)"}, "one group"),
        ({"camera": "(a"}, "one group"),
        ({"time_zone": "Mars/North"}, "Mars/North"),
        ({"time_zone": "../../etc/passwd"}, "passwd"),
    ],
)
def test_wrong_patterns_are_refused(values: dict[str, str], fact: str) -> None:
    with pytest.raises(ArchiveError, match=fact):
        Naming(**values)  # type: ignore[arg-type]


def test_a_name_that_is_not_utf8_is_refused_with_its_bytes(tmp_path: Path) -> None:
    file = os.fsdecode(bytes(tmp_path) + b"/caf\xe9.png")
    picture(tmp_path / "ok.png").rename(file)
    with pytest.raises(ArchiveError, match=r"caf\\xe9"):
        listed(tmp_path)
