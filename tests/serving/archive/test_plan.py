"""The plan and the folder of a job: stable shards, additions, refusals, the lock, and leftovers."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from seqpar_deploy.errors import ArchiveError
from seqpar_deploy.serving.archive import plan as planning
from seqpar_deploy.serving.archive.entries import Entry
from seqpar_deploy.serving.archive.job import finished_shards, is_running, locked, shard_file
from seqpar_deploy.serving.archive.plan import EntryReader, Plan, Settings
from seqpar_deploy.serving.archive.status import read_status

SETTINGS = Settings(bundle="b" * 64, calibration="c" * 64, shard_size=4)


def entries(*names: str) -> list[Entry]:
    return [Entry(kind="video" if name.startswith("v") else "picture", source=f"/data/{name}") for name in names]


def extended(plan: Plan, folder: Path, names: Sequence[str], given: str = "/data") -> Plan:
    return plan.extended(folder, [given], entries(*names), lambda _count: None)


def contents(plan: Plan, folder: Path) -> dict[int, list[str]]:
    reader = EntryReader(folder)
    return {shard.number: [entry.source[6:] for entry in reader.read(shard)] for shard in plan.shards()}


def test_plans_of_before_attributes_were_kept_out_have_the_same_hash() -> None:
    assert SETTINGS.hash == "4f9fabcca4d027c2e171e3183418bf48466171d8421c522d0fd0469d2cabb7d1"
    assert dataclasses.replace(SETTINGS, attributes=("Hat",)).hash != SETTINGS.hash


def test_pictures_fill_shards_and_a_video_is_one(tmp_path: Path) -> None:
    plan = extended(Plan(settings=SETTINGS), tmp_path, ["a", "v1", "b", "c", "d", "v2", "e"])
    expected = {0: ["a", "b", "c", "d"], 1: ["e"], 2: ["v1"], 3: ["v2"]}
    assert contents(plan, tmp_path) == expected
    assert plan.entries == 7
    assert Plan.load(tmp_path) == plan


def test_added_inputs_leave_the_shards_before_as_they_are(tmp_path: Path) -> None:
    first = extended(Plan(settings=SETTINGS), tmp_path, ["a", "b", "c", "d", "e", "v1"])
    second = extended(first, tmp_path, ["e", "f", "v1", "v2", "f", "g"], "/more")
    before, after = contents(first, tmp_path), contents(second, tmp_path)
    assert {number: after[number] for number in before} == before
    assert {number: after[number] for number in after if number not in before} == {3: ["f", "g"], 4: ["v2"]}
    assert second.inputs == ("/data", "/more")


def test_nothing_new_adds_no_part(tmp_path: Path) -> None:
    first = extended(Plan(settings=SETTINGS), tmp_path, ["a", "b"])
    second = extended(first, tmp_path, ["b", "a"])
    assert second.parts == first.parts
    assert [file.name for file in (tmp_path / "entries").iterdir()] == ["000000.parquet"]


def test_shards_that_span_groups_of_rows_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_ROWS", 3)
    names = [f"{number:02d}" for number in range(11)]
    plan = extended(Plan(settings=SETTINGS), tmp_path, [*names, "v1"])
    assert [name for some in contents(plan, tmp_path).values() for name in some] == [*names, "v1"]


def test_entries_keep_all_that_is_known_of_them(tmp_path: Path) -> None:
    full = Entry(
        kind="member",
        source="s3://people/1.tar",
        entry="ä.jpg",
        offset=512,
        size=9,
        camera="gate-3",
        captured_at=1_777_629_723_000_000,
        box=(1, 2, 3, 4),
    )
    plan = Plan(settings=SETTINGS).extended(tmp_path, ["/data"], [full], lambda _count: None)
    assert EntryReader(tmp_path).read(next(plan.shards())) == [full]


@pytest.mark.parametrize(("field", "value"), [("bundle", "d" * 64), ("camera", "gate-3"), ("shard_size", 5)])
def test_a_job_of_other_settings_is_refused(tmp_path: Path, field: str, value: object) -> None:
    plan = extended(Plan(settings=SETTINGS), tmp_path, ["a"])
    plan.check_same(SETTINGS, tmp_path)
    with pytest.raises(ArchiveError, match=field):
        plan.check_same(dataclasses.replace(SETTINGS, **{field: value}), tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value", "fact"), [("format", 9, "format"), ("hash", "0" * 64, "hash"), ("parts", [{"file": 1}], "parts")]
)
def test_a_plan_that_was_changed_is_refused(tmp_path: Path, key: str, value: object, fact: str) -> None:
    extended(Plan(settings=SETTINGS), tmp_path, ["a"])
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(ArchiveError, match=fact):
        Plan.load(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"PAR1 and no more"])
def test_damaged_entries_are_one_line(tmp_path: Path, damage: bytes) -> None:
    plan = extended(Plan(settings=SETTINGS), tmp_path, ["a"])
    (tmp_path / "entries" / "000000.parquet").write_bytes(damage)
    with pytest.raises(ArchiveError, match=r"000000\.parquet"):
        contents(plan, tmp_path)


def test_a_job_runs_once_at_a_time(tmp_path: Path) -> None:
    job = tmp_path / "job"
    with locked(job):
        assert is_running(job)
        with pytest.raises(ArchiveError, match="twice"), locked(job):
            pass
    assert not is_running(job)
    with locked(job):
        pass


def test_leftovers_of_killed_runs_are_removed_and_results_stay(tmp_path: Path) -> None:
    extended(Plan(settings=SETTINGS), tmp_path, ["a"])
    for name in ("shards/.000000.parquet.x1y2", "shards/000000.parquet", "entries/.000001.parquet.ab", ".plan.json.cd"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with locked(tmp_path):
        names = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert names == {".lock", "plan.json", "entries/000000.parquet", "shards/000000.parquet"}
    assert finished_shards(tmp_path) == {0}


@pytest.mark.parametrize("name", ["notes.txt", "crops"])
def test_a_folder_with_other_files_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(ArchiveError, match="other files"), locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArchiveError, match="choose another"), locked(tmp_path / "file" / "job"):
        pass
    with pytest.raises(ArchiveError, match="cannot be written"), locked(tmp_path / "file"):
        pass


def test_status_without_a_job_or_with_a_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"plan\.json"):
        read_status(tmp_path)
    extended(Plan(settings=SETTINGS), tmp_path, ["a", "b"])
    assert not read_status(tmp_path).finished
    shard_file(tmp_path, 0).parent.mkdir()
    shard_file(tmp_path, 0).write_bytes(b"PAR1")
    with pytest.raises(ArchiveError, match=r"000000\.parquet"):
        read_status(tmp_path)


def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(ArchiveError, match="locked"), locked(tmp_path / "job"):
        pass
