"""All ONNX Runtime and OpenVINO sessions are created here, with the workarounds that every graph needs.

- ONNX Runtime's `NchwcTransformer` is disabled: version 1.32 crashes with it (segmentation fault) when a CPU opens an
  FP16 encoder.
- Telemetry is off. ONNX Runtime's Linux packages (from 1.32, its pull request 27379) and OpenVINO keep an identifier of
  the machine in the home folder from the import on, and send it to Microsoft and to Google Analytics.
- OpenVINO computes in FP32 unless bf16 is requested. Its default is bf16 on CPUs with bf16 instructions.
- x86 processors without VNNI add 8-bit products in pairs in 16 bits, which overflow. ONNX Runtime has other kernels
  for them. OpenVINO has none, so quantised graphs are rejected.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import logging
import os
import queue
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from seqpar_deploy import machine
from seqpar_deploy.backends.base import ComputePrecision
from seqpar_deploy.errors import BackendError, BackendUnavailableError
from seqpar_deploy.onnx_file import check_head, graph_inputs, has_8_bit_products

_log = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Graph = Path | bytes  # an ONNX file, or its content

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
OPENVINO_OVERFLOWS = (
    "int8 in OpenVINO needs a processor with VNNI, which this one lacks, and would overflow; use backend onnxruntime"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """Describe an input of a graph.

    Attributes:
        name: The input's name.
        shape: The dimensions. A dynamic dimension is None.
        dtype: The NumPy type, or `object` if NumPy has none.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: npt.DTypeLike


