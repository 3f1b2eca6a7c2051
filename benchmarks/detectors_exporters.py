"""Export a detector with random weights by its real exporter, and note the people that the exporter itself finds.

    python benchmarks/detectors_exporters.py --list
    python benchmarks/detectors_exporters.py CASE PICTURE.npy OUT

Run in an environment with the exporters; `benchmarks/detectors.py graphs` makes it and runs all cases, each in a
process of its own. OUT gets CASE.onnx and CASE.json: the line that exports, versions, options of our detector, and the
people that the exporter's own code finds in the picture (uint8 RGB) with PyTorch.

Random weights find no people. So the normalisation layers are fitted to the picture, and the class layers are scaled
and shifted such that people, and a few of the class after them, are above the threshold at some places. The boxes mean
nothing, but the exporter's own decoding and ours must agree on them.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

THRESHOLD, OVERLAP = 0.3, 0.6
CROP = (200, 120, 520, 440)  # 320 x 320 pixels with people
OTHERS = -9.0  # logits of classes that never fire
SURE = 0.05  # share of places whose score is above 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exported:
    """A file, the line that exports it, and the people (left, top, right, bottom in pixels, score) found with PyTorch.

    `options` are those of our detector. `picture` is the one searched, which is of the graph's size where exporters
    resize in other ways than ours. `half` if the graph is in half precision, which moves the boxes of random weights.
    """

    path: Path
    line: str
    people: Sequence[Sequence[float]]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    packages: tuple[str, ...] = ()
    picture: Any
    half: bool = False


Case = Callable[[Path, Any], Exported]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("case", nargs="?", help="name of the case")
    parser.add_argument("picture", nargs="?", type=Path, help="NumPy file, uint8 RGB (h, w, 3)")
    parser.add_argument("out", nargs="?", type=Path, help="folder")
    parser.add_argument("--list", action="store_true", help="print the names of all cases")
    options = parser.parse_args()
    cases = all_cases()
    if options.list:
        print("\n".join(cases))
        return
    if options.case not in cases or options.out is None:
        parser.error("name a case of --list, a picture and a folder")
    os.environ |= {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "HF_HUB_OFFLINE": "1"}
    seed()
    options.out.mkdir(parents=True, exist_ok=True)
    out, picture = options.out.resolve(), np.load(options.picture)
    with tempfile.TemporaryDirectory() as made:  # exporters write beside where they run
        os.chdir(made)
        exported = cases[options.case](Path(made), picture)
        packages = ("torch", "onnx", *exported.packages)
        found = {
            "line": exported.line,
            "versions": {name: installed[0] for name in packages if (installed := versions_of(name))},
            "options": {"score": THRESHOLD, "overlap": OVERLAP, **exported.options},
            "people": [[float(value) for value in row] for row in exported.people],
            "half": exported.half,
        }
        np.save(out / f"{options.case}.npy", exported.picture)
        (out / f"{options.case}.onnx").write_bytes(exported.path.read_bytes())
        data = exported.path.with_name(exported.path.name + ".data")
        if data.is_file():
            (out / data.name).write_bytes(data.read_bytes())
    (out / f"{options.case}.json").write_text(json.dumps(found), encoding="utf-8")


def versions_of(package: str) -> list[str]:
    """Return the version of a package, none if it is not installed."""
    return [found.version for found in importlib.metadata.distributions(name=package)][:1]


def all_cases() -> dict[str, Case]:
    """Return the cases of all exporters by name. Their libraries are imported when a case runs."""
    import detectors_libreyolo
    import detectors_torch
    import detectors_ultralytics

    return detectors_ultralytics.CASES | detectors_torch.CASES | detectors_libreyolo.CASES


def seed() -> None:
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)


def as_tensor(picture: Any, height: int, width: int, *, letterbox: bool = False) -> Any:
    """Return the picture as float (1, 3, height, width), 0 to 1."""
    import cv2
    import torch

    if letterbox:
        scale = min(height / picture.shape[0], width / picture.shape[1])
        size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
        left, top = (width - size[0]) // 2, (height - size[1]) // 2
        resized, picture = cv2.resize(picture, size), np.full((height, width, 3), 114, np.uint8)
        picture[top : top + size[1], left : left + size[0]] = resized

    values = torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)[None])).float() / 255
    return torch.nn.functional.interpolate(values, (height, width), mode="bilinear", antialias=True)


def fit_norms(model: Any, run: Callable[[], Any]) -> None:
    """Set the statistics of all batch normalisations to those of a run, so that signals keep their size."""
    import torch

    def fit(norm: Any, inputs: Any) -> None:
        values = inputs[0].transpose(0, 1).flatten(1)
        if values.shape[1] > 1:
            norm.running_mean, norm.running_var = values.mean(dim=1), values.var(dim=1) + 1e-3

    kinds = (torch.nn.modules.batchnorm._BatchNorm,)
    norms = [
        module for module in model.modules() if isinstance(module, kinds) or "FrozenBatch" in type(module).__name__
    ]
    hooks = [norm.register_forward_pre_hook(fit) for norm in norms]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()


def spread_classes(
    layers: Sequence[Any],
    run: Callable[[], Any],
    *,
    first: int = 0,
    classes: int | None = None,
    background: bool = False,
    no_object: bool = False,
    sure: float = SURE,
) -> None:
    """Scale and shift class layers such that class `first` fires at some places, and the one after it at a few.

    `layers` are the last layers (convolution or linear); their outputs are read in a run. `classes` is their number if
    a layer has those of several anchors, one after the other. `background` if class 0 is it, `no_object` if the last
    class is, both with a softmax. `sure` is the share of places where class `first` has a score above 0.5.
    """
    import torch

    outputs: dict[int, Any] = {}

    def keep(at: int, _layer: Any, _inputs: Any, output: Any) -> None:
        outputs.setdefault(at, output.detach())  # the first of several levels

    hooks = [layer.register_forward_hook(partial(keep, at)) for at, layer in enumerate(layers)]
    with torch.no_grad():
        run()
    for hook in hooks:
        hook.remove()
    for at, layer in enumerate(layers):
        if at not in outputs:
            continue
        if layer.bias is None:
            layer.bias = torch.nn.Parameter(torch.zeros(layer.weight.shape[0]))
        values, bias = outputs[at], layer.bias.data
        values = values.flatten(2).transpose(1, 2) if layer.weight.ndim == 4 else values
        values = values.reshape(-1, values.shape[-1]) - bias
        number = torch.arange(len(bias)) % (classes or len(bias))
        fires = (number == first) | (number == first + 1)
        deviation = values.std(dim=0) if len(values) > 1 else torch.ones_like(bias)
        scale = torch.where(fires, 1.5 / deviation.clamp(min=1e-3), torch.zeros_like(bias))
        layer.weight.data *= scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
        new = torch.full_like(bias, OTHERS)
        for channel in fires.nonzero().flatten().tolist():
            share = sure if number[channel] == first else sure / 10
            new[channel] = -torch.quantile(values[:, channel] * scale[channel], 1 - share)
        if background:
            new[number == 0] = 0
        if no_object:
            new[-1] = 0
        layer.bias.data = new


def cropped(picture: Any, side: int) -> Any:
    """Return a square of the picture, of a graph's size."""
    import cv2

    left, top, right, bottom = CROP
    return cv2.resize(np.ascontiguousarray(picture[top:bottom, left:right]), (side, side))


def people_of(boxes: Any, scores: Any, labels: Any = None, person: int = 0) -> list[list[float]]:
    """Return rows of edges and score of the people above the threshold."""
    rows = np.concatenate([np.asarray(boxes), np.asarray(scores)[:, None]], axis=1)
    if labels is not None:
        rows = rows[np.asarray(labels) == person]
    return [list(map(float, row)) for row in rows[rows[:, 4] >= THRESHOLD]]


if __name__ == "__main__":
    main()
