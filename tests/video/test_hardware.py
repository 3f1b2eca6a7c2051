"""Decoding on a device: it is tried in a child, once per process, and the CPU decodes whatever the device cannot.

No machine of the project has such a device: what follows a device that works is tested with a fake one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from video.clips import make_clip

from seqpar_deploy.video.sources import hardware, opening
from seqpar_deploy.video.sources.hardware import Hardware, Hwaccel, probe
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import expand_sources
from seqpar_deploy.video.sources.state import SourceOptions

Open = Callable[..., Any]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """As in a new process."""
    monkeypatch.setattr(opening, "HARDWARE", Hardware())
    caplog.set_level(logging.INFO, logger="seqpar_deploy.video")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("hardware") / "walk.mp4", frames=40)


def images(path: Path, hwaccel: Hwaccel) -> list[bytes]:
    (spec,) = expand_sources([str(path)])
    return [frame.image.tobytes() for frame in Source(spec, options=SourceOptions(hwaccel=hwaccel))]


def a_device(monkeypatch: pytest.MonkeyPatch, open_with: Callable[[Open, str], Any]) -> list[object]:
    """Make `cuda` work. `open_with` opens a file on it, with the real `av.open`. Return the devices that were used."""
    used: list[object] = []
    real = av.open

    def fake(place: str, *arguments: Any, hwaccel: object = None, **options: Any) -> Any:
        if hwaccel is None:
            return real(place, *arguments, **options)
        used.append(hwaccel)
        return open_with(lambda path: real(path, *arguments, **options), place)

    monkeypatch.setattr(hardware, "probe", lambda kind: None if kind == "cuda" else "there is none")
    monkeypatch.setattr(opening, "accelerator", lambda kind: f"device {kind}")
    monkeypatch.setattr(av, "open", fake)
    return used


@pytest.mark.parametrize(("wanted", "level"), [("auto", "INFO"), ("cuda", "WARNING"), ("vaapi", "WARNING")])
def test_without_a_device_the_frames_are_the_same_after_one_line(
    clip: Path, wanted: Hwaccel, level: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[str] = []

    def none(kind: str) -> str:
        tried.append(kind)
        return "it cannot be opened"

    monkeypatch.setattr(hardware, "probe", none)
    expected = images(clip, "none")
    assert tried == []
    assert images(clip, wanted) == images(clip, wanted) == expected
    assert tried == (["cuda", "vaapi"] if wanted == "auto" else [wanted])
    (record,) = caplog.records
    assert record.levelname == level
    assert tried[0] in record.getMessage()
    assert "CPU" in record.getMessage()


def test_a_device_that_works_is_used(
    clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = images(clip, "none")
    used = a_device(monkeypatch, lambda real, place: real(place))
    assert images(clip, "auto") == images(clip, "auto") == expected
    assert used == ["device cuda"] * 2
    assert ["cuda" in line for line in caplog.messages] == [True]


def test_a_device_that_fails_at_one_source_is_left_there(
    clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_real: Open, _place: str) -> Any:
        raise av.error.ExternalError(1, "no session is free")

    expected = images(clip, "none")
    used = a_device(monkeypatch, full)
    assert images(clip, "cuda") == expected
    assert used == ["device cuda"]
    assert [("walk" in line, "no session is free" in line) for line in caplog.messages[1:]] == [(True, True)]


def test_a_device_that_decodes_nothing_is_left(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        """A container whose packets cannot be decoded."""

        def __init__(self, real: Any) -> None:
            self._real = real

        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *_exception: object) -> None:
            self._real.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def demux(self) -> Any:
            stream = self._real.streams.video[0]
            for packet in self._real.demux():
                yield _BadPacket(stream, packet.size)

    expected = images(clip, "none")
    a_device(monkeypatch, lambda real, place: Broken(real(place)))
    assert images(clip, "cuda") == expected
    assert sum("cuda cannot decode it" in line for line in caplog.messages) == 1


class _BadPacket:
    def __init__(self, stream: Any, size: int) -> None:
        self.stream, self.size = stream, size

    def decode(self) -> Any:
        raise av.error.ExternalError(1, "broken")


def test_a_missing_file_is_no_fault_of_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = a_device(monkeypatch, lambda real, place: real(place))
    path = make_clip(tmp_path / "gone.mp4")
    (spec,) = expand_sources([str(path)])
    path.unlink()
    with pytest.raises(Exception, match="cannot be read"):
        list(Source(spec, options=SourceOptions(hwaccel="cuda")))
    assert used == ["device cuda"]


@pytest.mark.parametrize(
    ("child", "problem"),
    [
        ("import time; time.sleep(60)", "no answer"),
        ("import os; os.abort()", "signal 6"),
        ("import sys; sys.exit('no such device')", "no such device"),
        ("import sys; sys.exit(3)", "exit code 3"),
        ("import sys; print(sys.argv[1])", None),
    ],
)
def test_a_device_is_tried_in_a_child(child: str, problem: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_CHILD", child)
    if problem == "no answer":
        monkeypatch.setattr(hardware, "_WITHIN", 0.2)
    found = probe("cuda")
    assert (found is None) == (problem is None)
    assert problem is None or problem in str(found)


def test_the_child_finds_no_vaapi_in_the_ffmpeg_of_pypi() -> None:
    from av.codec.hwaccel import hwdevices_available

    if "vaapi" in hwdevices_available():
        pytest.skip("this FFmpeg has VAAPI")
    assert "H.264" in str(probe("vaapi"))


def test_the_child_compares_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    device = 'HWAccel(kind).create(av.Codec("h264", "r"))'
    assert device in hardware._CHILD
    child = hardware._CHILD.replace(device, "pass").replace("hwaccel=HWAccel(kind, allow_software_fallback=False)", "")
    monkeypatch.setattr(hardware, "_CHILD", child)
    assert probe("cuda") is None
    monkeypatch.setattr(hardware, "_CHILD", child.replace("== pictures()", "== pictures()[1:]"))
    assert "differ" in str(probe("cuda"))
