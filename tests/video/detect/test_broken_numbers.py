"""Numbers that quantisation and half precision break, and graphs that fail on a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from video.detect.onnx_detectors import PLACES, ROW, Builder, efficient_nms, make, yolov8
from video.detect.test_onnx import assert_found, frame

from seqpar_deploy.errors import DetectorError
from seqpar_deploy.video.detect.onnx import OnnxDetector, OnnxOptions

OTHER = 100  # a row far from the person's


def boxes_and_scores(b: Builder, bad: float = 0.0, *, turned: bool = False, scores_first: bool = False) -> None:
    """A person, boxes that nobody fills everywhere else, and a score that is wrong."""
    places = np.stack([np.arange(PLACES) % 20 * 4, np.arange(PLACES) // 20 * 8], axis=1).astype(np.float32)
    scores = np.full((PLACES, 80), 0.01, np.float32)
    scores[ROW, 0], scores[OTHER, 5] = 0.9, bad
    person = np.zeros((PLACES, 1), np.float32)
    person[ROW] = 1
    others = np.concatenate([places, places + 3], axis=1) * (1 - person)
    box = b.add("Add", b.add("MatMul", person, b.edges), others)
    if turned:  # the four values of all boxes, one after the other
        box, scores = b.add("Transpose", box, perm=[1, 0]), scores.T
    b.output("boxes", b.add("Unsqueeze", box, np.array([0], np.int64)))
    b.output("scores", b.add("Identity", np.ascontiguousarray(scores[None])))
    b.outputs = b.outputs[::-1] if scores_first else b.outputs


@pytest.mark.parametrize("bad", [0.02, float("nan"), -0.002, 1.0005, float("inf")])
def test_a_score_that_is_no_score_makes_nobody_else_a_person(bad: float, tmp_path: Path) -> None:
    path = make(tmp_path / "detector.onnx", lambda b: boxes_and_scores(b, bad))
    assert_found(OnnxDetector(path, "onnxruntime").detect(frame()), within=6)


@pytest.mark.parametrize("bad", [float("nan"), -9.0])
def test_logits_remain_logits(bad: float, tmp_path: Path) -> None:
    def layout(b: Builder) -> None:
        logits = np.full((1, 300, 80), -5.0, np.float32)
        logits[0, ROW, 0], logits[0, OTHER, 5] = 2.0, bad
        box = b.add("Unsqueeze", b.planted(np.zeros((300, 0)), 300, b.of_one(b.centre())), np.array([0], np.int64))
        b.output("pred_boxes", box)
        b.output("logits", b.add("Identity", logits))

    assert_found(OnnxDetector(make(tmp_path / "detector.onnx", layout), "onnxruntime").detect(frame()), within=6)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("column", range(4))
def test_a_box_of_no_numbers_hides_nobody(number: float, column: int, tmp_path: Path) -> None:
    def layout(b: Builder) -> None:
        scores = np.zeros((PLACES, 80), np.float32)
        scores[ROW, 0], scores[OTHER, 0] = 0.8, 0.95
        broken = np.zeros((PLACES, 4), np.float32)
        broken[OTHER] = [40, 40, 20, 30]
        broken[OTHER, column] = number
        person = np.zeros((PLACES, 1), np.float32)
        person[ROW] = 1
        box = b.add("Add", b.add("MatMul", person, b.centre()), broken)
        table = b.add("Concat", box, scores, axis=1)
        b.output("output0", b.add("Unsqueeze", b.add("Transpose", table, perm=[1, 0]), np.array([0], np.int64)))

    assert_found(OnnxDetector(make(tmp_path / "detector.onnx", layout), "onnxruntime").detect(frame()), within=6)


@pytest.mark.parametrize(("count", "found"), [(float("nan"), 0), (-1.0, 0), (1.0, 1)])
def test_a_count_of_boxes_that_is_none(count: float, found: int, tmp_path: Path) -> None:
    def layout(b: Builder) -> None:
        efficient_nms(b)
        b.nodes = [node for node in b.nodes if list(node.output) != ["num_dets"]]
        b.outputs = [output for output in b.outputs if output.name != "num_dets"]
        b.output("num_dets", b.add("Identity", np.array([[count]], np.float32)))

    assert len(OnnxDetector(make(tmp_path / "detector.onnx", layout), "onnxruntime").detect(frame())) == found


def test_a_graph_that_fails_on_a_picture_is_told_in_one_line(tmp_path: Path) -> None:
    def layout(b: Builder) -> None:
        """As of an export that was traced with a fixed number of objects: white columns must be fewer than 7."""
        yolov8(b)
        grey = b.add("ReduceMean", "images", axes=[0, 1, 2], keepdims=0)
        count = b.add("Shape", b.add("NonZero", b.add("Cast", grey, to=TensorProto.BOOL)))
        size = b.add("Gather", count, np.array([1], np.int64))
        b.output("extra", b.add("Gather", np.zeros(7, np.float32), size))

    detector = OnnxDetector(make(tmp_path / "detector.onnx", layout), "onnxruntime")
    with pytest.raises(
        DetectorError, match=r"detector\.onnx cannot be used: it must run on a picture of s, got"
    ) as caught:
        detector.detect(frame())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", ["[-1, -1]", "[1e9, 1e9]", "[1e400, 5]", "[0, 640]", "nonsense"])
def test_a_size_in_metadata_that_no_picture_has_is_ignored(size: str, tmp_path: Path) -> None:
    path = make(tmp_path / "detector.onnx", yolov8, "dynamic", imgsz=size)
    with pytest.raises(DetectorError, match="must run on a blank picture"):  # of 640 pixels; this graph needs 96
        OnnxDetector(path, "onnxruntime")


def test_bytes_can_be_blue_first_and_not_scaled(tmp_path: Path) -> None:
    def layout(b: Builder) -> None:
        """A person if the picture's first channel is brighter than its last."""
        values = b.add("Cast", "images", to=TensorProto.FLOAT)
        mean = b.add("ReduceMean", values, axes=[0, 1, 2], keepdims=0)
        first = b.add("Gather", mean, np.array([0], np.int64))
        score = b.add(
            "Reshape", b.add("Clip", b.add("Div", first, np.float32(200)), np.float32(0), np.float32(1)), [1, 1]
        )
        row = b.add("Concat", np.array([[10, 10, 60, 80]], np.float32), score, np.zeros((1, 1), np.float32), axis=1)
        b.output("output", b.add("Unsqueeze", row, np.array([0], np.int64)))

    path = make(tmp_path / "detector.onnx", layout, "bytes")
    blue = frame()
    blue.image[:] = (0, 0, 255)

    def found(scaling: str | None) -> int:
        options = OnnxOptions(layout="yolo-end-to-end", scaling=scaling)  # type: ignore[arg-type]
        return len(OnnxDetector(path, "onnxruntime", options).detect(blue))

    assert (found(None), found("0-255"), found("0-255-bgr")) == (0, 0, 1)
    with pytest.raises(DetectorError, match="--detector-scaling must be 0-255 or 0-255-bgr for its input of bytes"):
        found("imagenet")


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("scores_first", [False, True])
def test_boxes_and_scores_are_read_with_either_axis_first(turned: bool, scores_first: bool, tmp_path: Path) -> None:
    path = make(tmp_path / "d.onnx", lambda b: boxes_and_scores(b, turned=turned, scores_first=scores_first))
    detector = OnnxDetector(path, "onnxruntime")
    assert_found(detector.detect(frame()), within=6)
    assert detector.layout.name == "boxes-and-class-scores"
