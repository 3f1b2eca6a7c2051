"""Opening a backend by name. One file an SDK; none is imported before it is asked for.

| name               | runs on                     | extra      |
|--------------------|-----------------------------|------------|
| `tensorrt`         | NVIDIA GPUs                 | `tensorrt` |
| `tensorrt_rtx`     | NVIDIA GPUs                 | `rtx`      |
| `onnxruntime-cuda` | NVIDIA GPUs                 | `cuda`     |
| `openvino`         | CPUs                        | `openvino` |
| `onnxruntime`      | CPUs                        | `cpu`      |

`auto` takes the first that opens the bundle: of the flavours of TensorRT those that engines lie beside the bundle for,
of the others those that are installed.
"""

from __future__ import annotations

import warnings
from typing import Any, Literal, get_args

from seqpar_deploy.backends import onnxruntime, openvino
from seqpar_deploy.backends.base import Backend, ComputePrecision, DecodeState, StepOutput
from seqpar_deploy.backends.gpu import onnxruntime_cuda, tensorrt
from seqpar_deploy.backends.gpu.engine_files import RUNTIMES, has_engines
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BackendError, BackendUnavailableError

BackendName = Literal["auto", "tensorrt", "tensorrt_rtx", "onnxruntime-cuda", "openvino", "onnxruntime"]

MOST_THREADS = 1024

__all__ = [
    "Backend",
    "BackendName",
    "ComputePrecision",
    "DecodeState",
    "StepOutput",
    "available_backends",
    "backends_for",
    "open_backend",
]


def available_backends() -> list[str]:
    """Names of the backends that need no engines and whose SDK is installed, in the order `auto` tries them."""
    devices = onnxruntime.available_devices()
    return [
        *(["onnxruntime-cuda"] if "cuda" in devices else []),
        *(["openvino"] if openvino.is_available() else []),
        *(["onnxruntime"] if "cpu" in devices else []),
    ]


def backends_for(bundle: Bundle) -> list[str]:
    """Names of the backends that may run a bundle here, in the order `auto` tries them: those that engines lie beside
    it for, and those that need none."""
    return [*(runtime for runtime in RUNTIMES if has_engines(bundle, runtime)), *available_backends()]


def open_backend(
    bundle: Bundle,
    name: BackendName = "auto",
    *,
    threads: int | None = None,
    compute_precision: ComputePrecision = "native",
) -> Backend[Any]:
    """Open a bundle on a backend. `threads` bounds the threads of one inference on a CPU.

    Raises BackendUnavailableError if the SDK is missing or cannot compute so, BackendError if it cannot open this.
    """
    if compute_precision not in get_args(ComputePrecision):
        raise BackendUnavailableError(
            f"compute precision must be one of {', '.join(get_args(ComputePrecision))}, got {compute_precision!r}"
        )
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise BackendError(f"threads are {threads}, wanted 1 to {MOST_THREADS}")
    if name == "auto":
        return _open_first(bundle, threads, compute_precision)
    if name == "onnxruntime":
        return onnxruntime.OnnxRuntimeBackend(bundle, threads=threads, compute_precision=compute_precision)
    if name == "openvino":
        return openvino.OpenVinoBackend(bundle, threads=threads, compute_precision=compute_precision)
    if name not in get_args(BackendName):
        raise BackendUnavailableError(f"no backend {name!r}; known are {', '.join(get_args(BackendName))}")
    if compute_precision != "native":
        raise BackendUnavailableError(
            f"backend {name} computes as the bundle's graphs say; leave out {compute_precision!r}"
        )
    if name == "onnxruntime-cuda":
        return onnxruntime_cuda.OnnxRuntimeCudaBackend(bundle)
    return tensorrt.TensorRtBackend(bundle, runtime=name)


def _open_first(bundle: Bundle, threads: int | None, compute_precision: ComputePrecision) -> Backend[Any]:
    names = backends_for(bundle)
    if not names:
        raise BackendUnavailableError(
            "no backend is installed; pip install 'seqpar-deploy[openvino]' or [cpu] or [cuda]"
        )
    for name, following in zip(names, [*names[1:], None], strict=True):
        try:
            return open_backend(bundle, name, threads=threads, compute_precision=compute_precision)  # type: ignore[arg-type]
        except BackendError as error:
            if following is None:
                raise
            warnings.warn(f"backend {name} is passed over for {following}: {error}", stacklevel=4)
    raise AssertionError("unreachable: the last backend returns or raises")
