"""Cases of detectors_exporters.py: LibreYOLO's YOLOX, YOLO-NAS, D-FINE, RTMDet and others, each with random weights."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from detectors_exporters import OVERLAP, SURE, THRESHOLD, Case, Exported, cropped, fit_norms, people_of, spread_classes


def export(
    folder: Path,
    picture: Any,
    *,
    name: str,
    size: str,
    given: dict[str, Any] | None = None,
    border: int = 0,
    sure: float = SURE,
    **options: Any,
) -> Exported:
    """Export a model. One that pads pictures of its own size gets a smaller one, and our detector the padded one."""
    import libreyolo
    import numpy as np
    import torch
    from PIL import Image

    model = getattr(libreyolo, name)(None, size=size, device="cpu")
    picture = cropped(picture, model.INPUT_SIZES[size] - 2 * border)
    net, image = model.model.eval(), Image.fromarray(picture)  # an array would be taken for blue, green, red

    def run() -> Any:
        with torch.no_grad():
            return model.predict(image, conf=THRESHOLD, iou=OVERLAP, max_det=3000)

    scatter_zeros(net)
    fit_norms(net, run)
    spread_classes(class_layers(net), run, sure=sure)
    found = run()
    found = found[0] if isinstance(found, list) else found
    picture = np.pad(picture, ((border, border), (border, border), (0, 0)), constant_values=114)
    people = people_of(found.boxes.xyxy.cpu() + border, found.boxes.conf.cpu(), found.boxes.cls.cpu())
    path = Path(model.export(format="onnx", output_path=str(folder / "model.onnx"), **options))
    words = "".join(f", {key}={value}" for key, value in options.items())
    line = f'{name}("weights.pt").export(format="onnx"{words})'
    return Exported(path=path, line=line, people=people, options=given or {}, packages=("libreyolo",), picture=picture)


def scatter_zeros(net: Any) -> None:
    """Draw the weights of layers that begin as zeros, by which all places would have one answer."""
    import torch

    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.weight.requires_grad and not layer.weight.any():
            torch.nn.init.normal_(layer.weight, std=0.05)


def class_layers(net: Any) -> list[Any]:
    """Return the layers of 80 outputs in the order of the module's names."""
    import torch

    kinds = (torch.nn.Conv2d, torch.nn.Linear)
    return [layer for layer in net.modules() if isinstance(layer, kinds) and len(layer.weight) == 80]


def case(name: str, size: str, **options: Any) -> Case:
    return partial(export, name=name, size=size, **options)


CASES: dict[str, Case] = {
    "libreyolo-yolox": case("LibreYOLOX", "n"),
    "libreyolo-yolo9": case("LibreYOLO9", "t"),
    "libreyolo-yolo-nas": case("LibreYOLONAS", "s", border=2, sure=0.01),  # which drops all but 1,000 boxes
    "libreyolo-picodet": case("LibrePICODET", "s"),
    "libreyolo-ppyoloe": case("LibrePPYOLOE", "s", given={"scaling": "imagenet"}),
    "libreyolo-rtmdet": case("LibreRTMDet", "t", given={"scaling": "imagenet-bgr", "layout": "yolov8-edges"}),
    "libreyolo-d-fine": case("LibreDFINE", "n"),
    "libreyolo-lw-detr": case("LibreLWDETR", "t"),
    "libreyolo-yolo4": case("LibreYOLO4", "t"),
    "libreyolo-yolo7": case("LibreYOLO7", "b"),
    "libreyolo-ssd": case("LibreSSD", "300"),
    "libreyolo-centernet": case("LibreCenterNet", "resdcn18"),
    "libreyolo-efficientdet": case("LibreEfficientDet", "d0"),
}
