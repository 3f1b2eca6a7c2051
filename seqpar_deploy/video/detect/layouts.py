"""Recognises the layout of a detector's outputs by their names and shapes.

Layouts and their sources (C classes, A anchors, Q queries, N boxes):

- YOLOv8, 11: `output0` (1, 4 + C, A). YOLOv10, 26 and `nms=True`: (1, N, 6) of edges, score, class. Both in pixels of
  the letterboxed input. RT-DETR of Ultralytics: (1, Q, 4 + C), relative to the picture's size. All from Ultralytics'
  exporter, whose metadata `names` lists the classes.
- YOLOv5, 7: (1, A, 5 + C), an objectness before the classes, three anchors per cell. YOLOv7 `--end2end --max-wh`:
  (N, 7) of picture, edges, class, score.
- RT-DETR and D-FINE of their authors: `labels`, `boxes`, `scores`. Boxes are multiplied by the input
  `orig_target_sizes` as (w, h) (lyuwenyu/RT-DETR `tools/export_onnx.py`, Peterande/D-FINE
  `tools/deployment/export_onnx.py`). Graphs that end in TensorRT's EfficientNMS have these three and a count.
- Hugging Face Optimum: `logits` (1, Q, C) and `pred_boxes` (1, Q, 4), centres and sizes from 0 to 1. DETR and YOLOS
  have 92 classes (softmax, the last is "no object"), Deformable DETR 91, RT-DETR and D-FINE 80 (sigmoid).
- RF-DETR: `dets` (1, Q, 4) like `pred_boxes`, and `labels` (1, Q, 91), sigmoid, with ImageNet's mean and standard
  deviation (roboflow/rf-detr `rfdetr/detr.py`, `rfdetr/main.py`).
- PaddleDetection by paddle2onnx: inputs `im_shape`, `scale_factor`; (N, 6): class, score, edges.
- torchvision: `boxes` (N, 4), `labels` and `scores` (N,), COCO's classes from 1.
- TensorFlow's detection API: `detection_boxes` (top, left, bottom, right from 0 to 1), `_classes` from 1, `_scores`.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.errors import DetectorError
from seqpar_deploy.video.detect.picture import Fit, FloatArray, PictureInput, Scaling

PEOPLE = ("person", "pedestrian", "people", "human")
MANY = 1000  # detectors have fewer queries and more anchors
KNOWN = (
    "YOLO's (1, 4 + classes, anchors) or (1, anchors, 5 + classes), (1, N, 6) or (N, 7) after NMS, boxes with scores "
    "and labels, or pred_boxes with logits of the DETR family"
)

Arrays = Mapping[str, npt.NDArray[Any]]
Found = tuple[FloatArray, FloatArray]  # edges (N, 4) in pixels of the picture, scores (N,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """`decode` converts the graph's outputs to people. `suppress` if the graph needs non-maximum suppression."""

    name: str
    fit: Fit
    scaling: Scaling
    suppress: bool
    decode: Callable[[Arrays], Found]


def recognize(
    outputs: Arrays, picture: PictureInput, *, names: Mapping[int, str], person_class: int | None, inputs: set[str]
) -> Layout:
    """Recognise the layout of a graph by the outputs of one run.

    `names` are the classes in the file's metadata, if any. `inputs` are the names of all inputs. Raises DetectorError
    that lists the outputs.
    """
    arrays = {name.removesuffix(":0"): array for name, array in outputs.items()}
    graph = _Graph(outputs=arrays, picture=picture, names=names, person_class=person_class, inputs=inputs)
    for family in (_tensorflow, _labels_boxes_scores, _detr, _rows, _yolo):
        layout = family(graph)
        if layout is not None:
            return dataclasses.replace(layout, decode=_by_plain_name(layout.decode))
    raise DetectorError(f"its outputs must be {KNOWN}, got {_shapes(arrays)}; export it in one of these layouts")


