"""Properties of the element, checked before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqpar_deploy.errors import SeqparError
from seqpar_deploy.video.detect.motion import MotionDetector
from seqpar_deploy.video.gstreamer.settings import Settings, refused_memory


def test_properties_become_options() -> None:
    settings = Settings(
        bundle="b", thresholds="t.toml", threads=2, crops_per_second=4, max_latency=0.2, frame_budget=50, sync=True
    )
    request, session = settings.request(), settings.session()
    assert (request.bundle, request.thresholds, request.threads) == (Path("b"), Path("t.toml"), 2)
    assert session.video.selection.max_crops_per_second == 4
    assert session.video.selection.max_latency == 0.2
    assert (session.budget, session.sync, session.labels) == (0.05, True, ("person", "pedestrian"))
    assert Settings(bundle="b").request().threads is None


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"bundle": None}, "bundle=FOLDER"),
        ({"bundle": ""}, "bundle=FOLDER"),
        ({"bundle": "b", "backend": "tpu"}, "got tpu"),
        ({"bundle": "b", "detector": "yolo"}, "yolo"),
        ({"bundle": "b", "detector_threshold": 0.5}, "detector-threshold"),
        ({"bundle": "b", "detector_threshold": 0.5, "detector": "motion"}, "got motion; omit the threshold"),
        ({"bundle": "b", "region_labels": " , "}, "region-labels must be one or more"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(values: dict[str, object], word: str) -> None:
    settings = Settings(**values)  # type: ignore[arg-type]
    errors: list[str] = []
    for part in (settings.request, settings.session, settings.open_detector):
        try:
            part()
        except SeqparError as error:
            errors.append(str(error))
    (line,) = errors
    assert word in line
    assert "\n" not in line


def test_detectors() -> None:
    assert Settings(bundle="b").open_detector() is None
    assert isinstance(Settings(bundle="b", detector="motion").open_detector(), MotionDetector)


@pytest.mark.parametrize(
    ("features", "converter"),
    [
        ("memory:SystemMemory", None),
        ("", None),
        ("meta:GstVideoOverlayComposition", None),
        ("memory:SystemMemory, meta:GstVideoOverlayComposition", None),
        ("memory:NVMM", "nvvideoconvert"),
        ("memory:DMABuf", "vapostproc"),
        ("memory:Mystery", "converter"),
    ],
)
def test_other_memory_is_refused_with_its_converter(features: str, converter: str | None) -> None:
    line = refused_memory(features)
    assert (line is None) == (converter is None)
    assert converter is None or converter in (line or "")
