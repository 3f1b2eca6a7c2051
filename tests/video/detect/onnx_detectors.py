"""Small ONNX detectors in every layout, which find the white rectangle in a picture that is scaled as it should be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 96  # of the picture; YOLO has 189 places there
PLACES = 189
ROW = 17  # of the person; the next row is the same person with less score, the one after a car


class Builder:
    """Nodes of a graph, added one after the other."""

    def __init__(self, side: int, kind: str) -> None:
        self.nodes: list[Any] = []
        self.side = side
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.edges = self._white_rectangle(kind)

    def add(self, op: str, *inputs: Any, **attributes: Any) -> str:
        names = [value if isinstance(value, str) else self._constant(value) for value in inputs]
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, names, [name], **attributes))
        return name

    def output(self, name: str, value: str, dtype: int = TensorProto.FLOAT) -> None:
        self.nodes.append(helper.make_node("Cast", [value], [name], to=dtype))
        self.outputs.append(helper.make_tensor_value_info(name, dtype, None))

    def planted(self, columns: np.ndarray, rows: int, box: str) -> str:
        """(rows, 4 + C): the person's box in two rows, a car's in the next; `columns` (rows, C) beside."""
        person = np.zeros((rows, 1), np.float32)
        person[[ROW, ROW + 1]] = 1
        car = np.zeros((rows, 4), np.float32)
        car[ROW + 2] = [1, 2, 30, 20]
        boxes = self.add("Add", self.add("MatMul", person, box), car)
        return self.add("Concat", boxes, columns.astype(np.float32), axis=1)

    def save(self, path: Path, metadata: dict[str, str] | None = None) -> Path:
        graph = helper.make_graph(self.nodes, "detector", self.inputs, self.outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        helper.set_model_props(model, metadata or {})
        onnx.save(model, path)
        return path

    def centre(self) -> str:
        """The box as centre and size."""
        to_centre = np.array([[0.5, 0, -1, 0], [0, 0.5, 0, -1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]], np.float32)
        return self.add("MatMul", self.edges, to_centre)

    def of_one(self, box: str) -> str:
        """In parts of the picture's size."""
        return self.add("Div", box, np.float32(self.side))

    def _constant(self, value: Any) -> str:
        name = f"c{len(self.nodes)}"
        tensor = numpy_helper.from_array(np.asarray(value))
        self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def _white_rectangle(self, kind: str) -> str:
        """Edges (1, 4) in pixels. `kind` says the white: "unit" 1, "imagenet" 2.4, "bytes" and "bytes-first" 255."""
        types = {"bytes": TensorProto.UINT8, "half": TensorProto.FLOAT16}
        shape: list[Any] = ["n", 3, "h", "w"] if kind == "dynamic" else [1, 3, self.side, self.side]
        shape = [1, self.side, self.side, 3] if kind == "bytes" else shape
        self.inputs.append(helper.make_tensor_value_info("images", types.get(kind, TensorProto.FLOAT), shape))
        values = self.add("Cast", "images", to=TensorProto.FLOAT)
        grey = self.add("ReduceMean", values, axes=[3 if kind == "bytes" else 1], keepdims=0)
        byte = (250.0, 256.0)
        low, high = {"imagenet": (2.0, 3.0), "bytes": byte, "bytes-first": byte}.get(kind, (0.95, 1.05))
        white = self.add("And", self.add("Greater", grey, np.float32(low)), self.add("Less", grey, np.float32(high)))
        white = self.add("Cast", white, to=TensorProto.FLOAT)
        at = np.arange(self.side, dtype=np.float32)
        across, down = at[None, None, :], at[None, :, None]
        left, top = (self._largest(white, self.side - axis, flip=True) for axis in (across, down))
        right, bottom = (self._largest(white, axis + 1, flip=False) for axis in (across, down))
        return self.add("Concat", left, top, right, bottom, axis=1)

    def _largest(self, white: str, at: np.ndarray, *, flip: bool) -> str:
        largest = self.add("ReduceMax", self.add("Mul", white, at), axes=[0, 1, 2], keepdims=0)
        if flip:
            largest = self.add("Sub", np.float32(self.side), largest)
        return self.add("Reshape", largest, np.array([1, 1], np.int64))


def _class_scores(rows: int, classes: int, person: int, *, before: int = 0) -> np.ndarray:
    columns = np.zeros((rows, before + classes), np.float32)
    columns[[ROW, ROW + 1], before + person] = [0.9, 0.6]
    columns[ROW + 2, before + person + 2] = 0.95
    return columns


def yolov8(b: Builder, classes: int = 80, person: int = 0) -> None:
    table = b.planted(_class_scores(PLACES, classes, person), PLACES, b.centre())
    b.output("output0", b.add("Unsqueeze", b.add("Transpose", table, perm=[1, 0]), np.array([0], np.int64)))


def yolov5(b: Builder) -> None:
    columns = _class_scores(3 * PLACES, 80, 0, before=1)
    columns[[ROW, ROW + 1, ROW + 2], 0] = 0.8
    b.output("output", b.add("Unsqueeze", b.planted(columns, 3 * PLACES, b.centre()), np.array([0], np.int64)))


def end_to_end(b: Builder, person: int = 0) -> None:
    columns = np.zeros((300, 2), np.float32)
    columns[ROW] = [0.9, person]
    columns[ROW + 2] = [0.95, person + 2]
    b.output("output0", b.add("Unsqueeze", b.planted(columns, 300, b.edges), np.array([0], np.int64)))


def yolov7_rows(b: Builder) -> None:
    row = b.add("Concat", np.zeros((1, 1), np.float32), b.edges, np.array([[0, 0.9]], np.float32), axis=1)
    b.output("output", b.add("Concat", row, np.array([[0, 1, 2, 30, 20, 2, 0.95]], np.float32), axis=0))


