"""The backend `onnxruntime-cuda`: ONNX Runtime on NVIDIA GPUs, for machines without TensorRT.

It runs the bundle's graphs unchanged and decodes on the device. Each session runs on the stream of a lane, between
buffers of the backend, without waiting for the device. Not yet measured on hardware: tests run this file on ONNX
Runtime's CPU provider, with a stand-in for CUDA, see tests/backends/gpu.
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
from seqpar_deploy.backends.gpu.profiles import image_tokens
from seqpar_deploy.backends.sessions import (
    PROVIDERS,
    Graph,
    OnnxRuntimeSession,
    import_onnxruntime,
    inference_session,
)
from seqpar_deploy.backends.spec import BackendSpec
from seqpar_deploy.bundle import Bundle, Dimensions
from seqpar_deploy.errors import BackendError, BackendUnavailableError

# Before it, GatherND, Concat and others read freed memory in a replay (microsoft/onnxruntime#32120, #32121).
CAPTURABLE = (1, 30)

_TYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


class SessionContext:
    """Run a session for one set of input shapes."""

    def __init__(
        self, onnxruntime: Any, session: Any, name: str, device: str, shapes: Shapes, dimensions: Dimensions
    ) -> None:
        self._session, self._name, self._device, self._input_shapes = session, name, device, shapes
        self._no_waiting = onnxruntime.RunOptions()
        self._no_waiting.add_run_config_entry("disable_synchronize_execution_providers", "1")
        sizes: dict[Any, int] = {}  # the graph's dynamic dimensions, by name
        for value in session.get_inputs():
            sizes |= zip(value.shape, shapes[value.name], strict=True)
        if "W" in sizes:  # of the encoder, whose N is no dimension of an input
            sizes["N"] = image_tokens(dimensions, sizes["W"] // dimensions.patch_size)
        self._inputs = [(value.name, _TYPES[value.type], list(shapes[value.name])) for value in session.get_inputs()]
        self._outputs = [
            (value.name, _TYPES[value.type], [sizes.get(size, size) for size in value.shape])
            for value in session.get_outputs()
        ]

    def enqueue(self, addresses: Addresses, turn: Turn) -> None:
        """Enqueue one inference. The session already runs on the turn's stream."""
        binding = self._session.io_binding()
        for name, dtype, shape in self._inputs:
            binding.bind_input(name, self._device, 0, dtype, shape, addresses[name])
        for name, dtype, shape in self._outputs:
            if name in addresses:  # ONNX Runtime does not compute an output that is not requested
                binding.bind_output(name, self._device, 0, dtype, shape, addresses[name])
        try:
            self._session.run_with_iobinding(binding, self._no_waiting)
        except Exception as error:  # ONNX Runtime's exceptions have no other common base class
            reason = " ".join(str(error).split())[:300]
            raise BackendError(f"the {self._name} graph failed for {dict(self._input_shapes)}: {reason}") from None

    def close(self) -> None:
        self._session = None


class SessionExecutor:
    """Run one graph in a session on a lane's stream."""

    device = "cuda"
    captures_by_itself = False
    context_type = SessionContext

    def __init__(self, onnxruntime: Any, graph: Path, turn: Turn, dimensions: Dimensions) -> None:
        self._onnxruntime, self._name, self._dimensions = onnxruntime, graph.stem, dimensions
        options = {
            "user_compute_stream": str(turn.handle),
            "use_tf32": "0",  # FP32 is not replaced by TF32
            "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search per batch size costs more time than it saves
            "arena_extend_strategy": "kSameAsRequested",  # doubling would take up to twice the memory
        }
        provider = PROVIDERS[self.device]
        # A memory pattern allocates at the start of the second run, which is not allowed in a capture.
        self._session = inference_session(
            onnxruntime, graph, [(provider, options if self.device == "cuda" else {})], enable_mem_pattern=False
        )
        if provider not in self._session.get_providers():
            raise BackendUnavailableError(
                "ONNX Runtime found no usable CUDA device; check the driver, CUDA and cuDNN, or use backend onnxruntime"
            )

    def context(self, profile: int, shapes: Shapes, turn: Turn) -> SessionContext:
        return self.context_type(self._onnxruntime, self._session, self._name, self.device, shapes, self._dimensions)

    def close(self) -> None:
        self._session = None


class OnnxRuntimeCudaBackend(DeviceBackend):
    """Run a bundle's graphs in ONNX Runtime on an NVIDIA GPU. Threads may share it."""

    executor = SessionExecutor

    def __init__(self, bundle: Bundle, *, cuda_graphs: bool = False, cuda_python: Any = None) -> None:
        """Open the graphs on the first visible GPU.

        Args:
            bundle: The opened bundle.
            cuda_graphs: Capture the work that ONNX Runtime enqueues. Default: False, since ONNX Runtime does not
                officially support it (microsoft/onnxruntime#32081).
            cuda_python: Replaces cuda-python's runtime module. Default: the real one.

        Raises:
            BackendUnavailableError: The SDK or the GPU is missing.
            BackendError: The graphs cannot be opened.
        """
        onnxruntime = import_onnxruntime(self.executor.device)
        if cuda_graphs and _version(onnxruntime) < CAPTURABLE:
            raise BackendError(
                f"ONNX Runtime must be {'.'.join(map(str, CAPTURABLE))} or later for cuda_graphs, got "
                f"{onnxruntime.__version__}, which reads freed memory in a replay; update it, or leave out cuda_graphs"
            )
        cuda_python = cuda_runtime() if cuda_python is None else cuda_python
        find_gpu(cuda_python)
        files = {"encoder": bundle.encoder, "decoder_step": bundle.decoder_step}
        super().__init__(
            bundle,
            name="onnxruntime-cuda",
            batches=bundle.batches,
            cuda=Cuda(cuda_python),
            open_graph=lambda name, turn: self.executor(onnxruntime, files[name], turn, bundle.dimensions),
            cuda_graphs=cuda_graphs,
            pooled=bundle.has_pooled,
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
