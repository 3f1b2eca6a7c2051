"""One TensorRT engine on one stream: an execution context for each profile, and CUDA graphs of what they did before."""

from __future__ import annotations

import collections
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqpar_deploy.backends.cuda import Address, Cuda
from seqpar_deploy.backends.engine_folder import EngineIdentity
from seqpar_deploy.errors import BackendError

Shape = tuple[int, ...]

_MOST_GRAPHS = 64  # of one engine; the least recently used goes


class SdkRuntime:
    """What deserialises engines in one flavour of TensorRT, and the flavours' differences."""

    def __init__(self, trt: Any, identity: EngineIdentity, compiled: bytes | None) -> None:
        """`compiled` is what TensorRT-RTX had compiled for this GPU when its runtime was last closed."""
        self.trt = trt
        self.captures_by_itself = identity.runtime == "tensorrt_rtx"
        self._identity = identity
        self._compiled = compiled
        self._log = _Log(trt)
        self.runtime = trt.Runtime(self._log.logger)
        if identity.version_compatible:
            self.runtime.engine_host_code_allowed = True  # such a plan carries the runtime it was built for
        self._cache: Any = None

    def deserialise(self, plan: bytes, onnx: Path) -> Any:
        """An engine. Raises BackendError."""
        engine = self.runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendError(f"{self._what} cannot open the engine of {onnx}: {self.complaint()}")
        if self._identity.strip_weights:
            refitter = self.trt.Refitter(engine, self._log.logger)
            parser = self.trt.OnnxParserRefitter(refitter, self._log.logger)
            if not parser.refit_from_file(str(onnx)) or not refitter.refit_cuda_engine():
                raise BackendError(f"{self._what} cannot put back the weights of {onnx}: {self.complaint()}")
        return engine

    def context(self, engine: Any) -> Any:
        """A new execution context. Raises BackendError."""
        if self.captures_by_itself:
            config = engine.create_runtime_config()
            config.cuda_graph_strategy = self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            config.set_runtime_cache(self._runtime_cache(config))
            context = engine.create_execution_context(config)
        else:
            context = engine.create_execution_context()
        if context is None:
            raise BackendError(f"{self._what} cannot make an execution context: {self.complaint()}")
        return context

    def _runtime_cache(self, config: Any) -> Any:
        """One for all engines. What does not fit the GPU or the version is passed over by the SDK itself."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self._compiled:
                self._cache.deserialize(self._compiled)
        return self._cache

    def compiled(self) -> bytes | None:
        """What has been compiled for this GPU, if the flavour compiles when it runs."""
        return bytes(self._cache.serialize()) if self._cache is not None else None

    def complaint(self) -> str:
        """What the SDK last complained about."""
        return self._log.last or "it does not say why"

    @property
    def _what(self) -> str:
        return f"{self._identity.runtime} {self._identity.version}"


class _Log:
    """Keeps the SDK's last error, which it would print."""

    def __init__(self, trt: Any) -> None:
        self.last = ""
        keep = self

        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                    keep.last = " ".join(message.split())

        self.logger = Logger()


class Engine:
    """Runs one graph. Whoever enqueues on its stream holds `lock`: what is captured must be this engine's alone."""

    def __init__(
        self, sdk: SdkRuntime, cuda: Cuda, plan: bytes, onnx: Path, *, stream: Any, graphs: bool = True
    ) -> None:
        self.stream = stream
        self.lock = threading.RLock()
        self._sdk, self._cuda, self._name = sdk, cuda, onnx.stem
        self._engine = sdk.deserialise(plan, onnx)
        self._contexts: dict[int, Any] = {}
        self._capture = graphs and not sdk.captures_by_itself
        # By everything that is frozen into a graph; None where that has run once and is not yet captured.
        self._graphs: collections.OrderedDict[Any, Any] = collections.OrderedDict()

    @property
    def graphs(self) -> int:
        """How many CUDA graphs it holds."""
        return sum(graph is not None for graph in self._graphs.values())

    def run(self, profile: int, shapes: Mapping[str, Shape], addresses: Mapping[str, Address]) -> None:
        """Enqueue one inference. The second of a kind is captured, later ones are replayed. Raises BackendError."""
        if not self._capture:
            self._enqueue(profile, shapes, addresses)
            return
        key = (profile, tuple(shapes.items()), tuple(addresses.items()))
        graph = self._graphs.get(key)
        if graph is not None:
            self._cuda.launch(graph, self.stream)
        else:
            self._enqueue(profile, shapes, addresses)
            self._graphs[key] = self._captured(profile, shapes, addresses) if key in self._graphs else None
        self._graphs.move_to_end(key)
        if len(self._graphs) > _MOST_GRAPHS:
            _, oldest = self._graphs.popitem(last=False)
            if oldest is not None:
                self._cuda.synchronise(self.stream)  # it may be running
                self._cuda.forget(oldest)

    def _captured(self, profile: int, shapes: Mapping[str, Shape], addresses: Mapping[str, Address]) -> Any:
        """The same inference as a graph, right after it ran: what a change of shape defers has been done then."""
        try:
            with self._cuda.capturing(self.stream) as graphs:
                self._enqueue(profile, shapes, addresses)
        except BackendError as error:
            self._capture = False
            warnings.warn(f"the {self._name} engine runs without CUDA graphs: {error}", stacklevel=2)
            return None
        return graphs[0]

    def _enqueue(self, profile: int, shapes: Mapping[str, Shape], addresses: Mapping[str, Address]) -> None:
        context = self._context(profile)
        accepted = [context.set_input_shape(name, tuple(shape)) for name, shape in shapes.items()]
        accepted += [context.set_tensor_address(name, address) for name, address in addresses.items()]
        if not all(accepted) or not context.execute_async_v3(int(self.stream)):
            raise BackendError(f"the {self._name} engine does not run for {dict(shapes)}: {self._sdk.complaint()}")

    def _context(self, profile: int) -> Any:
        if profile not in self._contexts:
            context = self._sdk.context(self._engine)
            if not context.set_optimization_profile_async(profile, int(self.stream)):
                raise BackendError(f"the {self._name} engine has no profile {profile}: {self._sdk.complaint()}")
            self._contexts[profile] = context
        return self._contexts[profile]

    def close(self) -> None:
        """Let go of what the SDK holds, while the device is idle. Safe to call twice."""
        for graph in self._graphs.values():
            if graph is not None:
                self._cuda.forget(graph)
        self._graphs.clear()
        self._contexts.clear()
        self._engine = None
