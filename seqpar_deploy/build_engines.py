"""bundle -> TensorRT engines, on the machine that will run them. Needs no PyTorch.

One path for TensorRT 10, TensorRT 11 and TensorRT-RTX: the bundle's graphs say every type themselves, and the network
is built strongly typed. Polygraphy hides the little that differs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from seqpar_deploy.backends.gpu.cuda import Gpu, find_gpu
from seqpar_deploy.backends.gpu.engine_files import (
    ENGINE_JSON,
    ENGINES,
    GRAPHS,
    InputShapes,
    Runtime,
    graph_profiles,
    identity_of,
    import_runtime,
    installed_runtimes,
    write_engine_json,
)
from seqpar_deploy.backends.registry import verify_backend
from seqpar_deploy.bundle import BatchProfile, Bundle
from seqpar_deploy.errors import BackendError, BackendUnavailableError, EngineError
from seqpar_deploy.files import new_folder
from seqpar_deploy.progress import Progress, silent

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What else engines are to be, where the runtime can."""

    hardware_compatible: bool = False  # run on every GPU from Ampere on, slower than on its own
    version_compatible: bool = False  # run on later versions of the same major one
    strip_weights: bool = False  # leave out the weights; opening puts them back from the bundle's graphs


def build_engines(
    bundle: Bundle,
    *,
    runtime: Runtime | None = None,
    batches: Sequence[BatchProfile] | None = None,
    options: EngineOptions | None = None,
    progress: Progress = silent,
) -> Path:
    """Build both engines of a bundle, in a folder beside it, which is returned. What the same build left is replaced.

    `runtime` is the flavour that is installed, TensorRT before TensorRT-RTX, unless given; `batches` are the bundle's.

    If there is a GPU, the engines are then checked against the bundle's golden sequences; the result is kept in
    `verified.json`, and `backend="auto"` does not take engines that failed.

    Raises BackendUnavailableError (no TensorRT, no GPU where it needs one), EngineError (they do not build, or do not
    reproduce the golden sequences).
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
    with new_folder(out, marker=ENGINE_JSON, overwrite=True, error=EngineError) as folder:
        for name, file in GRAPHS.items():
            with progress(f"building the {name} engine") as report_progress:
                build = _Build(trt, options, timing_cache=out.with_name(f"{out.name}.timing-cache"))
                plan = build.plan_from_onnx(bundle.path / file, profiles[name], report_progress)
                try:
                    (folder / f"{name}.plan").write_bytes(plan)
                except OSError as error:
                    raise EngineError(f"{out} cannot be written: {error.strerror}") from None
        write_engine_json(folder, identity)
    with progress("checking the engines on this machine"):
        _verify(bundle, runtime, out)
    return out


def _verify(bundle: Bundle, runtime: Runtime, engines: Path) -> None:
    try:
        verify_backend(bundle, runtime)
    except BackendUnavailableError as error:  # TensorRT-RTX builds without a GPU
        _log.info("%s are not checked here, opening them will: %s", engines, error)
    except BackendError as error:
        raise EngineError(f"the engines in {engines} were built, but must not be used: {error}") from None


def runtime_to_build_with() -> Runtime:
    """The flavour of TensorRT that is installed. Raises BackendUnavailableError."""
    installed = installed_runtimes()
    if not installed:
        raise BackendUnavailableError(
            "neither tensorrt nor tensorrt_rtx is installed; pip install 'seqpar-deploy[tensorrt]' or [rtx]"
        )
    return installed[0]


def _gpu_to_build_on(runtime: Runtime) -> Gpu | None:
    """The GPU an engine is tuned on. TensorRT-RTX builds for all it knows, with or without one."""
    return None if runtime == "tensorrt_rtx" else find_gpu()


class _Build:
    """Builds engines with one flavour of TensorRT through Polygraphy."""

    def __init__(self, trt: Any, options: EngineOptions, *, timing_cache: Path) -> None:
        self._trt = trt
        self._rtx = trt.__name__ == "tensorrt_rtx"
        self._options = options
        self._timing_cache = None if self._rtx else str(timing_cache)  # RTX compiles at run time and keeps none
        self._polygraphy = _polygraphy(rtx=self._rtx)

    def plan_from_onnx(
        self, onnx: Path, profiles: Sequence[InputShapes], report_progress: Callable[[int, int], None]
    ) -> bytes:
        """A serialised engine. Raises EngineError; Ctrl-C stops the builder and is raised on."""
        monitor = _monitor(self._trt)
        built: list[bytes | BaseException] = []
        done = threading.Event()  # `Thread.join` believes that a thread has ended when it is interrupted itself

        def build() -> None:
            try:
                with _complaints() as complaints:
                    built.append(self._build(onnx, profiles, monitor, complaints))
            except EngineError as error:
                # Without its frames: they hold the builder, which must not live until the interpreter goes.
                error.__context__ = None
                built.append(error.with_traceback(None))
            except BaseException as error:
                built.append(error)
            finally:
                done.set()

        # In a thread: the builder calls the monitor from C++, where an exception, Ctrl-C's for one, has no way out.
        thread = threading.Thread(target=build, name=f"build {onnx.stem}")
        try:
            with _signals_held():
                thread.start()
            while not done.wait(timeout=0.2):
                report_progress(*monitor.so_far())
        except BaseException:
            monitor.cancelled = True
            if thread.ident is not None:  # it was started
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
            said = complaints[-1] if complaints else str(error)
            raise EngineError(
                f"{trt.__name__} {trt.__version__} does not build {onnx}: {' '.join(said.split())[:300]}"
            ) from None
        return bytes(plan)


def _check_layer_norms(trt: Any, network: Any, onnx: Path) -> None:
    """Layer normalisation squares activations, which overflows in FP16, and a network computes as it is typed."""
    for layer in network:
        if layer.type == trt.LayerType.NORMALIZATION and layer.get_output(0).dtype != trt.float32:
            raise EngineError(f"{onnx} normalises in {layer.get_output(0).dtype} ({layer.name}); export it again")


def _profile(polygraphy: Any, shapes: InputShapes) -> Any:
    profile = polygraphy.Profile()
    for name, (least, usual, most) in shapes.items():
        profile.add(name, min=least, opt=usual, max=most)
    return profile


def _polygraphy(*, rtx: bool) -> Any:
    """Polygraphy's TensorRT functions for a flavour, which it asks for once, when it is imported."""
    os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if rtx else "0"
    try:
        from polygraphy import config
        from polygraphy.backend import trt as polygraphy
    except ImportError:
        raise BackendUnavailableError(
            "building engines needs polygraphy, which is not installed; pip install 'seqpar-deploy[tensorrt]' or [rtx]"
        ) from None
    if rtx != config.USE_TENSORRT_RTX:
        raise EngineError(
            "this process has built with the other flavour of TensorRT already; build in one of its own: "
            "seqpar-export engine"
        )
    return polygraphy


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Signals come after the block: within `Thread.start`, one would leave a thread that nobody knows to be running."""
    signals = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _complaints() -> Iterator[list[str]]:
    """What Polygraphy and the builder complain about meanwhile, which they would print."""
    from polygraphy.logger import G_LOGGER

    said: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno >= logging.ERROR:
                said.append(record.getMessage())

    logger, handler = logging.getLogger("Polygraphy"), Collect()
    before = G_LOGGER.use_python_logging_system, logger.propagate
    G_LOGGER.use_python_logging_system, logger.propagate = True, False
    logger.addHandler(handler)
    try:
        with G_LOGGER.verbosity(G_LOGGER.ERROR):
            yield said
    finally:
        logger.removeHandler(handler)
        G_LOGGER.use_python_logging_system, logger.propagate = before


def _monitor(trt: Any) -> Any:
    """TensorRT's progress monitor: phases within phases, of which the outermost is shown."""

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
