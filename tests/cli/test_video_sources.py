"""`seqpar video` with sequences of pictures and URLs: complete answers, and true exit codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("av")
from cli.run import run
from PIL import Image
from video.clips import make_clip
from video.web_server import serving


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "walk"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (160, 120), (10 * number,) * 3).save(folder / f"{number}.png")
    return folder


def test_a_damaged_picture_is_one_line_and_exit_code_2(pictures: Path, bundle_dir: Path, tmp_path: Path) -> None:
    (pictures / "7.png").write_bytes(b"no picture")
    video = tmp_path / "out.mp4"
    done = run("seqpar", "video", pictures, "-b", bundle_dir, "--annotate", video, "--fps", 5, code=2)
    assert sum("7.png" in line for line in done.stderr.splitlines()) == 1
    assert "11 frames" in done.stderr
    assert video.exists()


def test_a_recorded_url_ends_and_one_that_breaks_off_is_incomplete(tmp_path: Path, bundle_dir: Path) -> None:
    make_clip(tmp_path / "clip.ts", frames=60, every=5)
    with serving(tmp_path) as server:
        url = f"{server.url}/get?file=clip.ts&X-Amz-Signature=1"
        events = tmp_path / "events.jsonl"
        assert "60 frames" in run("seqpar", "video", url, "-b", bundle_dir, "--events", events).stderr
        done = run("seqpar", "video", f"{url}&cut=0.5", "-b", bundle_dir, "--events", events, code=2)
        assert "incomplete" in done.stderr
        assert "Signature" not in done.stderr


def test_fps_without_pictures_is_refused(tmp_path: Path, bundle_dir: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    assert "--fps" in run("seqpar", "video", clip, "-b", bundle_dir, "--fps", 5, code=2).error


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_an_output_that_is_an_input_by_another_name(tmp_path: Path, bundle_dir: Path, link: object) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=2)
    before = clip.read_bytes()
    link(clip, tmp_path / "out.mp4")  # type: ignore[operator]
    done = run("seqpar", "video", clip, "-b", bundle_dir, "--annotate", tmp_path / "out.mp4", code=2)
    assert "out.mp4" in done.error
    assert clip.read_bytes() == before


def test_a_pipe_is_read_once_and_to_its_end(tmp_path: Path, bundle_dir: Path) -> None:
    clip = make_clip(tmp_path / "clip.ts", frames=60, every=5)
    pipe = tmp_path / "pipe.ts"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(clip.read_bytes()), daemon=True)
    writer.start()
    done = run("seqpar", "video", pipe, "-b", bundle_dir, "--events", tmp_path / "events.jsonl")
    writer.join(20)
    assert "60 frames" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_pipe_without_a_writer_is_left_at_a_signal(number: int, tmp_path: Path, bundle_dir: Path) -> None:
    pipe = tmp_path / "pipe.ts"
    os.mkfifo(pipe)
    command = [sys.executable, "-m", "seqpar_deploy", "video", str(pipe), "-b", str(bundle_dir), "-v"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        try:
            assert process.stderr is not None
            next(
                line for line in process.stderr if "classify" in line or "recogni" in line.lower() or str(pipe) in line
            )
            time.sleep(1)  # until it opens the pipe
            process.send_signal(number)
            process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130


def test_a_recording_that_was_cut_is_exit_code_2(tmp_path: Path, bundle_dir: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=60, every=5, options={"movflags": "+faststart"})
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    done = run("seqpar", "video", clip, "-b", bundle_dir, "--events", tmp_path / "events.jsonl", code=2)
    assert "it is incomplete" in done.stderr
    assert "copy it again" in done.stderr
