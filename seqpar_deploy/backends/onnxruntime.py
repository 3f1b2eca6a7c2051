"""ONNX Runtime, on the CPU and, with the `cuda` extra, on NVIDIA GPUs.

The CUDA path moves the cache over the bus at each step. It is not yet measured on hardware.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends.base import Int64Array
from seqpar_deploy.backends.host import Cache, HostBackend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BackendError, BackendUnavailableError


def available_devices() -> list[str]:
    """Devices the installed ONNX Runtime can use; empty if it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return []
    cuda = ["cuda"] if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else []
    return [*cuda, "cpu"]


class OnnxRuntimeBackend(HostBackend):
    """Runs a bundle's graphs as they are."""

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, *, device: Literal["cpu", "cuda"] = "cpu", threads: int | None = None) -> None:
        super().__init__(bundle)
        try:
            import onnxruntime
        except ImportError:
            extra = "cuda" if device == "cuda" else "cpu"
            raise BackendUnavailableError(
                f"backend onnxruntime needs ONNX Runtime, which is not installed; pip install 'seqpar-deploy[{extra}]'"
            ) from None
        if device not in available_devices():
            raise BackendUnavailableError(
                f"the installed ONNX Runtime {onnxruntime.__version__} cannot use {device!r}; "
                "pip uninstall onnxruntime, then pip install 'seqpar-deploy[cuda]' (the two exclude each other)"
            )
        self.device = device
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only: they are raised as well
        if threads is not None:
            options.intra_op_num_threads = threads
        providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if device == "cuda" else ["CPUExecutionProvider"]
        # A pass for convolution networks, of no use here: in ONNX Runtime 1.32 it ends in a segmentation fault when the
        # CPU opens an FP16 encoder (at the residual additions).
        passes_off = ["NchwcTransformer"]

        def open_graph(path: Path) -> Any:
            return onnxruntime.InferenceSession(path, options, providers=providers, disabled_optimizers=passes_off)

        try:
            self._encoder = open_graph(bundle.encoder)
            self._decoder_step = open_graph(bundle.decoder_step)
        except Exception as error:  # ONNX Runtime's own exceptions share no base class but this
            raise BackendError(f"ONNX Runtime {onnxruntime.__version__} cannot open {bundle.path}: {error}") from None
        if device == "cuda" and "CUDAExecutionProvider" not in self._encoder.get_providers():
            raise BackendUnavailableError(
                "ONNX Runtime found no usable CUDA device (driver, CUDA or cuDNN missing); use backend onnxruntime"
            )

    def _run_encoder(self, crops: npt.NDArray[np.uint8]) -> Cache:
        outputs: list[Any] = self._encoder.run(["cross_kv"], {"crops": crops})
        return np.asarray(outputs[0])

    def _run_decoder_step(
        self, tokens: Int64Array, position: Int64Array, self_kv: Cache, cross_kv: Cache
    ) -> tuple[npt.NDArray[np.float32], Int64Array, Cache]:
        outputs: list[Any] = self._decoder_step.run(
            ["log_probs", "next_token", "self_kv_out"],
            {"tokens": tokens, "position": position, "self_kv": self_kv, "cross_kv": cross_kv},
        )
        return outputs[0], outputs[1], outputs[2]
