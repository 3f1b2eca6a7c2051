"""Folders of kept people with a full disk or a damaged file."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
from serving.archive.live_runs import Clock, Run, found, kinds, tracks

from seqpar_deploy.errors import SinkError
from seqpar_deploy.serving.archive import live_folder


def test_a_day_that_could_not_be_shortened_is_shortened_in_the_next_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with Run(tmp_path, clock) as run:
        for track in range(1, 49):  # two days
            run.see(track)
            run.flush(hours=1)
        run.flush(minutes=1)
        before = clock.time - datetime.timedelta(hours=30)
        run.sink.delete_before(before)
        clock.forward(hours=2)
        before += datetime.timedelta(hours=2)
        with monkeypatch.context() as full:
            full.setattr(live_folder, "write_tables", _full)
            with pytest.raises(SinkError, match="No space"):
                run.sink.delete_before(before)
        clock.forward(minutes=5)
        assert run.sink.delete_before(before) == 1
        assert all(row["captured_at"] >= before for row in found(tmp_path))


def _full(*_: object) -> int:
    raise OSError(28, "No space left on device")


def test_a_damaged_part_is_named_and_other_days_are_compacted(tmp_path: Path) -> None:
    clock = Clock()
    run = Run(tmp_path, clock)
    for track in (1, 2):
        run.see(track)
        run.see(10, "appeared" if track == 1 else "changed")
        run.flush()
    damaged = max(tmp_path.glob("part-*"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    clock.forward(days=1)
    for _ in range(3):
        run.see(3)
        with pytest.raises(SinkError, match=rf"{damaged.name} must be a Parquet file, got a damaged one; remove it"):
            run.flush(minutes=5)
    clock.forward(days=1)
    for _ in range(3):
        with pytest.raises(SinkError, match=damaged.name):
            run.flush(minutes=5)
    assert kinds(tmp_path).count("open") <= 2
    assert len(list(tmp_path.glob("day-20261201-*"))) == 1
    damaged.unlink()
    run.flush(minutes=5)
    assert len(list(tmp_path.glob("day-20261130-*"))) == 1
    run.die()


def test_after_a_kill_the_damaged_file_is_named(tmp_path: Path) -> None:
    clock = Clock()
    run = Run(tmp_path, clock)
    run.see(10, "appeared")
    run.flush()
    run.see(1)
    run.flush()
    run.die()
    for damaged in (max(tmp_path.glob("part-*")), max(tmp_path.glob("open-*"))):
        content = damaged.read_bytes()
        damaged.write_bytes(content[:50])
        with pytest.raises(SinkError, match=rf"{damaged.name} must be a Parquet file, got a damaged one; remove it"):
            Run(tmp_path, clock)
        damaged.write_bytes(content)
    with Run(tmp_path, clock):
        assert tracks(tmp_path) == [1, 10]
