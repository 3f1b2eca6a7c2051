"""Build TensorRT engines from a bundle, on the machine that will run them. Needs no PyTorch.

TensorRT 10, TensorRT 11 and TensorRT-RTX share this code: the bundle's graphs declare all tensor types, so the network
is built strongly typed. Polygraphy covers the few API differences.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from seqpar_deploy.backends.gpu.cuda import Gpu, find_gpu
from seqpar_deploy.backends.gpu.engine_files import (
    ENGINE_JSON,
    USED_OUTPUTS,
    InputShapes,
    Runtime,
    identity_of,
    import_runtime,
    installed_runtimes,
    write_engine_json,
)
from seqpar_deploy.backends.gpu.profiles import graph_profiles
from seqpar_deploy.backends.registry import verify_backend
from seqpar_deploy.bundle import ENGINES, BatchProfile, Bundle
from seqpar_deploy.errors import BackendError, BackendUnavailableError, EngineError
from seqpar_deploy.files import new_folder
from seqpar_deploy.interruption import STOP_SIGNALS
from seqpar_deploy.progress import OnProgress, Progress, silent

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Configure optional properties of the engines.

    Attributes:
        hardware_compatible: Build engines that run on every GPU from Ampere on. They are slower than engines built for
            one GPU. Default: False.
        version_compatible: Build engines that later versions of the same major TensorRT release can load.
            Default: False.
        strip_weights: Leave the weights out of the engine files. They are refitted from the bundle's graphs when the
            engines are opened. Default: False.
    """

    hardware_compatible: bool = False
    version_compatible: bool = False
    strip_weights: bool = False


def build_engines(
    bundle: Bundle,
    *,
    runtime: Runtime | None = None,
    batches: Sequence[BatchProfile] | None = None,
    options: EngineOptions | None = None,
    progress: Progress = silent,
) -> Path:
    """Build the encoder and decoder engines of a bundle, and check them if there is a GPU.

    The engines are compared with the bundle's golden sequences. The result is stored in `verified.json`, and
    `backend="auto"` skips engines that failed. Engines of an earlier build with the same settings are replaced.

    Args:
        bundle: The bundle to build from.
        runtime: `tensorrt` or `tensorrt_rtx`. Default: the installed one, `tensorrt` if both are.
        batches: Batch profiles, in crops per batch. Default: the bundle's.
        options: Optional properties of the engines. Default: `EngineOptions()`.
        progress: Receives the progress of each stage. Default: none is reported.

    Returns:
        The folder of the engines, inside the bundle's folder `engines`.

    Raises:
        BackendUnavailableError: TensorRT is not installed, or it needs a GPU to build and finds none.
        EngineError: The engines do not build, cannot be written, or do not reproduce the golden sequences.

    Examples:
        >>> bundle = Bundle.open("bundles/peta-fp16")
        >>> folder = build_engines(bundle, batches=[BatchProfile(min=1, opt=4, max=8)])
    """
    options = options or EngineOptions()
    runtime = runtime or runtime_to_build_with()
    trt = import_runtime(runtime)
    identity = identity_of(
        bundle,
        runtime,
        trt.__version__,
        _gpu_to_build_on(runtime),
        batches=batches,
        **dataclasses.asdict(options),
    )
    out = bundle.path / ENGINES / identity.folder_name
    profiles = graph_profiles(bundle, identity.batches)
    graphs = {"encoder": bundle.encoder, "decoder_step": bundle.decoder_step}
    with new_folder(out, marker=ENGINE_JSON, overwrite=True, error=EngineError) as folder:
        for name, graph in graphs.items():
            with progress(f"building the {name} engine") as on_progress:
                build = _Build(trt, options, timing_cache=out.with_name(f"{out.name}.timing-cache"))
                plan = build.plan_from_onnx(graph, profiles[name], on_progress)
                try:
                    (folder / f"{name}.plan").write_bytes(plan)
                except OSError as error:
                    raise EngineError(
                        f"{out} cannot be written: {error.strerror}; free some space, or copy the bundle elsewhere"
                    ) from None
        write_engine_json(folder, identity)
    with progress("checking the engines on this machine"):
        _verify(bundle, runtime, out)
    return out


def _verify(bundle: Bundle, runtime: Runtime, engines: Path) -> None:
    try:
        verify_backend(bundle, runtime)
    except BackendUnavailableError as error:  # TensorRT-RTX builds without a GPU
        _log.info("engines in %s are not checked on this machine, opening them will check: %s", engines, error)
    except BackendError as error:
        raise EngineError(f"engines in {engines} were built but failed their check, do not use them: {error}") from None


def runtime_to_build_with() -> Runtime:
    """Return the installed runtime, `tensorrt` before `tensorrt_rtx`. Raises BackendUnavailableError."""
    installed = installed_runtimes()
    if not installed:
        raise BackendUnavailableError(
            "neither tensorrt nor tensorrt_rtx is installed; pip install 'seqpar-deploy[tensorrt]' or [rtx]"
        )
    return installed[0]


def _gpu_to_build_on(runtime: Runtime) -> Gpu | None:
    """Return the GPU to tune for. None for TensorRT-RTX, which builds for all GPUs it supports and needs none."""
    return None if runtime == "tensorrt_rtx" else find_gpu()


