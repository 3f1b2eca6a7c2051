"""Count FLOPs and bytes of a model in a bundle's graphs.

Matrix multiplications and convolutions count, 2 FLOPs per multiply-add, as in torch's FlopCounterMode. The ONNX files
are read without the onnx package. Field numbers are those of onnx.proto: GraphProto.node 1, .initializer 5, .input 11,
.output 12, .value_info 13; NodeProto.input 1, .output 2, .op_type 4; TensorProto.dims 1, .name 8; ValueInfoProto.name
1, .type 2; TypeProto.tensor_type 1; its .shape 2; TensorShapeProto.dim 1; Dimension.dim_value 1, .dim_param 2.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BundleFormatError
from seqpar_deploy.onnx_file import fields, varint

BYTES_OF = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gemm:
    """Describe a matrix multiplication or convolution. `sides` is (rows, inner, columns) if an operand is a weight."""

    flops: int
    sides: tuple[int, int, int] | None


def encoder_flops(bundle: Bundle, rows: int = 1, columns: int | None = None) -> int:
    """Return the FLOPs of the encoder on `rows` crops of `columns` patch columns. Default: the whole square.

    Raises BundleFormatError.
    """
    return sum(gemm.flops for gemm in graph_gemms(bundle.encoder, _sizes(bundle, rows, columns)))


def encoder_bytes(bundle: Bundle, precision: str, rows: int = 1, columns: int | None = None) -> int:
    """Return the bytes that the encoder must move: it reads weights and crops, and writes `cross_kv`."""
    d, sizes = bundle.dimensions, _sizes(bundle, rows, columns)
    cross_kv = 2 * d.layers * d.heads * d.head_size * sizes["N"] * BYTES_OF[_activations(bundle, precision)]
    return _weight_bytes(bundle, bundle.encoder, precision) + rows * (3 * d.image_size * sizes["W"] + cross_kv)


def step_flops(bundle: Bundle, rows: int = 1, columns: int | None = None) -> int:
    """Return the FLOPs of one decoder step of one token per row. Raises BundleFormatError."""
    return sum(gemm.flops for gemm in graph_gemms(bundle.decoder_step, _sizes(bundle, rows, columns)))


def step_bytes(bundle: Bundle, precision: str, rows: int = 1, columns: int | None = None) -> int:
    """Return the bytes that a decoder step must move.

    It reads weights and the image tokens' keys and values, and reads and writes the cache.
    """
    d = bundle.dimensions
    slots = rows * (_sizes(bundle, rows, columns)["N"] + 2 * d.capacity)
    cache = 2 * d.layers * slots * d.heads * d.head_size * BYTES_OF[_activations(bundle, precision)]
    return _weight_bytes(bundle, bundle.decoder_step, precision) + cache


def largest_gemm(bundle: Bundle) -> tuple[int, int, int]:
    """Return (rows, inner, columns) of the encoder's largest GEMM with a weight, for one crop.

    Raises BundleFormatError.
    """
    by_weights = [gemm for gemm in graph_gemms(bundle.encoder, _sizes(bundle, 1, None)) if gemm.sides]
    if not by_weights:
        raise BundleFormatError(
            f"{bundle.encoder} must have matrix multiplications with weights, got none; "
            "export the bundle again with seqpar-export"
        )
    sides = max(by_weights, key=lambda gemm: gemm.flops).sides
    assert sides is not None
    return sides


def _sizes(bundle: Bundle, rows: int, columns: int | None) -> dict[str, int]:
    """Return the sizes of the graphs' dynamic dimensions, for steps of one token per row."""
    d = bundle.dimensions
    kept = d.grid if columns is None else columns
    return {"B": rows, "T": 1, "columns": kept, "W": kept * d.patch_size, "N": 1 + d.grid * kept}


