"""A detector's ONNX graph, opened in a runtime."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends import onnxruntime as ort_backend
from seqpar_deploy.backends import openvino as openvino_backend
from seqpar_deploy.errors import BackendUnavailableError, DetectorError

Backend = Literal["auto", "openvino", "onnxruntime", "cuda"]
Outputs = dict[str, npt.NDArray[Any]]
_METADATA = ("names", "task", "imgsz")  # what Ultralytics exports say of themselves


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input of a graph. A dimension that is not fixed is None; `dtype` is NumPy's."""

    name: str
    shape: tuple[int | None, ...]
    dtype: npt.DTypeLike


class Graph(Protocol):
    """Takes arrays by input name and gives arrays by output name."""

    inputs: tuple[Tensor, ...]
    metadata: Mapping[str, str]

    def run(self, feed: Outputs) -> Outputs:
        """Every output."""
        ...


def open_graph(path: Path, backend: Backend, threads: int | None) -> Graph:
    """Open an ONNX file. Raises DetectorError, or BackendUnavailableError if the runtime is not there."""
    if not path.is_file():
        raise DetectorError(f"there is no detector {path}; wanted an ONNX file")
    if backend == "auto":
        backend = "openvino" if openvino_backend.is_available() else "onnxruntime"
    if backend == "openvino":
        return _OpenVinoGraph(path, threads)
    return _OnnxRuntimeGraph(path, "cuda" if backend == "cuda" else "cpu", threads)


class _OnnxRuntimeGraph:
    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        onnxruntime = ort_backend.import_onnxruntime(device)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=[ort_backend.PROVIDERS[device]])
        except Exception as error:  # ONNX Runtime's own exceptions share no base class but this
            raise DetectorError(f"ONNX Runtime cannot open the detector {path}: {_last_line(error)}") from None
        self.inputs = tuple(
            Tensor(name=one.name, shape=_fixed(one.shape), dtype=_numpy_type(one.type, path))
            for one in self._session.get_inputs()
        )
        self.metadata: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        self._names = [one.name for one in self._session.get_outputs()]

    def run(self, feed: Outputs) -> Outputs:
        return dict(zip(self._names, self._session.run(None, feed), strict=True))


class _OpenVinoGraph:
    def __init__(self, path: Path, threads: int | None) -> None:
        if not openvino_backend.is_available():
            raise BackendUnavailableError(
                "backend openvino needs OpenVINO, which is not installed; pip install 'seqpar-deploy[openvino]'"
            )
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads is not None:
            config["INFERENCE_NUM_THREADS"] = threads
        core = openvino_backend.core()
        try:
            model = core.read_model(path)
            compiled = core.compile_model(model, "CPU", config)
        except RuntimeError as error:
            raise DetectorError(f"OpenVINO cannot open the detector {path}: {_last_line(error)}") from None
        self.inputs = tuple(
            Tensor(
                name=one.get_any_name(),
                shape=tuple(None if size.is_dynamic else size.get_length() for size in one.get_partial_shape()),
                dtype=one.get_element_type().to_dtype(),
            )
            for one in model.inputs
        )
        self.metadata: Mapping[str, str] = {
            key: model.get_rt_info(["framework", key]).astype(str)
            for key in _METADATA
            if model.has_rt_info(["framework", key])
        }
        self._names = [one.get_any_name() for one in model.outputs]
        self._request = compiled.create_infer_request()

    def run(self, feed: Outputs) -> Outputs:
        results = self._request.infer(feed, share_inputs=True, share_outputs=False)
        return {name: np.asarray(results[place]) for place, name in enumerate(self._names)}


def _fixed(shape: list[Any]) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) and size > 0 else None for size in shape)


def _numpy_type(name: str, path: Path) -> npt.DTypeLike:
    """ONNX Runtime's `tensor(float16)` -> NumPy's."""
    inner = re.sub(r"tensor\((\w+)\)", r"\1", name)
    types: dict[str, npt.DTypeLike] = {
        "float": np.float32,
        "float16": np.float16,
        "double": np.float64,
        "uint8": np.uint8,
    }
    types |= {"int64": np.int64, "int32": np.int32, "bool": np.bool_}
    if inner not in types:
        raise DetectorError(f"the detector {path} has an input of type {name}; wanted one of {', '.join(types)}")
    return types[inner]


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
