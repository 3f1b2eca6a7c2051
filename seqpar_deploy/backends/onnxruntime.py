"""ONNX Runtime on the CPU, and what its CUDA backend shares with it: importing it, opening a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy import machine
from seqpar_deploy.backends.base import ComputePrecision, Int64Array
from seqpar_deploy.backends.host import Cache, HostBackend, graphs_for
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BackendError, BackendUnavailableError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def available_devices() -> list[str]:
    """Devices the installed ONNX Runtime was built for; empty if it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return []
    cuda = ["cuda"] if PROVIDERS["cuda"] in onnxruntime.get_available_providers() else []
    return [*cuda, "cpu"]


class OnnxRuntimeBackend(HostBackend):
    """Runs a bundle's graphs as they are; on CPUs ONNX Runtime has no products in bfloat16."""

    name = "onnxruntime"
    device = "cpu"

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, compute_precision: ComputePrecision = "native"
    ) -> None:
        super().__init__(bundle)
        if compute_precision == "bf16":
            raise BackendUnavailableError("ONNX Runtime does not compute in bf16 on CPUs; backend openvino does")
        encoder, decoder_step = graphs_for(bundle, compute_precision)
        onnxruntime = import_onnxruntime("cpu")
        providers = [PROVIDERS["cpu"]]
        self._encoder = open_session(onnxruntime, encoder, providers, intra_op_num_threads=threads)
        self._decoder_step = open_session(onnxruntime, decoder_step, providers, intra_op_num_threads=threads)

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


def import_onnxruntime(device: str) -> Any:
    """The module, built for a device, `cpu` or `cuda`. Raises BackendUnavailableError that says what to install."""
    try:
        import onnxruntime
    except ImportError:
        raise BackendUnavailableError(
            f"backend onnxruntime needs ONNX Runtime, which is not installed; pip install 'seqpar-deploy[{device}]'"
        ) from None
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise BackendUnavailableError(
            f"the installed ONNX Runtime {onnxruntime.__version__} cannot use {device!r}; "
            "pip uninstall onnxruntime, then pip install 'seqpar-deploy[cuda]' (the two exclude each other)"
        )
    return onnxruntime


def open_session(onnxruntime: Any, graph: Path, providers: list[Any], **options: Any) -> Any:
    """A session of a graph; `options` are attributes of its SessionOptions, None leaves one. Raises BackendError."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors only: they are raised as well
    for name, value in options.items():
        if value is not None:
            setattr(settings, name, value)
    if options.get("intra_op_num_threads") is None and (limit := machine.thread_limit()) is not None:
        settings.intra_op_num_threads = limit
    if machine.lacks_vnni():
        settings.add_session_config_entry("session.x64quantprecision", "1")  # 8-bit products that do not overflow
    # A pass for convolution networks, of no use here: in ONNX Runtime 1.32 it ends in a segmentation fault when the
    # CPU opens an FP16 encoder (at the residual additions).
    passes_off = ["NchwcTransformer"]
    try:
        return onnxruntime.InferenceSession(graph, settings, providers=providers, disabled_optimizers=passes_off)
    except Exception as error:  # ONNX Runtime's own exceptions share no base class but this
        raise BackendError(f"ONNX Runtime {onnxruntime.__version__} cannot open {graph}: {error}") from None