class _Build:
    """Build engines with TensorRT or TensorRT-RTX, through Polygraphy."""

    def __init__(self, trt: Any, options: EngineOptions, *, timing_cache: Path) -> None:
        self._trt = trt
        self._rtx = trt.__name__ == "tensorrt_rtx"
        self._options = options
        self._timing_cache = None if self._rtx else str(timing_cache)  # RTX compiles at run time, it has no cache
        self._polygraphy = _polygraphy(rtx=self._rtx)

    def plan_from_onnx(self, onnx: Path, profiles: Sequence[InputShapes], on_progress: OnProgress) -> bytes:
        """Return a serialised engine. Raises EngineError. Ctrl-C stops the builder and is re-raised."""
        monitor = _monitor(self._trt)
        built: list[bytes | BaseException] = []
        done = threading.Event()  # an interrupted `Thread.join` marks a running thread as ended

        def build() -> None:
            try:
                with _complaints() as complaints:
                    built.append(self._build(onnx, profiles, monitor, complaints))
            except EngineError as error:
                # Drop the frames: they hold the builder, which must be destroyed before the interpreter exits.
                error.__context__ = None
                built.append(error.with_traceback(None))
            except BaseException as error:
                built.append(error)
            finally:
                done.set()

        # In a thread: the builder calls the monitor from C++, which an exception such as Ctrl-C's cannot pass.
        thread = threading.Thread(target=build, name=f"build {onnx.stem}")
        try:
            with _signals_held():
                thread.start()
            while not done.wait(timeout=0.2):
                on_progress(*monitor.so_far())
        except BaseException:
            monitor.cancelled = True
            if thread.ident is not None:  # started
                done.wait()
            raise
        result = built[0]
        if isinstance(result, BaseException):
            raise result
        return result

    def _build(self, onnx: Path, profiles: Sequence[InputShapes], monitor: Any, complaints: list[str]) -> bytes:
        from polygraphy.exception import PolygraphyException

        polygraphy, trt, options = self._polygraphy, self._trt, self._options
        try:
            parsed = polygraphy.network_from_onnx_path(str(onnx), strongly_typed=True)
            builder, network, _parser = parsed
            _check_layer_norms(trt, network, onnx)
            drop_unused_outputs(network)
            config = polygraphy.create_config(
                builder,
                network,
                profiles=[_profile(polygraphy, shapes) for shapes in profiles],
                progress_monitor=monitor,
                load_timing_cache=self._timing_cache,
                version_compatible=options.version_compatible,
                strip_plan=options.strip_weights,
                hardware_compatibility_level=(
                    trt.HardwareCompatibilityLevel.AMPERE_PLUS if options.hardware_compatible else None
                ),
            )
            plan = polygraphy.engine_bytes_from_network(
                (builder, network), config=config, save_timing_cache=self._timing_cache
            )
        except PolygraphyException as error:
            message = complaints[-1] if complaints else str(error)
            raise EngineError(
                f"{trt.__name__} {trt.__version__} cannot build an engine from {onnx}: "
                f"{' '.join(message.split())[:300]}"
            ) from None
        return bytes(plan)


def drop_unused_outputs(network: Any) -> None:
    """Unmark the outputs that decoding on the device never reads: a runtime needs a buffer for each marked output."""
    for output in [network.get_output(index) for index in range(network.num_outputs)]:
        if output.name not in USED_OUTPUTS:
            network.unmark_output(output)


def _check_layer_norms(trt: Any, network: Any, onnx: Path) -> None:
    """Raise EngineError unless layer normalisations are FP32: they square activations, which overflows in FP16."""
    for layer in network:
        if layer.type == trt.LayerType.NORMALIZATION and layer.get_output(0).dtype != trt.float32:
            raise EngineError(
                f"{onnx}: layer normalisation {layer.name} must be FP32, got {layer.get_output(0).dtype}; "
                "export the bundle again with seqpar-export"
            )


def _profile(polygraphy: Any, shapes: InputShapes) -> Any:
    profile = polygraphy.Profile()
    for name, (least, usual, most) in shapes.items():
        profile.add(name, min=least, opt=usual, max=most)
    return profile


def _polygraphy(*, rtx: bool) -> Any:
    """Return Polygraphy's TensorRT module for one runtime. Polygraphy reads the choice once, at its import."""
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if rtx else "0"
    try:
        from polygraphy import config
        from polygraphy.backend import trt as polygraphy
    except ImportError:
        raise BackendUnavailableError(
            "polygraphy, which builds engines, is not installed; pip install 'seqpar-deploy[tensorrt]' or [rtx]"
        ) from None
    if rtx != config.USE_TENSORRT_RTX:
        raise EngineError(
            f"this process already builds with {'tensorrt' if rtx else 'tensorrt_rtx'}, it cannot change to "
            f"{'tensorrt_rtx' if rtx else 'tensorrt'}; build in another process, for example with seqpar-export engine"
        )
    return polygraphy


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Defer signals until the block ends: one inside `Thread.start` would leave a running thread without an owner."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collect the errors that Polygraphy and the builder log during the block, in place of printing them."""
    from polygraphy.logger import G_LOGGER

    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR:
                messages.append(record.getMessage())

    logger, handler = logging.getLogger("Polygraphy"), Collect()
    before = G_LOGGER.use_python_logging_system, logger.propagate
    G_LOGGER.use_python_logging_system, logger.propagate = True, False
    logger.addHandler(handler)
    try:
        with G_LOGGER.verbosity(G_LOGGER.ERROR):
            yield messages
    finally:
        logger.removeHandler(handler)
        G_LOGGER.use_python_logging_system, logger.propagate = before


def _monitor(trt: Any) -> Any:
    """Return a TensorRT progress monitor. Build phases are nested, and it reports the outermost."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self._outermost: str | None = None
            self._done = self._steps = 0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._outermost, self._done, self._steps = phase_name, 0, num_steps

        def phase_finish(self, phase_name: str) -> None:
            pass

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name == self._outermost:
                self._done = step + 1
            return not self.cancelled

        def so_far(self) -> tuple[int, int]:
            return self._done, max(1, self._steps)

    return Monitor()
