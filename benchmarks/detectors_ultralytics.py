"""Cases of detectors_exporters.py: Ultralytics' YOLOs and RT-DETR, from their .yaml."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectors_exporters import (
    OVERLAP,
    THRESHOLD,
    Case,
    Exported,
    as_tensor,
    cropped,
    fit_norms,
    people_of,
    spread_classes,
)

SIDE = 320  # pixels; a fourth of the usual 640 x 640, as nothing but size changes


def export(folder: Path, picture: Any, *, config: str, classes: int | None = None, **options: Any) -> Exported:
    from ultralytics import RTDETR, YOLO

    model = (RTDETR if "rtdetr" in config else YOLO)(f"{config}.yaml")
    if classes is not None:
        model = YOLO(renumbered(folder, config, classes))
    model.model.names = names_of(model.model)
    size = options.get("imgsz", SIDE)
    height, width = size if isinstance(size, tuple) else (size, size)
    picture = cropped(picture, SIDE) if "rtdetr" in config else picture
    net, tensor = model.model, as_tensor(picture, height, width, letterbox="rtdetr" not in config)
    net.eval()
    fit_norms(net, lambda: net.predict(tensor))
    spread_classes(class_layers(net.model[-1]), lambda: net.predict(tensor))
    strip, asked = options.pop("strip", False), dict(options)
    people: list[list[float]] = []
    blue_first = np.ascontiguousarray(picture[..., ::-1])
    nms = False if options.get("nms") is False else None
    overlap = 1.0 if "quantize" in options else OVERLAP  # half precision would suppress other boxes
    limits: dict[str, Any] = {"conf": THRESHOLD, "iou": overlap, "max_det": 300 if "nms" in options else 3000}
    found = model.predict(blue_first, imgsz=size, nms=nms, verbose=False, rect=False, **limits)
    kind = found[0].obb if found[0].boxes is None else found[0].boxes
    if kind is not None:
        people = people_of(kind.xyxy, kind.conf, kind.cls)
    options |= limits if "nms" in options else {}
    path = Path(model.export(format="onnx", verbose=False, **{"imgsz": SIDE, **options}))
    if strip:
        without_metadata(path)
    words = "".join(f" {name}={value}" for name, value in asked.items() if name != "imgsz")
    line = f"yolo export model={config}.pt format=onnx{words}" + (" (metadata removed)" if strip else "")
    return Exported(
        path=path,
        line=line,
        people=people,
        options={"overlap": overlap},
        packages=("ultralytics", "onnxslim"),
        picture=picture,
        half="quantize" in options,
    )


def names_of(net: Any) -> dict[int, str]:
    """Return COCO's names, as a trained model has."""
    from ultralytics.utils import YAML
    from ultralytics.utils.checks import check_yaml

    names = YAML.load(check_yaml("coco.yaml"))["names"]
    return {number: names[number] for number in range(net.model[-1].nc)}


def class_layers(head: Any) -> list[Any]:
    """Return the last layers of the classes, of both branches, or of RT-DETR's decoder."""
    if hasattr(head, "dec_score_head"):
        return [head.enc_score_head, *head.dec_score_head]
    branches = [getattr(head, name, None) for name in ("cv3", "one2one_cv3")]
    return [level[-1] for branch in branches if branch is not None for level in branch]


def renumbered(folder: Path, config: str, classes: int) -> str:
    """Write the model's .yaml with another number of classes."""
    import yaml
    from ultralytics.nn.tasks import yaml_model_load

    values = yaml_model_load(f"{config}.yaml") | {"nc": classes}
    path = folder / f"{config}.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return str(path)


def without_metadata(path: Path) -> None:
    import onnx

    model = onnx.load(path)
    del model.metadata_props[:]
    model.producer_name, model.doc_string = "", ""
    model.graph.doc_string = ""
    onnx.save(model, path)


def case(config: str, **options: Any) -> Case:
    return partial(export, config=config, **options)


CASES: dict[str, Case] = {
    "ultralytics-yolov3-tiny": case("yolov3-tiny"),
    "ultralytics-yolov5n": case("yolov5n"),
    "ultralytics-yolov6n": case("yolov6n"),
    "ultralytics-yolov8n": case("yolov8n"),
    "ultralytics-yolov9t": case("yolov9t"),
    "ultralytics-yolov10n": case("yolov10n"),
    "ultralytics-yolo11n": case("yolo11n"),
    "ultralytics-yolo11n-opset12": case("yolo11n", opset=12),
    "ultralytics-yolo11n-opset20": case("yolo11n", opset=20),
    "ultralytics-yolo11n-dynamic": case("yolo11n", dynamic=True),
    "ultralytics-yolo11n-half": case("yolo11n", quantize=16),
    "ultralytics-yolo11n-unslimmed": case("yolo11n", simplify=False),
    "ultralytics-yolo11n-nms": case("yolo11n", nms=True),
    "ultralytics-yolo11n-nms-dynamic": case("yolo11n", nms=True, dynamic=True),
    "ultralytics-yolo11n-nms-half": case("yolo11n", nms=True, quantize=16),
    "ultralytics-yolo11n-wide": case("yolo11n", imgsz=(256, 352)),
    "ultralytics-yolo11n-one-class": case("yolo11n", classes=1),
    "ultralytics-yolo11n-no-metadata": case("yolo11n", strip=True),
    "ultralytics-yolo11n-nms-no-metadata": case("yolo11n", nms=True, strip=True),
    "ultralytics-yolo11n-segment": case("yolo11n-seg"),
    "ultralytics-yolo11n-pose": case("yolo11n-pose"),
    "ultralytics-yolo11n-oriented": case("yolo11n-obb"),
    "ultralytics-yolo12n": case("yolo12n"),
    "ultralytics-yolo26n": case("yolo26n"),
    "ultralytics-yolo26n-opset12": case("yolo26n", opset=12),
    "ultralytics-yolo26n-dynamic": case("yolo26n", dynamic=True),
    "ultralytics-yolo26n-half": case("yolo26n", quantize=16),
    "ultralytics-yolo26n-end-to-end": case("yolo26n", nms=False),
    "ultralytics-yolo26n-nms": case("yolo26n", nms=True),
    "ultralytics-yolo26n-no-metadata": case("yolo26n", strip=True),
    "ultralytics-yolo26n-end-to-end-half": case("yolo26n", nms=False, quantize=16),
    "ultralytics-yolo26n-end-to-end-dynamic": case("yolo26n", nms=False, dynamic=True),
    "ultralytics-yolo26n-end-to-end-no-metadata": case("yolo26n", nms=False, strip=True),
    "ultralytics-yolo26n-end-to-end-unslimmed": case("yolo26n", nms=False, simplify=False),
    "ultralytics-yolov10n-end-to-end": case("yolov10n", nms=False),
    "ultralytics-yolo26n-pose": case("yolo26n-pose"),
    "ultralytics-yolo26n-segment": case("yolo26n-seg"),
    "ultralytics-rtdetr-l": case("rtdetr-l"),
    "ultralytics-rtdetr-l-half": case("rtdetr-l", quantize=16),
    "ultralytics-rtdetr-l-no-metadata": case("rtdetr-l", strip=True),
}
