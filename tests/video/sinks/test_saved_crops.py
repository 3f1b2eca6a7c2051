"""The best crop of each person, in a bounded number of files, and deletion by age."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from video.sinks.people import event, frame, person
from video.sinks.real_servers import until

from seqpar_deploy.errors import SinkError
from seqpar_deploy.images import read_image
from seqpar_deploy.video.sinks import Health, Metrics, Retention, SavedCropsSink, Sinks
from seqpar_deploy.video.sinks.retention import Keeps, parse_age
from seqpar_deploy.video.sinks.saved_crops import crop_name
from seqpar_deploy.video.sinks.wall_clock import WallClock

UTC = datetime.timezone.utc
START = datetime.datetime(2026, 11, 30, 8, 0, tzinfo=UTC)


class Clock:
    """A time of day to turn."""

    def __init__(self) -> None:
        self.seconds = START.timestamp()

    def __call__(self) -> float:
        return self.seconds


def at(hours: float) -> datetime.datetime:
    return START + datetime.timedelta(hours=hours)


def sink_of(folder: Path, clock: Clock, *, most: int = 100, live: bool = True) -> SavedCropsSink:
    return SavedCropsSink(folder, most=most, clock=WallClock(live=live, now=clock))


def save(sink: SavedCropsSink, track: int, **more: Any) -> None:
    sink.event(event("ended", person(track, **more)))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_one_picture_per_person_when_the_track_ends(tmp_path: Path) -> None:
    clock = Clock()
    sink = sink_of(tmp_path / "new" / "crops", clock)
    sink.frame(frame(timestamp=10.0, stream="gate/3"), [], {})  # the stream is 10 s old: it began at 07:59:50
    sink.event(event("appeared", person(7, stream="gate/3", at=4.5)))
    assert names(sink.folder) == []
    clock.seconds += 0.4
    sink.frame(frame(timestamp=10.1, stream="gate/3"), [], {})  # a late frame: when somebody was first seen stays
    save(sink, 7, stream="gate/3", at=4.5)
    assert names(sink.folder) == ["gate_3-7-20261130T075954500Z.jpg"]
    path = sink.path_of("gate/3", 7)
    assert path is not None
    picture = read_image(path)
    assert picture.shape == (90, 35, 3)
    assert abs(int(picture.mean()) - int(person(7).best_crop.mean())) <= 2
    assert sink.path_of("gate/3", 8) is None
    save(sink, 8, stream="gate/3", crop=np.zeros((0, 0, 3), np.uint8))
    assert len(sink) == 1


def test_the_oldest_are_removed_also_those_of_earlier_runs(tmp_path: Path) -> None:
    clock = Clock()
    for _run in range(2):
        sink = sink_of(tmp_path, clock, most=5)
        sink.frame(frame(timestamp=0.0), [], {})
        for track in range(1, 5):
            save(sink, track, at=60.0 * track)
        clock.seconds += 3600
    found = names(tmp_path)
    assert len(found) == len(sink) == 5
    assert sum("T09" in name for name in found) == 4
    assert any(name.startswith("street-4-20261130T0804") for name in found)  # the latest of the first run
    assert len(sink_of(tmp_path, clock, most=2)) == 2


def test_files_of_others_stay(tmp_path: Path) -> None:
    others = ["holiday.jpg", "street-1-20261130T080000Z.jpg", "street-1-20261130T080000000Z.png", ".note.abcdefgh"]
    for name in others:
        (tmp_path / name).write_text("mine")
    leftover = tmp_path / ".street-1-20261130T080000000Z.jpg.a1b2c3d4"
    leftover.write_text("half")
    sink = sink_of(tmp_path, Clock(), most=1, live=False)
    assert not leftover.exists()
    for track in (1, 2, 3):
        save(sink, track)
    assert sink.delete_before(at(24)) == 1
    assert names(tmp_path) == sorted(others)
    assert not list(tmp_path.glob("street-?-20261130T080000000Z.jpg"))


def test_deletion_by_age(tmp_path: Path) -> None:
    clock = Clock()
    sink = sink_of(tmp_path, clock)
    for track in range(1, 11):
        sink.frame(frame(timestamp=3600.0 * track), [], {})
        save(sink, track, at=3600.0 * track)
        clock.seconds += 3600
    assert sink.delete_before(at(2.5)) == 3
    assert sorted(int(name.split("-")[1]) for name in names(tmp_path)) == list(range(4, 11))
    assert sink.delete_before(at(2.5)) == 0
    assert len(sink) == 7


def test_a_folder_that_cannot_be_written_is_told_and_recovers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "crops"
    now = [0.0]
    sink = sink_of(folder, Clock(), live=False)
    sinks = Sinks([sink], clock=lambda: now[0])
    folder.rmdir()
    folder.write_text("a file")  # in its place
    sinks.event(event("ended", person(1)))
    assert "cannot be written" in caplog.text
    folder.unlink()
    now[0] += 10
    sinks.event(event("ended", person(2)))
    assert [name.split("-")[1] for name in names(folder)] == ["2"]
    with pytest.raises(SinkError):
        SavedCropsSink(next(folder.iterdir()))


class Denied:
    """Crops that cannot be removed for a while, in place of a folder without permission."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tracks: set[int] = set()
        original = Path.unlink

        def unlink(path: Path, missing_ok: bool = False) -> None:
            if path.suffix == ".jpg" and int(path.name.split("-")[1]) in self.tracks:
                raise PermissionError(13, "Permission denied", str(path))
            original(path, missing_ok)

        monkeypatch.setattr(Path, "unlink", unlink)


