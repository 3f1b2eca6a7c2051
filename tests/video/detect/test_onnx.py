"""Detectors of every layout find the rectangle where it is in the frame, through their own geometry and scaling."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, load, numpy_helper, save
from video.detect import onnx_detectors
from video.detect.onnx_detectors import LAYOUTS, make

from seqpar_deploy import machine
from seqpar_deploy.backends import BackendName, registry
from seqpar_deploy.backends.sessions import OnnxRuntimeSession, OpenVinoSession
from seqpar_deploy.errors import BackendUnavailableError, DetectorError
from seqpar_deploy.video.detect import onnx, opening
from seqpar_deploy.video.detect.onnx import OnnxDetector, OnnxOptions
from seqpar_deploy.video.detect.picture import PictureInput, Scaling, to_tensor
from seqpar_deploy.video.types import Box, Frame

LEFT, TOP, RIGHT, BOTTOM = 200, 60, 300, 280


def frame(width: int = 480, height: int = 320) -> Frame:
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[TOP:BOTTOM, LEFT:RIGHT] = 255
    return Frame(stream="s", index=0, timestamp=0.0, image=image)


def assert_found(boxes: list[Box], within: float) -> None:
    assert len(boxes) == 1, boxes
    found = np.array([boxes[0].left, boxes[0].top, boxes[0].right, boxes[0].bottom])
    assert np.abs(found - [LEFT, TOP, RIGHT, BOTTOM]).max() <= within, found


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_finds_the_person_alone_and_where_they_are(layout: str, backend: BackendName, tmp_path: Path) -> None:
    path = make(tmp_path / "detector.onnx", *LAYOUTS[layout])
    detector = OnnxDetector(path, backend)
    boxes = detector.detect(frame())
    detector.close()
    detector.close()
    assert_found(boxes, within=1.1 * 480 / onnx_detectors.SIDE)  # a pixel of the picture
    assert boxes[0].score > 0.7


def test_a_tall_frame_is_letterboxed_the_other_way(tmp_path: Path) -> None:
    detector = OnnxDetector(make(tmp_path / "detector.onnx", onnx_detectors.end_to_end), "onnxruntime")
    assert_found(detector.detect(frame(width=320, height=960)), within=1.1 * 960 / onnx_detectors.SIDE)


def test_a_graph_of_any_size_runs_at_the_one_it_was_exported_with(tmp_path: Path) -> None:
    path = make(tmp_path / "detector.onnx", onnx_detectors.yolov8, "dynamic", imgsz="[96, 96]")
    for backend in ("openvino", "onnxruntime"):
        assert_found(OnnxDetector(path, backend).detect(frame()), within=6)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_named_classes_tell_who_is_a_person(backend: BackendName, tmp_path: Path) -> None:
    names = {0: "dog", 1: "cup", 2: "Person", 3: "hat", 4: "car"}
    layout = partial(onnx_detectors.yolov8, classes=5, person=2)
    path = make(tmp_path / "detector.onnx", layout, names=str(names))
    assert_found(OnnxDetector(path, backend).detect(frame()), within=6)


def test_one_class_is_the_person(tmp_path: Path) -> None:
    def layout(b: onnx_detectors.Builder) -> None:
        columns = np.zeros((onnx_detectors.PLACES, 1), np.float32)
        columns[onnx_detectors.ROW] = 0.9
        table = b.planted(columns, onnx_detectors.PLACES, b.centre())
        b.output("output0", b.add("Unsqueeze", b.add("Transpose", table, perm=[1, 0]), np.array([0], np.int64)))

    assert_found(OnnxDetector(make(tmp_path / "detector.onnx", layout), "onnxruntime").detect(frame()), within=6)


def test_options_overrule_what_is_seen_in_the_graph(tmp_path: Path) -> None:
    path = make(tmp_path / "detector.onnx", partial(onnx_detectors.yolov8, classes=7, person=3))
    with pytest.raises(DetectorError, match="--person-class"):
        OnnxDetector(path)
    assert_found(OnnxDetector(path, options=OnnxOptions(person_class=3)).detect(frame()), within=6)
    assert OnnxDetector(path, options=OnnxOptions(person_class=3, score=0.95)).detect(frame()) == []
    assert OnnxDetector(path, options=OnnxOptions(person_class=3, scaling="imagenet")).detect(frame()) == []


@pytest.mark.parametrize("scaling", ["0-255", "0-255-bgr"])
def test_a_graph_that_wants_bytes_as_floats_can_be_described(scaling: Scaling, tmp_path: Path) -> None:
    path = make(tmp_path / "detector.onnx", onnx_detectors.yolov8, "bytes-first")
    assert OnnxDetector(path).detect(frame()) == []
    assert_found(OnnxDetector(path, options=OnnxOptions(scaling=scaling)).detect(frame()), within=6)


def test_scalings_with_blue_first_reverse_the_colours() -> None:
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    target = PictureInput(name="images", channels="first", height=4, width=5, dtype=np.float32)
    for scaling in ("imagenet", "0-255"):
        blue_first: Scaling = "imagenet-bgr" if scaling == "imagenet" else "0-255-bgr"
        usual = to_tensor(picture, target, scaling)
        assert np.array_equal(to_tensor(picture, target, blue_first), usual[:, ::-1])
        assert not np.array_equal(usual, usual[:, ::-1])


def _unknown(b: onnx_detectors.Builder) -> None:
    b.output("heatmap", b.add("Reshape", b.edges, np.array([1, 1, 2, 2], np.int64)))


def _two_pictures(b: onnx_detectors.Builder) -> None:
    b.inputs[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx_detectors.end_to_end(b)


def _no_person(b: onnx_detectors.Builder) -> None:
    onnx_detectors.yolov8(b, classes=5, person=0)


@pytest.mark.parametrize(
    ("layout", "metadata", "message"),
    [
        (_unknown, {}, r"its outputs must be YOLO.* got heatmap \(1, 1, 2, 2\)"),
        (_two_pictures, {}, r"batch of 1 .* got 2; export it for 1"),
        (
            _no_person,
            {"names": "{0: 'dog', 1: 'cup', 2: 'car', 3: 'hat', 4: 'bus'}"},
            "include person, got dog, cup, car, hat, bus",
        ),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(
    layout: object, metadata: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = make(tmp_path / "detector.onnx", layout, **metadata)
    with pytest.raises(DetectorError, match=message) as caught:
        OnnxDetector(path, "onnxruntime")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_no_onnx_file_is_told_in_one_line(backend: BackendName, tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match=r"none\.onnx .* no file"):
        OnnxDetector(tmp_path / "none.onnx", backend)
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(DetectorError, match=r"cannot open .*text\.onnx") as caught:
        OnnxDetector(tmp_path / "text.onnx", backend)
    assert "\n" not in str(caught.value)


def test_boxes_that_are_no_numbers_are_left_out() -> None:
    frame = Frame(stream="s", index=0, timestamp=0.0, image=np.zeros((40, 40, 3), dtype=np.uint8))
    edges = np.array([[np.nan] * 4, [0, 0, np.inf, 9], [1, 2, 5, 9]], dtype=np.float32)
    assert onnx._boxes(edges, np.ones(3, dtype=np.float32), frame) == [Box(left=1, top=2, right=5, bottom=9)]


def test_it_runs_where_the_recogniser_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(make(tmp_path / "detector.onnx", onnx_detectors.end_to_end))
    opened: list[str] = []

    def with_sdks(*available: str) -> None:
        """Only these runtimes are installed, and write down that they were opened."""
        specs = []
        for spec in registry.SPECS:
            sdk = (lambda: None) if spec.name in available else _not_installed
            opener = spec.open_session and partial(_open_as, opened, spec.name)
            specs.append(dataclasses.replace(spec, load_sdk=sdk, open_session=opener))
        monkeypatch.setattr(registry, "SPECS", tuple(specs))

    for installed, expected in (
        (("openvino", "onnxruntime"), ["openvino", "onnxruntime", "openvino"]),
        (("onnxruntime",), ["onnxruntime", "onnxruntime", "onnxruntime"]),
        (("onnxruntime-cuda", "onnxruntime"), ["onnxruntime", "onnxruntime", "onnxruntime-cuda"]),
    ):
        opened.clear()
        with_sdks(*installed)
        for wanted in ("auto", "onnxruntime", "tensorrt"):
            opening.open_detector(path, backend=wanted)  # type: ignore[arg-type]
        assert opened == expected


def _not_installed() -> None:
    raise BackendUnavailableError("not installed")


def _open_as(opened: list[str], name: str, graph: Path, **_: Any) -> OnnxRuntimeSession:
    opened.append(name)
    return OnnxRuntimeSession(graph)


def _quantised(b: onnx_detectors.Builder) -> None:
    scale, zero = np.float32(1), np.uint8(0)  # a step a pixel
    b.edges = b.add("DequantizeLinear", b.add("QuantizeLinear", b.edges, scale, zero), scale, zero)
    onnx_detectors.end_to_end(b)


def test_a_quantised_detector_does_not_run_where_its_products_overflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = make(tmp_path / "int8.onnx", _quantised)
    exact = make(tmp_path / "exact.onnx", onnx_detectors.end_to_end)
    monkeypatch.setattr(machine, "lacks_vnni", lambda: True)
    with pytest.raises(BackendUnavailableError, match=r"VNNI.*onnxruntime") as caught:
        OnnxDetector(path, "openvino")
    assert "\n" not in str(caught.value)
    assert not caplog.records

    detector = OnnxDetector(path, "auto")
    assert type(detector._graph) is OnnxRuntimeSession
    assert_found(detector.detect(frame()), within=6)
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "seqpar_deploy.backends.registry")
    assert "VNNI" in record.getMessage()

    assert type(OnnxDetector(exact, "auto")._graph) is OpenVinoSession  # FP32 has no such products
    monkeypatch.setattr(machine, "lacks_vnni", lambda: False)
    assert type(OnnxDetector(path, "auto")._graph) is OpenVinoSession


def test_a_graph_that_gives_no_rows_for_a_blank_picture_is_opened(tmp_path: Path) -> None:
    """torchvision's graphs give as many rows as there are people. Their input has no axis of pictures."""

    def nobody(b: onnx_detectors.Builder) -> None:
        none = [b.add("Constant", value_ints=[value]) for value in (0, 0, 0)]
        b.output("boxes", b.add("Slice", b.edges, *none))
        b.output("labels", b.add("Slice", np.array([1], np.int64), *none), TensorProto.INT64)
        b.output("scores", b.add("Slice", np.array([0.9], np.float32), *none))

    detector = OnnxDetector(make(tmp_path / "detector.onnx", nobody), "onnxruntime")
    assert detector.detect(frame()) == []
    assert detector.layout.name == "torchvision"


def test_a_graph_of_one_picture_without_their_axis_is_read(tmp_path: Path) -> None:
    path = make(tmp_path / "detector.onnx", onnx_detectors.torchvision)
    model = load(path)
    [given] = model.graph.input
    inner = helper.make_node("Unsqueeze", ["picture", "axes"], [given.name])
    model.graph.node.insert(0, inner)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "axes"))
    del model.graph.input[:]
    side = onnx_detectors.SIDE
    model.graph.input.append(helper.make_tensor_value_info("picture", TensorProto.FLOAT, [3, side, side]))
    save(model, path)
    assert_found(OnnxDetector(path, "onnxruntime").detect(frame()), within=6)
