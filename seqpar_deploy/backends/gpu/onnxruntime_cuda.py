"""ONNX Runtime on NVIDIA GPUs, where there is no TensorRT: the bundle's graphs as they are, decoding on the device.

Each session works on the stream of a lane, between buffers of the backend, and no run waits for the device. Not yet
measured on hardware: tests run this file on ONNX Runtime's CPU, with a stand-in for CUDA, see tests/backends/gpu.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from seqpar_deploy.backends.base import ComputePrecision
from seqpar_deploy.backends.gpu.cuda import Cuda, cuda_runtime, find_gpu
from seqpar_deploy.backends.gpu.decode import DeviceBackend
from seqpar_deploy.backends.gpu.graph_runner import Addresses, Shapes
from seqpar_deploy.backends.gpu.lanes import Turn
from seqpar_deploy.backends.sessions import (
    PROVIDERS,
    Graph,
    OnnxRuntimeSession,
    import_onnxruntime,
    inference_session,
)
from seqpar_deploy.backends.spec import BackendSpec
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BackendError, BackendUnavailableError

# GatherND, Concat and others copied from memory that a replay no longer finds (microsoft/onnxruntime#32120, #32121).
CAPTURABLE = (1, 30)

_TYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


class SessionContext:
    """A session's inferences of inputs of one set of shapes."""

    def __init__(self, onnxruntime: Any, session: Any, name: str, device: str, shapes: Shapes) -> None:
        self._session, self._name, self._device, self._input_shapes = session, name, device, shapes
        self._no_waiting = onnxruntime.RunOptions()
        self._no_waiting.add_run_config_entry("disable_synchronize_execution_providers", "1")
        sizes: dict[Any, int] = {}  # of the dimensions that the graph leaves open, by their names
        for value in session.get_inputs():
            sizes |= zip(value.shape, shapes[value.name], strict=True)
        self._inputs = [(value.name, _TYPES[value.type], list(shapes[value.name])) for value in session.get_inputs()]
        self._outputs = [
            (value.name, _TYPES[value.type], [sizes.get(size, size) for size in value.shape])
            for value in session.get_outputs()
        ]

    def enqueue(self, addresses: Addresses, turn: Turn) -> None:
        """The session's stream is that of the turn."""
        binding = self._session.io_binding()
        for name, dtype, shape in self._inputs:
            binding.bind_input(name, self._device, 0, dtype, shape, addresses[name])
        for name, dtype, shape in self._outputs:
            if name in addresses:  # ONNX Runtime does not compute an output that is not requested
                binding.bind_output(name, self._device, 0, dtype, shape, addresses[name])
        try:
            self._session.run_with_iobinding(binding, self._no_waiting)
        except Exception as error:  # ONNX Runtime's own exceptions share no base class but this
            raise BackendError(f"the {self._name} graph does not run for {dict(self._input_shapes)}: {error}") from None

    def close(self) -> None:
        self._session = None


class SessionExecutor:
    """One graph in a session whose stream is a lane's."""

    device = "cuda"
    captures_by_itself = False
    context_type = SessionContext

    def __init__(self, onnxruntime: Any, graph: Path, turn: Turn) -> None:
        self._onnxruntime, self._name = onnxruntime, graph.stem
        options = {
            "user_compute_stream": str(turn.handle),
            "use_tf32": "0",  # FP32 means FP32
            "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search for each batch size costs more than it gains
            "arena_extend_strategy": "kSameAsRequested",  # doubling would take up to twice the memory
        }
        provider = PROVIDERS[self.device]
        # Memory that a pattern sets aside is set aside when the second run has begun, which a capture does not allow.
        self._session = inference_session(
            onnxruntime, graph, [(provider, options if self.device == "cuda" else {})], enable_mem_pattern=False
        )
        if provider not in self._session.get_providers():
            raise BackendUnavailableError(
                "ONNX Runtime found no usable CUDA device (driver, CUDA or cuDNN missing); use backend onnxruntime"
            )

    def context(self, profile: int, shapes: Shapes, turn: Turn) -> SessionContext:
        return self.context_type(self._onnxruntime, self._session, self._name, self.device, shapes)

    def close(self) -> None:
        self._session = None


class OnnxRuntimeCudaBackend(DeviceBackend):
    """Runs a bundle's graphs as they are. Threads may share it."""

    executor = SessionExecutor

    def __init__(self, bundle: Bundle, *, cuda_graphs: bool = False, cuda_python: Any = None) -> None:
        """Open the graphs on the first visible GPU.

        `cuda_graphs` captures the work that ONNX Runtime enqueues. Default: off, as ONNX Runtime does not support it
        officially (microsoft/onnxruntime#32081). `cuda_python` stands in for the real module.

        Raises BackendUnavailableError (the SDK or the GPU is missing), BackendError.
        """
        onnxruntime = import_onnxruntime(self.executor.device)
        if cuda_graphs and _version(onnxruntime) < CAPTURABLE:
            raise BackendError(
                f"cuda_graphs needs ONNX Runtime {'.'.join(map(str, CAPTURABLE))} or later, got "
                f"{onnxruntime.__version__}: earlier ones read freed memory when a graph is replayed"
            )
        cuda_python = cuda_runtime() if cuda_python is None else cuda_python
        find_gpu(cuda_python)
        files = {"encoder": bundle.encoder, "decoder_step": bundle.decoder_step}
        super().__init__(
            bundle,
            name="onnxruntime-cuda",
            batches=bundle.batches,
            cuda=Cuda(cuda_python),
            open_graph=lambda name, turn: self.executor(onnxruntime, files[name], turn),
            cuda_graphs=cuda_graphs,
        )


def _version(onnxruntime: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])


def _open(bundle: Bundle, threads: int | None, compute_precision: ComputePrecision) -> OnnxRuntimeCudaBackend:
    return OnnxRuntimeCudaBackend(bundle)


def _open_session(graph: Graph, *, threads: int | None, compute_precision: ComputePrecision) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(graph, device="cuda", threads=threads)


SPEC = BackendSpec(
    name="onnxruntime-cuda",
    device="cuda",
    extra="cuda",
    load_sdk=lambda: import_onnxruntime("cuda"),
    open=_open,
    open_session=_open_session,
)
