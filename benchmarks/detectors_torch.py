"""Cases of detectors_exporters.py: torchvision, Hugging Face, RF-DETR, EfficientDet, exported by PyTorch."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

from detectors_exporters import (
    THRESHOLD,
    Case,
    Exported,
    as_tensor,
    cropped,
    fit_norms,
    people_of,
    spread_classes,
)

SIDE = 320  # pixels
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


def to_onnx(model: Any, inputs: tuple[Any, ...], path: Path, **options: Any) -> None:
    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, inputs, str(path), dynamo=False, **{"opset_version": 17, **options})


def torchvision(folder: Path, picture: Any, *, name: str, side: int = SIDE, **options: Any) -> Exported:
    """Export as the documentation of torchvision's models does. The graph resizes and normalises the picture."""
    from torchvision.models import detection

    small = {"min_size": side, "max_size": side} if "ssd" not in name else {}
    model = getattr(detection, name)(weights=None, weights_backbone=None, **small).eval()
    picture = cropped(picture, SIDE)
    tensor = as_tensor(picture, SIDE, SIDE)[0]
    fit_norms(model, lambda: model([tensor]))
    layers = class_layers(model)
    spread_classes(layers, lambda: model([tensor]), first=1, **anchors_of(model))
    import torch

    with torch.no_grad():
        found = model([tensor])[0]
    path = folder / "model.onnx"
    names = ["boxes", "scores", "labels"] if "rcnn" not in name else ["boxes", "labels", "scores"]
    names += ["masks"] * ("mask" in name) + ["keypoints", "keypoints_scores"] * ("keypoint" in name)
    if not options.pop("named", True):
        names = []
    to_onnx(model, ([tensor],), path, input_names=["images"], output_names=names)
    people = people_of(found["boxes"], found["scores"], found["labels"], person=1)
    line = f"torch.onnx.export({name}(...).eval(), ([picture],), dynamo=False, output_names={names or None})"
    return Exported(path=path, line=line, people=people, packages=("torchvision",), picture=picture)


def class_layers(model: Any) -> list[Any]:
    """Return the class layers of a torchvision detector."""
    import torch

    if hasattr(model, "roi_heads"):
        return [model.roi_heads.box_predictor.cls_score]
    head = model.head.classification_head
    if hasattr(head, "cls_logits"):
        return [head.cls_logits]
    return [part if isinstance(part, torch.nn.Conv2d) else list(part.children())[-1] for part in head.module_list]


def anchors_of(model: Any) -> dict[str, Any]:
    """Return the number of classes, where several anchors share a layer, and whether class 0 is the background."""
    if hasattr(model, "roi_heads"):
        return {"background": True}
    head = model.head.classification_head
    ssd = hasattr(head, "num_columns")
    return {"classes": head.num_columns if ssd else head.num_classes, "background": ssd}


def rfdetr(folder: Path, picture: Any, *, name: str = "RFDETRNano", **options: Any) -> Exported:
    import rfdetr

    model = getattr(rfdetr, name)(pretrain_weights=None, device="cpu")
    side = model.model.resolution
    picture = cropped(picture, side)
    net = model.model.model.eval()
    tensor = normalised(as_tensor(picture, side, side))
    # The first stage chooses the queries by its own class layers, which stay as they are.
    spread_classes([net.class_embed], lambda: net(tensor), first=1)
    found = model.predict(picture, threshold=THRESHOLD)
    people = people_of(found.xyxy, found.confidence, found.class_id, person=1)
    model.export(output_dir=str(folder), verbose=False, **options)
    words = ", ".join(f"{key}={value}" for key, value in options.items())
    path = next(folder.rglob("*.onnx"))
    return Exported(path=path, line=f"{name}().export({words})", people=people, packages=("rfdetr",), picture=picture)


def normalised(tensor: Any) -> Any:
    """Return a picture less ImageNet's mean, in its standard deviations."""
    import torch

    mean, deviation = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    return (tensor - mean) / deviation


