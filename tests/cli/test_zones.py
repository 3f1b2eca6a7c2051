"""`seqpar zones`: the link that it prints, its end, and what it refuses."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("tomlkit")
from cli.run import run
from video.clips import make_clip

from seqpar_deploy.cli.video.config import read_config
from seqpar_deploy.cli.video.zone_picture import picture_of
from seqpar_deploy.video.types import Box, Frame

STRIPES = np.zeros((120, 160, 3), np.uint8) + np.uint8(240) * (np.arange(160) // 4 % 2 == 0)[None, :, None]


def contrast(image: np.ndarray) -> float:
    """The mean difference of neighbours in a row."""
    return float(np.abs(np.diff(image.astype(int), axis=1)).mean())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zones")
    make_clip(folder / "walk.mp4", frames=5)
    (folder / "cameras.toml").write_text(
        '# ours\n[cameras.gate]\naddress = "walk.mp4"\n[cameras.gone]\naddress = "gone.mp4"\n'
    )
    return folder


def test_an_unknown_camera_is_refused_with_those_there_are(folder: Path) -> None:
    done = run("seqpar", "zones", "roof", "--config", folder / "cameras.toml", code=2)
    assert "roof" in done.error
    assert "gate, gone" in done.error


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert "--init" in run("seqpar", "zones", "gate", "--config", tmp_path / "no.toml", code=2).error


def test_a_camera_without_a_frame_is_told(folder: Path) -> None:
    done = run("seqpar", "zones", "gone", "--config", folder / "cameras.toml", code=2)
    assert "gone.mp4" in done.error


def test_a_picture_that_is_none_is_told(folder: Path) -> None:
    config = folder / "cameras.toml"
    done = run("seqpar", "zones", "gate", "--config", config, "--picture", config, code=2)
    assert "cameras.toml" in done.error


def test_people_in_the_frame_are_blurred(tmp_path: Path) -> None:
    pytest.importorskip("cv2")
    make_clip(tmp_path / "walk.mp4", frames=5, scene=STRIPES)
    (tmp_path / "walk.jsonl").write_text('{"frame": 0, "boxes": [[2, 2, 40, 90]]}\n')
    (tmp_path / "cameras.toml").write_text('detector = "walk.jsonl"\n[cameras.gate]\naddress = "walk.mp4"\n')
    plain = picture_of("gate", read_config(tmp_path / "cameras.toml"))
    (tmp_path / "cameras.toml").write_text('blur = "people"\n' + (tmp_path / "cameras.toml").read_text())
    blurred = picture_of("gate", read_config(tmp_path / "cameras.toml"))
    assert plain.shape == blurred.shape
    assert contrast(plain[10:80, 10:35]) > 3 * contrast(blurred[10:80, 10:35])
    assert contrast(blurred[:, 100:]) == pytest.approx(contrast(plain[:, 100:]))


def test_without_a_detector_that_is_ready_all_is_blurred(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Never:
        def detect(self, frame: Frame) -> list[Box]:
            return []

        def ready(self, stream: str) -> bool:
            return False

        def close(self) -> None:
            pass

    make_clip(tmp_path / "walk.mp4", frames=5, scene=STRIPES)
    (tmp_path / "cameras.toml").write_text('blur = "heads"\n[cameras.gate]\naddress = "walk.mp4"\n')
    with mock.patch("seqpar_deploy.cli.video.zone_picture.open_detector", return_value=Never()):
        blurred = picture_of("gate", read_config(tmp_path / "cameras.toml"))
    assert "whole frame" in caplog.text
    assert contrast(blurred) < 20


@pytest.mark.slow
def test_the_link_serves_the_page_and_saves_until_a_signal(folder: Path) -> None:
    config = folder / "mine.toml"
    config.write_text((folder / "cameras.toml").read_text())
    command = [sys.executable, "-m", "seqpar_deploy", "zones", "gate", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        link = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", process.stdout.readline())
        assert link is not None
        address, _, token = link[0].partition("?token=")
        with urllib.request.urlopen(f"{address}scene.json", timeout=10) as answer:
            scene = json.loads(answer.read())
        shape = {"kind": "lines", "name": "door", "was": None, "points": [[0.1, 0.5], [0.9, 0.5]]}
        request = urllib.request.Request(
            f"{address}save",
            json.dumps({"version": scene["version"], "shapes": [shape]}).encode(),
            {"Authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert token not in errors
    assert "[cameras.gate.lines.door]" in config.read_text()
    assert config.read_text().startswith("# ours")
