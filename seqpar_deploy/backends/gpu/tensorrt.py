"""The backends `tensorrt` and `tensorrt_rtx`: open the engines of a bundle, and run them.

Not yet measured on hardware: tests run this file on stand-ins for the SDK and for CUDA, see tests/backends/gpu.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqpar_deploy.backends.base import ComputePrecision
from seqpar_deploy.backends.gpu.cuda import Address, Cuda, Gpu, cuda_runtime, find_gpu
from seqpar_deploy.backends.gpu.decode import DeviceBackend
from seqpar_deploy.backends.gpu.engine_files import (
    EXTRAS,
    RUNTIMES,
    EngineIdentity,
    Runtime,
    identity_of,
    import_runtime,
    open_engines,
    save_compiled,
)
from seqpar_deploy.backends.gpu.graph_runner import Addresses, Shapes
from seqpar_deploy.backends.gpu.lanes import Turn
from seqpar_deploy.backends.spec import BackendSpec
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BackendError, BackendUnavailableError

# TensorRT-RTX captures the second inference of a context. Other threads may not allocate during the first three.
_INFERENCES_UNTIL_CAPTURED = 3


class TensorRtBackend(DeviceBackend):
    """Run the engines of a bundle. Threads may share it."""

    def __init__(
        self, bundle: Bundle, *, runtime: Runtime, cuda_graphs: bool = True, sdk: Any = None, cuda_python: Any = None
    ) -> None:
        """Open the engines on the first visible GPU.

        Args:
            bundle: The opened bundle.
            runtime: `tensorrt` or `tensorrt_rtx`.
            cuda_graphs: Run repeated inferences as CUDA graphs. Default: True.
            sdk: Replaces the TensorRT module. Default: the real one.
            cuda_python: Replaces cuda-python's runtime module. Default: the real one.

        Raises:
            BackendUnavailableError: The SDK or the GPU is missing, or the SDK does not support the GPU.
            EngineError: The bundle has no engines for this machine.
            BackendError: The engines cannot be opened.
        """
        trt = import_runtime(runtime) if sdk is None else sdk
        cuda_python = cuda_runtime() if cuda_python is None else cuda_python
        gpu = find_gpu(cuda_python)
        engines = open_engines(bundle, identity_of(bundle, runtime, trt.__version__, gpu))
        self._opened, self._gpu = engines, gpu
        cuda = Cuda(cuda_python)
        graphs = {"encoder": bundle.encoder, "decoder_step": bundle.decoder_step}  # for engines without weights
        self._sdk = SdkRuntime(trt, cuda, engines.identity, gpu, engines.compiled(gpu), cuda_graphs=cuda_graphs)
        super().__init__(
            bundle,
            name=runtime,
            batches=engines.identity.batches,
            cuda=cuda,
            open_graph=lambda name, _turn: TensorRtExecutor(self._sdk, cuda, engines.plans[name], graphs[name]),
            cuda_graphs=cuda_graphs,
            pooled=engines.identity.pooled,
        )

    def close(self) -> None:
        """Release the device, and save TensorRT-RTX's runtime cache. Safe to call twice, and from any thread."""
        super().close()
        save_compiled(self._opened, self._gpu, self._sdk.take_compiled())


