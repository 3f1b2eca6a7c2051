"""Derive the decoder step for hosts: the same operations and weights, without copies of the cache.

| graph | inputs beside tokens and position | outputs beside log_probs and next_token |
|---|---|---|
| decoder_step | self_kv (2L, B, h, C, k), cross_kv (2L, B, h, N, k) | self_kv_out |
| its host graph | self_kv.0 ... (B, h, C, k), cross_kv.0 ... (B, h, N, k) | new_kv |

A GPU keeps the cache on the device, so its graph has to write it. A host can write the new keys and values itself, and
pass each layer's part of the cache as a view. In the former graph, ONNX Runtime copies both caches to take them apart,
and writes a whole new one: at full size and batch 8, 5 of 15 ms per step.

`new_kv` (B, 2L * h, T, k) has the keys and values of the new tokens, layer by layer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

from seqpar_deploy.backends.host import HostState, SessionBackend, copies_cache, host_graph
from seqpar_deploy.backends.sessions import OnnxRuntimeSession
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import ExportError
from seqpar_deploy.exporting.explain.comparison import relative_error
from seqpar_deploy.vocab import BOS, FIRST_ATTRIBUTE, PAD

CACHES = ("self_kv", "cross_kv")
WRITTEN = "self_kv_out"
NEW_KV = "new_kv"
LARGEST_ERROR = {"fp32": 1e-4, "fp16": 2e-2}  # relative, by precision


def write_host_step(step: Path, out: Path) -> None:
    """Write the host graph of a decoder step into the same folder. Both graphs share the file of the weights.

    Args:
        step: The decoder step's ONNX file.
        out: The ONNX file to write, in the same folder.

    Raises:
        ExportError: The graph reads its caches in another way than layer by layer.
    """
    model = onnx.load(step, load_external_data=False)
    _take_layers_as_inputs(model, step.name)
    _return_new_keys_and_values(model, step.name)
    _keep_gelu_apart(model)
    _drop_unused(model)
    onnx.save(model, out)
    onnx.checker.check_model(out, full_check=True)


def _take_layers_as_inputs(model: ModelProto, name: str) -> None:
    """Replace each `cache[i]` by an input `cache.i`."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    places: dict[str, str] = {}  # by the output of a Gather
    kept: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in CACHES:
            index = numpy_helper.to_array(constants[node.input[1]])
            places[node.output[0]] = f"{node.input[0]}.{int(index)}"
        else:
            kept.append(node)
    for node in kept:
        if node.op_type == "Shape" and node.input[0] in CACHES:
            _read_rows_from_tokens(node, name)
        for place, value in enumerate(node.input):
            node.input[place] = places.get(value, value)
    inputs: list[ValueInfoProto] = []
    for value in graph.input:
        parts = [_layer(value, index) for index in range(_pairs(value))] if value.name in CACHES else [value]
        inputs.extend(parts)
    missing = {value.name for value in inputs} - {value for node in kept for value in node.input}
    if missing:
        raise ExportError(f"{name} must read every layer of {' and '.join(CACHES)}, got none of {sorted(missing)}")
    del graph.node[:], graph.input[:]
    graph.node.extend(kept)
    graph.input.extend(inputs)


def _read_rows_from_tokens(node: NodeProto, name: str) -> None:
    """Replace the size B of a cache by that of the tokens (B, T)."""
    span = {attribute.name: attribute.i for attribute in node.attribute}
    if (span.get("start"), span.get("end")) != (1, 2):
        raise ExportError(f"{name} must read the caches' number of rows only, got {node.name} with {span}")
    node.CopyFrom(helper.make_node("Shape", ["tokens"], list(node.output), name=node.name, start=0, end=1))


def _pairs(cache: ValueInfoProto) -> int:
    """Return 2L of a cache (2L, B, h, slots, k)."""
    return int(cache.type.tensor_type.shape.dim[0].dim_value)


def _layer(cache: ValueInfoProto, index: int) -> ValueInfoProto:
    kind = cache.type.tensor_type
    sizes = [size.dim_param or size.dim_value for size in kind.shape.dim[1:]]
    return helper.make_tensor_value_info(f"{cache.name}.{index}", kind.elem_type, sizes)