def transformers(folder: Path, picture: Any, *, name: str, unit: bool = False, **config: Any) -> Exported:
    """Export with the inputs and outputs that Optimum names. Optimum was not tried: it needs an older transformers."""
    import torch
    import transformers as library

    small = {"num_labels": 80 if unit else 91, "use_pretrained_backbone": False, **config}
    model = getattr(library, f"{name}ForObjectDetection")(getattr(library, f"{name}Config")(**small)).eval()
    picture = cropped(picture, SIDE)
    tensor = as_tensor(picture, SIDE, SIDE)
    tensor = tensor if unit else normalised(tensor)
    fit_norms(model, lambda: model(pixel_values=tensor))
    layers = [one for title, one in model.named_modules() if is_class_layer(title, one, model.config.num_labels)]
    first = 0 if unit else 1
    spread_classes(layers, lambda: model(pixel_values=tensor), first=first, no_object=name in ("Detr", "Yolos"))
    with torch.no_grad():
        output = model(pixel_values=tensor)
    softmax = name in ("Detr", "Yolos", "ConditionalDetr") and output.logits.shape[-1] > model.config.num_labels
    scores = output.logits[0].softmax(-1)[:, :-1] if softmax else output.logits[0].sigmoid()
    centre, half = output.pred_boxes[0, :, :2], output.pred_boxes[0, :, 2:] / 2
    boxes = torch.cat([centre - half, centre + half], dim=1) * SIDE
    people = people_of(boxes, scores[:, first])

    class Named(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixel_values: Any) -> Any:
            found = self.model(pixel_values=pixel_values)
            return found.logits, found.pred_boxes

    path = folder / "model.onnx"
    to_onnx(Named().eval(), (tensor,), path, input_names=["pixel_values"], output_names=["logits", "pred_boxes"])
    line = f"torch.onnx.export({name}ForObjectDetection, ..., output_names=['logits', 'pred_boxes'])"
    return Exported(path=path, line=line, people=people, packages=("transformers",), picture=picture)


def is_class_layer(title: str, layer: Any, classes: int) -> bool:
    import torch

    return isinstance(layer, torch.nn.Linear) and len(layer.weight) in (classes, classes + 1) and "class" in title


def effdet(folder: Path, picture: Any) -> Exported:
    """Export EfficientDet of `effdet` with its own decoding and NMS ("predict")."""
    import torch
    from effdet import create_model

    model = create_model("tf_efficientdet_d0", bench_task="predict", pretrained=False, pretrained_backbone=False).eval()
    picture = cropped(picture, 512)
    tensor = normalised(as_tensor(picture, 512, 512))
    fit_norms(model, lambda: model(tensor))
    spread_classes([model.model.class_net.predict.conv_pw], lambda: model(tensor), classes=90)
    with torch.no_grad():
        rows = model(tensor)[0].numpy()
    people = people_of(rows[:, :4], rows[:, 4], rows[:, 5], person=1)
    path = folder / "model.onnx"
    to_onnx(model, (tensor,), path, input_names=["images"], output_names=["detections"])
    line = "torch.onnx.export(create_model('tf_efficientdet_d0', bench_task='predict'), ...)"
    return Exported(path=path, line=line, people=people, packages=("effdet",), picture=picture)


TORCHVISION = {
    "faster-rcnn-mobilenet": "fasterrcnn_mobilenet_v3_large_320_fpn",
    "faster-rcnn-resnet50": "fasterrcnn_resnet50_fpn",
    "mask-rcnn": "maskrcnn_resnet50_fpn",
    "keypoint-rcnn": "keypointrcnn_resnet50_fpn",
    "retinanet": "retinanet_resnet50_fpn",
    "fcos": "fcos_resnet50_fpn",
    "ssdlite": "ssdlite320_mobilenet_v3_large",
    "ssd": "ssd300_vgg16",
}
CASES: dict[str, Case] = {
    **{f"torchvision-{title}": partial(torchvision, name=name) for title, name in TORCHVISION.items()},
    "rfdetr-nano": partial(rfdetr),
    "rfdetr-nano-opset18": partial(rfdetr, opset_version=18),
    "rfdetr-small": partial(rfdetr, name="RFDETRSmall"),
    "transformers-detr": partial(transformers, name="Detr"),
    "transformers-yolos": partial(transformers, name="Yolos", image_size=[320, 320], hidden_size=192),
    "transformers-deformable-detr": partial(transformers, name="DeformableDetr"),
    "transformers-rt-detr": partial(transformers, name="RTDetr", unit=True),
    "effdet-d0": effdet,
    "torchvision-ssdlite-unnamed": partial(torchvision, name=TORCHVISION["ssdlite"], named=False),
}
