"""Open a bundle, or any ONNX graph, on a runtime. An SDK is imported when its backend is opened.

| name               | runs on     | extra      |
|--------------------|-------------|------------|
| `tensorrt`         | NVIDIA GPUs | `tensorrt` |
| `tensorrt_rtx`     | NVIDIA GPUs | `rtx`      |
| `onnxruntime-cuda` | NVIDIA GPUs | `cuda`     |
| `openvino`         | CPUs        | `openvino` |
| `onnxruntime`      | CPUs        | `cpu`      |

`auto` opens the first that works: a TensorRT backend if the bundle has engines for it, any other if it is installed.
"""

from __future__ import annotations

from seqpar_deploy.backends.base import Backend, ComputePrecision, DecodeState, StepOutput
from seqpar_deploy.backends.registry import (
    BackendName,
    BackendStatus,
    available_backends,
    backends_for,
    describe,
    open_backend,
    open_session,
)
from seqpar_deploy.backends.sessions import Session

__all__ = [
    "Backend",
    "BackendName",
    "BackendStatus",
    "ComputePrecision",
    "DecodeState",
    "Session",
    "StepOutput",
    "available_backends",
    "backends_for",
    "describe",
    "open_backend",
    "open_session",
]