def graph_gemms(graph: Path, sizes: Mapping[str, int]) -> list[Gemm]:
    """Return the GEMMs and convolutions of an ONNX graph, with these sizes for its dimensions.

    Raises BundleFormatError.
    """
    try:
        return list(_graph_gemms(memoryview(graph.read_bytes()), sizes))
    except (KeyError, ValueError, IndexError) as error:
        raise BundleFormatError(f"the FLOPs of {graph} cannot be counted: {error}; export the bundle again") from None


def _activations(bundle: Bundle, precision: str) -> str:
    """Return the precision of a graph's inputs and outputs. In int8 graphs, only weights are smaller."""
    return bundle.precision if precision == "int8" else precision


def _weight_bytes(bundle: Bundle, graph: Path, precision: str) -> int:
    if precision == "int8" and bundle.has_int8:
        graph = bundle.int8_encoder if graph == bundle.encoder else bundle.int8_decoder_step
        return sum(file.stat().st_size for file in bundle.path.glob(f"{graph.name}*"))
    files = bundle.path.glob(f"{graph.name}*")  # the graph itself is small beside the weights
    return sum(file.stat().st_size for file in files) * BYTES_OF[precision] // BYTES_OF[bundle.precision]


def _graph_gemms(model: memoryview, sizes: Mapping[str, int]) -> Iterator[Gemm]:
    graph = next(_messages(model, 7), None)
    if graph is None:
        raise ValueError("the file has no graph")
    weights = dict(_initializer(tensor) for tensor in _messages(graph, 5))
    values = {_texts(value, 1)[0]: value for field in (11, 12, 13) for value in _messages(graph, field)}

    def shape(name: str) -> Shape:
        return weights[name] if name in weights else _shape(values[name], sizes)

    for node in _messages(graph, 1):
        kind = "".join(_texts(node, 4))
        if kind not in ("MatMul", "Gemm", "Conv"):
            continue
        (first, second, *_), out = _texts(node, 1), shape(_texts(node, 2)[0])
        if kind == "Conv":
            yield Gemm(flops=2 * math.prod(out) * math.prod(shape(second)[1:]), sides=None)
        else:
            inner = math.prod(shape(first)) * out[-1] // math.prod(out)
            rows = math.prod(out) // out[-1]
            sides = (rows, inner, out[-1]) if second in weights else None
            yield Gemm(flops=2 * math.prod(out) * inner, sides=sides)


def _initializer(tensor: memoryview) -> tuple[str, Shape]:
    shape: list[int] = []
    for field, value in fields(tensor):
        if field == 1:
            shape += [value] if isinstance(value, int) else _packed(value)
    return _texts(tensor, 8)[0], tuple(shape)


def _shape(value: memoryview, sizes: Mapping[str, int]) -> Shape:
    shapes = (s for kind in _messages(value, 2) for tensor in _messages(kind, 1) for s in _messages(tensor, 2))
    return tuple(_size(dim, sizes) for shape in shapes for dim in _messages(shape, 1))


def _size(dimension: memoryview, sizes: Mapping[str, int]) -> int:
    for field, value in fields(dimension):
        if field == 1 and isinstance(value, int):
            return value
        if field == 2 and not isinstance(value, int):
            return _evaluate(bytes(value).decode(), sizes)
    raise ValueError("a tensor has a dimension of unknown size")


def _evaluate(text: str, sizes: Mapping[str, int]) -> int:
    """Evaluate sums and products of numbers and names, for example `T + 27`."""
    if "+" in text:
        return sum(_evaluate(part, sizes) for part in text.split("+"))
    if "*" in text:
        return math.prod(_evaluate(part, sizes) for part in text.split("*"))
    text = text.strip()
    return int(text) if text.isdigit() else sizes[text]


def _messages(message: memoryview, number: int) -> Iterator[memoryview]:
    return (value for field, value in fields(message) if field == number and not isinstance(value, int))


def _texts(message: memoryview, number: int) -> list[str]:
    return [bytes(value).decode() for value in _messages(message, number)]


def _packed(numbers: memoryview) -> list[int]:
    values, at = [], 0
    while at < len(numbers):
        value, at = varint(numbers, at)
        values.append(value)
    return values
