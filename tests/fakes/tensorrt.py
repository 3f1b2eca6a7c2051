"""The TensorRT calls the backend makes. A plan names an ONNX graph, which ONNX Runtime runs, from and to the addresses
it is given, when the fake stream comes to it.
"""

from __future__ import annotations

import ctypes
import enum
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from fakes.cuda import FakeCuda

from seqpar_deploy.backends.gpu.engine_files import USED_OUTPUTS

_TYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


def fake_plan(onnx: Path, profiles: list[Any]) -> bytes:
    """Its outputs are those that `build_engines` leaves."""
    return json.dumps({"onnx": str(onnx), "profiles": profiles}).encode()


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1

    def __init__(self) -> None:
        pass

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class FakeTensorRt:
    """Stands in for the module `tensorrt`, or with `rtx` for `tensorrt_rtx`."""

    ILogger = ILogger
    ExecutionContextAllocationStrategy = enum.Enum(
        "ExecutionContextAllocationStrategy", ["STATIC", "ON_PROFILE_CHANGE", "USER_MANAGED"]
    )
    EngineValidity = enum.Enum("EngineValidity", ["VALID", "SUBOPTIMAL", "INVALID"])
    # What RTX alone has
    CudaGraphStrategy = enum.Enum("CudaGraphStrategy", ["DISABLED", "WHOLE_GRAPH_CAPTURE"])

    def __init__(self, cuda: FakeCuda, *, version: str = "10.8.0", rtx: bool = False) -> None:
        self.cuda = cuda
        self.__version__ = version
        self.rtx = rtx
        self.executions: list[tuple[str, tuple[int, ...]]] = []  # graph, and the shape of its first input
        self.refits: list[str] = []
        self.compiled = b""  # what the runtime cache was opened with

    def Runtime(self, logger: ILogger) -> Runtime:
        return Runtime(self, logger)

    def Refitter(self, engine: Engine, logger: ILogger) -> Refitter:
        return Refitter(self)

    def OnnxParserRefitter(self, refitter: Refitter, logger: ILogger) -> OnnxParserRefitter:
        return OnnxParserRefitter(self)


class Runtime:
    def __init__(self, trt: FakeTensorRt, logger: ILogger) -> None:
        self.engine_host_code_allowed = False
        self._trt, self._logger = trt, logger

    def get_engine_validity(self, buffer):
        return FakeTensorRt.EngineValidity.VALID, 0

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        if not serialized_engine.startswith(b"{"):
            self._logger.log(ILogger.Severity.ERROR, "magic tag\ndoes not match")
            return None
        return Engine(self._trt, **json.loads(serialized_engine))


class Refitter:
    def __init__(self, trt: FakeTensorRt) -> None:
        self._trt = trt

    def refit_cuda_engine(self) -> bool:
        return True


class OnnxParserRefitter:
    def __init__(self, trt: FakeTensorRt) -> None:
        self._trt = trt

    def refit_from_file(self, model: str) -> bool:
        self._trt.refits.append(model)
        return True


class RuntimeCache:
    def __init__(self, trt: FakeTensorRt) -> None:
        self._trt = trt

    def deserialize(self, blob: bytes) -> bool:
        self._trt.compiled = bytes(blob)
        return True

    def serialize(self) -> bytes:
        return self._trt.compiled + b"+kernels"


class RuntimeConfig:
    def __init__(self, trt: FakeTensorRt) -> None:
        self._trt = trt
        self.cuda_graph_strategy: Any = None
        self.cache: RuntimeCache | None = None

    def set_execution_context_allocation_strategy(self, strategy):
        return True

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache(self._trt)

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True


class Engine:
    def __init__(self, trt: FakeTensorRt, onnx: str, profiles: list[dict[str, list[list[int]]]]) -> None:
        self.trt, self.name, self.profiles = trt, Path(onnx).stem, profiles
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(onnx, options, disabled_optimizers=["NchwcTransformer"])

    device_memory_size_v2 = 1000

    def create_runtime_config(self) -> RuntimeConfig:
        assert self.trt.rtx, "TensorRT-RTX alone has runtime configurations like this"
        return RuntimeConfig(self.trt)

    def create_execution_context(self, runtime_config: RuntimeConfig | None = None) -> ExecutionContext:
        if self.trt.rtx:
            assert runtime_config is not None
            assert runtime_config.cache is not None
        return ExecutionContext(self)


class ExecutionContext:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = profile_index
        return profile_index < len(self._engine.profiles)

    def set_device_memory(self, memory, size):
        pass

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.profiles[self._profile][name]
        self._shapes[name] = shape
        return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory % 256 == 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        engine, shapes, addresses = self._engine, dict(self._shapes), dict(self._addresses)
        engine.trt.cuda.enqueue(engine.trt.cuda.streams[stream_handle], lambda: _execute(engine, shapes, addresses))
        return True


def _execute(engine: Engine, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
    inputs = {
        value.name: _at(engine, addresses[value.name], shapes[value.name], _TYPES[value.type])
        for value in engine.session.get_inputs()
    }
    engine.trt.executions.append((engine.name, next(iter(shapes.values()))))
    outputs = [value.name for value in engine.session.get_outputs() if value.name in USED_OUTPUTS]
    results = engine.session.run(outputs, {name: array.copy() for name, array in inputs.items()})
    written: list[tuple[int, int]] = []
    for name, result in zip(outputs, results, strict=True):
        start = addresses[name]
        written.append((start, start + result.nbytes))
        _at(engine, start, result.shape, result.dtype)[...] = result
    read = [(addresses[name], addresses[name] + array.nbytes) for name, array in inputs.items()]
    assert not any(a < d and c < b for a, b in written for c, d in read), "TensorRT may not write where it reads"


def _at(engine: Engine, address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    engine.trt.cuda.check(address, size)
    raw = (ctypes.c_uint8 * size).from_address(address)
    return np.frombuffer(raw, dtype=dtype).reshape(shape)
