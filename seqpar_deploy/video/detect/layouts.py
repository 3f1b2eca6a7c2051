"""Lists the layouts that a detector's outputs may have, by their names and shapes. `evidence.py` decides by values.

Layouts and their sources (C classes, A anchors, Q queries, N boxes):

- YOLOv8, 9, 11, 26: `output0` (1, 4 + C, A). `nms=True`, `nms=False` of YOLO26 and YOLOv10, and YOLOv10, 26 before
  8.4.190: (1, N, 6) of edges, score, class. Both in pixels of the letterboxed input. RT-DETR of Ultralytics: (1, Q, 6)
  of centre, size, score, class, before 8.4 (1, Q, 4 + C), relative to the picture's size. All from Ultralytics'
  exporter, whose metadata `names` lists the classes.
- YOLOv5, 7: (1, A, 5 + C), an objectness before the classes, three anchors per cell. YOLOX and YOLOv6 have one anchor:
  YOLOX in the grid's units unless exported with `--decode_in_inference`, YOLOv6 with an objectness of 1.
- Rows (N, 7) after NMS: YOLOv7, 6, 9 `--end2end`: picture, edges, class, score. YOLO-NAS `flat`: picture, edges, score,
  class. Caffe's and OpenVINO's `detection_out`, PINTO's YOLOs: picture, class, score, edges.
- Rows (N, 6): PaddleDetection: class, score, edges, with the inputs `im_shape`, `scale_factor`.
- RT-DETR, D-FINE and DEIM of their authors: `labels`, `boxes`, `scores`. Boxes are multiplied by the input
  `orig_target_sizes` as (w, h) (lyuwenyu/RT-DETR `tools/export_onnx.py`, Peterande/D-FINE
  `tools/deployment/export_onnx.py`). TensorRT's EfficientNMS and YOLO-NAS `batch` have these three and a count.
- MMDeploy: `dets` (1, N, 5) of edges and score, `labels` (1, N).
- Hugging Face Optimum: `logits` (1, Q, C) and `pred_boxes` (1, Q, 4), centres and sizes from 0 to 1. DETR and YOLOS
  have a last class "no object" (softmax), Deformable DETR 91, RT-DETR and D-FINE 80 (sigmoid).
- RF-DETR: `dets` (1, Q, 4) like `pred_boxes`, and `labels` (1, Q, C + 1), sigmoid, with ImageNet's mean and standard
  deviation. C is 90 with COCO's numbers, but also after training on other classes (roboflow/rf-detr issue 902).
- YOLO-NAS without NMS, PP-YOLOE, DAMO-YOLO, YOLOv4: boxes (1, A, 4) and class scores (1, A, C), or both turned.
- torchvision: `boxes` (N, 4), `labels` and `scores` (N,), COCO's classes from 1. Detectron2: `pred_classes` from 0.
- TensorFlow's detection API: `detection_boxes` (top, left, bottom, right from 0 to 1), `_classes` from 1, `_scores`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.errors import DetectorError
from seqpar_deploy.video.detect.decoding import (
    Arrays,
    Table,
    columns_in_name,
    dense,
    edges_of,
    on_grid,
    probabilities,
    rows_by,
)
from seqpar_deploy.video.detect.layout import BY_COUNT, COCO_80, COCO_91, FROM_1, ONE, Graph, Layout
from seqpar_deploy.video.detect.values import are_edges, are_relative, has_no_class, has_no_object

MANY = 1000  # detectors have fewer queries and more anchors
_ROWS = {
    7: {
        "yolov7-end-to-end": "pltrbcs",
        "yolo-nas-flat": "pltrbsc",
        "class-score-edges": "pcsltrb",
        "yolox-rows": "ltrbosc",
        "efficientdet": "ptlbrsc",
    },
    6: {
        "yolo-end-to-end": "ltrbsc",
        "paddle": "csltrb",
        "edges-class-score": "ltrbcs",
        "ultralytics-rt-detr-rows": "xywhsc",
        "centre-score-class": "xywhsc",
    },
    5: {"edges-score": "ltrbs"},
}
_SPARE = ("efficientdet", "ultralytics-rt-detr-rows", "centre-score-class")  # values as of a commoner layout
_STRETCHED = ("paddle", "ultralytics-rt-detr-rows")
LAYOUTS = (
    *("yolov8", "yolov8-edges", "yolov5", "yolov6", "yolox", "yolox-decoded", "ultralytics-rt-detr", "detr", "rf-detr"),
    *(name for rows in _ROWS.values() for name in rows),
    *("labels-boxes-scores", "labels-from-1", "torchvision", "mmdeploy", "tensorflow"),
    *("boxes-and-class-scores", "centres-and-class-scores", "detection-out"),
)


def possible_layouts(graph: Graph) -> list[Layout]:
    """Return the layouts that names and shapes allow, the likeliest first. Raises DetectorError if none."""
    for family in (_tensorflow, _separate, _boxes_and_matrix, _table):
        found = family(graph)
        if not found:
            continue
        if graph.layout is not None:
            named = [layout for layout in found if layout.name == graph.layout]
            if not named:
                fit = ", ".join(dict.fromkeys(layout.name for layout in found))
                raise DetectorError(
                    f"--detector-layout must fit its outputs {graph.shown}, got {graph.layout}; these fit: {fit}"
                )
            return [dataclasses.replace(layout, spare=False) for layout in named]
        known = [layout for layout in found if graph.knows(layout)]
        if not any(not layout.spare for layout in known):
            next(layout for layout in found if not layout.spare).people(graph.names, graph.wanted)  # raises
        return known
    raise DetectorError(
        "its outputs must be YOLO's (1, 4 + classes, anchors) or (1, anchors, 5 + classes), rows after NMS, boxes with "
        f"scores and labels, or pred_boxes with logits of the DETR family, got {graph.shown}; export it in one of "
        "these layouts"
    )


def _tensorflow(graph: Graph) -> list[Layout]:
    if not {"detection_boxes", "detection_scores", "detection_classes"} <= set(graph.outputs):
        return []

    def decode(outputs: Arrays) -> Table:
        edges = outputs["detection_boxes"].reshape(-1, 4)[:, [1, 0, 3, 2]]
        return _labelled(edges, outputs["detection_scores"], outputs["detection_classes"])

    return [Layout(name="tensorflow", fit="stretch", scaling="0-255", decode=decode, numbering=COCO_91)]


def _separate(graph: Graph) -> list[Layout]:
    """Boxes (1, N, 4) with labels and scores (1, N). torchvision omits the first dimension. MMDeploy: (1, N, 5)."""
    found = [name for name, array in graph.outputs.items() if array.ndim in (2, 3) and array.shape[-1] in (4, 5)]
    boxes = next((name for name in found if "box" in name or "det" in name), found[0] if len(found) == 1 else None)
    if boxes is None:
        return []
    array = graph.outputs[boxes]
    flat = [
        name
        for name, other in graph.outputs.items()
        if name != boxes and "num" not in name and other.shape in (array.shape[:-1], (*array.shape[:-1], 1))
    ]
    labels = [name for name in flat if any(word in name.lower() for word in ("label", "class", "cls", "categor"))]
    labels = labels or [name for name in flat if graph.outputs[name].dtype.kind in "iu"]
    scores = [name for name in flat if name not in labels]
    scores = [name for name in scores if any(word in name.lower() for word in ("score", "conf", "prob"))] or scores
    if len(labels) != 1 or len(scores) != (1 if array.shape[-1] == 4 else 0):
        return []
    counts = [name for name, other in graph.outputs.items() if other.size == 1 and "num" in name]

    def decode(outputs: Arrays) -> Table:
        rows = max(0, int(np.nan_to_num(outputs[counts[0]].flat[0], nan=0, posinf=0))) if counts else None
        box = outputs[boxes].reshape(-1, array.shape[-1])[:rows]
        score = outputs[scores[0]].reshape(-1)[:rows] if scores else box[:, 4]
        return _labelled(box[:, :4], score, outputs[labels[0]].reshape(-1)[:rows])

    suppress = array.shape[-2] > MANY
    sized = "orig_target_sizes" in graph.inputs
    from_0 = Layout(name="labels-boxes-scores", fit="stretch" if sized else "letterbox", decode=decode)
    from_0 = dataclasses.replace(from_0, suppress=suppress)
    if not scores:
        return [dataclasses.replace(from_0, name="mmdeploy", scaling="imagenet")]
    from_1 = dataclasses.replace(from_0, name="labels-from-1", numbering=FROM_1)
    torchvision = dataclasses.replace(from_0, name="torchvision", numbering=COCO_91)
    model_zoo = dataclasses.replace(from_1, fit="stretch", scaling="imagenet")  # SSD of ONNX's model zoo
    if graph.layout is not None:
        return [from_0, model_zoo if boxes == "bboxes" else from_1, torchvision]
    if boxes == "bboxes":
        return [model_zoo]
    if array.ndim == 2 and labels == ["labels"]:
        return [torchvision]
    if sized or counts or graph.names or graph.wanted is not None or labels == ["pred_classes"]:
        return [from_0]
    return [from_0, from_1]


def _boxes_and_matrix(graph: Graph) -> list[Layout]:
    """Boxes (1, Q, 4) or (1, 4, Q) with logits or class scores (1, Q, C) or (1, C, Q)."""
    squeezed = {name: _squeezed(array) for name, array in graph.outputs.items()}
    tables = {name: array for name, array in squeezed.items() if array.ndim == 2}
    named = [name for name in tables if "box" in name or name == "dets"]
    boxes = next((name for name in [*named, *tables] if tables[name].shape[1] == 4), None)
    turned = boxes is None  # (1, 4, A)
    if turned:
        boxes = next((name for name in [*named, *tables] if tables[name].shape[0] == 4), None)
    if boxes is None or len(tables) < 2:
        return []
    count = tables[boxes].shape[1 if turned else 0]
    usual = [name for name in ("logits", "pred_logits", "labels") if name in tables]
    logits = next((name for name in [*usual, *tables] if name != boxes and count in tables[name].shape), None)
    if logits is None:
        return []
    across = tables[logits].shape[0] != count
    classes = tables[logits].shape[0 if across else 1]
    family = boxes in ("pred_boxes", "dets") or logits in ("logits", "pred_logits", "labels")
    softmax = family and boxes != "dets" and has_no_object(tables[logits], classes)
    if softmax:
        classes -= 1

    def box_of(outputs: Arrays) -> npt.NDArray[Any]:
        box = _squeezed(outputs[boxes])
        return box.T if turned else box

    def decode(outputs: Arrays, *, centre: bool) -> Table:
        box = box_of(outputs).astype(np.float32)
        values = _squeezed(outputs[logits])
        scores = probabilities(values.T if across else values, softmax=softmax)[:, :classes]
        return Table(edges=edges_of(box) if centre else box, scores=scores)

    if family:
        return [
            Layout(
                name="rf-detr" if boxes == "dets" else "detr",
                fit="stretch",
                scaling="imagenet" if boxes == "dets" or softmax or classes == 91 else "unit",
                decode=lambda outputs: decode(outputs, centre=True),
                classes=classes,
                numbering=BY_COUNT.get(classes),
                relative=True,
            )
        ]
    edges = Layout(
        name="boxes-and-class-scores",
        fit="letterbox",
        suppress=True,
        decode=lambda outputs: decode(outputs, centre=False),
        classes=classes,
        numbering=BY_COUNT.get(classes),
    )
    centres = dataclasses.replace(
        edges,
        name="centres-and-class-scores",
        decode=lambda outputs: decode(outputs, centre=True),
        check=lambda outputs: are_edges(box_of(outputs)),
    )
    return [edges, centres]


def _table(graph: Graph) -> list[Layout]:
    """One output: rows after NMS, or a table of all anchors or queries. Later outputs are masks, or counts."""
    name, array = next(iter(graph.outputs.items()))
    if array.ndim == 4 and array.shape[:2] == (1, 1) and array.shape[3] == 7:
        return [Layout(name="detection-out", fit="stretch", decode=rows_by("pcsltrb", name), numbering=None)]
    if array.ndim == 2:
        return _rows(graph, name, array)
    if array.ndim != 3 or array.shape[0] != 1:
        return []
    anchors = _anchors(graph, name, array)
    rows, columns = array.shape[1:]
    if rows > MANY or (anchors and (columns > 7 or rows < columns)):
        return anchors
    return _rows(graph, name, array) + anchors


def _rows(graph: Graph, name: str, array: npt.NDArray[Any]) -> list[Layout]:
    count = array.shape[-1]
    columns = columns_in_name(name)
    if columns is not None and "s" in columns and count >= len(columns) and graph.layout is None:
        known = {letters: title for rows in _ROWS.values() for title, letters in rows.items()}
        title = known.get(columns, f"columns {columns}")
        return [Layout(name=title, fit="letterbox", decode=rows_by(columns, name))]

    def pixels(outputs: Arrays) -> str | None:
        return "boxes relative to the picture" if are_relative(outputs[name]) else None

    found = [
        Layout(
            name=title,
            fit="stretch" if title in _STRETCHED else "letterbox",
            decode=rows_by(letters, name),
            numbering=ONE if title == "edges-score" else COCO_80,
            classes=1 if title == "edges-score" else None,
            relative=title == "ultralytics-rt-detr-rows",
            check=pixels if title == "centre-score-class" and graph.layout is None else None,
            spare=title in _SPARE and not (title == "efficientdet" and "detections" in name),
        )
        for title, letters in _ROWS.get(6 if count in (38, 57) else count, {}).items()
    ]
    if array.ndim == 3 and count > 4:
        queries = _queries(name, count - 4)
        other_count = count != 4 + len(graph.names) and (count in (38, 57) or (graph.ultralytics and graph.names))
        if graph.layout or not other_count:
            found.append(queries)
    return found if graph.layout else _likely_rows(graph, name, found)


def _likely_rows(graph: Graph, name: str, found: list[Layout]) -> list[Layout]:
    """Keep the layouts of the exporter that names and metadata tell."""
    likely: tuple[str, ...] = ()
    if {"scale_factor", "im_shape"} & graph.inputs:
        likely = ("paddle",)
    elif "flat_predictions" in name:
        likely = ("yolo-nas-flat",)
    elif graph.ultralytics and are_relative(graph.outputs[name]):
        likely = ("ultralytics-rt-detr-rows", "ultralytics-rt-detr")
        found = [dataclasses.replace(layout, spare=False) for layout in found]
    elif graph.ultralytics:
        likely = ("yolo-end-to-end", "ultralytics-rt-detr", "edges-score")
    elif any(layout.name == "efficientdet" and not layout.spare for layout in found):
        likely = ("efficientdet",)
    return [layout for layout in found if layout.name in likely] or found


def _queries(name: str, classes: int) -> Layout:
    return Layout(
        name="ultralytics-rt-detr",
        fit="stretch",
        decode=dense(name, columns_first=False, objectness=False, classes=classes),
        classes=classes,
        numbering=BY_COUNT.get(classes),
        relative=True,
    )


def _anchors(graph: Graph, name: str, array: npt.NDArray[Any]) -> list[Layout]:
    """Centre, size, perhaps an objectness, and class scores of each anchor."""
    rows, columns = array.shape[1:]
    cells = {graph.places(3), graph.places(4)}
    columns_first = columns in {*cells, graph.coarse_places} or columns > max(MANY, rows)
    anchors, values = (columns, rows) if columns_first else (rows, columns)
    if not (columns_first or anchors > MANY or anchors in cells | {3 * number for number in cells}):
        return []
    one_per_cell = not columns_first and anchors in cells
    plain = _dense(graph, "yolov8", name, values, columns_first, objectness=False)
    objects = _dense(graph, "yolov5", name, values, columns_first, objectness=True)
    if plain is None:
        return []
    if graph.layout == "yolov8-edges":
        decode = dense(name, columns_first=columns_first, objectness=False, classes=plain.classes or 1, centre=False)
        return [dataclasses.replace(plain, name="yolov8-edges", decode=decode, check=None)]
    if objects is None:
        return [plain]
    with_objectness = _one_per_cell(graph, name, objects, anchors) if one_per_cell else [objects]
    if graph.layout:
        return [plain, *with_objectness]
    if columns_first and graph.ultralytics:
        return [plain]  # the value more than classes is the angle of an oriented box
    if graph.names and len(graph.names) in (values - 4, values - 5):
        return [plain] if len(graph.names) == values - 4 else with_objectness
    if values - 4 in BY_COUNT or values - 5 == 80:
        return [plain] if values - 4 in BY_COUNT else with_objectness
    if columns_first:
        return [plain]
    return [*with_objectness, plain] if one_per_cell and graph.wanted is not None else with_objectness


def _dense(graph: Graph, title: str, name: str, values: int, columns_first: bool, *, objectness: bool) -> Layout | None:
    # The values after the classes are coefficients of masks or key points.
    room = values - (5 if objectness else 4)
    classes = len(graph.names) if 0 < len(graph.names) <= room else room
    if classes < 1:
        return None

    def check(outputs: Arrays) -> str | None:
        table = outputs[name][0].T if columns_first else outputs[name][0]
        if objectness:
            return has_no_class(table)
        edges = None if graph.layout else are_edges(table[:, :4])
        return f"{edges}, as of yolov8-edges" if edges else None

    return Layout(
        name=title,
        fit="letterbox",
        suppress=True,
        decode=dense(name, columns_first=columns_first, objectness=objectness, classes=classes),
        classes=classes,
        numbering=BY_COUNT.get(classes),
        check=check,
    )


def _one_per_cell(graph: Graph, name: str, objects: Layout, anchors: int) -> list[Layout]:
    """Return YOLOX in the grid's units and in pixels, and YOLOv6."""

    def raw(outputs: Arrays) -> npt.NDArray[Any]:
        table = outputs[name][0]
        scores = table[:, 4] * table[:, 5:].max(axis=1)
        sure = scores >= 0.25
        table = table[sure if sure.any() else np.any(table != 0, axis=1)]
        return np.asarray(table[np.isfinite(table).all(axis=1)])

    def in_pixels(outputs: Arrays) -> str | None:
        rows = raw(outputs)
        return "sizes of pixels" if len(rows) and float(np.abs(rows[:, :4]).max(axis=1).mean()) > 12 else None

    def in_cells(outputs: Arrays) -> str | None:
        rows = raw(outputs)
        if len(rows) and bool((rows[:, 4] == 1).all()):
            return "an objectness of 1 everywhere"
        return "sizes of the grid" if len(rows) and in_pixels(outputs) is None else None

    def has_objectness(outputs: Arrays) -> str | None:
        rows = raw(outputs)
        return "an objectness other than 1" if len(rows) and bool((rows[:, 4] != 1).any()) else None

    yolox = dataclasses.replace(objects, scaling="0-255-bgr")
    grid = on_grid(objects.decode, name, graph.picture.height, graph.picture.width)
    return [
        dataclasses.replace(yolox, name="yolox", decode=grid, check=in_pixels),
        dataclasses.replace(yolox, name="yolox-decoded", check=in_cells),
        dataclasses.replace(objects, name="yolov6", check=has_objectness),
    ]


def _labelled(edges: npt.NDArray[Any], scores: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Table:
    return Table(
        edges=edges.astype(np.float32),
        scores=scores.reshape(-1).astype(np.float32),
        labels=labels.reshape(-1).astype(np.float32),
    )


def _squeezed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return (1, Q, C) or YOLOv4's (1, Q, 1, C) as (Q, C)."""
    if array.ndim == 4 and array.shape[2] == 1:
        array = array[:, :, 0]
    return array[0] if array.ndim == 3 and array.shape[0] == 1 else array.reshape(-1)
