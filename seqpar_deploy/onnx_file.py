"""Parse the parts of the ONNX file format that a runtime must not be trusted with, without the onnx package.

- An ONNX file names its external-data files itself. A hostile one can name `/etc/passwd` or `../../other`. Not all
  runtimes reject such paths, so a bundle's graphs are checked here before any runtime opens them.
- OpenVINO 2026.4 reads a graph of operator set 2^63 without end, and tries a file that it does not recognise as
  TensorFlow text, which prints lines to standard error. So the head of each file is checked before it is opened.
- OpenVINO 2026.4 ends the process if it is asked for shapes while a GStreamer pipeline runs in it. So inputs and types
  of weights are read from the file.

Field numbers are those of onnx.proto: ModelProto.ir_version 1, .graph 7, .opset_import 8, .functions 25;
OperatorSetIdProto.version 2; GraphProto.node 1, .initializer 5, .input 11, .sparse_initializer 15;
NodeProto.op_type 4, .attribute 5; FunctionProto.node 7; AttributeProto.t 5, .g 6, .tensors 10, .graphs 11,
.sparse_tensor 22, .sparse_tensors 23; SparseTensorProto.values 1, .indices 2; TensorProto.dims 1, .data_type 2,
.name 8, .external_data 13; StringStringEntryProto.key 1, .value 2; ValueInfoProto.name 1, .type 2;
TypeProto.tensor_type 1; TypeProto.Tensor.elem_type 1, .shape 2; TensorShapeProto.dim 1; its dim_value 1.
"""

from __future__ import annotations

import dataclasses
import mmap
from collections.abc import Iterator
from pathlib import Path

from seqpar_deploy.errors import BundleIntegrityError

# Fields of each message type that hold nested messages to read, and the types of those.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_MAX_DEPTH = 32  # nested subgraphs; bundles have none
_IR_VERSION, _GRAPH, _OPSET_IMPORT = 1, 7, 8  # fields below the last occur once
_MODEL_FIELDS = {1: int, 5: int, **dict.fromkeys((2, 3, 4, 6, 7, 8, 14, 20, 25, 26), memoryview)}
_QUANTISING = {
    "QuantizeLinear",
    "DynamicQuantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "QLinearMatMul",
    "QLinearConv",
}
_NEWEST = 999  # IR version or operator set; the newest are 13 and 25 today


@dataclasses.dataclass(frozen=True, kw_only=True)
class GraphInput:
    """Describe an input tensor of a graph.

    Attributes:
        name: The input's name.
        shape: The dimensions. A dynamic dimension is None.
        element_type: Number of the type, `TensorProto.DataType` of onnx.proto. 0 if there is none.
    """

    name: str
    shape: tuple[int | None, ...]
    element_type: int


def external_data_locations(path: Path) -> set[str]:
    """Return the names of the files that hold an ONNX graph's weights. Raises BundleIntegrityError if it is damaged."""
    try:
        return set(_locations(_mapped(path), "model", 0))
    except (ValueError, IndexError) as error:  # mmap raises ValueError for an empty file
        raise BundleIntegrityError(
            f"{path} must be an ONNX file: {error}; export the bundle again with seqpar-export"
        ) from None


def check_head(graph: Path | bytes) -> None:
    """Raise ValueError, with the reason in a few words, if a file or its content does not begin as an ONNX model."""
    content = _mapped(graph) if isinstance(graph, Path) else memoryview(graph)
    once: dict[int, int] = {}  # fields that may not repeat, and their values if they are numbers
    operator_sets: list[int] = []
    try:
        for field, value in fields(content):
            if not isinstance(value, _MODEL_FIELDS.get(field, ())):
                raise ValueError(f"it has the unknown field {field}")
            if field in once:
                raise ValueError(f"it has the field {field} twice")
            if field < _OPSET_IMPORT:
                once[field] = value if isinstance(value, int) else 0
            elif field == _OPSET_IMPORT and not isinstance(value, int):
                operator_sets += [number for key, number in fields(value) if key == 2 and isinstance(number, int)]
    except IndexError:
        raise ValueError("it is truncated") from None
    if _GRAPH not in once:
        raise ValueError("it has no graph")
    for name, numbers in (("IR version", [once.get(_IR_VERSION, 0)]), ("operator set", operator_sets or [0])):
        if strange := [number for number in numbers if not 1 <= number <= _NEWEST]:
            raise ValueError(f"it is of {name} {strange[0]}, which does not exist")


