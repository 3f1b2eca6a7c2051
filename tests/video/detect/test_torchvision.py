"""Graphs of torchvision's own exporter, made here with random weights, give the people that PyTorch gives."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqpar_deploy.video.detect.onnx import OnnxDetector, OnnxOptions
from seqpar_deploy.video.types import Frame

torch = pytest.importorskip("torch")
detection = pytest.importorskip("torchvision.models.detection")
sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

pytestmark = pytest.mark.slow


def picture(side: int) -> Any:
    """Return a picture with something in it for random weights to differ on."""
    down, across = np.mgrid[:side, :side]
    image = np.stack([across * 255 // side, down * 255 // side, (across ^ down) % 256], axis=2)
    return image.astype(np.uint8)


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_people_are_those_that_pytorch_finds(name: str, tmp_path: Path) -> None:
    import detectors_exporters
    import detectors_torch

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, of tracing
        exported = detectors_torch.torchvision(tmp_path, picture(320), name=name)
    detector = OnnxDetector(exported.path, "onnxruntime", OnnxOptions(score=detectors_exporters.THRESHOLD))
    boxes = detector.detect(Frame(stream="s", index=0, timestamp=0.0, image=exported.picture))
    detector.close()
    assert detector.layout.name == "torchvision"
    assert len(boxes) > 3
    found = np.array([(box.left, box.top, box.right, box.bottom, box.score) for box in boxes])
    wanted = np.array(exported.people)
    wanted[:, :4] = np.clip(wanted[:, :4], 0, 320)
    for row in found:
        assert np.abs(wanted - row).max(axis=1).min() < 1, row
    assert abs(len(found) - len(wanted)) <= 0.1 * len(wanted)  # boxes on the threshold