class SdkRuntime:
    """Deserialise engines in TensorRT or TensorRT-RTX, and hide their API differences."""

    def __init__(
        self,
        trt: Any,
        cuda: Cuda,
        identity: EngineIdentity,
        gpu: Gpu,
        compiled: bytes | None,
        *,
        cuda_graphs: bool,
    ) -> None:
        """`compiled` is the runtime cache that TensorRT-RTX saved for this GPU, if any."""
        self.rtx = identity.runtime == "tensorrt_rtx"
        self.captures_by_itself = self.rtx and cuda_graphs
        self._trt, self._cuda, self._identity, self._gpu = trt, cuda, identity, gpu
        self._compiled = compiled
        self._log = _Log(trt)
        self.runtime = trt.Runtime(self._log.logger)
        if identity.version_compatible:
            self.runtime.engine_host_code_allowed = True  # such a plan contains its own runtime
        self._cache: Any = None

    def deserialise(self, plan: bytes, onnx: Path) -> Any:
        """Open an engine. Raises BackendUnavailableError if the SDK does not support this GPU, or BackendError."""
        with self._cuda.exclusive():
            self._check_validity(plan, onnx)
            engine = self.runtime.deserialize_cuda_engine(plan)
            if engine is None:
                raise BackendError(f"{self._sdk_name} cannot open the engine of {onnx}: {self.complaint()}")
            if self._identity.strip_weights:
                refitter = self._trt.Refitter(engine, self._log.logger)
                parser = self._trt.OnnxParserRefitter(refitter, self._log.logger)
                if not parser.refit_from_file(str(onnx)) or not refitter.refit_cuda_engine():
                    raise BackendError(f"{self._sdk_name} cannot refit the weights of {onnx}: {self.complaint()}")
        return engine

    def _check_validity(self, plan: bytes, onnx: Path) -> None:
        """Raise if TensorRT-RTX cannot run an engine on this GPU. TensorRT has no such check."""
        if not self.rtx:
            return
        validity, diagnostics = self.runtime.get_engine_validity(plan)
        if validity != self._trt.EngineValidity.INVALID:
            return
        causes = self._trt.EngineInvalidityDiagnostics.__members__.items()
        found = [name.lower().replace("_", " ") for name, bit in causes if diagnostics & int(bit.value)]
        if "unsupported cc" in found:
            raise BackendUnavailableError(
                f"{self._sdk_name} does not support {self._gpu.name} (compute capability "
                f"{self._gpu.compute_capability}); use backend tensorrt or onnxruntime-cuda"
            )
        reason = ", ".join(found) or self.complaint()
        raise BackendError(f"{self._sdk_name} cannot run the engine of {onnx} on this GPU: {reason}")

    def context(self, engine: Any) -> Any:
        """Create an execution context, which needs `set_device_memory`. Raises BackendError."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        with self._cuda.exclusive():
            if self.rtx:
                config = engine.create_runtime_config()
                config.set_execution_context_allocation_strategy(strategy)
                if self.captures_by_itself:
                    config.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
                config.set_runtime_cache(self._runtime_cache(config))
                context = engine.create_execution_context(config)
            else:
                context = engine.create_execution_context(strategy)
        if context is None:
            raise BackendError(f"{self._sdk_name} cannot create an execution context: {self.complaint()}")
        return context

    @contextlib.contextmanager
    def may_capture(self) -> Iterator[None]:
        """Keep other threads from allocating during the block, if the SDK captures CUDA graphs itself."""
        with self._cuda.exclusive() if self.captures_by_itself else contextlib.nullcontext():
            yield

    def _runtime_cache(self, config: Any) -> Any:
        """Return the cache of all engines. The SDK ignores content of another GPU or version."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self._compiled:
                self._cache.deserialize(self._compiled)
        return self._cache

    def take_compiled(self) -> bytes | None:
        """Return the runtime cache once, then None. TensorRT has none."""
        cache, self._cache = self._cache, None
        return bytes(cache.serialize()) if cache is not None else None

    def complaint(self) -> str:
        """Return the last error that the SDK logged."""
        return self._log.last or "it gives no reason"

    @property
    def _sdk_name(self) -> str:
        return f"{self._identity.runtime} {self._identity.version}"


class _Log:
    """Keep the SDK's last error, which it would otherwise print."""

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
    """Run one engine. Its contexts run one after the other on one lane, so they share their scratch memory.

    CUDA graphs contain the address of that memory, so it is freed last.
    """

    def __init__(self, sdk: SdkRuntime, cuda: Cuda, plan: bytes, onnx: Path) -> None:
        self.captures_by_itself = sdk.captures_by_itself
        self._sdk, self._name = sdk, onnx.stem
        self._engine = sdk.deserialise(plan, onnx)
        self._scratch_size = int(self._engine.device_memory_size_v2)
        self._scratch = cuda.allocate(self._scratch_size)
        # Created at opening, since some engines fail only here. The first inference uses it.
        self._spare: Any = sdk.context(self._engine)

    def context(self, profile: int, shapes: Shapes, turn: Turn) -> TensorRtContext:
        """Create a context for these input shapes. Raises BackendError."""
        context, self._spare = self._spare or self._sdk.context(self._engine), None
        context.set_device_memory(self._scratch, self._scratch_size)
        if not context.set_optimization_profile_async(profile, turn.handle):
            raise BackendError(f"the {self._name} engine has no profile {profile}: {self._sdk.complaint()}")
        if not all(context.set_input_shape(name, tuple(shape)) for name, shape in shapes.items()):
            raise self._refuses(shapes)
        return TensorRtContext(self._sdk, context, lambda: self._refuses(shapes))

    def _refuses(self, shapes: Shapes) -> BackendError:
        return BackendError(f"the {self._name} engine failed for {dict(shapes)}: {self._sdk.complaint()}")

    def close(self) -> None:
        self._spare = self._engine = None


class TensorRtContext:
    """Run an execution context whose profile and shapes are set."""

    def __init__(self, sdk: SdkRuntime, context: Any, refuses: Any) -> None:
        self._sdk, self._context, self._refuses = sdk, context, refuses
        self._inferences = 0
        self._addresses: dict[str, Address] = {}

    def enqueue(self, addresses: Addresses, turn: Turn) -> None:
        context = self._context
        changed = {name: address for name, address in addresses.items() if self._addresses.get(name) != address}
        accepted = [context.set_tensor_address(name, address) for name, address in changed.items()]
        self._addresses.update(changed)
        self._inferences += 1
        early = self._inferences <= _INFERENCES_UNTIL_CAPTURED
        with self._sdk.may_capture() if early else contextlib.nullcontext():
            if not all(accepted) or not context.execute_async_v3(turn.handle):
                raise self._refuses()

    def close(self) -> None:
        self._context = None


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