def graph_inputs(graph: Path | bytes) -> list[GraphInput]:
    """Return the inputs of a graph, in order, without those that only name an initializer, as before IR version 4.

    Args:
        graph: An ONNX file, or its content.

    Raises:
        ValueError: The file is damaged. The message has the reason in a few words.
    """
    content = _mapped(graph) if isinstance(graph, Path) else memoryview(graph)
    found: list[GraphInput] = []
    initializers = set()
    try:
        for message in _nested(content, _GRAPH):
            for field, value in _length_delimited_fields(message):
                if field == 11:
                    found.append(_graph_input(value))
                elif field == 5:
                    initializers |= {_text(name) for name in _nested(value, 8)}
    except IndexError:
        raise ValueError("it is truncated") from None
    return [one for one in found if one.name not in initializers]


def has_8_bit_products(graph: Path | bytes) -> bool:
    """Return whether a graph quantises activations or has matrices of 8-bit weights. Raises as `graph_inputs`."""
    content = _mapped(graph) if isinstance(graph, Path) else memoryview(graph)
    try:
        for message in _nested(content, _GRAPH):
            for field, value in _length_delimited_fields(message):
                if field == 5 and _is_8_bit_matrix(value):
                    return True
                if field == 1:
                    operator = next((_text(text) for text in _nested(value, 4)), "")
                    attributes = _nested(value, 5) if operator == "Constant" else ()
                    constants = (tensor for attribute in attributes for tensor in _nested(attribute, 5))
                    if operator in _QUANTISING or any(map(_is_8_bit_matrix, constants)):
                        return True
    except IndexError:
        raise ValueError("it is truncated") from None
    return False


def _is_8_bit_matrix(tensor: memoryview) -> bool:
    sizes: list[int] = []
    element_type = 0
    for field, value in fields(tensor):
        if field == 1:
            sizes += [value] if isinstance(value, int) else _packed(value)
        elif field == 2 and isinstance(value, int):
            element_type = value
    return element_type in (2, 3) and len(sizes) > 1 and min(sizes) > 1  # uint8 or int8, and no zero points


def _packed(numbers: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(numbers):
        number, at = varint(numbers, at)
        found.append(number)
    return found


def _graph_input(value_info: memoryview) -> GraphInput:
    name = next((_text(text) for text in _nested(value_info, 1)), "")
    element_type, shape = 0, []
    for tensor in (tensor for kind in _nested(value_info, 2) for tensor in _nested(kind, 1)):
        element_type = next((number for field, number in fields(tensor) if field == 1 and isinstance(number, int)), 0)
        for dimension in (one for dims in _nested(tensor, 2) for one in _nested(dims, 1)):
            sizes = [number for field, number in fields(dimension) if field == 1 and isinstance(number, int)]
            shape.append(sizes[0] if sizes and 0 < sizes[0] < 1 << 63 else None)
    return GraphInput(name=name, shape=tuple(shape), element_type=element_type)


def _nested(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """Yield the length-delimited fields of one number."""
    return (value for field, value in _length_delimited_fields(message) if field == wanted)


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8", errors="replace")


def _mapped(path: Path) -> memoryview:
    """Map a file into memory. Raises ValueError if it is empty."""
    with path.open("rb") as file:
        # Not closed by hand: that fails while an error's traceback still holds views of it.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError(f"its graphs are nested more than {_MAX_DEPTH} deep")
    for field, value in _length_delimited_fields(message):
        child = _CHILDREN[kind].get(field)
        if child == "entry":
            entry = {key: bytes(text) for key, text in _length_delimited_fields(value)}
            if entry.get(1) == b"location":
                yield entry.get(2, b"").decode("utf-8", errors="replace")
        elif child is not None:
            yield from _locations(value, child, depth + 1)


def _length_delimited_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield (field number, bytes) of every length-delimited field. Other wire types are skipped."""
    for field, value in fields(message):
        if not isinstance(value, int):
            yield field, value


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield (field number, value) of the fields of a message: varints as int, length-delimited fields as bytes.

    Fixed-width numbers are skipped. Raises ValueError or IndexError if the message is damaged.
    """
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            number, at = varint(message, at)
            yield field, number
        elif wire_type in (1, 5):
            at += 8 if wire_type == 1 else 4
        elif wire_type == 2:
            length, at = varint(message, at)
            if at + length > len(message):
                raise ValueError("it is truncated")
            yield field, message[at : at + length]
            at += length
        else:
            raise ValueError(f"it has the unknown wire type {wire_type}")


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return (value, end offset) of the varint that begins at offset `at`."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("it has a varint of more than 64 bits")
