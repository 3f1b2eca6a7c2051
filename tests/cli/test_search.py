"""`seqpar search`: lines, JSON and pages from files of results, and one line for everything that is wrong."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli.run import run
from fakes.results import UTC, label_set_of, random_rows, row, write_results
from PIL import Image

from seqpar_deploy.resources import sample_crops
from seqpar_deploy.serving.search.pictures import load_picture

CROPS = sample_crops()
OLD = datetime.datetime(2001, 3, 31, 23, 59, 59, tzinfo=UTC)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Four people at two cameras, and a picture that cannot be read."""
    now = datetime.datetime.now(UTC).replace(microsecond=0)
    day = datetime.timedelta(days=1)
    people = [
        row(0, {"Female": "yes", "Hat": "yes"}, camera="gate-1", captured_at=now - 9 * day),
        row(1, {"Female": "yes", "Hat": "unknown"}, camera="gate-3", captured_at=now - day / 2),
        row(
            2, {"Backpack": "yes"}, camera="gate-3", captured_at=datetime.datetime(2001, 3, 31, 23, 59, 59, tzinfo=UTC)
        ),
        row(3, {"Hat": "yes", "Backpack": "yes"}, probabilities={"Hat": 0.75}),
        row(4, None),
    ]
    for number, some in enumerate((people[:2], people[2:])):
        write_results(tmp_path / "job" / "shards" / f"{number:06d}.parquet", some)
    return tmp_path / "job"


def ids(*arguments: object) -> list[int]:
    done = run("seqpar", "search", *arguments, "--json")
    return [int(re.sub(r"\D", "", json.loads(line)["id"])) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("hat",), [0, 3]),
        (("not hat",), [2]),
        (("hat=unknown",), [1]),
        (("hat>0.7 and not female",), [3]),
        (("",), [0, 1, 2, 3]),
        (("", "--since", "7d"), [1]),
        (("", "--since", "13h", "--camera", "gate-3"), [1]),
        (("", "--until", "2001-03-31"), [2]),
        (("", "--until", "2001-03-31T23:59:59"), []),
        (("", "--until", "2001-03-31T23:59:59.5Z"), [2]),
        (("", "--since", "2001-03-31T20:00-03:00"), [0, 1, 2]),
        (("", "--camera", "gate-1", "--camera", "gate-3"), [0, 1, 2]),
        (("", "--limit", 2), [0, 1]),
    ],
)
def test_rows_are_those_of_the_expression_and_the_filters(
    job: Path, arguments: tuple[object, ...], expected: list[int]
) -> None:
    assert ids(job, *arguments) == expected


def test_a_line_has_time_camera_id_and_attributes(job: Path) -> None:
    done = run("seqpar", "search", job, "female or backpack")
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert re.search(r"gate-3 +crops/000001\.png +Female 0\.90 +unknown: Hat 0\.50$", lines[1])
    assert lines[2].startswith("2001-03-31 23:59:59  gate-3  ")
    assert re.match(r" +crops/000003\.png +Hat 0\.75, Backpack 0\.90$", lines[3])
    assert "4 of 5" in done.stderr
    assert "2 shown" in run("seqpar", "search", job, "female or backpack", "--limit", 2).stderr


def test_json_has_every_column(job: Path) -> None:
    (line,) = run("seqpar", "search", job, "hat and backpack", "--json").stdout.splitlines()
    values = json.loads(line)
    assert values["probabilities"]["Hat"] == 0.75
    assert values["states"]["Female"] == "no"
    assert (values["camera"], values["captured_at"], values["tokens"], values["error"]) == (None, None, [4, 6], None)
    (line,) = run("seqpar", "search", job, "backpack and not hat", "--json").stdout.splitlines()
    assert json.loads(line)["captured_at"] == "2001-03-31T23:59:59Z"