def class_names(metadata: Mapping[str, str]) -> dict[int, str]:
    """Return the classes in Ultralytics' metadata `names`, the text of a Python dict or list. Empty if none."""
    try:
        names = ast.literal_eval(metadata.get("names", "{}"))
    except (ValueError, SyntaxError):
        return {}
    pairs = names.items() if isinstance(names, dict) else enumerate(names) if isinstance(names, list) else ()
    return {int(number): str(name) for number, name in pairs}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Graph:
    """The properties of a graph by which its layout is recognised."""

    outputs: Arrays
    picture: PictureInput
    names: Mapping[int, str]
    person_class: int | None
    inputs: set[str]

    @property
    def size(self) -> FloatArray:
        """Width, height, width, height of the picture in pixels."""
        return np.array([self.picture.width, self.picture.height] * 2, dtype=np.float32)

    @property
    def places(self) -> int:
        """Number of cells of YOLO's three grids."""
        return sum((self.picture.height // step) * (self.picture.width // step) for step in (8, 16, 32))

    def people(self, usual: int | None) -> list[int]:
        """Return the classes of people, `usual` if neither caller nor file defines them. Raises DetectorError."""
        if self.person_class is not None:
            return [self.person_class]
        if self.names:
            found = [number for number, name in self.names.items() if name.lower() in PEOPLE]
            if not found:
                some = ", ".join(list(self.names.values())[:5])
                raise DetectorError(f"its classes must include person, got {some}, ...; set person_class")
            return found
        if usual is None:
            raise DetectorError(
                f"its class of people must be known, got outputs {_shapes(self.outputs)} without class names; set "
                "person_class"
            )
        return [usual]

    def people_of(self, classes: int) -> list[int]:
        """Return `people` for this number of classes: COCO has 80, or 91 with gaps, and 1 means only people."""
        found = self.people({1: 0, 80: 0, 90: 0, 91: 1, 92: 1}.get(classes))
        if max(found) >= classes:
            raise DetectorError(f"person_class must be below {classes}, its number of classes, got {max(found)}")
        return found


def _tensorflow(graph: _Graph) -> Layout | None:
    if not {"detection_boxes", "detection_scores", "detection_classes"} <= set(graph.outputs):
        return None
    people = graph.people(1)

    def decode(outputs: Arrays) -> Found:
        edges = outputs["detection_boxes"][0][:, [1, 0, 3, 2]] * graph.size
        return _of_class(edges, outputs["detection_scores"][0], outputs["detection_classes"][0], people)

    return Layout(name="detection_boxes", fit="stretch", scaling="unit", suppress=False, decode=decode)


def _labels_boxes_scores(graph: _Graph) -> Layout | None:
    """Boxes (1, N, 4) with labels and scores (1, N). torchvision omits the first dimension."""
    boxes = [name for name, array in graph.outputs.items() if array.ndim in (2, 3) and array.shape[-1] == 4]
    if len(boxes) != 1:
        return None
    edges = graph.outputs[boxes[0]]
    flat = {name: array for name, array in graph.outputs.items() if array.shape == edges.shape[:-1]}
    labels = [name for name in flat if "label" in name or "class" in name]
    scores = [name for name in flat if "score" in name]
    if len(labels) != 1 or len(scores) != 1:
        return None
    counts = [name for name, array in graph.outputs.items() if array.size == 1 and "num" in name]
    people = graph.people(0 if edges.ndim == 3 else 1)  # torchvision numbers COCO's 91 classes from 1

    def decode(outputs: Arrays) -> Found:
        rows = int(outputs[counts[0]].flat[0]) if counts else None
        return _of_class(
            outputs[boxes[0]].reshape(-1, 4)[:rows],
            outputs[scores[0]].reshape(-1)[:rows],
            outputs[labels[0]].reshape(-1)[:rows],
            people,
        )

    fit: Fit = "stretch" if "orig_target_sizes" in graph.inputs else "letterbox"
    return Layout(name="labels, boxes, scores", fit=fit, scaling="unit", suppress=False, decode=decode)


def _detr(graph: _Graph) -> Layout | None:
    boxes = next((name for name in ("pred_boxes", "dets", "boxes") if name in graph.outputs), None)
    logits = next((name for name in ("logits", "pred_logits", "labels") if name in graph.outputs), None)
    if boxes is None or logits is None or graph.outputs[logits].ndim != 3:
        return None
    classes = graph.outputs[logits].shape[2]
    softmax = classes == 92
    people = graph.people_of(classes)

    def decode(outputs: Arrays) -> Found:
        values = outputs[logits][0].astype(np.float32)
        scores = _softmax(values) if softmax else _sigmoid(values)
        return _edges(outputs[boxes][0] * graph.size), scores[:, people].max(axis=1)

    scaling: Scaling = "imagenet" if boxes == "dets" or classes in (91, 92) else "unit"
    return Layout(name=f"{boxes}, {logits}", fit="stretch", scaling=scaling, suppress=False, decode=decode)


def _rows(graph: _Graph) -> Layout | None:
    """One person per row, after NMS."""
    name, array = _main(graph)
    if array.ndim == 2 and array.shape[1] == 7:
        people = graph.people(0)

        def decode_7(outputs: Arrays) -> Found:
            return _of_class(outputs[name][:, 1:5], outputs[name][:, 6], outputs[name][:, 5], people)

        return Layout(name="YOLOv7 end to end", fit="letterbox", scaling="unit", suppress=False, decode=decode_7)
    if array.ndim == 2 and array.shape[1] == 6 and "scale_factor" in graph.inputs:
        people = graph.people(0)

        def decode_6(outputs: Arrays) -> Found:
            return _of_class(outputs[name][:, 2:6], outputs[name][:, 1], outputs[name][:, 0], people)

        return Layout(name="PaddleDetection", fit="stretch", scaling="unit", suppress=False, decode=decode_6)
    if array.ndim == 3 and array.shape[2] == 6 and array.shape[1] <= MANY and array.shape[1] != graph.places:
        people = graph.people(0)

        def decode_end_to_end(outputs: Arrays) -> Found:
            rows = outputs[name][0]
            return _of_class(rows[:, :4], rows[:, 4], rows[:, 5], people)

        return Layout(name="YOLO end to end", fit="letterbox", scaling="unit", suppress=False, decode=decode_end_to_end)
    return None


def _yolo(graph: _Graph) -> Layout | None:
    """Centre, size and class scores of each anchor."""
    name, array = _main(graph)
    if array.ndim != 3 or array.shape[0] != 1:
        return None
    rows, columns = array.shape[1:]
    if columns == graph.places or columns > max(MANY, rows):
        return _dense(graph, name, columns_first=True, objectness=False, values=rows)
    if rows == graph.places and columns != 4 + len(graph.names):
        raise DetectorError(
            f"its layout must be unambiguous, got output {name} {array.shape} of YOLOv6 or YOLOX; export it with NMS"
        )
    if rows == graph.places:
        return _dense(graph, name, columns_first=False, objectness=False, values=columns)
    if rows == 3 * graph.places or rows > MANY:
        return _dense(graph, name, columns_first=False, objectness=True, values=columns)
    if columns in (4 + len(graph.names), 84):
        return _queries(graph, name, classes=columns - 4)
    return None


def _dense(graph: _Graph, name: str, *, columns_first: bool, objectness: bool, values: int) -> Layout:
    before = 5 if objectness else 4
    # The values after the classes are coefficients of masks or key points.
    classes = len(graph.names) if 0 < len(graph.names) <= values - before else values - before
    people = [before + number for number in graph.people_of(classes)]

    def decode(outputs: Arrays) -> Found:
        table = outputs[name][0].T if columns_first else outputs[name][0]
        scores = table[:, people].max(axis=1)
        return _edges(table[:, :4]), (scores * table[:, 4] if objectness else scores).astype(np.float32)

    kind = "YOLOv5" if objectness else "YOLOv8"
    return Layout(name=kind, fit="letterbox", scaling="unit", suppress=True, decode=decode)


def _queries(graph: _Graph, name: str, *, classes: int) -> Layout:
    people = [4 + number for number in graph.people_of(classes)]

    def decode(outputs: Arrays) -> Found:
        table = outputs[name][0]
        return _edges(table[:, :4] * graph.size), table[:, people].max(axis=1).astype(np.float32)

    return Layout(name="Ultralytics RT-DETR", fit="stretch", scaling="unit", suppress=False, decode=decode)


def _main(graph: _Graph) -> tuple[str, npt.NDArray[Any]]:
    """Return the first output. Later ones are prototypes of masks, or counts."""
    return next(iter(graph.outputs.items()))


def _by_plain_name(decode: Callable[[Arrays], Found]) -> Callable[[Arrays], Found]:
    return lambda outputs: decode({name.removesuffix(":0"): array for name, array in outputs.items()})


def _of_class(edges: npt.NDArray[Any], scores: npt.NDArray[Any], labels: npt.NDArray[Any], people: list[int]) -> Found:
    kept = np.isin(np.rint(labels).astype(np.int64), people)
    return edges[kept].astype(np.float32), scores[kept].astype(np.float32)


def _edges(centres: npt.NDArray[Any]) -> FloatArray:
    """Convert centre x, y, width, height (N, 4) to edges (N, 4)."""
    centre, half = centres[:, :2].astype(np.float32), centres[:, 2:4].astype(np.float32) / 2
    return np.concatenate([centre - half, centre + half], axis=1)


def _sigmoid(values: FloatArray) -> FloatArray:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -60, 60))), dtype=np.float32)


def _softmax(values: FloatArray) -> FloatArray:
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), dtype=np.float32)


def _shapes(arrays: Arrays) -> str:
    return ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