def _return_new_keys_and_values(model: ModelProto, name: str) -> None:
    """Replace the written cache by what is written into it, joined along the heads."""
    graph = model.graph
    made_by = {output: node for node in graph.node for output in node.output}
    written = next(value for value in graph.output if value.name == WRITTEN)
    path = ["ScatterElements", "Transpose", "Reshape"]
    node = made_by[WRITTEN]
    for operator, following in zip(path, [*path[1:], None], strict=True):
        if node.op_type != operator:
            raise ExportError(f"{name} must write the cache by {path}, got {node.op_type} in place of {operator}")
        if following is not None:
            node = made_by[node.input[2 if operator == "ScatterElements" else 0]]
    kind = written.type.tensor_type
    pairs, rows, heads, _, size = (dim.dim_param or dim.dim_value for dim in kind.shape.dim)
    assert isinstance(pairs, int)
    assert isinstance(heads, int)
    graph.node.append(helper.make_node("Identity", [node.input[0]], [NEW_KV], name=NEW_KV))
    outputs = [value for value in graph.output if value.name != WRITTEN]
    del graph.output[:]
    graph.output.extend(outputs)
    graph.output.append(helper.make_tensor_value_info(NEW_KV, kind.elem_type, [rows, pairs * heads, "T", size]))


def _keep_gelu_apart(model: ModelProto) -> None:
    """Put a reshape to the same shape between a product and the GELU of its sum with a bias.

    OpenVINO would fuse all three, and takes oneDNN's kernel for that. For one row it reads weights at 27 GB/s, where
    the kernel for products alone reaches 46: 11 % of a step. ONNX Runtime loses nothing by it. Products with 8-bit
    weights have one kernel.
    """
    graph = model.graph
    widths = {tensor.name: tensor.dims[1] for tensor in graph.initializer if len(tensor.dims) == 2}
    gelu = {node.input[0] for node in graph.node if node.op_type == "Gelu"}
    before_gelu = {name for node in graph.node if gelu.intersection(node.output) for name in node.input}
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.op_type == "MatMul" and node.output[0] in before_gelu and node.input[1] in widths:
            result, shape = node.output[0], f"{node.name}_shape"
            node.output[0] = f"{result}_product"
            sizes = np.array([0, -1, widths[node.input[1]]], dtype=np.int64)  # 0: as it is
            graph.initializer.append(numpy_helper.from_array(sizes, shape))
            nodes.append(helper.make_node("Reshape", [node.output[0], shape], [result], name=f"{node.name}_reshape"))
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_unused(model: ModelProto) -> None:
    """Drop nodes, constants and shapes of tensors that no output needs."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    nodes: list[NodeProto] = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.insert(0, node)
    constants = [tensor for tensor in graph.initializer if tensor.name in needed]
    shapes = [value for value in graph.value_info if value.name in needed]
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(constants)
    graph.value_info.extend(shapes)


def require_same_steps(bundle: Bundle) -> None:
    """Run both graphs of the decoder step along the same tokens, and compare log-probabilities and caches.

    The parity gate runs the host graph. This extends its result to the graph for GPUs, which also writes the cache.
    Rows are at different positions, slots are written twice, and one token is `<pad>`.

    Raises:
        ExportError: The graphs differ.
    """
    d, rng = bundle.dimensions, np.random.default_rng(0)
    graphs = host_graph(bundle, bundle.decoder_step), bundle.decoder_step
    backends = []
    for graph in graphs:
        session, copies = OnnxRuntimeSession(graph), copies_cache(graph)
        backends.append(
            SessionBackend(bundle, name="onnxruntime", encoder=session, decoder_step=session, copies_cache=copies)
        )
    dtype = np.float16 if bundle.precision == "fp16" else np.float32
    cross_kv = rng.standard_normal((2 * d.layers, 2, d.heads, d.image_tokens, d.head_size)).astype(dtype)
    self_kv = np.zeros((2 * d.layers, 2, d.heads, d.capacity, d.head_size), dtype=dtype)
    states = [HostState(self_kv.copy(), cross_kv, None) for _ in backends]
    last = d.vocabulary - 1
    calls = [([[BOS], [BOS]], [1, 1]), ([[FIRST_ATTRIBUTE], [PAD]], [2, 1]), ([[last], [FIRST_ATTRIBUTE]], [3, 2])]
    for tokens, lengths in calls[: d.capacity]:
        outputs = [backend.step(state, np.array(tokens)) for backend, state in zip(backends, states, strict=True)]
        for name, (host, whole) in {
            "log_probs": (outputs[0].log_probs, outputs[1].log_probs),
            "self_kv": (states[0].self_kv, states[1].self_kv),
        }.items():
            if not (error := relative_error(host, whole)) <= LARGEST_ERROR[bundle.precision]:
                raise ExportError(
                    f"{graphs[0].name} must compute the {name} of {graphs[1].name}, got a relative error of "
                    f"{error:.1e}; report this with your checkpoint"
                )
        for state in states:
            state.truncate(np.array(lengths))
