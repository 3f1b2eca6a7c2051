"""What the values of a table of boxes tell of its layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from video.detect import onnx_detectors
from video.detect.onnx_detectors import PLACES, ROW, Builder, make
from video.detect.test_layouts import detect
from video.detect.test_onnx import assert_found

from seqpar_deploy.errors import DetectorError


@pytest.mark.parametrize("spread", [10, 0], ids=["sizes", "none"])  # a model of random weights has sizes below 0 too
def test_edges_in_yolov8s_table_are_refused_until_they_are_named(spread: int, tmp_path: Path) -> None:
    def layout(b: Builder) -> None:
        columns = onnx_detectors._class_scores(PLACES, 80, 0)
        at = np.random.default_rng(0).uniform(0, 80, (PLACES, 2))
        sizes = np.random.default_rng(1).normal(spread, 3, at.shape)
        others = np.concatenate([at, at + sizes], axis=1).astype(np.float32)
        others[[ROW, ROW + 1]] = 0
        nothing = np.zeros((PLACES, 80), np.float32)
        table = b.planted(columns, PLACES, b.edges)
        table = b.add("Add", table, np.concatenate([others, nothing], axis=1))
        b.output("output", b.add("Unsqueeze", b.add("Transpose", table, perm=[1, 0]), np.array([0], np.int64)))

    path = make(tmp_path / "detector.onnx", layout)
    with pytest.raises(DetectorError, match=r"as yolov8: .* yolov8-edges\); set --detector-layout"):
        detect(path)
    assert_found(detect(path, layout="yolov8-edges"), within=6)
