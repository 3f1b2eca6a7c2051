"""The people report as a document: what is in it, that names stay text, and when it is written."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from reports.test_pages import HOSTILE
from video.sinks.people import attributes, event, frame, person

from seqpar_deploy.errors import SinkError
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.video.sinks import report
from seqpar_deploy.video.sinks.report import ReportSink
from seqpar_deploy.video.sinks.report_page import clock


def cards(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("<article ")


def test_it_grows_with_time_and_is_whole_when_closed(tmp_path: Path) -> None:
    now = [0.0]
    path = tmp_path / "out" / "people.html"
    sink = ReportSink(path, interval=10, clock=lambda: now[0])
    assert "<h1>No people" in path.read_text()
    sink.frame(frame(), [], {})
    sink.event(event())
    sink.frame(frame(), [], {})
    assert cards(path) == 0
    now[0] = 11
    sink.frame(frame(), [], {})
    assert cards(path) == 1
    sink.event(event("changed"))
    sink.event(event(who=person(2)))
    sink.close()
    sink.close()
    assert cards(path) == 2
    assert "2 people in 1 stream" in path.read_text()


def test_an_earlier_report_stays_until_there_is_another(tmp_path: Path) -> None:
    path = tmp_path / "people.html"
    for track in (1, 2):
        sink = ReportSink(path)
        assert track == 1 or "<h3>#1 " in path.read_text()
        sink.event(event(who=person(track)))
        sink.close()
    assert cards(path) == 1
    nothing = ReportSink(path)
    nothing.close()
    assert (cards(path), nothing.wrote) == (1, False)
    nobody = ReportSink(path)
    nobody.frame(frame(), [], {})
    nobody.close()
    assert "<h1>No people" in path.read_text()
    with pytest.raises(SinkError, match="Is a directory"):
        ReportSink(tmp_path)


def test_a_folder_that_takes_no_new_file_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    (tmp_path / "people.html").write_text("an earlier one")
    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(SinkError, match="Read-only file system"):
        ReportSink(tmp_path / "people.html")


def test_the_last_people_are_kept(tmp_path: Path) -> None:
    sink = ReportSink(tmp_path / "people.html", most=3)
    for track in range(1, 11):
        sink.event(event(who=person(track)))
    for kind in ("changed", "ended"):
        sink.event(event(kind, who=person(1)))
    sink.close()
    text = (tmp_path / "people.html").read_text()
    assert re.findall(r"<h3>#(\d+)", text) == ["8", "9", "10"]
    assert "10 people in 1 stream" in text
    assert re.search(r"class=\"note\">[^<]*\b3\b", text)


def test_a_person_takes_little_room(tmp_path: Path, crops: list[Crop]) -> None:
    big = np.random.default_rng(0).integers(0, 255, (300, 180, 3), np.uint8)  # the worst to compress
    sink = ReportSink(tmp_path / "people.html")
    sink.close()
    empty = (tmp_path / "people.html").stat().st_size
    for shown, most in ((crops, 5_000), ([big], 20_000)):
        sink = ReportSink(tmp_path / "people.html")
        for track, crop in enumerate(shown, 1):
            sink.event(event(who=person(track, crop=crop)))
        sink.close()
        assert ((tmp_path / "people.html").stat().st_size - empty) / len(shown) < most


def test_names_never_become_markup_nor_addresses(tmp_path: Path) -> None:
    hostile = person(stream=HOSTILE, attributes=attributes((HOSTILE,), (), (HOSTILE, "hat")))
    sink = ReportSink(tmp_path / "people.html", videos={HOSTILE: tmp_path / 'a"b#c?<d>.mp4'})
    sink.frame(frame(stream=HOSTILE), [], {})
    sink.event(event(who=hostile))
    sink.close()
    text = (tmp_path / "people.html").read_text(encoding="utf-8")
    assert text.count("<script") == 1  # the page's own, which is named by its hash
    assert "<img src=x" not in text
    assert re.findall(r'href="([^"]*)"', text) == ["a%22b%23c%3F%3Cd%3E.mp4#t=2.00"]
    assert not re.search(r"https?:", text)


def test_a_page_that_takes_long_is_written_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [0.0], []

    @contextlib.contextmanager
    def slow(path: Path) -> Iterator[Path]:
        written.append(now[0])
        now[0] += 2
        yield path

    monkeypatch.setattr(report, "replacing", slow)
    sink = ReportSink(tmp_path / "people.html", interval=10, clock=lambda: now[0])
    for second in range(1, 250):
        now[0] = max(now[0], second)
        sink.event(event(who=person(second)))
        sink.frame(frame(), [], {})
    assert written == [0, 10, 110, 210]


def test_a_full_disk_costs_a_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "people.html"
    sink = ReportSink(path)
    sink.event(event())

    def full(_path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(report, "replacing", full)
        with pytest.raises(OSError, match="No space"):
            sink._write()
        with pytest.raises(SinkError, match=r"new\.html.*No space left on device"):
            ReportSink(tmp_path / "new.html")
    assert not sink.wrote
    sink.close()
    assert sink.wrote
    assert cards(path) == 1


def test_a_crop_without_pixels_and_attributes_of_another_set(tmp_path: Path) -> None:
    sink = ReportSink(tmp_path / "people.html")
    sink.event(event(who=person(1, crop=np.zeros((0, 0, 3), np.uint8), attributes={})))
    sink.event(event(who=person(2, attributes=attributes(("tall",), (), ("hat", "tall")))))
    many = [f"attribute {number}" for number in range(40)]
    sink.event(event(who=person(3, attributes=attributes((), many, many))))
    sink.close()
    assert cards(tmp_path / "people.html") == 3
    assert "<summary>unknown: 40 " in (tmp_path / "people.html").read_text()


def test_times_read_as_on_a_clock() -> None:
    assert [clock(at) for at in (0, 9.96, 83.44, 3723.0)] == ["0:00.0", "0:10.0", "1:23.4", "1:02:03.0"]