def tracks(folder: Path) -> list[int]:
    return sorted(int(name.split("-")[1]) for name in names(folder))


def test_crops_that_cannot_be_removed_by_age_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denied = Denied(monkeypatch)
    sink = sink_of(tmp_path, Clock())
    sink.frame(frame(timestamp=0.0), [], {})
    for track in range(1, 6):
        save(sink, track, at=3600.0 * track)
    denied.tracks = {1, 3}
    for _ in range(2):
        with pytest.raises(PermissionError, match="street-1-"):
            sink.delete_before(at(4.5))
        assert tracks(tmp_path) == [1, 3, 5]  # one that stays does not keep the others
        assert len(sink) == 3
    denied.tracks = set()
    assert sink.delete_before(at(4.5)) == 2
    assert tracks(tmp_path) == [5]


def test_a_saved_crop_is_not_missed_if_an_old_one_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    denied = Denied(monkeypatch)
    sink = sink_of(tmp_path, Clock(), most=3)
    sinks = Sinks([sink])
    sink.frame(frame(timestamp=0.0), [], {})
    denied.tracks = {1, 2}
    for track in range(1, 8):
        sinks.event(event("ended", person(track, at=60.0 * track)))
    assert tracks(tmp_path) == [1, 2, 5, 6, 7]  # they stay in addition
    assert sum("Permission denied" in line for line in caplog.messages) == 1
    assert not sinks.incomplete
    assert tracks(sink_of(tmp_path, Clock(), most=2).folder) == [1, 2, 6, 7]  # a restart works too
    denied.tracks = set()
    sinks.event(event("ended", person(8, at=480.0)))
    assert tracks(tmp_path) == [6, 7, 8]


def test_names_hold_nothing_but_a_name() -> None:
    assert crop_name("../../etc/x y\udcff", 1, START) == ".._.._etc_x_y_-1-20261130T080000000Z.jpg".lstrip(".")
    assert "/" not in crop_name("/", 1, START)
    assert len(crop_name("x" * 500, 1, START)) < 150


class Kept:
    """An output that keeps times."""

    def __init__(self, name: str, *times: float) -> None:
        self.name = name
        self.times = [at(hours).timestamp() for hours in times]
        self.fault: Exception | None = None
        self.rounds = 0

    def delete_before(self, time: datetime.datetime) -> int:
        self.rounds += 1
        if self.fault:
            raise self.fault
        old = [one for one in self.times if one < time.timestamp()]
        self.times = [one for one in self.times if one not in old]
        return len(old)


def test_retention_deletes_what_is_older_and_survives_a_fault(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    clock, health, metrics = Clock(), Health(), Metrics()
    good, bad = Kept("good", 0, 1, 2, 3), Kept("bad", 0, 1, 2, 3)
    retention = Retention(2 * 3600, [bad, good], metrics=metrics, health=health, now=clock)
    until(lambda: good.rounds)  # of the thread, whose next round is a minute away
    bad.fault = OSError(5, "Input/output error")
    clock.seconds = at(3.5).timestamp()
    retention.run_once()
    assert len(good.times) == 2
    assert len(bad.times) == 4
    (problem,) = health.problems()
    assert "bad" in problem
    assert "Input/output" in problem
    retention.run_once()
    assert sum("Input/output" in line for line in caplog.messages) == 1
    bad.fault = None
    assert retention.run_once() == 2
    assert health.problems() == []
    assert metrics.registry.get_sample_value("seqpar_retention_deleted_total", {"output": "good"}) == 2
    retention.close()
    assert isinstance(good, Keeps)
    assert not isinstance(Sinks([]), Keeps)


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600)])
def test_ages(text: str, seconds: float) -> None:
    assert parse_age(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "d", "-1d", "1.5h", "0d", "7 days", "1y", "6000w"])
def test_ages_that_are_none(text: str) -> None:
    with pytest.raises(SinkError, match="--retain must be"):
        parse_age(text)
