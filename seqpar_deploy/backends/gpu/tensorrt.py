"""TensorRT and TensorRT-RTX: opening the engines beside a bundle, and running them.

Not yet measured on hardware: tests run this file on stand-ins for the SDK and for CUDA, see tests/backends.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seqpar_deploy.backends.base import ComputePrecision
from seqpar_deploy.backends.gpu.cuda import Address, Cuda, cuda_runtime, find_gpu
from seqpar_deploy.backends.gpu.decode import DeviceBackend
from seqpar_deploy.backends.gpu.engine_files import (
    EXTRAS,
    GRAPHS,
    RUNTIMES,
    EngineIdentity,
    Runtime,
    identity_of,
    import_runtime,
    open_engines,
    save_compiled,
)
from seqpar_deploy.backends.gpu.graph_runner import Engine, Shape
from seqpar_deploy.backends.spec import BackendSpec
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BackendError


class TensorRtBackend(DeviceBackend):
    """Runs the engines beside a bundle. Threads may share it."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        runtime: Runtime,
        look_every: int = 4,
        cuda_graphs: bool = True,
        sdk: Any = None,
        cuda_python: Any = None,
    ) -> None:
        """Open the engines for `runtime` on the first visible GPU. See `DeviceBackend` for `look_every`.

        `sdk` and `cuda_python` stand in for the real modules. Raises BackendUnavailableError (an SDK or the GPU is
        missing), EngineError (no engines that may run here), BackendError.
        """
        trt = import_runtime(runtime) if sdk is None else sdk
        cuda_python = cuda_runtime() if cuda_python is None else cuda_python
        gpu = find_gpu(cuda_python)
        engines = open_engines(bundle, identity_of(bundle, runtime, trt.__version__, gpu))
        self._engines, self._gpu = engines, gpu
        cuda = Cuda(cuda_python)
        try:
            self._sdk = SdkRuntime(trt, engines.identity, engines.compiled(gpu))
            graphs = cuda_graphs and not self._sdk.captures_by_itself
            encoder, decoder_step = (
                Engine(
                    TensorRtExecutor(self._sdk, engines.plans[name], bundle.path / file),
                    cuda,
                    name=name,
                    stream=cuda.stream(),
                    graphs=graphs,
                )
                for name, file in GRAPHS.items()
            )
            super().__init__(
                bundle,
                name=runtime,
                batches=engines.identity.batches,
                cuda=cuda,
                encoder=encoder,
                decoder_step=decoder_step,
                look_every=look_every,
            )
        except BaseException:
            cuda.close()
            raise

    def close(self) -> None:
        """Release the device, and keep what TensorRT-RTX compiled for it. Safe to call twice."""
        if not self._closed:
            super().close()
            save_compiled(self._engines, self._gpu, self._sdk.compiled())


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


class TensorRtExecutor:
    """Runs one engine: an execution context for each profile."""

    def __init__(self, sdk: SdkRuntime, plan: bytes, onnx: Path) -> None:
        self._sdk, self._name = sdk, onnx.stem
        self._engine = sdk.deserialise(plan, onnx)
        self._contexts: dict[int, Any] = {}

    def enqueue(self, profile: int, shapes: Mapping[str, Shape], addresses: Mapping[str, Address], stream: Any) -> None:
        context = self._context(profile, stream)
        accepted = [context.set_input_shape(name, tuple(shape)) for name, shape in shapes.items()]
        accepted += [context.set_tensor_address(name, address) for name, address in addresses.items()]
        if not all(accepted) or not context.execute_async_v3(int(stream)):
            raise BackendError(f"the {self._name} engine does not run for {dict(shapes)}: {self._sdk.complaint()}")

    def _context(self, profile: int, stream: Any) -> Any:
        if profile not in self._contexts:
            context = self._sdk.context(self._engine)
            if not context.set_optimization_profile_async(profile, int(stream)):
                raise BackendError(f"the {self._name} engine has no profile {profile}: {self._sdk.complaint()}")
            self._contexts[profile] = context
        return self._contexts[profile]

    def close(self) -> None:
        self._contexts.clear()
        self._engine = None


def _open(
    runtime: Runtime, bundle: Bundle, threads: int | None, compute_precision: ComputePrecision
) -> TensorRtBackend:
    return TensorRtBackend(bundle, runtime=runtime)


def _import(runtime: Runtime) -> Any:
    return import_runtime(runtime)


SPECS = tuple(
    BackendSpec(
        name=runtime,
        device="cuda",
        extra=EXTRAS[runtime],
        load_sdk=functools.partial(_import, runtime),
        open=functools.partial(_open, runtime),
        needs_engines=True,
    )
    for runtime in RUNTIMES
)
