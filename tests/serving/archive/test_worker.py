"""A worker in this process: rows equal what `Recognizer.predict` returns, and broken pictures are rows with errors."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fakes.archives import picture

from seqpar_deploy import Bundle, Recognizer
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import sample_crops
from seqpar_deploy.serving.archive import worker as working
from seqpar_deploy.serving.archive.entries import Entry
from seqpar_deploy.serving.archive.plan import Settings
from seqpar_deploy.serving.archive.schema import ResultMetadata
from seqpar_deploy.serving.archive.worker import Worker, WorkerOptions, calibration_hash


def opened(bundle_dir: Path, **changes: Any) -> Worker:
    bundle = Bundle.open(bundle_dir, verify=False)
    settings = Settings(**{"bundle": bundle.digest, "calibration": calibration_hash(bundle, None), **changes})
    worker = Worker(WorkerOptions(bundle=str(bundle_dir), settings=settings, thresholds=None, threads=1))
    assert worker.open() == ""
    return worker


@pytest.fixture(scope="module")
def worker(bundle_dir: Path) -> Worker:
    return opened(bundle_dir)


def pictures(*paths: Path) -> list[Entry]:
    return [Entry(kind="picture", source=str(path), camera="gate-3", captured_at=1_000_000) for path in paths]


def test_rows_equal_predictions(worker: Worker, bundle_dir: Path, crops: list[Crop]) -> None:
    rows = worker.recognize(pictures(*sample_crops())).to_pylist()
    with Recognizer.from_bundle(bundle_dir, threads=1) as recognizer:
        expected = recognizer.predict(crops)
        names = [attribute.name for attribute in recognizer.bundle.label_set.attributes]
    assert len(rows) == 20
    for row, path, prediction in zip(rows, sample_crops(), expected, strict=True):
        assert row["id"] == row["source"] == str(path)
        assert tuple(row["tokens"]) == prediction.tokens
        assert list(row["states"]) == names
        assert tuple(row["states"].values()) == prediction.states
        np.testing.assert_array_equal(np.float32(list(row["probabilities"].values())), prediction.probabilities)
        assert (row["camera"], row["crops"], row["error"], row["frame"]) == ("gate-3", 1, None, None)
        assert row["captured_at"] == datetime.datetime(1970, 1, 1, 0, 0, 1, tzinfo=datetime.timezone.utc)


def test_the_schema_and_the_metadata_are_those_of_the_file(worker: Worker, bundle_dir: Path) -> None:
    batch = worker.recognize(pictures(*sample_crops()[:1]))
    found = ResultMetadata.from_parquet(batch.schema.metadata, source="x")
    bundle = Bundle.open(bundle_dir)
    assert (found.bundle, found.label_set) == (bundle.digest, bundle.label_set)
    assert len(found.plan) == 64


def test_attributes_that_are_kept_out_are_not_in_the_rows(bundle_dir: Path, worker: Worker) -> None:
    names = [one.name for one in Bundle.open(bundle_dir).label_set.attributes]
    limited = opened(bundle_dir, attributes=tuple(name for name in names if name != "Female"))
    before = worker.recognize(pictures(*sample_crops()[:2])).to_pylist()
    batch = limited.recognize(pictures(*sample_crops()[:2]))
    for old, new in zip(before, batch.to_pylist(), strict=True):
        assert new["states"] == {name: state for name, state in old["states"].items() if name != "Female"}
        assert set(new["probabilities"]) == set(new["states"])
    assert b"Female" not in batch.schema.serialize().to_pybytes()


def test_broken_pictures_are_rows_with_one_line_and_change_no_other(worker: Worker, tmp_path: Path) -> None:
    good = [picture(tmp_path / f"{number}.png", 60 * number) for number in range(3)]
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(sample_crops()[0].read_bytes()[:5000])
    paths = [good[0], tmp_path / "text.png", good[1], tmp_path / "cut.png", tmp_path / "gone.png", good[2]]
    rows = worker.recognize(pictures(*paths)).to_pylist()
    assert [row["source"] for row in rows] == list(map(str, paths))
    for row, name in zip((rows[1], rows[3], rows[4]), ("text.png", "cut.png", "gone.png"), strict=True):
        assert name in row["error"]
        assert "\n" not in row["error"]
        assert row["states"] is row["probabilities"] is row["tokens"] is None
        assert row["crops"] == 0
    assert [rows[place] for place in (0, 2, 5)] == worker.recognize(pictures(*good)).to_pylist()


def test_what_is_broken_in_archives_is_a_row_too(worker: Worker, parquet_of_pictures: Path, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(parquet_of_pictures)
    content = table["image"].to_pylist()
    content[2] = {"bytes": b"no picture", "path": "x"}
    content[4] = None
    pq.write_table(table.set_column(0, "image", [pa.array(content)]), tmp_path / "broken.parquet")
    source = str(tmp_path / "broken.parquet")
    entries = [Entry(kind="row", source=source, entry=str(row), offset=row) for row in range(7)]
    (tmp_path / "short.tar").write_bytes(b"x" * 100)
    entries.append(Entry(kind="member", source=str(tmp_path / "short.tar"), entry="a.png", offset=50, size=500))
    entries.append(Entry(kind="row", source=str(tmp_path / "short.tar"), entry="0", offset=0))
    entries.append(
        Entry(kind="picture", source=str(picture(tmp_path / "1.png")), entry="99,0,120,9", box=(99, 0, 120, 9))
    )
    rows = worker.recognize(entries).to_pylist()
    assert [place for place, row in enumerate(rows) if row["error"]] == [2, 4, 7, 8, 9]
    assert "cut short" in rows[7]["error"]
    assert "16 x 40" in rows[9]["error"]


def test_errors_of_addresses_are_rows_and_name_no_object(worker: Worker) -> None:
    fsspec.filesystem("memory").pipe("/broken.png", b"no picture")
    sources = ["memory:///gone.png", "memory:///broken.png", "nosuch://bucket/a.png"]
    errors = worker.recognize([Entry(kind="picture", source=source) for source in sources]).to_pydict()["error"]
    for source, error in zip(sources, errors, strict=True):
        assert source.rpartition("/")[2] in error
        assert " at 0x" not in error


def test_entries_set_aside_are_not_read(worker: Worker, tmp_path: Path) -> None:
    good = [picture(tmp_path / f"{number}.png", 60 * number) for number in range(2)]
    rows = worker.recognize(pictures(good[0], tmp_path / "poison.png", good[1]), [1], "its worker was lost").to_pylist()
    assert [row["error"] for row in rows] == [None, "its worker was lost", None]


def test_pictures_are_recognised_when_they_reach_the_limit_of_memory(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [picture(tmp_path / f"{number}.png", 30 * number) for number in range(7)]
    whole = worker.recognize(pictures(*paths)).to_pylist()
    sizes: list[int] = []
    predict = worker._recognizer.predict
    monkeypatch.setattr(worker._recognizer, "predict", lambda some: sizes.append(len(some)) or predict(some))
    monkeypatch.setattr(working, "MOST_PIXELS", 40 * 16 * 3)
    assert [row["tokens"] for row in worker.recognize(pictures(*paths)).to_pylist()] == [row["tokens"] for row in whole]
    assert sizes == [3, 3, 1]


@pytest.mark.parametrize("kind", ["another digest", "no bundle"])
def test_a_bundle_that_does_not_fit_is_one_line(bundle_dir: Path, tmp_path: Path, kind: str) -> None:
    path = bundle_dir if kind == "another digest" else tmp_path / "none"
    settings = Settings(bundle="0" * 64, calibration="")
    problem = Worker(WorkerOptions(bundle=str(path), settings=settings, thresholds=None, threads=1)).open()
    assert str(path) in problem
    assert "\n" not in problem


@pytest.mark.slow
def test_a_video_has_a_row_per_person(worker: Worker) -> None:
    from seqpar_deploy.resources import data_dir

    street = data_dir("samples") / "vtest" / "street.mp4"
    entry = Entry(kind="video", source=str(street), captured_at=1_000_000_000_000_000)
    rows = worker.watch(entry).to_pylist()
    assert 4 <= len(rows) <= 20
    assert [row["track_id"] for row in rows] == sorted(row["track_id"] for row in rows)
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert 0 <= row["timestamp"] <= row["ended"] < 60
        assert row["captured_at"].timestamp() == pytest.approx(1e9 + row["timestamp"], abs=1e-3)
        left, top, right, bottom = row["box"]
        assert left < right
        assert top < bottom
        assert row["crops"] >= 1
        assert row["tokens"] is row["error"] is None
    assert worker.frames() > 50
    assert worker.watch(entry).to_pylist() == rows


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"no video" * 100])
def test_a_broken_video_is_a_row_with_an_error(worker: Worker, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.mp4").write_bytes(content)
    fsspec.filesystem("memory").pipe("/broken.mp4", content)
    for source in (str(tmp_path / "broken.mp4"), "memory:///broken.mp4"):
        (row,) = worker.watch(Entry(kind="video", source=source)).to_pylist()
        assert row["id"] == source
        assert row["error"]
        assert row["track_id"] is None