class Session(Protocol):
    """Run an ONNX graph in a runtime. Threads may share a session."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The graph's inputs, in its order."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata that the exporter wrote into the file."""
        ...

    def run(self, feed: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run the graph once.

        Args:
            feed: Arrays by input name.
            outputs: Names of the outputs to return. Default: all.

        Returns:
            Arrays by output name.
        """
        ...


# ONNX Runtime


def import_onnxruntime(device: str = "cpu") -> Any:
    """Import ONNX Runtime for a device, `cpu` or `cuda`. Raises BackendUnavailableError, which names the package."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at the import
    try:
        import onnxruntime
    except ImportError:
        raise BackendUnavailableError(f"ONNX Runtime is not installed; pip install 'seqpar-deploy[{device}]'") from None
    if device == "cuda" and hasattr(onnxruntime, "preload_dlls"):  # first: some builds register CUDA only after it
        _load_cuda_libraries(onnxruntime.preload_dlls)
    if PROVIDERS[device] not in onnxruntime.get_available_providers():
        raise BackendUnavailableError(
            f"the installed ONNX Runtime {onnxruntime.__version__} does not support {device!r}; "
            "pip uninstall onnxruntime, then pip install 'seqpar-deploy[cuda]' (they exclude each other)"
        )
    return onnxruntime


@functools.cache
def _load_cuda_libraries(preload: Callable[[], None]) -> None:
    """Load CUDA's and cuDNN's libraries from their packages. ONNX Runtime prints missing ones to stdout: log them."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        preload()
    if printed.getvalue():
        _log.debug("onnxruntime.preload_dlls: %s", " ".join(printed.getvalue().split()))


def inference_session(onnxruntime: Any, graph: Graph, providers: list[Any], **options: Any) -> Any:
    """Create ONNX Runtime's own session.

    Args:
        onnxruntime: The module.
        graph: The path of the ONNX file, or its content.
        providers: ONNX Runtime's execution providers.
        options: Attributes of its SessionOptions. None keeps the default.

    Raises:
        BackendError: ONNX Runtime cannot open the graph.
    """
    _check_head("ONNX Runtime", graph)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors only, which are raised as well
    # Workers spin for a while after a run. Those of the decoder would keep the encoder's workers from their cores: with
    # the demo model on two cores, an encoder pass beside a decoder took 5 ms with this and 9 to 15 ms without.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
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
            enable_fallback=0,  # the fallback prints, and opens the graph on the CPU without these settings
        )
    except Exception as error:  # ONNX Runtime's exceptions have no other common base class
        raise _cannot_open("ONNX Runtime", onnxruntime, graph, error) from None


class OnnxRuntimeSession:
    """Run a graph in ONNX Runtime, in its own precision.

    Args:
        graph: The path of the ONNX file, or its content.
        device: `cpu` or `cuda`. Default: `cpu`.
        threads: CPU threads per inference. Default: the runtime's choice within the CPU quota.

    Raises:
        BackendUnavailableError: ONNX Runtime is not installed for this device.
        BackendError: It cannot open the graph.
    """

    def __init__(self, graph: Graph, *, device: str = "cpu", threads: int | None = None) -> None:
        onnxruntime = import_onnxruntime(device)
        self._session = inference_session(onnxruntime, graph, [PROVIDERS[device]], intra_op_num_threads=threads)
        try:
            self._outputs = [output.name for output in self._session.get_outputs()]
            self._inputs = tuple(
                Tensor(
                    name=tensor.name,
                    shape=tuple(size if isinstance(size, int) and size > 0 else None for size in tensor.shape),
                    dtype=_NUMPY_TYPES.get(tensor.type, object),
                )
                for tensor in self._session.get_inputs()
            )
        except UnicodeDecodeError as error:
            raise _cannot_open("ONNX Runtime", onnxruntime, graph, error) from None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self._inputs

    @property
    def metadata(self) -> Mapping[str, str]:
        try:
            metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        except UnicodeDecodeError:
            _log.warning("ignoring the metadata of the ONNX file: it must be UTF-8; pass what it would set as options")
            return {}
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

_ELEMENT_TYPES: dict[int, npt.DTypeLike] = {  # by number in onnx.proto
    1: np.float32,
    2: np.uint8,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
}


def import_openvino() -> Any:
    """Import OpenVINO. Raises BackendUnavailableError, which names the package."""
    try:
        with _missing("openvino_telemetry"):  # in whose place OpenVINO has a stub, which sends nothing
            import openvino
    except ImportError:
        raise BackendUnavailableError("OpenVINO is not installed; pip install 'seqpar-deploy[openvino]'") from None
    return openvino


@contextlib.contextmanager
def _missing(module: str) -> Iterator[None]:
    """Make a module look as if it were not installed, unless it is imported already."""
    imported = module in sys.modules
    if not imported:
        sys.modules[module] = None  # type: ignore[assignment]  # what Python documents for this
    try:
        yield
    finally:
        if not imported:
            sys.modules.pop(module, None)


@functools.cache
def openvino_core() -> Any:
    """Return the process's only Core. It is never destroyed: that unloads the CPU plugin while its threads may run."""
    return import_openvino().Core()


def compile_model(model: Any, *, threads: int | None, compute_precision: ComputePrecision) -> Any:
    """Compile a model, a path or OpenVINO's object, for the CPU. Returns OpenVINO's own compiled model.

    Raises OpenVINO's RuntimeError.
    """
    config: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if compute_precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    threads = machine.thread_limit() if threads is None else threads
    if threads is not None:
        config["INFERENCE_NUM_THREADS"] = threads
    return openvino_core().compile_model(model, "CPU", config)


class OpenVinoSession:
    """Run a graph in OpenVINO on the CPU, in FP32 or bf16.

    Args:
        graph: The path of the ONNX file, or its content.
        threads: CPU threads per inference. Default: the runtime's choice within the CPU quota.
        compute_precision: `native` (FP32) or `bf16`. Default: `native`.

    Raises:
        BackendUnavailableError: OpenVINO is not installed, or 8-bit products of this graph overflow on this processor.
        BackendError: It cannot open the graph.
    """

    def __init__(
        self, graph: Graph, *, threads: int | None = None, compute_precision: ComputePrecision = "native"
    ) -> None:
        openvino = import_openvino()
        _check_head("OpenVINO", graph)
        self._graph = graph
        if machine.lacks_vnni() and _has_8_bit_products(graph):
            raise BackendUnavailableError(OPENVINO_OVERFLOWS)
        try:
            # Pass the path, not OpenVINO's model object: compiling the object crashes OpenVINO 2026.4 (segmentation
            # fault) in a process that also runs a GStreamer pipeline.
            model = self._read() if isinstance(graph, bytes) else graph
            self._compiled = compile_model(model, threads=threads, compute_precision=compute_precision)
        except RuntimeError as error:
            raise _cannot_open("OpenVINO", openvino, graph, error) from None
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def _read(self) -> Any:
        """Read the graph as OpenVINO's model object."""
        return openvino_core().read_model(BytesIO(self._graph) if isinstance(self._graph, bytes) else self._graph)

    @functools.cached_property
    def _outputs(self) -> list[str]:
        """Names of the outputs, in order. A compiled model may name them after constants instead."""
        return [output.get_any_name() for output in self._read().outputs]

    @functools.cached_property
    def metadata(self) -> Mapping[str, str]:
        model = self._read()
        found: Mapping[str, str] = model.get_rt_info(["framework"]).value if model.has_rt_info(["framework"]) else {}
        return found

    @functools.cached_property
    def inputs(self) -> tuple[Tensor, ...]:
        # Not from OpenVINO, which ends the process here if it also runs a GStreamer pipeline.
        return tuple(
            Tensor(name=one.name, shape=one.shape, dtype=_ELEMENT_TYPES.get(one.element_type, object))
            for one in graph_inputs(self._graph)
        )

    def run(self, feed: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        with self._request() as request:
            results = request.infer(dict(feed), share_inputs=True, share_outputs=False)
            if outputs is None:
                return {name: np.asarray(results[place]) for place, name in enumerate(self._outputs)}
            return {name: np.asarray(results[name]) for name in outputs}

    @contextlib.contextmanager
    def _request(self) -> Iterator[Any]:
        """Yield an inference request for one thread. There are as many requests as threads that run at once."""
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self._compiled.create_infer_request()
        try:
            yield request
        finally:
            self._idle.put(request)


def _check_head(runtime: str, graph: Graph) -> None:
    """Raise BackendError if the graph is no ONNX file: runtimes hang on some, and print lines about others."""
    try:
        check_head(graph)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BackendError(
            f"{runtime} cannot open {_name(graph)}, which must be an ONNX file: {reason}; export it again"
        ) from None


def _has_8_bit_products(graph: Graph) -> bool:
    try:
        return has_8_bit_products(graph)
    except ValueError:
        return False  # OpenVINO cannot open the graph, and reports it


def _name(graph: Graph) -> str:
    return str(graph) if isinstance(graph, Path) else "a graph in memory"


def _cannot_open(runtime: str, module: Any, graph: Graph, error: Exception) -> BackendError:
    _log.debug("%s %s cannot open %s", runtime, module.__version__, _name(graph), exc_info=error)
    last_line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return BackendError(f"{runtime} {module.__version__} cannot open {_name(graph)}: {last_line}")
