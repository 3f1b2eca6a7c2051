"""`seqpar video` with sequences of pictures and URLs: complete answers, and true exit codes."""

from __future__ import annotations

import os
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
