"""The options of `seqpar video` for an ONNX detector reach it, and are refused for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from video.clips import make_clip
from video.detect import onnx_detectors
from video.detect.onnx_detectors import make

from seqpar_deploy.cli.video import command
from seqpar_deploy.errors import DetectorError
from seqpar_deploy.video.detect.onnx import OnnxOptions


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "walk.mp4", frames=3)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, OnnxOptions(threads=2)),
        ({"person_class": "Fußgänger"}, OnnxOptions(threads=2, person_class="Fußgänger")),
        (
            {"detector_layout": "yolov8", "detector_threshold": 0.4, "person_class": "3"},
            OnnxOptions(threads=2, layout="yolov8", score=0.4, person_class="3"),
        ),
        ({"detector_scaling": "0-255"}, OnnxOptions(threads=2, scaling="0-255")),
    ],
)
def test_options_reach_the_detector(
    given: dict[str, Any],
    expected: OnnxOptions,
    clip: Path,
    bundle_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    got: list[OnnxOptions] = []

    def open_detector(wanted: str, *, backend: str, options: OnnxOptions) -> None:
        got.append(options)
        raise DetectorError(f"{wanted} on {backend}")

    monkeypatch.setattr(command, "open_detector", open_detector)
    with pytest.raises(DetectorError, match=r"yolo\.onnx on"):
        command.video(sources=[str(clip)], bundle=bundle_dir, detector="yolo.onnx", threads=2, **given)
    assert got == [expected]


def test_a_wrong_option_is_refused_before_a_frame_is_read(clip: Path, bundle_dir: Path, tmp_path: Path) -> None:
    path = str(make(tmp_path / "detector.onnx", onnx_detectors.yolov8, labels='["person", "car"]'))
    for options, part in (
        ({"detector_layout": "yolo"}, r"--detector-layout .*'yolo'"),
        ({"person_class": "bus"}, r"--person-class .*person, car.*'bus'"),
    ):
        with pytest.raises(DetectorError, match=part):
            command.video(sources=[str(clip)], bundle=bundle_dir, detector=path, **options)
    with pytest.raises(DetectorError, match=r"--person-class 0, got motion"):
        command.video(sources=[str(clip)], bundle=bundle_dir, person_class="0")
