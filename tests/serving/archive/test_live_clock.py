"""People of a live run whose clock was ahead for a while: they are deleted and compacted by when they were written."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
from serving.archive.live_runs import START, Clock, Run, kinds, tracks

AHEAD = 900  # days


def a_wrong_part(run: Run) -> Path:
    """Write a part of person 1 while the clock is ahead."""
    run.clock.forward(days=AHEAD)
    run.see(1)
    run.flush()
    run.clock.forward(days=-AHEAD)
    (path,) = run.folder.glob("part-2029*.parquet")
    return path


@pytest.mark.parametrize("restart", [False, True])
def test_later_parts_are_deleted_by_age(tmp_path: Path, restart: bool) -> None:
    run = Run(tmp_path, Clock())
    a_wrong_part(run)
    if restart:
        run.sink.close()
        run = Run(tmp_path, run.clock)
    with run:
        for track in (2, 3, 4):
            run.see(track)
            run.see(10 + track, "appeared")  # an open file
            run.flush(minutes=30)
        assert len(list(tmp_path.glob("*-2029*.parquet"))) > 4
        assert tracks(tmp_path) == [1, 2, 3, 4, 12, 13, 14]
        run.sink.delete_before(run.clock.time - datetime.timedelta(minutes=40))
        assert tracks(tmp_path) == [1, 3, 4, 12, 13, 14]
        run.sink.delete_before(run.clock.time)
        assert tracks(tmp_path) == [1]
        assert kinds(tmp_path) == ["part"]


def test_later_parts_are_compacted_in_the_days_in_which_they_were_written(tmp_path: Path) -> None:
    clock = Clock()
    with Run(tmp_path, clock) as run:
        run.see(5)
        run.flush()  # a part with a right stamp
        a_wrong_part(run)
        for track in (6, 7, 8, 9):  # two days
            run.see(track)
            run.see(10, "appeared" if track == 6 else "changed")
            run.flush(hours=9)
            assert tracks(tmp_path) == [1, *range(5, track + 1), 10]
        assert len(list(tmp_path.glob("day-20261130-*"))) == 1
        clock.forward(days=1)
        for _ in range(3):
            run.flush(hours=1)
            assert tracks(tmp_path) == [1, 5, 6, 7, 8, 9, 10]
        assert {name[:12] for name in os.listdir(tmp_path)} == {
            ".lock", "day-20261130", "day-20261201", "day-20261202", "open-2029051", "part-2029051"
        }  # fmt: skip
        run.sink.delete_before(clock.time - datetime.timedelta(hours=1))
        assert tracks(tmp_path) == [1, 10]


def test_a_part_of_a_compacted_day_gets_the_next_day(tmp_path: Path) -> None:
    clock = Clock()
    with Run(tmp_path, clock) as run:
        run.see(2)
        run.flush()
        clock.forward(days=1)
        run.flush()
        assert list(tmp_path.glob("day-20261130-*"))
        wrong = a_wrong_part(run)
        os.utime(wrong, (START.timestamp(), START.timestamp()))
        run.flush()
        assert tracks(tmp_path) == [1, 2]
        assert [path.name for path in tmp_path.glob("part-*")] == [f"part-20261201T200000000-{wrong.stem[-8:]}.parquet"]


def test_a_part_that_supersedes_an_open_file_keeps_its_name(tmp_path: Path) -> None:
    clock = Clock()
    with Run(tmp_path, clock) as run:
        run.see(1, "appeared")
        run.flush()
        clock.forward(days=AHEAD)
        run.see(2, "appeared")
        run.flush()
        clock.forward(days=-AHEAD)
        run.see(1)
        run.see(2)
        run.clock.forward(minutes=5)
        run.sink._write()
        yesterday = clock() - 86_400
        for path in tmp_path.glob("part-*"):
            os.utime(path, (yesterday, yesterday))
        for _ in range(4):
            run.sink._folder.tidy(clock.time)
            assert tracks(tmp_path) == [1, 2]
        assert kinds(tmp_path) == ["day"]
