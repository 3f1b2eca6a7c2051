"""Annotated videos: every frame at its time, whatever happens on the way."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import resource
import signal
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from video.sinks.people import boxes, event, frame, person

from seqpar_deploy.errors import SinkError
from seqpar_deploy.video.sinks import annotated
from seqpar_deploy.video.sinks.annotated import AnnotatedSink, files_for
from seqpar_deploy.video.sinks.draw import draw_people
from seqpar_deploy.video.types import Box, Person

av = pytest.importorskip("av")
SIZE = (120, 160)


def decoded(path: Path, *, torn: bool = False) -> list[float]:
    """The times of its frames; of those before the damage, where its end is torn."""
    times = []
    with av.open(str(path)) as container, contextlib.suppress(*([av.error.InvalidDataError] if torn else [])):
        for one in container.decode(video=0):
            times.append(float(one.time))
    return times


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_frames_keep_their_times(tmp_path: Path, suffix: str) -> None:
    sink = AnnotatedSink("street", tmp_path / f"out{suffix}")
    seconds = [0.0, 0.04, 0.1, 0.5, 9.0, 9.04, 9.04, 9.2]  # an interruption, and a time stamp twice
    for index, at in enumerate(seconds):
        sink.frame(frame(index, timestamp=at, size=SIZE), boxes(person()), {1: person()})
        sink.frame(frame(index, stream="another", size=(50, 50)), [], {})  # not its own
    sink.event(event())
    sink.close()
    sink.close()
    assert decoded(tmp_path / f"out{suffix}") == pytest.approx(seconds, abs=0.002)


def test_another_or_an_odd_size_fits(tmp_path: Path) -> None:
    sink = AnnotatedSink("street", tmp_path / "out.mp4")
    for index, size in enumerate([(121, 161), (121, 161), (200, 100), (33, 400)]):
        sink.frame(frame(index, size=size), [], {})
    sink.close()
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [(one.width, one.height) for one in container.decode(video=0)] == [(160, 120)] * 4


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_plays_after_a_kill(tmp_path: Path, suffix: str) -> None:
    program = (
        "import os, sys; from pathlib import Path; from video.sinks.people import frame\n"
        "from seqpar_deploy.video.sinks.annotated import AnnotatedSink\n"
        "sink = AnnotatedSink('street', Path(sys.argv[1]))\n"
        "for index in range(80): sink.frame(frame(index, size=(120, 160)), [], {})\nos.kill(os.getpid(), 9)"
    )
    paths = os.pathsep.join([str(Path(__file__).parents[2]), str(Path(__file__).parents[3])])
    command = [sys.executable, "-c", program, str(tmp_path / f"out{suffix}")]
    assert subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, timeout=60).returncode == -9
    times = decoded(tmp_path / f"out{suffix}")
    assert len(times) >= 60  # of 8 s, all but the last two
    assert times == pytest.approx([index / 10 for index in range(len(times))], abs=0.002)


def test_a_full_disk_is_told_once_and_what_is_there_plays(tmp_path: Path) -> None:
    sink = AnnotatedSink("street", tmp_path / "out.mp4")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, limits[1]))  # writing beyond fails
    try:
        with pytest.raises(SinkError, match=r"^cannot be written: .*; it ends at \d+.\d s of street"):
            _write_noise(sink, 300)
        sink.frame(frame(301, size=SIZE), [], {})
        sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert len(decoded(tmp_path / "out.mp4", torn=True)) >= 20


def _write_noise(sink: AnnotatedSink, frames: int) -> None:
    rng = np.random.default_rng(0)
    for index in range(frames):
        noisy = frame(index, size=SIZE)
        noisy.image[:] = rng.integers(0, 255, noisy.image.shape, np.uint8)
        sink.frame(noisy, [], {})


def test_whatever_goes_wrong_ends_the_video_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = AnnotatedSink("street", tmp_path / "out.mp4")
    for index in range(5):
        sink.frame(frame(index, size=SIZE), [], {})
    monkeypatch.setattr(annotated, "draw_people", lambda *_: 1 // 0)
    with pytest.raises(SinkError, match=r"^cannot be written: .*division.* by zero; it ends at 0.5 s of street"):
        sink.frame(frame(5, size=SIZE), [], {})
    sink.close()
    assert len(decoded(tmp_path / "out.mp4")) == 5


def test_what_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"\.mp4 or \.mkv"):
        AnnotatedSink("street", tmp_path / "out.avi")
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="cannot be written"):
        AnnotatedSink("street", tmp_path / "file" / "out.mp4")
    AnnotatedSink("street", tmp_path / "none.mp4").close()
    assert not (tmp_path / "none.mp4").exists()  # not one frame came
    (tmp_path / "earlier.mp4").write_text("an earlier run's")
    sink = AnnotatedSink("street", tmp_path / "earlier.mp4")
    sink.close()
    assert (tmp_path / "earlier.mp4").read_text() == "an earlier run's"
    assert not sink.wrote


def test_a_file_a_stream() -> None:
    assert files_for(Path("out/a.mp4"), ["rtsp://x/1"]) == {"rtsp://x/1": Path("out/a.mp4")}
    files = files_for(Path("a.mkv"), ["b/1", "b:1", "..", "b/1 "])
    assert (
        files_for(Path("a.mkv"), ["x", "\u5e3d\u5b50 1\udcff"])["\u5e3d\u5b50 1\udcff"].name == "a-\u5e3d\u5b50_1.mkv"
    )
    assert [file.name for file in files.values()] == ["a-b_1.mkv", "a-b_1-2.mkv", "a-stream.mkv", "a-b_1-3.mkv"]


def test_files_of_streams_differ_everywhere_and_fit() -> None:
    streams = [
        "Gate",
        "gate",
        "GATE",
        "caf\u00e9",
        "cafe\u0301",
        "x" * 300,
        "x" * 299 + "y",
        "\u95e8" * 120,
        ".mp4",
        "-",
    ]
    for path in (Path("a.mp4"), Path("n" * 250 + ".mp4"), Path("\u95e8" * 83 + ".mkv")):
        names = [file.name for file in files_for(path, streams).values()]
        assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == len(streams)
        assert max(len(name.encode()) for name in names) <= 255
        assert {Path(name).suffix for name in names} == {path.suffix}
        assert not any(name.startswith(".") for name in names)


@pytest.mark.parametrize("streams", [["a"], ["a", "b"]])
@pytest.mark.parametrize("path", [".mp4", "out/.mkv", "out", "a.avi"])
def test_a_file_without_a_name_is_refused(path: str, streams: list[str]) -> None:
    with pytest.raises(SinkError, match=r"\.mp4 or \.mkv"):
        files_for(Path(path), streams)


def seen_at(who: Person, box: Box) -> Person:
    return dataclasses.replace(who, last=dataclasses.replace(who.last, box=box))


def test_labels_lie_beside_the_people_and_in_the_frame() -> None:
    picture = frame(size=(576, 768))
    picture.image[:] = 120
    edges = [(0, 0, 30, 80), (740, 500, 768, 576), (300, 200, 340, 300), (-50, -50, 900, 700)]
    who = [seen_at(person(track), Box(left=a, top=b, right=c, bottom=d)) for track, (a, b, c, d) in enumerate(edges, 1)]
    drawn = np.asarray(draw_people(picture.image, boxes(*who[:3]), {1: who[0], 3: who[2]}))
    assert (drawn[220:280, 310:330] == 120).all()  # the person is not covered
    assert (drawn[200:240, 342:400] != 120).any()
    assert (picture.image == 120).all()  # others read the frame as well
    draw_people(picture.image, boxes(*who), {4: who[3]})
