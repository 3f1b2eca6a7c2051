"""People of a live run in Parquet files: nobody twice, nobody lost but for minutes, whatever is killed."""

from __future__ import annotations

import datetime
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")
import pyarrow.parquet as pq
from fakes.results import label_set_of
from serving.archive.live_runs import LABELS, NAMES, START, Clock, Run, found, kinds, tracks
from video.sinks.people import attributes, event, frame, person
from video.sinks.real_servers import until

from seqpar_deploy.errors import SearchError, SinkError
from seqpar_deploy.images import read_image
from seqpar_deploy.serving.archive import live_folder, live_people
from seqpar_deploy.serving.archive.live_people import LivePeopleSink
from seqpar_deploy.serving.search.expression import parse_expression
from seqpar_deploy.serving.search.pictures import load_picture
from seqpar_deploy.serving.search.query import Filters, search
from seqpar_deploy.serving.search.results import find_results
from seqpar_deploy.video.sinks import Health, Metrics, SavedCropsSink
from seqpar_deploy.video.sinks.wall_clock import WallClock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_people_are_found_with_time_camera_and_picture(tmp_path: Path, clock: Clock) -> None:
    folder = tmp_path / "people"
    wall = WallClock(live=True, now=clock)
    crops = SavedCropsSink(tmp_path / "crops", clock=wall)
    with Run(folder, clock, crops=crops, sources={"gate-3": "rtsp://camera/3"}) as run:
        for track, yes in ((1, ("Hat",)), (2, ("Hat", "Backpack")), (3, ("Backpack",))):
            crops.frame(frame(timestamp=1.0, stream="gate-3"), [], {})
            crops.event(event("ended", person(track, stream="gate-3")))
            run.see(track, yes=yes)
        run.see(4, stream="gate-4")
        run.flush()
    assert tracks(folder, "backpack and not hat", cameras=("gate-3",)) == [3]
    assert tracks(folder, "hat") == [1, 2, 4]
    (row,) = found(folder, "hat and backpack")
    assert row["captured_at"] == START + datetime.timedelta(seconds=1)  # the best crop: a second after the first
    assert row["id"].startswith("gate-3-2-20261130T200000")
    assert row["box"] == [180.0, 200.0, 215.0, 290.0]
    picture, crop = load_picture(row), crops.path_of("gate-3", 2)
    assert picture is not None
    assert crop is not None
    np.testing.assert_array_equal(picture, read_image(crop))
    assert tracks(folder, since=START) == [1, 2, 3, 4]
    assert tracks(folder, since=START + datetime.timedelta(hours=1)) == []
    (without,) = found(folder, cameras=("gate-4",))
    assert without["source"] == "gate-4"


def test_a_person_in_view_is_there_once(tmp_path: Path, clock: Clock) -> None:
    with Run(tmp_path, clock) as run:
        run.see(1, "appeared")
        run.see(2)
        run.flush()
        assert tracks(tmp_path) == [1, 2]
        assert kinds(tmp_path) == ["open", "part"]
        run.see(1, "changed", yes=("Backpack",))
        run.flush()
        assert tracks(tmp_path) == [1, 2]
        assert tracks(tmp_path, "backpack") == [1]
        first = found(tmp_path, "backpack")[0]["id"]
        run.see(1, "ended")
        run.flush()
        run.flush()
        assert tracks(tmp_path) == [1, 2]
        assert kinds(tmp_path) == ["part", "part"]  # superseded files are gone a round later
        assert first in {row["id"] for row in found(tmp_path)}
    assert tracks(tmp_path) == [1, 2]


def test_a_recording_has_no_time_of_day(tmp_path: Path, clock: Clock) -> None:
    sink = LivePeopleSink(tmp_path, LABELS, clock=WallClock(live=False, now=clock), sources={"gate-3": "/x/day.mp4"})
    sink.frame(frame(timestamp=1.0, stream="gate-3"), [], {})
    sink.event(event("ended", person(1, stream="gate-3", attributes=attributes(("Hat",), names=NAMES))))
    sink.close()
    (row,) = found(tmp_path)
    assert (row["captured_at"], row["source"], row["timestamp"]) == (None, "/x/day.mp4", 2.0)


def test_days_are_compacted(tmp_path: Path, clock: Clock) -> None:
    with Run(tmp_path, clock) as run:
        for track in range(1, 25):
            run.see(track)
            run.flush()
        assert kinds(tmp_path).count("part") == 24
        clock.forward(hours=4)
        run.flush()  # the next day
        assert sorted(tracks(tmp_path)) == list(range(1, 25))
        run.flush()
        days = [path.name for path in tmp_path.glob("day-*")]
        assert len(days) == 1
        assert days[0].startswith("day-20261130-")
        with pq.ParquetFile(tmp_path / days[0]) as day:
            assert day.num_row_groups == 1
            assert day.metadata.num_rows + kinds(tmp_path).count("part") == 24
        assert sorted(tracks(tmp_path)) == list(range(1, 25))


