"""OpenVINO, on CPUs."""

from __future__ import annotations

import contextlib
import functools
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy import machine
from seqpar_deploy.backends.base import ComputePrecision, Int64Array
from seqpar_deploy.backends.host import Cache, HostBackend, graphs_for
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BackendError, BackendUnavailableError


def is_available() -> bool:
    """Whether OpenVINO is installed."""
    try:
        import openvino  # noqa: F401
    except ImportError:
        return False
    return True


@functools.cache
def core() -> Any:
    """One for the process, never destroyed: the last to go unloads the CPU plugin, whose threads may still run."""
    import openvino

    return openvino.Core()


def computes_in_bf16() -> bool:
    """Whether OpenVINO is installed and this CPU has bfloat16 instructions."""
    return is_available() and "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def inference_precision(compute_precision: ComputePrecision) -> str:
    """OpenVINO's hint. On CPUs with bf16 instructions it would compute in bf16 unasked, and labels could change."""
    return "bf16" if compute_precision == "bf16" else "f32"


class OpenVinoBackend(HostBackend):
    """Runs a bundle's graphs with arithmetic in FP32, whatever the CPU would rather do, unless told otherwise."""

    name = "openvino"
    device = "cpu"

    def __init__(
        self, bundle: Bundle, *, threads: int | None = None, compute_precision: ComputePrecision = "native"
    ) -> None:
        super().__init__(bundle)
        encoder, decoder_step = graphs_for(bundle, compute_precision)
        try:
            import openvino
        except ImportError:
            raise BackendUnavailableError(
                "backend openvino needs OpenVINO, which is not installed; pip install 'seqpar-deploy[openvino]'"
            ) from None
        if compute_precision == "bf16" and not computes_in_bf16():
            raise BackendUnavailableError("this CPU has no bfloat16 instructions; use native or int8")
        if compute_precision == "int8" and machine.lacks_vnni():
            raise BackendUnavailableError(
                "OpenVINO's 8-bit products overflow on this processor, which has no VNNI; backend onnxruntime's do not"
            )
        config: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": inference_precision(compute_precision),
            "PERFORMANCE_HINT": "LATENCY",
        }
        threads = machine.thread_limit() if threads is None else threads
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        runtime = core()
        try:
            self._encoder = _Requests(runtime.compile_model(encoder, "CPU", config))
            self._decoder_step = _Requests(runtime.compile_model(decoder_step, "CPU", config))
        except RuntimeError as error:
            first_line = str(error).strip().splitlines()[-1]
            raise BackendError(f"OpenVINO {openvino.__version__} cannot open {bundle.path}: {first_line}") from None

    def _run_encoder(self, crops: npt.NDArray[np.uint8]) -> Cache:
        with self._encoder.borrow() as request:
            results = request.infer({"crops": crops}, share_inputs=True, share_outputs=False)
            return np.asarray(results["cross_kv"])

    def _run_decoder_step(
        self, tokens: Int64Array, position: Int64Array, self_kv: Cache, cross_kv: Cache
    ) -> tuple[npt.NDArray[np.float32], Int64Array, Cache]:
        with self._decoder_step.borrow() as request:
            results = request.infer(
                {"tokens": tokens, "position": position, "self_kv": self_kv, "cross_kv": cross_kv},
                share_inputs=True,
                share_outputs=False,
            )
            return results["log_probs"], results["next_token"], results["self_kv_out"]


class _Requests:
    """Infer requests of one compiled model; as many come to exist as threads ask at once."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Any]:
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            yield request
        finally:
            self._idle.put(request)