def test_people_of_videos_have_their_second(tmp_path: Path) -> None:
    person = row(0, {}, id="street.mp4#7", source="street.mp4", track_id=7, frame=50, timestamp=2.04, ended=9.0)
    write_results(tmp_path / "a.parquet", [person])
    (line,) = run("seqpar", "search", tmp_path, "").stdout.splitlines()
    assert line.split() == ["2.0", "s", "street.mp4#7", "(no", "attributes)"]


def test_what_is_left_out_is_said(job: Path) -> None:
    done = run("seqpar", "search", job, "hat or backpack", "--since", "2000-01-01", "--camera", "gate-3")
    assert "1 of 5" in done.stderr
    warned = [
        line for line in run("seqpar", "search", job, "hat", "--since", "99w").stderr.splitlines() if "time" in line
    ]
    assert len(warned) == 1
    assert "1 row" in warned[0]
    done = run("seqpar", "search", job, "", "--camera", "gate-33", "--camera", "gate-1")
    (warning,) = (line for line in done.stderr.splitlines() if "gate-33" in line)
    assert "gate-1, gate-3" in warning.partition("cameras:")[2]


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        (("hta",), ("column 1", "Hat")),
        (("female and (hat",), ("column 16", "')'")),
        (("hat", "--since", "yesterday"), ("--since", "'yesterday'")),
        (("hat", "--since", "7 d"), ("--since", "'7 d'")),
        (("hat", "--until", "2026-02-30"), ("--until", "'2026-02-30'")),
        (("hat", "--until", "999999w"), ("--until", "999999w")),
    ],
)
def test_mistakes_are_one_line(job: Path, arguments: tuple[str, ...], facts: tuple[str, ...]) -> None:
    done = run("seqpar", "search", job, *arguments, code=2)
    assert done.stdout == ""
    for fact in facts:
        assert fact in done.error


@pytest.mark.parametrize("content", [b"", b"PAR1 no more", None])
def test_broken_files_are_one_line(job: Path, content: bytes | None) -> None:
    path = job / "shards" / "000001.parquet"
    if content is None:
        path.unlink()
        path.symlink_to("nowhere")
    else:
        path.write_bytes(content)
    assert "000001.parquet" in run("seqpar", "search", job, "hat", code=2).error
    assert "nothing" in run("seqpar", "search", job / "nothing", "hat", code=2).error


def test_label_sets_without_the_attribute_are_named(job: Path) -> None:
    write_results(job / "other.parquet", [row(9, {}, names=("Scarf", "Hat"))], label_set_of(("Scarf", "Hat"), "winter"))
    assert ids(job, job / "other.parquet", "hat") == [0, 3]
    error = run("seqpar", "search", job, job / "other.parquet", "backpack", code=2).error
    assert "winter" in error
    assert "other.parquet" in error


@pytest.mark.parametrize("limit", [None, 1])
def test_a_page_has_the_pictures_that_are_still_there(tmp_path: Path, limit: int | None) -> None:
    shutil.copy(CROPS[0], tmp_path / "a.png")
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.add(CROPS[1], "deep/b.png")
    people = [
        row(0, {"Hat": "yes"}, id="<a>.png", source=str(tmp_path / "a.png")),
        row(1, {}, source=str(tmp_path / "b.tar"), entry="deep/b.png"),
        row(2, {}, source=str(tmp_path / "gone.png")),
    ]
    write_results(tmp_path / "a.parquet", people)
    options = [] if limit is None else ["--limit", limit]
    run("seqpar", "search", tmp_path / "a.parquet", "", "--page", tmp_path / "page.html", *options)
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg") == (2 if limit is None else 1)
    assert page.count('class="case"') == (3 if limit is None else 1)
    assert "&lt;a&gt;.png" in page
    assert "<a>.png" not in page
    assert ("1 picture" in page) == (limit is None)
    assert re.search(r"3 rows of 3", page)