def test_a_clock_that_is_set_back_hides_nobody(tmp_path: Path, clock: Clock) -> None:
    with Run(tmp_path, clock) as run:
        run.see(1)
        run.flush()
        clock.forward(hours=5)
        run.flush()
        clock.forward(hours=-6)
        run.see(2)
        run.flush()
        run.see(3, "appeared")
        run.flush()
        run.flush()
        assert tracks(tmp_path) == [1, 2, 3]
    assert tracks(tmp_path) == [1, 2, 3]


def test_two_label_sets_in_one_folder(tmp_path: Path, clock: Clock) -> None:
    for number, labels in enumerate((LABELS, label_set_of(("Hat", "Female"), "small"))):
        with Run(tmp_path, clock, labels=labels) as run:
            run.see(number + 1)
            run.flush()
    clock.forward(days=1)
    with Run(tmp_path, clock) as run:
        run.flush()
        run.flush()
        assert kinds(tmp_path) == ["day", "day"]
    assert tracks(tmp_path, "hat") == [1, 2]


def test_one_run_at_a_time_and_no_file_of_others(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "part-of-mine.parquet").write_text("mine")
    (tmp_path / ".part-20261130T000000000-00000000.parquet.abcdefgh").write_text("half")
    with Run(tmp_path, clock) as run, pytest.raises(SinkError, match="one run at a time"):
        Run(tmp_path, clock)
    assert run.sink._folder.delete_before(START + datetime.timedelta(days=99), clock.time) == 0
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["part-of-mine.parquet"]


def test_deletion_by_age(tmp_path: Path, clock: Clock) -> None:
    with Run(tmp_path, clock) as run:
        for track in range(1, 49):  # two days
            run.see(track)
            run.flush(hours=1)
        run.flush(minutes=1)
        assert kinds(tmp_path).count("day") == 2
        before = clock.time - datetime.timedelta(hours=30)
        assert run.sink.delete_before(before) > 0
        left = found(tmp_path)
        assert all(row["captured_at"] >= before for row in left)
        assert sorted(row["track_id"] for row in left) == list(range(48 - len(left) + 1, 49))
        assert 28 <= len(left) <= 31
        later = before + datetime.timedelta(minutes=30)
        assert run.sink.delete_before(later) == 0  # the day is rewritten once per hour at most
        clock.forward(hours=2)
        assert run.sink.delete_before(before + datetime.timedelta(hours=2)) == 1
        assert all(row["captured_at"] >= before + datetime.timedelta(hours=2) for row in found(tmp_path))
        clock.forward(days=7)
        run.sink.delete_before(clock.time)
        assert kinds(tmp_path) == []


class Killed(BaseException):
    """In place of a kill."""


