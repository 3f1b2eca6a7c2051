"""Backends: the runtimes that run a bundle, opened by name. No SDK is imported before it is needed.

| name               | runs on     | extra      |
|--------------------|-------------|------------|
| `tensorrt`         | NVIDIA GPUs | `tensorrt` |
| `tensorrt_rtx`     | NVIDIA GPUs | `rtx`      |
| `onnxruntime-cuda` | NVIDIA GPUs | `cuda`     |
| `openvino`         | CPUs        | `openvino` |
| `onnxruntime`      | CPUs        | `cpu`      |

`auto` takes the first that opens the bundle: of the flavours of TensorRT those that engines lie beside the bundle for,
of the others those that are installed.
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