def test_pictures_are_those_of_the_row(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.add(CROPS[1], "deep/b.png")
    whole = np.asarray(Image.open(CROPS[1]).convert("RGB"))
    in_tar = row(1, {}, source=str(tmp_path / "b.tar"), entry="deep/b.png", timestamp=None, box=None)
    of_file = row(1, {}, source=str(CROPS[1]), entry="3,4,20,32", timestamp=None, box=[3.2, 4.0, 20.0, 31.9])
    got = load_picture(in_tar)
    assert got is not None
    assert np.array_equal(got, whole)
    part = load_picture(of_file)
    assert part is not None
    assert np.array_equal(part, whole[4:32, 3:20])


@pytest.mark.parametrize("as_struct", [False, True])
def test_a_picture_of_a_table_is_that_of_its_row(tmp_path: Path, as_struct: bool) -> None:
    contents: list[object] = [path.read_bytes() for path in (*CROPS, *CROPS)]
    if as_struct:
        contents = [{"bytes": content, "path": None} for content in contents]
    pq.write_table(pa.table({"image": contents}), tmp_path / "t.parquet", row_group_size=18)
    for number in (0, 17, 18, 35, 39):
        got = load_picture(
            {"source": str(tmp_path / "t.parquet"), "entry": str(number), "timestamp": None, "box": None}
        )
        assert got is not None
        assert np.array_equal(got, np.asarray(Image.open(CROPS[number % 20]).convert("RGB")))
    assert load_picture({"source": str(tmp_path / "t.parquet"), "entry": "40", "timestamp": None, "box": None}) is None


@pytest.mark.parametrize("how", ["gone", "not a tar", "no such member", "box outside", "a folder", "damaged"])
def test_a_picture_that_is_gone_is_none(tmp_path: Path, how: str) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        archive.add(CROPS[1], "b.png")
    (tmp_path / "bad.png").write_bytes(CROPS[0].read_bytes()[:200])
    rows = {
        "gone": {"source": "gone.png"},
        "not a tar": {"source": str(CROPS[0]), "entry": "b.png"},
        "no such member": {"source": str(tmp_path / "b.tar"), "entry": "c.png"},
        "box outside": {"source": str(CROPS[0]), "box": [5000, 0, 6000, 10]},
        "a folder": {"source": str(tmp_path)},
        "damaged": {"source": str(tmp_path / "bad.png")},
    }
    assert load_picture({"entry": None, "timestamp": None, "box": None, **rows[how]}) is None


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_a_picture_of_a_video_is_the_box_of_its_frame(tmp_path: Path, seconds: float) -> None:
    import av

    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(20):
            image = np.full((48, 64, 3), 40 + 10 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    picture = load_picture(
        {"source": str(tmp_path / "v.mp4"), "entry": None, "timestamp": seconds, "box": [10.0, 8.0, 30.0, 40.0]}
    )
    assert picture is not None
    assert picture.shape == (32, 20, 3)
    assert abs(float(picture.mean()) - (40 + 100 * seconds)) < 4


def test_names_cannot_drive_the_terminal(tmp_path: Path) -> None:
    write_results(tmp_path / "a.parquet", [row(0, {}, id="esc\x1b[31m\nx", camera="ga\rte")])
    done = run("seqpar", "search", tmp_path, "")
    assert "\x1b" not in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_many_rows_are_limited_in_a_table_and_whole_in_json(tmp_path: Path) -> None:
    rows = [one for one in random_rows(400, 1) if one["error"] is None]
    write_results(tmp_path / "a.parquet", rows, row_group_size=50)
    assert len(run("seqpar", "search", tmp_path, "").stdout.splitlines()) == 20
    assert len(ids(tmp_path, "")) == len(rows)


def test_without_pyarrow_the_extra_is_named(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "seqpar-deploy[archive]" in run("seqpar", "search", job, "hat", code=2).error


@pytest.mark.parametrize("page", ["folder", "missing/folder/page.html"])
def test_a_page_is_a_file(job: Path, tmp_path: Path, page: str) -> None:
    (tmp_path / "folder").mkdir()
    code = 2 if page == "folder" else 0
    done = run("seqpar", "search", job, "hat", "--page", tmp_path / page, code=code)
    assert (done.stdout == "") == (code == 2)
    assert (tmp_path / page).is_file() == (code == 0)
