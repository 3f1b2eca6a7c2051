"""`seqpar video` with wrong options and failing outputs. Runs without faults are in tests/video/test_pipeline.py."""

from __future__ import annotations

import dataclasses
import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("av")
from video.clips import make_clip

from seqpar_deploy.cli.video import command, outputs
from seqpar_deploy.cli.video.request import VideoRequest, check_options
from seqpar_deploy.cli.video.server import open_web_server
from seqpar_deploy.errors import DetectorError, SinkError, VideoError
from seqpar_deploy.video.detect.onnx import OnnxOptions
from seqpar_deploy.video.pipeline import Pipeline
from seqpar_deploy.video.sinks.metrics import Health


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty frames, and beside them, as `walk.jsonl`, somebody who crosses the first thirty."""
    folder = tmp_path_factory.mktemp("clip")
    lines = ({"frame": at, "boxes": [[10 + at, 10, 40 + at, 90]] if at < 30 else []} for at in range(40))
    (folder / "walk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return make_clip(folder / "walk.mp4", frames=40)


def test_it_ends_quietly_when_nobody_reads_its_events(clip: Path, bundle_dir: Path) -> None:
    boxes = str(clip.with_suffix(".jsonl"))
    words = [str(Path(sys.executable).with_name("seqpar")), "video", str(clip), "-b", str(bundle_dir)]
    with subprocess.Popen(
        [*words, "--detector", boxes], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=clip.parent
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        complaints = process.stderr.read()
    assert process.returncode == 0
    assert not any(word in complaints for word in (b"error", b"warning", b"Traceback", b"events"))


def test_a_terminal_that_is_gone_is_no_fault(clip: Path, bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    monkeypatch.chdir(clip.parent)
    monkeypatch.setattr("sys.stderr", Gone())
    command.video(sources=[str(clip)], bundle=bundle_dir, detector="walk.jsonl", events="events.jsonl")
    assert len((clip.parent / "events.jsonl").read_text().splitlines()) >= 2


def test_it_ends_with_its_last_output(
    clip: Path, bundle_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Full:
        name = "events in e.jsonl"

        def __init__(self, _path: str) -> None: ...

        def frame(self, *_: Any) -> None:
            raise SinkError("the disk is full")

        def event(self, _event: Any) -> None: ...

        def close(self) -> None: ...

    asked: list[bool] = []
    health = Health()
    monkeypatch.setattr(command, "Health", lambda: health)
    monkeypatch.setattr(outputs, "JsonlSink", Full)
    monkeypatch.setattr(Pipeline, "request_stop", lambda _self: asked.append(True))
    with pytest.raises(VideoError, match="every output failed"):
        command.video(sources=[str(clip)], bundle=bundle_dir, events="e.jsonl")
    assert asked == [True]
    (problem,) = health.problems()
    for line in (problem, caplog.messages[-1]):
        assert line.startswith("events in e.jsonl: the disk is full")


def test_the_backend_is_the_detectors_too(clip: Path, bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def open_detector(wanted: str, *, backend: str, options: OnnxOptions) -> None:
        raise DetectorError(f"{wanted} on {backend} with {options.threads}")

    monkeypatch.setattr(command, "open_detector", open_detector)
    with pytest.raises(DetectorError, match=r"yolo\.onnx on onnxruntime with 3"):
        command.video(sources=[str(clip)], bundle=bundle_dir, backend="onnxruntime", detector="yolo.onnx", threads=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"address": "0.0.0.0"}, r"--address 0\.0\.0\.0 needs --serve"),
        ({"address": "", "serve": 0}, "--address .*empty"),
        ({"serve_token": Path("token")}, "--serve-token token needs --serve"),
        ({"events": ""}, "--events .*empty"),
        ({"mqtt": ""}, "--mqtt .*empty"),
        ({"report": Path("-")}, "--report .* got -"),
        ({"report": Path("")}, r"--report .* got \."),
        ({"detector": "walk.jsonl", "events": "walk.jsonl"}, "walk.jsonl.* input"),
        ({"uncertain_crops": Path("new")}, "--uncertain-crops .*--keep-uncertain"),
        ({"keep_uncertain": 3, "report": Path("uncertain-crops/people.html")}, "uncertain-crops .*people.html"),
    ],
)
def test_options_that_make_no_sense_are_refused(
    clip: Path, bundle_dir: Path, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clip.parent)
    with pytest.raises(VideoError, match=message):
        command.video(sources=[str(clip)], bundle=bundle_dir, **options)


def test_blurred_examples_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given: dict[str, Any] = {"keep_uncertain": 3, "uncertain_crops": tmp_path / "new", "bundle": tmp_path}
    check_options(VideoRequest(sources=[], **given))
    assert caplog.messages == []
    check_options(VideoRequest(sources=[], blur="heads", **given))
    assert "of little use for labelling" in caplog.text


def test_the_server_reads_its_token_and_logs_who_may_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "token"
    request = VideoRequest(sources=[], serve=0, address="0.0.0.0", serve_token=file)
    file.write_text("short")
    with pytest.raises(SinkError, match="16"):
        open_web_server(request, {})
    file.write_text("correct-horse-battery")
    caplog.set_level(logging.INFO)
    open_web_server(request, {}).close()
    assert "token" in caplog.messages[-1]
    assert "correct-horse-battery" not in caplog.text
    caplog.clear()
    open_web_server(dataclasses.replace(request, serve_token=None, environment={}), {}).close()
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    for word in ("0.0.0.0", "--serve-token", "SEQPAR_VIDEO_TOKEN", "/metrics"):
        assert word in warning.getMessage()
