"""The TensorRT calls the backend makes. A plan names an ONNX graph, which ONNX Runtime runs, from and to the addresses
it is given, when the fake stream comes to it.

An execution context is as particular as the real one: its scratch memory, the shapes its graphs were captured with, and
the thread that uses it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fakes.cuda import FakeCuda
from fakes.gpu import CudaFault
from fakes.graphs import Execution, RunGraph, run_whole, session_of
from fakes.memory import POISON, array_at
from fakes.streams import Operation
from fakes.tensorrt_enumerations import (
    CudaGraphStrategy,
    DynamicShapesKernelSpecializationStrategy,
    EngineInvalidityDiagnostics,
    EngineValidity,
    ExecutionContextAllocationStrategy,
)

SCRATCH = 1000  # bytes for each profile before and with it; no multiple of the alignment


def fake_plan(onnx: Path, profiles: list[Any], outputs: list[str]) -> bytes:
    """`outputs` are those that are marked, as `build_engines` leaves them."""
    return json.dumps({"onnx": str(onnx), "profiles": profiles, "outputs": outputs}).encode()


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1

    def __init__(self) -> None:
        pass

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


ENUMERATIONS = (
    "ExecutionContextAllocationStrategy",
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "EngineValidity",
    "EngineInvalidityDiagnostics",
)


class FakeTensorRt:
    """Stands in for the module `tensorrt`, or with `rtx` for `tensorrt_rtx`."""

    ILogger = ILogger
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy
    # Those that RTX alone has
    CudaGraphStrategy = CudaGraphStrategy
    DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy
    EngineValidity = EngineValidity
    EngineInvalidityDiagnostics = EngineInvalidityDiagnostics

    def __init__(
        self, cuda: FakeCuda, *, version: str = "10.8.0", rtx: bool = False, run_graph: RunGraph = run_whole
    ) -> None:
        self.cuda = cuda
        self.__version__ = version
        self.rtx = rtx
        self.run_graph = run_graph
        self.executions: list[tuple[str, tuple[int, ...]]] = []  # graph, and the shape of its first input
        self.refits: list[str] = []
        self.compiled = b""  # what the runtime cache was opened with
        self.validity: tuple[EngineValidity, int] = (EngineValidity.VALID, 0)
        self.capturable = True  # what contexts of RTX answer
        self.recaptures = 0  # by RTX itself, because a shape or an address changed
        self.contexts = 0  # that were made
        self.allow_stale_graphs = False
        self.scratch_streams: dict[int, int] = {}  # by scratch memory, the stream that it was used on

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

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        self._trt.cuda.on_call("deserialize_cuda_engine")
        if not serialized_engine.startswith(b"{"):
            self._logger.log(ILogger.Severity.ERROR, "magic tag\ndoes not match")
            return None
        return Engine(self._trt, self._logger, **json.loads(serialized_engine))

    def get_engine_validity(self, buffer: bytes) -> tuple[EngineValidity, int]:
        assert self._trt.rtx, "TensorRT-RTX alone answers this"
        return self._trt.validity


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
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
        self.cache: RuntimeCache | None = None
        self.strategy = ExecutionContextAllocationStrategy.STATIC

    def create_runtime_cache(self) -> RuntimeCache:
        return RuntimeCache(self._trt)

    def set_runtime_cache(self, cache: RuntimeCache) -> bool:
        self.cache = cache
        return True

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self.strategy = strategy

    def get_execution_context_allocation_strategy(self) -> ExecutionContextAllocationStrategy:
        return self.strategy


class Engine:
    def __init__(
        self,
        trt: FakeTensorRt,
        logger: ILogger,
        onnx: str,
        profiles: list[dict[str, list[list[int]]]],
        outputs: list[str],
    ) -> None:
        self.trt, self.logger, self.name, self.profiles = trt, logger, Path(onnx).stem, profiles
        self.session = session_of(Path(onnx))
        self.tensors = {*outputs, *(value.name for value in self.session.get_inputs())}

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def create_runtime_config(self) -> RuntimeConfig:
        assert self.trt.rtx, "TensorRT-RTX alone has runtime configurations like this"
        return RuntimeConfig(self.trt)

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return SCRATCH * (profile_index + 1)

    @property
    def device_memory_size_v2(self) -> int:
        return self.get_device_memory_size_for_profile_v2(len(self.profiles) - 1)

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy | RuntimeConfig = ExecutionContextAllocationStrategy.STATIC
    ) -> ExecutionContext | None:
        self.trt.cuda.on_call("create_execution_context")
        config = strategy if isinstance(strategy, RuntimeConfig) else None
        assert (config is not None) == self.trt.rtx, "TensorRT-RTX is given a configuration, TensorRT a strategy"
        allocation = config.strategy if config is not None else strategy
        scratch: int | None = None
        if allocation is not ExecutionContextAllocationStrategy.USER_MANAGED:
            scratch = self.trt.cuda.sdk_allocate(self.device_memory_size_v2)
            if scratch is None:
                self.logger.log(ILogger.Severity.ERROR, "cannot allocate the context's memory")
                return None
        self.trt.contexts += 1
        return ExecutionContext(self, config, scratch)


class ExecutionContext:
    """`scratch` is memory of its own; None where the user gives it some."""

    def __init__(self, engine: Engine, config: RuntimeConfig | None, scratch: int | None) -> None:
        self._engine, self._config = engine, config
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = scratch
        self._scratch_size = engine.device_memory_size_v2 if scratch is not None else 0  # bytes
        self._users_memory = scratch is None
        self._version = 0  # grows with each change of profile, shape or scratch memory
        self._prepared = -1  # the version it last ran with
        self._thread: int | None = None  # that sets it up, until it runs
        self._ran_with: Any = None
        self._captured: Any = None  # by RTX
        self._lazy: list[int] = []  # memory it allocated for the shapes it has
        cuda = engine.trt.cuda
        self._own = [] if scratch is None else [scratch]
        weakref.finalize(self, _free_all, cuda, self._own, self._lazy).atexit = False

    # Setting up

    def _set_up(self, call: str) -> None:
        cuda = self._engine.trt.cuda
        cuda.on_call(call)
        if self._thread not in (None, threading.get_ident()):
            cuda.report("context", f"two threads use a context of the {self._engine.name} engine at once")
        self._thread = threading.get_ident()

    def _accepted(self, accepted: bool) -> bool:
        if not accepted:
            self._thread = None
        return accepted

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._set_up("set_optimization_profile_async")
        self._version += profile_index != self._profile
        self._profile = profile_index
        self._thread = None
        return profile_index < len(self._engine.profiles)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._set_up("set_input_shape")
        least, _, most = self._engine.profiles[self._profile][name]
        self._version += self._shapes.get(name) != tuple(shape)
        self._shapes[name] = tuple(shape)
        return self._accepted(all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True)))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._set_up("set_tensor_address")
        if name not in self._engine.tensors:
            self._engine.logger.log(ILogger.Severity.ERROR, f"{name} is no tensor of the engine")
            return self._accepted(False)
        self._addresses[name] = memory
        return self._accepted(memory % 256 == 0)

    def set_device_memory(self, memory: int, size: int) -> None:
        self._set_up("set_device_memory")
        if not self._users_memory or memory % 256:
            self._engine.trt.cuda.report("scratch", f"the context cannot take the memory at {memory:#x}")
        self._version += memory != self._scratch
        self._scratch, self._scratch_size = memory, size
        self._thread = None

    def is_stream_capturable(self, stream: int) -> bool:
        assert self._engine.trt.rtx, "TensorRT-RTX alone answers this"
        return self._engine.trt.capturable

    # Running

    def execute_async_v3(self, stream_handle: int) -> bool:
        self._set_up("execute_async_v3")
        self._thread = None
        trt, cuda = self._engine.trt, self._engine.trt.cuda
        assert isinstance(stream_handle, int)
        with self._capture_of_rtx(), cuda.lock:
            cuda.streams.advance()
            if cuda.sticky:
                return self._failed("the device is lost")
            needed = self._engine.get_device_memory_size_for_profile_v2(self._profile)
            if self._scratch is None or self._scratch_size < needed:
                cuda.report("scratch", f"a context of {self._engine.name} has {self._scratch_size} of {needed} bytes")
                return self._failed("no device memory")
            if not self._prepare(stream_handle):
                return self._failed("cannot allocate for these shapes")
            if missing := self._engine.tensors - self._addresses.keys():
                return self._failed(f"no address is set for {sorted(missing)}")
            execution = Execution(self._engine.session, self._shapes, self._addresses, trt.run_graph)
            if execution.aliased:
                cuda.report("alias", f"the {self._engine.name} engine writes where it reads")
            try:
                cuda.enqueue(stream_handle, self._operation(execution, stream_handle))
            except CudaFault as fault:
                return self._failed(f"CUDA error {fault.code}")
        return True

    def _failed(self, why: str) -> bool:
        self._engine.logger.log(ILogger.Severity.ERROR, why)
        return False

    def _prepare(self, stream: int) -> bool:
        """What SDKs put off until the first run after a change of shape: they allocate, which a capture forbids."""
        if self._prepared == self._version:
            return True
        cuda = self._engine.trt.cuda
        address = cuda.sdk_allocate(SCRATCH, stream)
        if address is None:
            return False
        # The memory for the shapes before stays: work that uses it may have yet to run.
        self._lazy.append(address)
        self._prepared = self._version
        if self._engine.trt.rtx and not self._engine.trt.capturable and cuda.capturing:
            cuda.sdk_allocate(SCRATCH, stream)  # compiles a kernel, which invalidates the capture
        return True

    @contextlib.contextmanager
    def _capture_of_rtx(self) -> Iterator[None]:
        """With its own strategy RTX captures the second inference of a kind, and again when a shape or address changes.

        That takes a while, in which other threads go on.
        """
        trt = self._engine.trt
        key = (tuple(self._shapes.items()), tuple(self._addresses.items()))
        before, self._ran_with = self._ran_with, key
        changed = key != before
        if self._config is None or self._config.cuda_graph_strategy is not CudaGraphStrategy.WHOLE_GRAPH_CAPTURE:
            yield
            return
        if changed and before is not None:
            trt.recaptures += 1
        if changed or self._captured == key:
            yield
            return
        self._captured = key
        with trt.cuda.sdk_captures():
            trt.cuda.on_call("capture by the SDK")
        yield

    def _operation(self, execution: Execution, stream: int) -> Operation:
        """The piece of work. It holds no reference to the context, which may go before it runs."""
        trt, name, version, context = self._engine.trt, self._engine.name, self._version, weakref.ref(self)
        first = next(iter(self._shapes.values()))
        scratch = (self._scratch or 0, self._scratch_size)
        own = self._lazy[-1:]

        def run() -> None:
            trt.executions.append((name, first))
            if trt.scratch_streams.setdefault(scratch[0], stream) != stream:
                trt.cuda.report("scratch", f"contexts on two streams share the memory at {scratch[0]:#x}")
            array_at(scratch[0], (scratch[1],), "uint8")[...] = POISON
            execution()

        def stale() -> None:
            trt.cuda.report("stale", f"a graph of the {name} engine is launched after its context's shapes changed")
            execution.poison()

        def at_launch(operation: Operation) -> Operation:
            alive = context()
            if trt.allow_stale_graphs or (alive is not None and alive._version == version):
                return dataclasses.replace(operation)
            return dataclasses.replace(operation, run=stale)

        writes = (*execution.writes, scratch, *((address, SCRATCH) for address in own))
        return Operation(f"the {name} engine", run, reads=execution.reads, writes=writes, at_launch=at_launch)


def _free_all(cuda: FakeCuda, *addresses: list[int]) -> None:
    for held in addresses:
        for address in held:
            cuda.sdk_free(address)
