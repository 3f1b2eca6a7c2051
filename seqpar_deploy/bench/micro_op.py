"""Write a one-node ONNX model without the onnx package, to time a runtime's own matrix multiplication.

Field numbers are those of onnx.proto, where TensorProto.data_type is 1 for float32, 2 for uint8, 3 for int8, 6 for
int32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_OPSET, _IR_VERSION = 20, 9
_TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6}

Shape = tuple[int, ...]


def one_op_model(operator: str, given: tuple[str, Shape], weight: npt.NDArray[Any], result: tuple[str, Shape]) -> bytes:
    """Return a serialised model of `y = operator(x, weight)`. `given` and `result` are type and shape of x and y."""
    dims = b"".join(_field(1, side) for side in weight.shape)
    kind, content = _field(2, _TYPES[weight.dtype.name]), np.ascontiguousarray(weight).tobytes()
    initializer = dims + kind + _field(8, b"weight") + _field(9, content)
    node = _field(1, b"x") + _field(1, b"weight") + _field(2, b"y") + _field(4, operator.encode())
    values = _field(11, _value("x", *given)) + _field(12, _value("y", *result))
    graph = _field(1, node) + _field(2, b"gemm") + _field(5, initializer) + values
    return _field(1, _IR_VERSION) + _field(7, graph) + _field(8, _field(1, b"") + _field(2, _OPSET))


def _value(name: str, dtype: str, shape: Shape) -> bytes:
    dims = b"".join(_field(1, _field(1, side)) for side in shape)
    return _field(1, name.encode()) + _field(2, _field(1, _field(1, _TYPES[dtype]) + _field(2, dims)))


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
