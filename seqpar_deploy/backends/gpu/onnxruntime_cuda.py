"""ONNX Runtime on NVIDIA GPUs, where there is no TensorRT: the bundle's graphs as they are, decoding on the device.

Both sessions work on streams of ours, between buffers of ours, and no run waits for the device. Not yet measured on
hardware: tests run this file on ONNX Runtime's CPU, with a stand-in for CUDA, see tests/backends.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqpar_deploy.backends.base import ComputePrecision
from seqpar_deploy.backends.gpu.cuda import Address, Cuda, cuda_runtime, find_gpu
from seqpar_deploy.backends.gpu.decode import DeviceBackend
from seqpar_deploy.backends.gpu.graph_runner import Engine, Shape
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

_TYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


class SessionExecutor:
    """Runs one graph on a stream, between addresses."""

    device = "cuda"

    def __init__(self, onnxruntime: Any, graph: Path, stream: Any) -> None:
        self._name = graph.stem
        options = {
            "user_compute_stream": str(int(stream)),
            "use_tf32": "0",  # FP32 means FP32
            "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search for each batch size costs more than it gains
        }
        provider = PROVIDERS[self.device]
        # What a memory pattern sets aside is set aside when the second run has begun, which a capture does not allow.
        self._session = inference_session(
            onnxruntime, graph, [(provider, options if self.device == "cuda" else {})], enable_mem_pattern=False
        )
        if provider not in self._session.get_providers():
            raise BackendUnavailableError(
                "ONNX Runtime found no usable CUDA device (driver, CUDA or cuDNN missing); use backend onnxruntime"
            )
        self._no_waiting = onnxruntime.RunOptions()
        self._no_waiting.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def enqueue(self, profile: int, shapes: Mapping[str, Shape], addresses: Mapping[str, Address], stream: Any) -> None:
        binding = self._session.io_binding()
        sizes: dict[Any, int] = {}  # of what the graph leaves open, by its name
        for value in self._session.get_inputs():
            sizes |= zip(value.shape, shapes[value.name], strict=True)
            address, shape = addresses[value.name], list(shapes[value.name])
            binding.bind_input(value.name, self.device, 0, _TYPES[value.type], shape, address)
        for value in self._session.get_outputs():
            if value.name not in addresses:  # not requested, so not computed
                continue
            address, shape = addresses[value.name], [sizes.get(size, size) for size in value.shape]
            binding.bind_output(value.name, self.device, 0, _TYPES[value.type], shape, address)
        try:
            self._session.run_with_iobinding(binding, self._no_waiting)
        except Exception as error:  # ONNX Runtime's own exceptions share no base class but this
            raise BackendError(f"the {self._name} graph does not run for {dict(shapes)}: {error}") from None

    def close(self) -> None:
        self._session = None


class OnnxRuntimeCudaBackend(DeviceBackend):
    """Runs a bundle's graphs as they are. Threads may share it."""

    executor = SessionExecutor

    def __init__(
        self, bundle: Bundle, *, look_every: int = 4, cuda_graphs: bool = False, cuda_python: Any = None
    ) -> None:
        """Open the graphs on the first visible GPU. See `DeviceBackend` for `look_every`.

        `cuda_graphs` captures what ONNX Runtime enqueues; off until it has been seen to work. `cuda_python` stands in
        for the real module. Raises BackendUnavailableError (the SDK or the GPU is missing), BackendError.
        """
        onnxruntime = import_onnxruntime(self.executor.device)
        cuda_python = cuda_runtime() if cuda_python is None else cuda_python
        find_gpu(cuda_python)
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()  # CUDA's libraries from their own packages; silent where they are elsewhere
        cuda = Cuda(cuda_python)
        try:
            encoder, decoder_step = (
                Engine(
                    self.executor(onnxruntime, graph, stream),
                    cuda,
                    name=graph.stem,
                    stream=stream,
                    graphs=cuda_graphs,
                )
                for graph, stream in ((bundle.encoder, cuda.stream()), (bundle.decoder_step, cuda.stream()))
            )
            super().__init__(
                bundle,
                name="onnxruntime-cuda",
                batches=bundle.batches,
                cuda=cuda,
                encoder=encoder,
                decoder_step=decoder_step,
                look_every=look_every,
            )
        except BaseException:
            cuda.close()
            raise


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
