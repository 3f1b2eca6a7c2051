"""Write faster 8-bit graphs beside a bundle's native ones.

Encoder: every matrix multiplication with constant weights uses 8-bit activations, with one scale per tensor, and 8-bit
weights, with one scale per output channel. The activations' scales are calibrated by running the native encoder on
crops. Decoder step: only weights are quantised, since a step is bound by reading them. Attention, normalisation and
softmax stay in native precision.

The graphs use ONNX's QuantizeLinear and DequantizeLinear, so every runtime can read them, and those that recognise the
pattern compute in 8 bits. They can change low-margin tokens, so they run only on request, and a `Recognizer` can re-run
low-margin crops with the native graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from seqpar_deploy.backends.sessions import OnnxRuntimeSession
from seqpar_deploy.bundle import DECODER_STEP, ENCODER, INT8_DECODER_STEP, INT8_ENCODER, INT8_HOST_DECODER_STEP
from seqpar_deploy.exporting.host_step import write_host_step
from seqpar_deploy.preprocess import Crop

Ranges = Mapping[str, tuple[float, float]]


def write_int8_graphs(folder: Path, crops: Sequence[Crop], report: Callable[[int, int], None]) -> None:
    """Quantise the graphs in `folder`. The prepared `crops` (H, W, 3), of any widths, are for calibration."""
    encoder = onnx.load(folder / ENCODER)
    ranges = _activation_ranges(folder / ENCODER, _activations(encoder), crops, report)
    _save(_quantized(encoder, ranges), folder / INT8_ENCODER)
    write_int8_step(folder)


def write_int8_step(folder: Path) -> None:
    """Quantise the weights of the decoder step in `folder`, and derive the graph for hosts."""
    _save(_quantized(onnx.load(folder / DECODER_STEP), {}), folder / INT8_DECODER_STEP)
    write_host_step(folder / INT8_DECODER_STEP, folder / INT8_HOST_DECODER_STEP)


def _products(model: onnx.ModelProto) -> list[NodeProto]:
    """Return the matrix multiplications with constant weights."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in constants]


def _activations(model: onnx.ModelProto) -> list[str]:
    """Return the names of the activations that those nodes multiply."""
    return sorted({node.input[0] for node in _products(model)})


def _activation_ranges(
    graph: Path, names: list[str], crops: Sequence[Crop], report: Callable[[int, int], None]
) -> dict[str, tuple[float, float]]:
    """Return the range of each named tensor over all crops. Crops run one by one, since tensors take megabytes each."""
    model = onnx.load(graph, load_external_data=False)
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    watched = graph.with_name(f"watched-{graph.name}")  # in the same folder, since weight paths are relative
    onnx.save(model, watched)
    try:
        session = OnnxRuntimeSession(watched)
    finally:
        watched.unlink()
    low, high = np.zeros(len(names)), np.zeros(len(names))  # the range includes 0, which must be exact
    for number, crop in enumerate(crops, start=1):
        values = session.run({"crops": np.ascontiguousarray(crop[None])}, names).values()
        low = np.minimum(low, [value.min() for value in values])
        high = np.maximum(high, [value.max() for value in values])
        report(number, len(crops))
    return {name: (float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def _quantized(model: onnx.ModelProto, ranges: Ranges) -> onnx.ModelProto:
    """Quantise the weights of the matrix multiplications, and the activations with known ranges."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    products = {node.output[0] for node in _products(model)}
    nodes: list[NodeProto] = []
    quantized: set[str] = set()  # tensors that several nodes share are quantised once
    for node in graph.node:
        if node.output[0] in products:
            for place, name in enumerate(node.input):
                if name not in weights and name not in ranges:
                    continue
                if name not in quantized:
                    quantized.add(name)
                    made = _weight(weights[name]) if name in weights else _activation(name, *ranges[name])
                    graph.initializer.extend(made[0])
                    nodes.extend(made[1])
                node.input[place] = _dequantized(name)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return model


def _weight(tensor: TensorProto) -> tuple[list[TensorProto], list[NodeProto]]:
    """Quantise a matrix (in, out) to int8: symmetric, with one scale per output channel.

    The zero points are all 0, but required: without them ONNX Runtime cannot convert the weights to uint8 on processors
    on which 8-bit products overflow.
    """
    name, matrix = tensor.name, numpy_helper.to_array(tensor)
    scale = np.abs(matrix).max(axis=0) / 127
    scale[scale == 0] = 1
    values = np.round(matrix / scale).astype(np.int8)
    constants = [
        numpy_helper.from_array(values, f"{name}_int8"),
        numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"),
        numpy_helper.from_array(np.zeros(scale.shape, np.int8), f"{name}_zero"),
    ]
    inputs = [constant.name for constant in constants]
    return constants, [helper.make_node("DequantizeLinear", inputs, [_dequantized(name)], axis=1)]


def _activation(name: str, low: float, high: float) -> tuple[list[TensorProto], list[NodeProto]]:
    """Quantise a tensor to uint8 and back, with one scale for [low, high]."""
    scale = (high - low) / 255 or 1.0
    constants = [
        numpy_helper.from_array(np.array(scale, np.float32), f"{name}_scale"),
        numpy_helper.from_array(np.array(round(-low / scale), np.uint8), f"{name}_zero"),
    ]
    terms = [constant.name for constant in constants]
    return constants, [
        helper.make_node("QuantizeLinear", [name, *terms], [f"{name}_uint8"]),
        helper.make_node("DequantizeLinear", [f"{name}_uint8", *terms], [_dequantized(name)]),
    ]


def _dequantized(name: str) -> str:
    return f"{name}_dequantized"


def _save(model: onnx.ModelProto, path: Path) -> None:
    del model.graph.value_info[:]
    weights = f"{path.name}.data"
    onnx.save(model, path, save_as_external_data=True, location=weights, size_threshold=1024)
    path.with_name(weights).chmod(path.stat().st_mode & 0o777)  # onnx makes it private, but not the model
    onnx.checker.check_model(path)
