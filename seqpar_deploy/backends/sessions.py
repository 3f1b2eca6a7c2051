"""The one place that makes ONNX Runtime and OpenVINO sessions, with the guards that every graph needs.

- ONNX Runtime's `NchwcTransformer` is off: in 1.32 it ends in a segmentation fault when a CPU opens an FP16 encoder.
- OpenVINO computes in FP32 unless bf16 is asked for: on CPUs with bf16 instructions it would use those by itself.
- x86 processors without VNNI add 8-bit products in pairs in 16 bits, which overflow. ONNX Runtime has other kernels
  there; OpenVINO has none, so it is refused quantised graphs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from seqpar_deploy import machine
from seqpar_deploy.backends.base import ComputePrecision
from seqpar_deploy.errors import BackendError, BackendUnavailableError

_log = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Graph = Path | bytes  # an ONNX file, or its content

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
OPENVINO_OVERFLOWS = (
    "OpenVINO's 8-bit products overflow on this processor, which has no VNNI; use backend onnxruntime, whose do not"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input of a graph. A dimension that is not fixed is None; a type NumPy does not have is `object`."""

    name: str
    shape: tuple[int | None, ...]
    dtype: npt.DTypeLike


class Session(Protocol):
    """A graph opened in a runtime. Threads may share it."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The graph's inputs, in its order."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the exporter wrote into the file."""
        ...

    def run(self, feed: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Arrays by output name, from arrays by input name. `outputs` defaults to all of the graph's."""
        ...


# ONNX Runtime


def import_onnxruntime(device: str = "cpu") -> Any:
    """The module, built for a device, `cpu` or `cuda`. Raises BackendUnavailableError that says what to install."""
    try:
        import onnxruntime
    except ImportError:
        raise BackendUnavailableError(f"ONNX Runtime is not installed; pip install 'seqpar-deploy[{device}]'") from None
    if device == "cuda" and hasattr(onnxruntime, "preload_dlls"):  # first: some builds register their provider then
        _load_cuda_libraries(onnxruntime.preload_dlls)
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise BackendUnavailableError(
            f"the installed ONNX Runtime {onnxruntime.__version__} cannot use {device!r}; "
            "pip uninstall onnxruntime, then pip install 'seqpar-deploy[cuda]' (the two exclude each other)"
        )
    return onnxruntime


@functools.cache
def _load_cuda_libraries(preload: Callable[[], None]) -> None:
    """CUDA's and cuDNN's libraries from their own packages. If one is missing, ONNX Runtime prints so to stdout."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        preload()
    if said.getvalue():
        _log.debug("onnxruntime.preload_dlls: %s", " ".join(said.getvalue().split()))


def inference_session(onnxruntime: Any, graph: Graph, providers: list[Any], **options: Any) -> Any:
    """ONNX Runtime's own session; `options` are attributes of its SessionOptions, None leaves one.

    Raises BackendError.
    """
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors only: they are raised as well
    if (limit := machine.thread_limit()) is not None:
        settings.intra_op_num_threads = limit
    for name, value in options.items():
        if value is not None:
            setattr(settings, name, value)
    if machine.lacks_vnni():
        settings.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(
            graph,
            settings,
            providers=providers,
            disabled_optimizers=["NchwcTransformer"],
            enable_fallback=0,  # it prints, and opens the graph on the CPU without these settings
        )
    except Exception as error:  # ONNX Runtime's own exceptions share no base class but this
        raise _cannot_open("ONNX Runtime", onnxruntime, graph, error) from None


class OnnxRuntimeSession:
    """A graph in ONNX Runtime, in its own precision."""

    def __init__(self, graph: Graph, *, device: str = "cpu", threads: int | None = None) -> None:
        """`threads` defaults to the runtime's choice within the CPU quota.

        Raises BackendUnavailableError, BackendError.
        """
        onnxruntime = import_onnxruntime(device)
        self._session = inference_session(onnxruntime, graph, [PROVIDERS[device]], intra_op_num_threads=threads)
        self._outputs = [output.name for output in self._session.get_outputs()]

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(
            Tensor(
                name=tensor.name,
                shape=tuple(size if isinstance(size, int) and size > 0 else None for size in tensor.shape),
                dtype=_NUMPY_TYPES.get(tensor.type, object),
            )
            for tensor in self._session.get_inputs()
        )

    @property
    def metadata(self) -> Mapping[str, str]:
        metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        return metadata

    def run(self, feed: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        names = self._outputs if outputs is None else list(outputs)
        return dict(zip(names, self._session.run(names, dict(feed)), strict=True))


_NUMPY_TYPES: dict[str, npt.DTypeLike] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


# OpenVINO


def import_openvino() -> Any:
    """The module. Raises BackendUnavailableError that says what to install."""
    try:
        import openvino
    except ImportError:
        raise BackendUnavailableError("OpenVINO is not installed; pip install 'seqpar-deploy[openvino]'") from None
    return openvino


@functools.cache
def openvino_core() -> Any:
    """One for the process, never destroyed: the last to go unloads the CPU plugin, whose threads may still run."""
    return import_openvino().Core()


def compile_model(model: Any, *, threads: int | None, compute_precision: ComputePrecision) -> Any:
    """Compile a model for the CPU, from its path or OpenVINO's object, to OpenVINO's own compiled model.

    Raises BackendUnavailableError, or OpenVINO's RuntimeError.
    """
    core = openvino_core()
    if machine.lacks_vnni() and _is_quantised(core.read_model(model) if isinstance(model, Path) else model):
        raise BackendUnavailableError(OPENVINO_OVERFLOWS)
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if compute_precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    threads = machine.thread_limit() if threads is None else threads
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    return core.compile_model(model, "CPU", config)


class OpenVinoSession:
    """A graph in OpenVINO on the CPU, in FP32 or bf16."""

    def __init__(
        self, graph: Graph, *, threads: int | None = None, compute_precision: ComputePrecision = "native"
    ) -> None:
        """`threads` defaults to the runtime's choice within the CPU quota.

        Raises BackendUnavailableError (also for a quantised graph where its products overflow), BackendError.
        """
        openvino = import_openvino()
        self._graph = graph
        try:
            # From the path, not from a model that was read: in a process that runs a GStreamer pipeline too, compiling
            # OpenVINO 2026.4's object ends in a segmentation fault.
            model = self._read() if isinstance(graph, bytes) else graph
            self._compiled = compile_model(model, threads=threads, compute_precision=compute_precision)
        except RuntimeError as error:
            raise _cannot_open("OpenVINO", openvino, graph, error) from None
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def _read(self) -> Any:
        """OpenVINO's own model."""
        return openvino_core().read_model(BytesIO(self._graph) if isinstance(self._graph, bytes) else self._graph)

    @functools.cached_property
    def _outputs(self) -> list[str]:
        """Names of the outputs, in order. A compiled model may call them after the constants they come from."""
        return [output.get_any_name() for output in self._read().outputs]

    @functools.cached_property
    def metadata(self) -> Mapping[str, str]:
        model = self._read()
        found: Mapping[str, str] = model.get_rt_info(["framework"]).value if model.has_rt_info(["framework"]) else {}
        return found

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return tuple(
            Tensor(
                name=tensor.get_any_name(),
                shape=tuple(None if size.is_dynamic else size.get_length() for size in tensor.get_partial_shape()),
                dtype=tensor.get_element_type().to_dtype(),
            )
            for tensor in self._compiled.inputs
        )

    def run(self, feed: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        with self._request() as request:
            results = request.infer(dict(feed), share_inputs=True, share_outputs=False)
            if outputs is None:
                return {name: np.asarray(results[place]) for place, name in enumerate(self._outputs)}
            return {name: np.asarray(results[name]) for name in outputs}

    @contextlib.contextmanager
    def _request(self) -> Iterator[Any]:
        """A request of its own for each thread; as many come to exist as threads run at once."""
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            yield request
        finally:
            self._idle.put(request)


def _is_quantised(model: Any) -> bool:
    """Whether activations are quantised in the graph, or weights have 8 bits."""
    for operation in model.get_ops():
        kind = operation.get_type_name()
        if kind == "FakeQuantize":  # QuantizeLinear
            return True
        if kind == "Constant" and operation.get_element_type().get_type_name() in ("i8", "u8"):
            sizes = [size.get_length() for size in operation.get_output_partial_shape(0)]
            if len(sizes) > 1 and min(sizes) > 1:  # a matrix: neither a zero point nor a table of them
                return True
    return False


def _cannot_open(runtime: str, module: Any, graph: Graph, error: Exception) -> BackendError:
    what = graph if isinstance(graph, Path) else "a graph in memory"
    last_line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return BackendError(f"{runtime} {module.__version__} cannot open {what}: {last_line}")
