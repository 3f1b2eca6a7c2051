"""How much work the model is, counted from a bundle's graphs: operations of the products, bytes that must move.

Counted are matrix products and convolutions, 2 operations for each product and sum, as torch's FlopCounterMode does.
The ONNX files are read without the onnx package; field numbers are those of onnx.proto: GraphProto.node 1,
.initializer 5, .input 11, .output 12, .value_info 13; NodeProto.input 1, .output 2, .op_type 4; TensorProto.dims 1,
.name 8; ValueInfoProto.name 1, .type 2; TypeProto.tensor_type 1; its .shape 2; TensorShapeProto.dim 1;
Dimension.dim_value 1, .dim_param 2.
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
class Product:
    """One product of a graph: its operations, and (rows, inner, columns) if it is a matrix by a weight."""

    operations: int
    sides: tuple[int, int, int] | None


def encoder_operations(bundle: Bundle, rows: int = 1) -> int:
    """Operations of the encoder on `rows` crops. Raises BundleFormatError."""
    return sum(product.operations for product in products(bundle.encoder, {"B": rows}))


def encoder_bytes(bundle: Bundle, precision: str, rows: int = 1) -> int:
    """Bytes the encoder cannot do without moving: weights and crops are read, `cross_kv` is written."""
    d = bundle.dimensions
    cross_kv = 2 * d.layers * d.heads * d.head_size * d.image_tokens * BYTES_OF[_activations(bundle, precision)]
    return _weight_bytes(bundle, bundle.encoder, precision) + rows * (3 * d.image_size**2 + cross_kv)


def step_operations(bundle: Bundle, rows: int = 1) -> int:
    """Operations of one decoder step of one token a row. Raises BundleFormatError."""
    return sum(product.operations for product in products(bundle.decoder_step, {"B": rows, "T": 1}))


def step_bytes(bundle: Bundle, precision: str, rows: int = 1) -> int:
    """Bytes a decoder step cannot do without moving: its weights and the image tokens' keys and values are read, the
    cache is read and written."""
    d = bundle.dimensions
    slots = rows * (d.image_tokens + 2 * d.capacity)
    cache = 2 * d.layers * slots * d.heads * d.head_size * BYTES_OF[_activations(bundle, precision)]
    return _weight_bytes(bundle, bundle.decoder_step, precision) + cache


def largest_product(bundle: Bundle) -> tuple[int, int, int]:
    """(rows, inner, columns) of the encoder's largest product by a weight, for one crop. Raises BundleFormatError."""
    by_weights = [product for product in products(bundle.encoder, {"B": 1}) if product.sides]
    if not by_weights:
        raise BundleFormatError(f"{bundle.encoder} multiplies by no weights; export the bundle again")
    sides = max(by_weights, key=lambda product: product.operations).sides
    assert sides is not None
    return sides


def products(graph: Path, sizes: Mapping[str, int]) -> list[Product]:
    """The products of an ONNX graph, with these sizes for its letters. Raises BundleFormatError."""
    try:
        return list(_products(memoryview(graph.read_bytes()), sizes))
    except (KeyError, ValueError, IndexError) as error:
        raise BundleFormatError(f"the work in {graph} cannot be counted: {error}; export the bundle again") from None


def _activations(bundle: Bundle, precision: str) -> str:
    """The precision of what goes in and out of a graph: of the 8-bit ones only the weights are smaller."""
    return bundle.precision if precision == "int8" else precision


def _weight_bytes(bundle: Bundle, graph: Path, precision: str) -> int:
    if precision == "int8" and bundle.has_int8:
        graph = bundle.int8_encoder if graph == bundle.encoder else bundle.int8_decoder_step
        return sum(file.stat().st_size for file in bundle.path.glob(f"{graph.name}*"))
    files = bundle.path.glob(f"{graph.name}*")  # the graph itself is small beside the weights
    return sum(file.stat().st_size for file in files) * BYTES_OF[precision] // BYTES_OF[bundle.precision]


def _products(model: memoryview, sizes: Mapping[str, int]) -> Iterator[Product]:
    graph = next(_messages(model, 7), None)
    if graph is None:
        raise ValueError("it holds no graph")
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
            yield Product(operations=2 * math.prod(out) * math.prod(shape(second)[1:]), sides=None)
        else:
            inner = math.prod(shape(first)) * out[-1] // math.prod(out)
            rows = math.prod(out) // out[-1]
            sides = (rows, inner, out[-1]) if second in weights else None
            yield Product(operations=2 * math.prod(out) * inner, sides=sides)


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
    raise ValueError("a tensor has a side of unknown size")


def _evaluate(text: str, sizes: Mapping[str, int]) -> int:
    """Sums and products of numbers and letters, such as `T + 27`."""
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