def ultralytics_rtdetr(b: Builder) -> None:
    table = b.planted(_class_scores(300, 80, 0), 300, b.of_one(b.centre()))
    b.output("output0", b.add("Unsqueeze", b.add("Mul", table, _only_last_rows(300)), np.array([0], np.int64)))


def _only_last_rows(rows: int) -> np.ndarray:
    kept = np.ones((rows, 1), np.float32)
    kept[ROW + 1] = 0  # DETRs do not say the same person twice
    return kept


def _detr(b: Builder, boxes: str, logits: str, classes: int, person: int, low: float = -9.0) -> None:
    scores = np.full((300, classes), low, np.float32)
    scores[ROW, person], scores[ROW + 2, person + 2] = 3.0, 4.0
    if classes == 92:
        scores[:, 91] = 0.0
    table = b.planted(scores, 300, b.of_one(b.centre()))
    table = b.add("Unsqueeze", table, np.array([0], np.int64))
    b.output(boxes, b.add("Slice", table, np.array([0]), np.array([4]), np.array([2])))
    b.output(logits, b.add("Slice", table, np.array([4]), np.array([4 + classes]), np.array([2])))


def hf_rtdetr(b: Builder) -> None:
    _detr(b, "pred_boxes", "logits", 80, 0)


def hf_detr(b: Builder) -> None:
    b.inputs.append(helper.make_tensor_value_info("pixel_mask", TensorProto.INT64, [1, 64, 64]))
    _detr(b, "pred_boxes", "logits", 92, 1)


def rf_detr(b: Builder) -> None:
    _detr(b, "dets", "labels", 91, 1)


def d_fine(b: Builder) -> None:
    """The boxes are multiplied by the given size (w, h), as the authors' postprocessor does."""
    b.inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, ["n", 2]))
    size = b.add("Cast", "orig_target_sizes", to=TensorProto.FLOAT)
    box = b.add("Mul", b.of_one(b.edges), b.add("Concat", size, size, axis=1))
    table = b.add("Unsqueeze", b.planted(np.zeros((300, 0)), 300, box), np.array([0], np.int64))
    labels, scores = np.full((1, 300), 5, np.int64), np.zeros((1, 300), np.float32)
    labels[0, [ROW, ROW + 2]], scores[0, [ROW, ROW + 2]] = [0, 2], [0.9, 0.95]
    b.output("labels", b.add("Identity", labels), TensorProto.INT64)
    b.output("boxes", table)
    b.output("scores", b.add("Identity", scores))


def efficient_nms(b: Builder) -> None:
    """A count, and rows behind it that hold nothing."""
    boxes = b.add("Concat", b.edges, np.array([[1, 2, 30, 90]], np.float32), axis=0)
    b.output("num_dets", b.add("Identity", np.array([[1]], np.int32)), TensorProto.INT32)
    b.output("det_boxes", b.add("Unsqueeze", boxes, np.array([0], np.int64)))
    b.output("det_scores", b.add("Identity", np.array([[0.9, 0.8]], np.float32)))
    b.output("det_classes", b.add("Identity", np.array([[0, 0]], np.int32)), TensorProto.INT32)


def paddle(b: Builder) -> None:
    b.inputs.append(helper.make_tensor_value_info("im_shape", TensorProto.FLOAT, ["n", 2]))
    b.inputs.append(helper.make_tensor_value_info("scale_factor", TensorProto.FLOAT, ["n", 2]))
    row = b.add("Concat", np.array([[0, 0.9]], np.float32), b.edges, axis=1)
    b.output("rows", b.add("Concat", row, np.array([[2, 0.95, 1, 2, 30, 20]], np.float32), axis=0))


def tensorflow(b: Builder) -> None:
    turned = b.add("Gather", b.of_one(b.edges), np.array([1, 0, 3, 2]), axis=1)
    boxes = b.add("Concat", turned, np.array([[0, 0, 0.5, 0.5]], np.float32), axis=0)
    b.output("detection_boxes", b.add("Unsqueeze", boxes, np.array([0], np.int64)))
    b.output("detection_scores", b.add("Identity", np.array([[0.9, 0.95]], np.float32)))
    b.output("detection_classes", b.add("Identity", np.array([[1, 3]], np.float32)))


def torchvision(b: Builder) -> None:
    b.output("boxes", b.add("Concat", b.edges, np.array([[1, 2, 30, 20]], np.float32), axis=0))
    b.output("labels", b.add("Identity", np.array([1, 3], np.int64)), TensorProto.INT64)
    b.output("scores", b.add("Identity", np.array([0.9, 0.95], np.float32)))


# Layout, and what white is in its picture.
LAYOUTS: dict[str, tuple[Callable[[Builder], None], str]] = {
    "yolov8": (yolov8, "unit"),
    "yolov8-half": (yolov8, "half"),
    "yolov5": (yolov5, "unit"),
    "end-to-end": (end_to_end, "unit"),
    "yolov7-rows": (yolov7_rows, "unit"),
    "ultralytics-rtdetr": (ultralytics_rtdetr, "unit"),
    "hf-rtdetr": (hf_rtdetr, "unit"),
    "hf-detr": (hf_detr, "imagenet"),
    "rf-detr": (rf_detr, "imagenet"),
    "d-fine": (d_fine, "unit"),
    "efficient-nms": (efficient_nms, "unit"),
    "paddle": (paddle, "unit"),
    "tensorflow": (tensorflow, "bytes"),
    "torchvision": (torchvision, "unit"),
}


def make(path: Path, layout: Callable[[Builder], None], kind: str = "unit", **metadata: str) -> Path:
    builder = Builder(SIDE, kind)
    layout(builder)
    return builder.save(path, metadata)
