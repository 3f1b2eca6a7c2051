"""Measure the peak rate of matrix multiplication (GEMM) on this CPU, over all installed libraries.

A single library can be slow on some CPUs (for example MKL on AMD), and a share of its rate would flatter the model.
So every library is measured, with the model's largest shape and with a large square, and the best rate counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np

from seqpar_deploy.backends.base import ComputePrecision
from seqpar_deploy.backends.sessions import (
    PROVIDERS,
    compile_model,
    import_onnxruntime,
    import_openvino,
    inference_session,
    openvino_core,
)
from seqpar_deploy.bench.micro_op import one_op_model
from seqpar_deploy.bench.timing import durations
from seqpar_deploy.errors import BackendError
from seqpar_deploy.machine import has_bf16, lacks_vnni

PRECISIONS = ("fp32", "bf16", "int8")
SQUARE = 2048

Work = Callable[[], object]
Sides = tuple[int, int, int]  # rows, inner, columns


def best_rate(
    precision: str, shapes: list[Sides], *, threads: int | None, seconds: float
) -> tuple[float | None, str | None]:
    """Return (FLOPs per second, library and shape) of the fastest GEMM, or (None, None) if no library supports it.

    The fastest run counts, since other processes can only slow a run down.
    """
    found: list[tuple[float, str]] = []
    for name, make_gemm in LIBRARIES.items():
        for rows, inner, columns in shapes:
            with contextlib.suppress(ImportError, BackendError, RuntimeError, NotImplementedError):
                work = make_gemm(precision, (rows, inner, columns), threads)
                if work is not None:
                    rate = 2 * rows * inner * columns / min(durations(work, seconds=seconds))
                    found.append((rate, f"{name}, {rows}x{inner} by {inner}x{columns}"))
    return max(found, default=(None, None))


def _numpy(precision: str, sides: Sides, threads: int | None) -> Work | None:
    if precision != "fp32" or threads is not None:  # its thread count is fixed at import
        return None
    a, b = _random(sides)
    return lambda: a @ b


def _torch(precision: str, sides: Sides, threads: int | None) -> Work | None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    a, b = (torch.from_numpy(array) for array in _random(sides))
    if precision == "int8":
        x, y = (100 * a).to(torch.int8), (100 * b).to(torch.int8)
        return lambda: torch._int_mm(x, y)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if dtype == torch.bfloat16 and not has_bf16():
        return None
    x, y = a.to(dtype), b.to(dtype)
    return lambda: x @ y


def _onnxruntime(precision: str, sides: Sides, threads: int | None) -> Work | None:
    if precision == "bf16":
        return None
    (rows, inner, columns), (a, b) = sides, _random(sides)
    if precision == "int8":
        a, b = (100 * a).astype(np.uint8), (100 * b).astype(np.int8)
    operator, result = ("MatMulInteger", "int32") if precision == "int8" else ("MatMul", "float32")
    model = one_op_model(operator, (a.dtype.name, (rows, inner)), b, (result, (rows, columns)))
    session = inference_session(import_onnxruntime(), model, [PROVIDERS["cpu"]], intra_op_num_threads=threads)
    return lambda: session.run(None, {"x": a})


def _openvino(precision: str, sides: Sides, threads: int | None) -> Work | None:
    openvino = import_openvino()
    from openvino import opset13

    if precision == "int8" and lacks_vnni():
        return None  # its 8-bit products overflow there
    if precision != "fp32" and precision.upper() not in openvino_core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        return None
    a, b = _random(sides)
    x = given = opset13.parameter(list(a.shape), np.float32)
    weight = opset13.constant(b)
    if precision == "int8":  # the pattern that OpenVINO recognises as a quantised GEMM
        low, high = opset13.constant(np.float32(-1.28)), opset13.constant(np.float32(1.27))
        x = opset13.fake_quantize(x, low, high, low, high, 256)
        whole = opset13.convert(opset13.constant((100 * b).astype(np.int8)), np.float32)
        weight = opset13.multiply(whole, opset13.constant(np.full((1, b.shape[1]), 0.01, np.float32)))
    model = openvino.Model([opset13.matmul(x, weight, False, False)], [given])
    compute_precision: ComputePrecision = "bf16" if precision == "bf16" else "native"
    request = compile_model(model, threads=threads, compute_precision=compute_precision).create_infer_request()
    return lambda: request.infer([a], share_inputs=True, share_outputs=True)


LIBRARIES: dict[str, Callable[[str, Sides, int | None], Work | None]] = {
    "numpy": _numpy,
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def _random(sides: Sides) -> tuple[Any, Any]:
    """Two matrices of values in [0, 1)."""
    rng, (rows, inner, columns) = np.random.default_rng(0), sides
    return rng.random((rows, inner), dtype=np.float32), rng.random((inner, columns), dtype=np.float32)
