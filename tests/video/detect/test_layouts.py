"""Layouts that public exporters share by shape are told apart by the values of pictures, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto
from video.detect import onnx_detectors
from video.detect.onnx_detectors import PLACES, Builder, make
from video.detect.test_onnx import assert_found, frame

from seqpar_deploy.errors import DetectorError
from seqpar_deploy.video.detect.layout_evidence import PATIENCE
from seqpar_deploy.video.detect.layouts import LAYOUTS
from seqpar_deploy.video.detect.onnx import OnnxDetector, OnnxOptions
from seqpar_deploy.video.types import Box

Layout = Callable[[Builder], None]
ANCHOR = np.zeros((1, 1), np.int64)


def opened(path: Path, **options: Any) -> OnnxDetector:
    return OnnxDetector(path, "onnxruntime", OnnxOptions(**options))


def detect(path: Path, **options: Any) -> list[Box]:
    return opened(path, **options).detect(frame())


def rows(
    columns: str, *, person: tuple[float, int], car: tuple[float, int] = (0.95, 2), output: str = "output"
) -> Layout:
    """Rows of these columns for a person in the white rectangle and a car, as (score, class)."""

    def layout(b: Builder) -> None:
        edges = {"l": b.edges, "c": b.centre()}["c" if "x" in columns else "l"]
        boxes = b.add(
            "Concat", edges, np.array([[10, 10, 60, 40] if "l" in columns else [35, 25, 50, 30]], np.float32), axis=0
        )
        letters = "ltrb" if "l" in columns else "xywh"
        parts = []
        for letter in columns:
            if letter in letters:
                at = letters.index(letter)
                parts.append(b.add("Slice", boxes, np.array([at]), np.array([at + 1]), np.array([1])))
            else:
                values = {"p": (0, 0), "s": (person[0], car[0]), "c": (person[1], car[1]), "o": (1, 1)}[letter]
                parts.append(b.add("Identity", np.array(values, np.float32).reshape(2, 1)))
        b.output(output, b.add("Concat", *parts, axis=1))

    return layout


@pytest.mark.parametrize("output", ["output", "output0", "predictions"])
@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ("pltrbcs", "yolov7-end-to-end"),
        ("pltrbsc", "yolo-nas-flat"),
        ("pcsltrb", "class-score-edges"),
        ("ltrbsc", "yolo-end-to-end"),
        ("ltrbcs", "edges-class-score"),
        ("csltrb", "paddle"),
    ],
)
def test_rows_of_the_same_shape_are_told_apart_by_their_values(
    columns: str, name: str, output: str, tmp_path: Path
) -> None:
    path = make(tmp_path / "detector.onnx", rows(columns, person=(0.9, 0), output=output))
    detector = opened(path)
    assert_found(detector.detect(frame()), within=6)
    assert detector.ready("gate")
    assert detector.layout.name == name
    cars = rows(columns, person=(0.9, 2), car=(0.95, 7), output=output)
    assert detect(make(tmp_path / "cars.onnx", cars)) == []


@pytest.mark.parametrize(("columns", "name"), [("pltrbcs", "yolov7-end-to-end"), ("pltrbsc", "yolo-nas-flat")])
def test_rows_that_could_be_either_are_refused_and_an_option_settles_it(
    columns: str, name: str, tmp_path: Path
) -> None:
    path = make(tmp_path / "detector.onnx", rows(columns, person=(1, 0), car=(1, 0)))
    detector = opened(path)
    assert [detector.detect(frame()) for _ in range(PATIENCE - 1)] == [[]] * (PATIENCE - 1)
    assert not detector.ready("gate")
    with pytest.raises(DetectorError, match=r"yolov7-end-to-end or yolo-nas-flat.*--detector-layout") as caught:
        detector.detect(frame())
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert len(detect(path, layout=name)) == 2


def test_a_recording_too_short_to_decide_is_refused_at_its_end(tmp_path: Path) -> None:
    detector = opened(make(tmp_path / "detector.onnx", rows("pltrbsc", person=(1, 0), car=(1, 0))))
    assert detector.detect(frame()) == []
    with pytest.raises(DetectorError, match=r"detector\.onnx .*--detector-layout"):
        detector.close()
    detector.close()


@pytest.mark.parametrize(
    ("output", "columns"),
    [
        ("batchno_classid_score_x1y1x2y2", "pcsltrb"),
        ("batchno_classid_x1y1x2y2_score", "pcltrbs"),
        ("graph2_flat_predictions", "pltrbsc"),
    ],
)
def test_names_of_outputs_are_evidence(output: str, columns: str, tmp_path: Path) -> None:
    path = make(tmp_path / "detector.onnx", rows(columns, person=(1, 0), car=(0.5, 1), output=output))
    assert_found(detect(path), within=6)


def test_values_that_contradict_the_name_of_an_output_are_refused(tmp_path: Path) -> None:
    layout = rows("pltrbcs", person=(0.9, 0), output="graph2_flat_predictions")
    with pytest.raises(DetectorError, match=r"score 2.*--detector-layout"):
        detect(make(tmp_path / "detector.onnx", layout))


def test_a_spare_layout_is_read_if_all_others_fail(tmp_path: Path) -> None:
    path = make(tmp_path / "detector.onnx", rows("xywhsc", person=(0.9, 0)))
    assert_found(detect(path), within=6)


@pytest.mark.parametrize("metadata", [{"author": "Ultralytics"}, {}])
def test_rows_of_rt_detr_are_told_from_those_of_yolo(metadata: dict[str, str], tmp_path: Path) -> None:
    """Ultralytics exports both as (1, N, 6): one of centres relative to a stretched picture, one of edges in pixels."""

    def relative(b: Builder) -> None:
        boxes = b.add("Concat", b.of_one(b.centre()), np.array([[0.4, 0.3, 0.5, 0.3]], np.float32), axis=0)
        table = b.add("Concat", boxes, np.array([[0.9, 0], [0.95, 2]], np.float32), axis=1)
        b.output("output0", b.add("Unsqueeze", table, np.array([0], np.int64)))

    path = make(tmp_path / "rtdetr.onnx", relative, **metadata)
    with_names = opened(path)
    assert_found(with_names.detect(frame()), within=6)
    assert (with_names.layout.name, with_names.layout.fit) == ("ultralytics-rt-detr-rows", "stretch")
    yolo = opened(make(tmp_path / "yolo.onnx", onnx_detectors.end_to_end, **metadata))
    assert_found(yolo.detect(frame()), within=6)
    assert yolo.layout.name == "yolo-end-to-end"


def test_a_yolo_of_two_coarse_grids_is_read(tmp_path: Path) -> None:
    """YOLOv3-tiny has grids of 16 and 32 pixels: fewer places than a small picture's transposed table would have."""

    def coarse(b: Builder) -> None:
        places = (b.side // 16) ** 2 + (b.side // 32) ** 2
        columns = np.zeros((places, 80), np.float32)
        columns[onnx_detectors.ROW, 0] = 0.9
        table = b.planted(columns, places, b.centre())
        b.output("output0", b.add("Unsqueeze", b.add("Transpose", table, perm=[1, 0]), np.array([0], np.int64)))

    assert_found(detect(make(tmp_path / "detector.onnx", coarse)), within=6)


def test_relative_edges_are_seen_by_their_size(tmp_path: Path) -> None:
    def layout(b: Builder) -> None:
        row = b.add("Concat", b.of_one(b.edges), np.array([[0.9, 0]], np.float32), axis=1)
        b.output("output0", b.add("Unsqueeze", row, np.array([0], np.int64)))

    assert_found(detect(make(tmp_path / "detector.onnx", layout)), within=6)


def test_openvinos_detection_out_needs_the_class_of_people(tmp_path: Path) -> None:
    def layout(b: Builder) -> None:
        row = b.add("Concat", np.array([[0, 1, 0.9]], np.float32), b.of_one(b.edges), axis=1)
        padding = np.array([[-1, 0, 0, 0, 0, 0, 0]], np.float32)
        table = b.add("Concat", row, padding, axis=0)
        b.output("detection_out", b.add("Unsqueeze", table, np.array([0, 1], np.int64)))

    path = make(tmp_path / "detector.onnx", layout)
    with pytest.raises(DetectorError, match="--person-class"):
        opened(path)
    assert_found(detect(path, person_class=1), within=6)


def one_per_cell(box: Callable[[Builder], str], objectness: float, rest: float = 0.0) -> Layout:
    """YOLOX's and YOLOv6's table (1, places, 85) with the box in one row."""

    def layout(b: Builder) -> None:
        columns = np.zeros((PLACES, 81), np.float32)
        columns[:, 0] = rest
        columns[onnx_detectors.ROW, :2] = [objectness, 0.9]
        planted = np.zeros((PLACES, 1), np.float32)
        planted[onnx_detectors.ROW] = 1
        table = b.add("Concat", b.add("MatMul", planted, box(b)), columns, axis=1)
        b.output("output", b.add("Unsqueeze", table, np.array([0], np.int64)))

    return layout


def on_grid(b: Builder) -> str:
    """Offsets from the cell and logarithms of sizes, in strides of 8: row 17 is the cell (5, 1) of 12."""
    values = b.add("Div", b.centre(), np.float32(8))
    offset = b.add(
        "Sub", b.add("Slice", values, np.array([0]), np.array([2]), np.array([1])), np.array([[5, 1]], np.float32)
    )
    size = b.add("Slice", values, np.array([2]), np.array([4]), np.array([1]))
    return b.add("Concat", offset, b.add("Log", b.add("Max", size, np.float32(1e-3))), axis=1)


@pytest.mark.parametrize(
    ("layout", "kind", "name"),
    [
        (one_per_cell(on_grid, 0.9), "bytes-first", "yolox"),
        (one_per_cell(Builder.centre, 0.9), "bytes-first", "yolox-decoded"),
        (one_per_cell(Builder.centre, 1.0, rest=1.0), "unit", "yolov6"),
    ],
)
def test_yolox_and_yolov6_are_told_apart(layout: Layout, kind: str, name: str, tmp_path: Path) -> None:
    detector = opened(make(tmp_path / "detector.onnx", layout, kind))
    assert_found(detector.detect(frame()), within=6)
    assert detector.layout.name == name


@pytest.mark.parametrize("centre", [False, True])
def test_boxes_beside_class_scores_are_edges_or_centres(centre: bool, tmp_path: Path) -> None:
    def layout(b: Builder) -> None:
        scores = np.zeros((1, 1200, 80), np.float32)
        scores[0, onnx_detectors.ROW, 0], scores[0, 40, 2] = 0.9, 0.8
        planted = np.zeros((1200, 1), np.float32)
        planted[onnx_detectors.ROW] = 1
        others = np.zeros((1200, 4), np.float32)
        others[40] = [80, 70, 12, 14] if centre else [80, 10, 90, 30]
        box = b.add("Add", b.add("MatMul", planted, b.centre() if centre else b.edges), others)
        b.output("913", b.add("Unsqueeze", box, np.array([0], np.int64)))
        b.output("904", b.add("Identity", scores))

    assert_found(detect(make(tmp_path / "detector.onnx", layout)), within=6)


def two_classes(b: Builder) -> None:
    """Ultralytics' RT-DETR with two classes has the shape of rows after NMS."""
    columns = np.full((300, 2), 0.01, np.float32)
    columns[onnx_detectors.ROW] = [0.9, 0.02]
    table = b.planted(columns, 300, b.of_one(b.centre()))
    b.output(
        "output0", b.add("Unsqueeze", b.add("Mul", table, onnx_detectors._only_last_rows(300)), np.array([0], np.int64))
    )


def test_rt_detr_of_two_classes_is_no_row_of_score_and_class(tmp_path: Path) -> None:
    path = make(tmp_path / "detector.onnx", two_classes, names="{0: 'person', 1: 'car'}", author="Ultralytics")
    assert_found(detect(path), within=6)


def labelled(person: int, car: int, names: Sequence[str] = ("labels", "boxes", "scores"), extra: int = 1) -> Layout:
    """Labels, boxes and scores (1, N) without a further hint."""

    def layout(b: Builder) -> None:
        boxes = b.add("Concat", b.edges, np.array([[10, 20, 60, 40]] * extra, np.float32), axis=0)
        b.output(names[1], b.add("Unsqueeze", boxes, np.array([0], np.int64)))
        b.output(names[0], b.add("Identity", np.array([[person] + [car] * extra])), TensorProto.INT64)
        b.output(names[2], b.add("Identity", np.array([[0.9] + [0.8] * extra], np.float32)))

    return layout


def test_classes_from_0_or_from_1_are_decided_by_the_classes_that_fire(tmp_path: Path) -> None:
    from_0 = opened(make(tmp_path / "from0.onnx", labelled(0, 2)))
    assert_found(from_0.detect(frame()), within=6)
    assert from_0.layout.name == "labels-boxes-scores"
    unclear = opened(make(tmp_path / "unclear.onnx", labelled(1, 3)))
    assert [unclear.detect(frame()) for _ in range(PATIENCE - 1)] == [[]] * (PATIENCE - 1)
    with pytest.raises(DetectorError, match=r"labels-boxes-scores or labels-from-1.*--person-class"):
        unclear.detect(frame())
    assert_found(detect(tmp_path / "unclear.onnx", person_class=1), within=6)
    assert_found(detect(tmp_path / "unclear.onnx", layout="labels-from-1"), within=6)
    assert_found(
        detect(make(tmp_path / "zoo.onnx", labelled(1, 3, ("labels", "bboxes", "scores")), "imagenet")), within=6
    )


@pytest.mark.parametrize("number", [0, 12, 83])
def test_a_tuned_rf_detr_that_fires_a_class_coco_does_not_have_is_refused(number: int, tmp_path: Path) -> None:
    layout = partial(onnx_detectors._detr, boxes="dets", logits="labels", classes=91, person=number)
    path = make(tmp_path / "detector.onnx", layout, "imagenet")
    with pytest.raises(DetectorError, match=rf"class {number} .*--person-class"):
        detect(path)
    assert_found(detect(path, person_class=number), within=6)
    assert_found(detect(path, person_class=str(number)), within=6)
    named = make(tmp_path / "named.onnx", layout, "imagenet", class_names=json.dumps({number: "Person", 85: "car"}))
    assert_found(detect(named), within=6)


def test_a_tuned_detr_has_a_no_object_class_however_many_classes(tmp_path: Path) -> None:
    def layout(b: Builder) -> None:
        scores = np.full((300, 3), -4, np.float32)
        scores[:, 2] = 5
        scores[onnx_detectors.ROW] = [6, -2, 1]
        table = b.add("Unsqueeze", b.planted(scores, 300, b.of_one(b.centre())), np.array([0], np.int64))
        b.output("pred_boxes", b.add("Slice", table, np.array([0]), np.array([4]), np.array([2])))
        b.output("logits", b.add("Slice", table, np.array([4]), np.array([7]), np.array([2])))

    path = make(tmp_path / "detector.onnx", layout, "imagenet", id2label='{"0": "person", "1": "car"}')
    assert_found(detect(path), within=6)


def test_mmdeploys_boxes_hold_the_score(tmp_path: Path) -> None:
    def layout(b: Builder) -> None:
        row = b.add("Concat", b.edges, np.array([[0.9]], np.float32), axis=1)
        b.output("dets", b.add("Unsqueeze", row, np.array([0], np.int64)))
        b.output("labels", b.add("Identity", ANCHOR), TensorProto.INT64)

    assert_found(detect(make(tmp_path / "detector.onnx", layout, "imagenet")), within=6)


def test_81_classes_are_no_objectness_and_80(tmp_path: Path) -> None:
    path = make(tmp_path / "detector.onnx", partial(onnx_detectors.yolov8, classes=81))
    with pytest.raises(DetectorError, match=r"without a class.*--detector-layout"):
        detect(path)
    assert_found(detect(path, layout="yolov8", person_class=0), within=6)


@pytest.mark.parametrize(
    ("labels", "metadata"),
    [
        ((1, 2), {"names": "['person', 'car']"}),
        ((1, 2), {"names": "['__background__', 'person', 'car']"}),
        ((3, 1), {"categories": '[{"id": 3, "name": "Pessoa"}, {"id": 1, "name": "carro"}]'}),
        ((1, 3), {}),
    ],
)
def test_torchvision_counts_classes_from_1(labels: tuple[int, int], metadata: dict[str, str], tmp_path: Path) -> None:
    def layout(b: Builder) -> None:
        b.output("boxes", b.add("Concat", b.edges, np.array([[10, 2, 30, 20]], np.float32), axis=0))
        b.output("labels", b.add("Identity", np.array(labels, np.int64)), TensorProto.INT64)
        b.output("scores", b.add("Identity", np.array([0.9, 0.95], np.float32)))

    assert_found(detect(make(tmp_path / "detector.onnx", layout, **metadata)), within=6)


@pytest.mark.parametrize(
    ("names", "outputs"), [(("labels", "boxes", "scores"), {"labels"}), (("cls", "boxes", "conf"), set())]
)
def test_a_class_from_0_is_no_class_of_torchvision(
    names: tuple[str, str, str], outputs: set[str], tmp_path: Path
) -> None:
    def layout(b: Builder) -> None:
        b.output(names[1], b.add("Concat", b.edges, np.array([[10, 2, 30, 20]], np.float32), axis=0))
        b.output(names[0], b.add("Identity", np.array([0, 2], np.int64)), TensorProto.INT64)
        b.output(names[2], b.add("Identity", np.array([0.9, 0.95], np.float32)))

    path = make(tmp_path / "detector.onnx", layout)
    if outputs:  # torchvision's names
        with pytest.raises(DetectorError, match=r"class 0 .*--person-class"):
            detect(path)
        assert_found(detect(path, person_class=0), within=6)
    else:
        assert_found(detect(path), within=6)


def test_numbers_that_are_no_scores_are_refused(tmp_path: Path) -> None:
    layout = rows("pltrbsc", person=(90, 0), car=(55.5, 0))
    with pytest.raises(DetectorError, match=r"score 90|class 90"):
        detect(make(tmp_path / "detector.onnx", layout))


def test_names_choose_the_class_in_a_graph(tmp_path: Path) -> None:
    layout = partial(onnx_detectors.yolov8, classes=5, person=2)
    for key, name in (("labels", "Fußgänger"), ("id2label", "行人"), ("class_names", "personne")):
        names = {0: "dog", 1: "cup", 2: name, 3: "hat", 4: "car"}
        path = make(tmp_path / f"{key}.onnx", layout, **{key: json.dumps(names)})
        assert_found(detect(path), within=6)
    assert_found(detect(path, person_class="personne"), within=6)
    assert detect(path, person_class="car") != detect(path)
    with pytest.raises(DetectorError, match=r"--person-class .* at most 4.* got 5"):
        opened(path, person_class=5)


def test_a_layout_that_does_not_exist_or_fit_is_refused_with_those_that_do(tmp_path: Path) -> None:
    path = make(tmp_path / "detector.onnx", onnx_detectors.yolov8)
    with pytest.raises(DetectorError, match=r"--detector-layout .*yolov8, .* got 'yolo'"):
        opened(path, layout="yolo")
    with pytest.raises(DetectorError, match=r"--detector-layout .*got detr; these fit: yolov8"):
        opened(path, layout="detr")
    with pytest.raises(DetectorError, match="--detector-threshold"):
        opened(path, score=1.5)
    page = (Path(__file__).parents[3] / "docs/reference/detector-layouts.md").read_text(encoding="utf-8")
    assert [name for name in LAYOUTS if f"| `{name}` |" not in page] == []