@pytest.mark.parametrize("call", range(12))
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_write_loses_nobody_who_was_written(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, call: int, after: bool
) -> None:
    """Killed before or after the write number `call`: readers find everybody once, then and after a restart."""
    calls = 0
    original = live_folder.write_tables

    def write(*arguments: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == call + 1 and not after:
            raise Killed
        rows = original(*arguments)
        if calls == call + 1:
            raise Killed
        return rows

    monkeypatch.setattr(live_folder, "write_tables", write)
    run = Run(tmp_path, clock)
    written: set[int] = set()
    try:
        for track in range(1, 8):
            run.see(track, "appeared")
            if track > 2:
                run.see(track - 2, "ended")
            run.flush(hours=20)
            written |= set(range(1, track + 1))
            assert len(tracks(tmp_path)) == len(written)
    except Killed:
        run.die()
        now = tracks(tmp_path) if list(tmp_path.glob("*.parquet")) else []
        assert len(set(now)) == len(now)  # nobody twice
        monkeypatch.setattr(live_folder, "write_tables", original)
        run = Run(tmp_path, clock)
    after_restart = tracks(tmp_path) if list(tmp_path.glob("*.parquet")) else []
    assert len(set(after_restart)) == len(after_restart)
    assert written <= set(after_restart)
    clock.forward(days=2)
    run.flush()
    run.flush()
    run.sink.close()
    if written:
        assert sorted(set(after_restart)) == sorted(set(tracks(tmp_path)) & set(after_restart))
        assert len(tracks(tmp_path)) == len(set(tracks(tmp_path)))


def test_a_full_disk_is_told_and_people_wait(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", logger="seqpar_deploy")
    health, metrics = Health(), Metrics()
    full = True
    original = live_folder.write_tables

    def write(*arguments: Any) -> int:
        if full:
            raise OSError(28, "No space left on device")
        return original(*arguments)

    monkeypatch.setattr(live_folder, "write_tables", write)
    sink = LivePeopleSink(
        tmp_path, LABELS, clock=WallClock(live=True, now=clock), part_seconds=0.05, health=health, metrics=metrics
    )
    sink.event(event("ended", person(1, attributes=attributes(("Hat",), names=NAMES))))
    until(health.problems)
    assert "No space" in health.problems()[0]
    full = False
    until(lambda: not health.problems())
    sink.close()
    assert tracks(tmp_path) == [1]
    assert sum("No space" in line for line in caplog.messages) == 1
    assert metrics.registry.get_sample_value("seqpar_kept_people_total", {"sink": sink.name}) == 1


@pytest.mark.parametrize("hung", ["retention", "writer"])
def test_close_does_not_wait_for_a_hung_disk(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, hung: str
) -> None:
    """Retention may rewrite a day for long, and a write to a network disk may never return."""
    monkeypatch.setattr(live_people, "_ENDING", 0.3)
    monkeypatch.setattr(live_folder, "_CLOSING", 0.1, raising=False)
    entered, released = threading.Event(), threading.Event()

    def write(*_arguments: Any) -> int:
        entered.set()
        released.wait(30)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(live_folder, "write_tables", write)
    seconds = 0.01 if hung == "writer" else 1e6
    sink = LivePeopleSink(tmp_path, LABELS, clock=WallClock(live=True, now=clock), part_seconds=seconds)
    if hung == "retention":
        sink._folder._mutex.acquire()
    sink.event(event("ended", person(1, attributes=attributes(("Hat",), names=NAMES))))
    if hung == "writer":
        assert entered.wait(10)
    errors: list[SinkError] = []

    def close() -> None:
        try:
            sink.close()
        except SinkError as error:
            errors.append(error)

    closing = threading.Thread(target=close, daemon=True)
    closing.start()
    closing.join(5)
    try:
        assert not closing.is_alive()
        assert "check the disk" in str(errors[0])
        with pytest.raises(SinkError, match="one run at a time"):  # the hung write still has the folder
            LivePeopleSink(tmp_path, LABELS)
    finally:
        released.set()
        if hung == "retention":
            sink._folder._mutex.release()
        closing.join(10)
        sink._thread.join(10)
    assert sink._lost == 1


CHILD = """
import datetime, sys, time
from fakes.results import label_set_of
from video.sinks.people import attributes, event, frame, person
from seqpar_deploy.serving.archive.live_people import LivePeopleSink
from seqpar_deploy.video.sinks.wall_clock import WallClock
labels = label_set_of()
names = [attribute.name for attribute in labels.attributes]
start = time.time()
clock = WallClock(live=True, now=lambda: start + 1_000_000 * (time.time() - start))  # 11 days per second
sink = LivePeopleSink(sys.argv[1], labels, clock=clock, part_seconds=0.05)
track = int(sys.argv[2])
while True:
    track += 1
    sink.frame(frame(timestamp=1.0), [], {})
    who = person(track, attributes=attributes(("Hat",), names=names))
    sink.event(event("appeared", who))
    if track % 3:
        sink.event(event("ended", who))
    if track % 50 == 0:
        print(track, flush=True)
    time.sleep(0.0005)
"""


@pytest.mark.heavy
def test_real_kills(tmp_path: Path) -> None:
    """Killed five times at any moment. Readers see each person once, all the time."""
    folder, track = tmp_path / "people", 0
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path])}
    for number in range(5):
        words = [sys.executable, "-c", CHILD, str(folder), str(track)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, env=environment, text=True) as process:
            assert process.stdout is not None
            for line in _lines(process.stdout, 3 + number):
                track = int(line)
                if list(folder.glob("*.parquet")):
                    _check_once(folder)
            process.send_signal(signal.SIGKILL)
        _check_once(folder)
    assert any(name.startswith("day-") for name in os.listdir(folder))
    with Run(folder, Clock()):
        _check_once(folder)
    assert not any(name.startswith((".part", ".open", ".day")) for name in os.listdir(folder))


def _lines(stream: Any, most: int) -> Iterator[str]:
    for _ in range(most):
        yield stream.readline()


def _check_once(folder: Path) -> None:
    for _ in range(50):  # files are removed while they are read
        try:
            files = find_results([folder])
            everybody = search(files, parse_expression("", NAMES), Filters())
            ids = [row["id"] for row in everybody.rows(["id"])]
        except SearchError as error:
            if "is gone" not in str(error):
                raise
            time.sleep(0.01)
            continue
        assert len(ids) == len(set(ids))
        return
    raise AssertionError(json.dumps(os.listdir(folder)))


def test_the_source_of_a_camera_changes_with_its_next_start(tmp_path: Path, clock: Clock) -> None:
    with Run(tmp_path, clock, sources={"gate-3": "rtsp://old/1"}) as run:
        run.see(1)
        run.sink.set_source("gate-3", "rtsp://new/1")
        run.sink.set_source("yard", "rtsp://yard/1")
        run.see(2)  # of the camera before
        run.see(3, stream="yard")
        run.sink.stream_ended("gate-3")
        run.see(4)
        run.flush()
    sources = {row["track_id"]: row["source"] for row in found(tmp_path)}
    assert sources == {1: "rtsp://old/1", 2: "rtsp://old/1", 3: "rtsp://yard/1", 4: "rtsp://new/1"}
