"""Graphs of Ultralytics' and RF-DETR's own exporters, made with random weights in an environment of their own.

Neither is in the development environment: one is under the AGPL, the other is large. SEQPAR_EXPORTERS_ENV names an
environment made before, to be used again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

pytestmark = pytest.mark.heavy

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
SECONDS = 150
PACKAGES = ("ultralytics", "ultralytics-thop", "rfdetr", "transformers", "tokenizers")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with the exporters, which uses this one's PyTorch."""
    if given := os.environ.get("SEQPAR_EXPORTERS_ENV"):
        return Path(given) / "bin" / "python"
    import detectors

    try:
        return detectors.exporters(tmp_path_factory.mktemp("exporters"), PACKAGES)
    except subprocess.CalledProcessError:
        pytest.skip("pip cannot install ultralytics and rfdetr here, so their graphs are not tested")


@pytest.mark.parametrize(
    ("case", "layout"),
    [
        ("ultralytics-yolo11n-unslimmed", "yolov8"),
        ("ultralytics-yolo26n-end-to-end-unslimmed", "yolo-end-to-end"),
        ("rfdetr-nano", "rf-detr"),
    ],
)
def test_people_are_those_that_the_exporter_finds(case: str, layout: str, python: Path, tmp_path: Path) -> None:
    import detectors
    import tracking

    picture = tmp_path / "picture.npy"
    clip = Path(__file__).parents[3] / "samples" / "vtest" / "street.mp4"
    np.save(picture, next(iter(tracking.frames(clip))).image)
    command = [python, "-W", "ignore", BENCHMARKS / "detectors_exporters.py", case, picture, tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, done.stderr[-2000:]
    found = detectors.check(tmp_path / f"{case}.onnx")
    assert found.get("layout") == layout, json.dumps(found)
    assert found["people"] > 10
    assert found["agree"] > 0.9, json.dumps(found)
