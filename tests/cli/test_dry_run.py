"""`seqpar video --dry-run`: every part has a line or a problem, and nothing is written."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("av")
from cli.run import run
from video.clips import make_clip
from video.sinks.broker import Broker

from seqpar_deploy.cli import dry_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "walk.mp4", frames=10)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def errors(text: str) -> list[str]:
    assert "Traceback" not in text
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_all_is_well(clip: Path, bundle_dir: Path, place: Path) -> None:
    (place / "old.html").write_text("old")
    before = clip.read_bytes()
    words = ["--annotate", "out.mp4", "--report", "old.html", "--events", "new/events.jsonl", "--serve", "0"]
    done = run("seqpar", "video", clip, "-b", bundle_dir, "--dry-run", *words)
    assert errors(done.stderr) == []
    (source,) = (line for line in done.stdout.splitlines() if line.startswith("source "))
    for fact in ("walk", "h264", "frames per second", "recorded", " x "):
        assert fact in source
    for part in ("detector", "out.mp4", "old.html", "events.jsonl", "server", f"bundle {bundle_dir}"):
        assert part in done.stdout
    assert [path.name for path in place.iterdir()] == ["old.html"]
    assert (place / "old.html").read_text() == "old"
    assert clip.read_bytes() == before


def test_every_problem_is_listed(
    clip: Path, bundle_dir: Path, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(dry_run, "BROKER_WITHIN", 1.0)
    (tmp_path / "text.mp4").write_text("no video " * 100)
    (place / "file").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        words = ["--annotate", "file/out.avi", "--report", "file/report.html", "--serve", port, "--detector", "no.onnx"]
        words += ["--mqtt", f"mqtt://user:hunter2@127.0.0.1:{port}"]  # listens, and never answers
        sources = [clip, "gone.mp4", tmp_path / "text.mp4"]
        done = run("seqpar", "video", *sources, "-b", tmp_path / "none", "--dry-run", *words, code=2)
    found = errors(done.stderr)
    for part in (
        "gone.mp4",
        "text.mp4",
        "no.onnx",
        "out.avi",
        "report.html",
        f":{port}",
        "mqtt",
        str(tmp_path / "none"),
    ):
        assert any(part in line for line in found), part
    assert "source walk" in done.stdout  # what is ready is listed too
    assert "hunter2" not in done.stdout + done.stderr
    assert [path.name for path in place.iterdir()] == ["file"]


def test_a_live_source_without_an_answer_is_given_up(
    bundle_dir: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "SOURCE_WITHIN", 1.0)
    with socket.socket() as silent, socket.socket() as refusing:
        for each in (silent, refusing):
            each.bind(("127.0.0.1", 0))
        silent.listen()
        ports = [each.getsockname()[1] for each in (silent, refusing)]
        sources = [f"rtsp://127.0.0.1:{port}/camera" for port in ports]
        done = run("seqpar", "video", *sources, "-b", bundle_dir, "--dry-run", code=2)
    found = errors(done.stderr)
    assert len(found) == 2
    assert all(str(port) in line for port, line in zip(ports, found, strict=True))
    assert "refused" in found[1]


def test_a_bundle_with_a_flipped_bit(clip: Path, bundle_dir: Path, place: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle_dir, tmp_path / "copy"))
    content = bytearray((copy / "encoder.onnx.data").read_bytes())
    content[9] ^= 1
    (copy / "encoder.onnx.data").write_bytes(content)
    done = run("seqpar", "video", clip, "-b", copy, "--dry-run", code=2)
    assert "encoder.onnx.data" in done.error


def test_an_output_that_is_an_input(clip: Path, bundle_dir: Path, place: Path) -> None:
    before = clip.read_bytes()
    done = run("seqpar", "video", clip, "-b", bundle_dir, "--dry-run", "--annotate", clip, code=2)
    assert "walk.mp4" in done.error
    assert clip.read_bytes() == before


def test_ctrl_c_ends_it(bundle_dir: Path, place: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"rtsp://127.0.0.1:{silent.getsockname()[1]}/camera"
        command = [sys.executable, "-m", "seqpar_deploy", "video", url, "-b", str(bundle_dir), "--dry-run"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = silent.accept()  # the source is being opened
            os.kill(process.pid, signal.SIGINT)
            _, complaints = process.communicate(timeout=60)
            connection.close()
    assert process.returncode == 130
    assert "Traceback" not in complaints


def test_brokers(clip: Path, bundle_dir: Path, place: Path) -> None:
    with Broker() as broker:
        done = run(
            "seqpar", "video", clip, "-b", bundle_dir, "--dry-run", "--mqtt", f"mqtt://127.0.0.1:{broker.port}/gate"
        )
    assert f"127.0.0.1:{broker.port}/gate" in done.stdout
    assert broker.messages == []
    with Broker(refuse=5) as broker:
        words = ["--mqtt", f"mqtt://user:hunter2@127.0.0.1:{broker.port}"]
        done = run("seqpar", "video", clip, "-b", bundle_dir, "--dry-run", *words, code=2)
    assert "authori" in done.error
    assert "hunter2" not in done.error
