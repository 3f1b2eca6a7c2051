"""The registered backends, in the order `auto` tries them.

To add one, declare a `BackendSpec` in a new file, and add it to `SPECS` and its name to `BackendName`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Iterable
from typing import Any, Literal, get_args

from seqpar_deploy import machine
from seqpar_deploy.backends import onnxruntime, openvino
from seqpar_deploy.backends.base import Backend, ComputePrecision
from seqpar_deploy.backends.gpu import onnxruntime_cuda, tensorrt
from seqpar_deploy.backends.gpu.cuda import cuda_runtime, find_gpu
from seqpar_deploy.backends.gpu.engine_files import has_engines
from seqpar_deploy.backends.sessions import Graph, Session
from seqpar_deploy.backends.spec import BackendSpec
from seqpar_deploy.backends.verification import Result, difference_from_golden, keep_result, known_result, subject_of
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BackendError, BackendUnavailableError

_log = logging.getLogger(__name__)

BackendName = Literal["auto", "tensorrt", "tensorrt_rtx", "onnxruntime-cuda", "openvino", "onnxruntime"]
"""The name of a backend. `auto` is the first that opens the bundle, in this order. On x86 processors without AVX-512,
`onnxruntime` is before `openvino`."""

SPECS: tuple[BackendSpec, ...] = (*tensorrt.SPECS, onnxruntime_cuda.SPEC, openvino.SPEC, onnxruntime.SPEC)
MOST_THREADS = 1024
_NOT_REPRODUCED = "it does not reproduce the bundle's golden sequences on this GPU"


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendStatus:
    """Describe the state of one backend on this machine.

    Attributes:
        name: Name of the backend, one of `BackendName`.
        available: Whether it can run here. A TensorRT backend also needs a bundle with engines.
        version: Version of the SDK, or None if it is not installed.
        devices: Names of the devices it uses. Empty if it is not available.
        compute_precisions: The precisions it supports here. `int8` also needs a bundle with 8-bit graphs.
        reason: Why it is not available, or None if it is.
        install: The command that installs the missing packages, or None if none are missing.
    """

    name: str
    available: bool
    version: str | None
    devices: tuple[str, ...]
    compute_precisions: tuple[ComputePrecision, ...]
    reason: str | None
    install: str | None


def specs_in_order() -> list[BackendSpec]:
    """Return the specs in the order in which `auto` tries them on this machine.

    Without AVX-512, ONNX Runtime is the faster CPU runtime: it reached 78 % of the GEMM rate on such a machine, and
    OpenVINO 65 %. OpenVINO computes the products that it fuses with an activation or a residual in oneDNN. On one
    machine, its AVX2 kernels took 1.25 times as long as those for AVX-512. ONNX Runtime has its own kernels.
    """
    cpu = [spec for spec in SPECS if spec.device == "cpu"]
    if machine.lacks_avx512():
        cpu.sort(key=lambda spec: spec is not onnxruntime.SPEC)
    return [spec for spec in SPECS if spec.device != "cpu"] + cpu


def describe() -> list[BackendStatus]:
    """Describe every backend on this machine. This imports the SDKs that are installed.

    Returns:
        One status per backend, in the order `auto` tries them.

    Examples:
        >>> [status.name for status in describe() if status.available]
        ['openvino', 'onnxruntime']
    """
    return [_status(spec) for spec in specs_in_order()]


def _status(spec: BackendSpec) -> BackendStatus:
    version: str | None = None
    devices: tuple[str, ...] = ()
    reason: str | None = None
    install: str | None = f"pip install 'seqpar-deploy[{spec.extra}]'"
    try:
        version = str(spec.load_sdk().__version__)
        cuda = cuda_runtime() if spec.device == "cuda" else None
        install = None
        devices = (find_gpu(cuda).name,) if cuda else ("cpu",)
    except BackendUnavailableError as error:
        reason = str(error)
    return BackendStatus(
        name=spec.name,
        available=reason is None,
        version=version,
        devices=devices,
        compute_precisions=() if reason else tuple(p for p in spec.compute_precisions if not spec.why_not(p)),
        reason=reason,
        install=install,
    )


def find_spec(name: str) -> BackendSpec:
    """Return the spec of a backend. Raises BackendUnavailableError if the name is unknown."""
    for spec in SPECS:
        if spec.name == name:
            return spec
    raise BackendUnavailableError(f"backend must be one of {', '.join(get_args(BackendName))}, got {name!r}")


def available_backends() -> list[str]:
    """Return the names of the backends that need no engines and have their SDK installed.

    Returns:
        Names in the order `auto` tries them.
    """
    return [spec.name for spec in specs_in_order() if not spec.needs_engines and spec.is_available()]


def backends_for(bundle: Bundle) -> list[str]:
    """Return the names of the backends that may run a bundle on this machine.

    Args:
        bundle: The opened bundle. A TensorRT backend counts if the bundle has engines for it.

    Returns:
        Names in the order `auto` tries them.
    """
    return [
        spec.name
        for spec in specs_in_order()
        if (has_engines(bundle, spec.name) if spec.needs_engines else spec.is_available())  # type: ignore[arg-type]
    ]


def runtime_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the SDK version of each of these backends that is installed, by name."""
    specs = [find_spec(name) for name in names]
    return {spec.name: str(spec.load_sdk().__version__) for spec in specs if spec.is_available()}


def open_backend(
    bundle: Bundle,
    name: BackendName = "auto",
    *,
    threads: int | None = None,
    compute_precision: ComputePrecision = "native",
    require_verified: bool = False,
) -> Backend[Any]:
    """Open a bundle on a backend.

    Args:
        bundle: The opened bundle.
        name: Name of the backend. Default: `auto`, the first that opens the bundle. Of the NVIDIA backends, `auto` uses
            only those that reproduce the bundle's golden sequences on this machine. This is checked once, and the
            result is stored in `verified.json`.
        threads: CPU threads per inference, 1 to 1024. Default: the runtime's choice within the CPU quota.
        compute_precision: `native`, `bf16` or `int8`. Default: `native`, the precision of the bundle's graphs.
        require_verified: Require the check of `auto` for a named backend too. Default: False. A named backend that
            failed the check is then opened with a warning.

    Returns:
        The backend. Call its `close` when done.

    Raises:
        BackendUnavailableError: The SDK is missing, or does not support this precision on this machine.
        BackendError: The backend cannot open this bundle, or `threads` is out of range.

    Examples:
        >>> backend = open_backend(Bundle.open("bundles/peta"), "onnxruntime", threads=2)
        >>> backend.device
        'cpu'
    """
    if compute_precision not in get_args(ComputePrecision):
        raise BackendUnavailableError(
            f"compute precision must be one of {', '.join(get_args(ComputePrecision))}, got {compute_precision!r}"
        )
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise BackendError(f"threads must be 1 to {MOST_THREADS}, got {threads}; leave it out for the default")
    if name == "auto":
        return _open_first(bundle, threads, compute_precision)
    spec = find_spec(name)
    if require_verified:
        return _open_verified(bundle, spec, threads, compute_precision)
    backend = _open(bundle, spec, threads, compute_precision)
    if spec.device == "cuda":
        result = known_result(bundle, subject_of(bundle, spec))
        if result is not None and result.failure:
            _log.warning("backend %s failed its check on this machine: %s", name, result.failure)
    return backend


def _open(bundle: Bundle, spec: BackendSpec, threads: int | None, compute_precision: ComputePrecision) -> Backend[Any]:
    _check_precision(spec, compute_precision)
    return spec.open(bundle, threads, compute_precision)


def _check_precision(spec: BackendSpec, compute_precision: ComputePrecision) -> None:
    if compute_precision not in spec.compute_precisions:
        others = [other.name for other in SPECS if compute_precision in other.compute_precisions]
        raise BackendUnavailableError(
            f"compute precision of backend {spec.name} must be {' or '.join(spec.compute_precisions)}, got "
            f"{compute_precision}; use backend {' or '.join(others)} for {compute_precision}"
        )
    if compute_precision != "native":
        spec.load_sdk()
        if reason := spec.why_not(compute_precision):
            raise BackendUnavailableError(reason)


def _open_first(bundle: Bundle, threads: int | None, compute_precision: ComputePrecision) -> Backend[Any]:
    names = backends_for(bundle)
    if not names:
        extras = ", ".join(f"[{spec.extra}]" for spec in reversed(SPECS) if not spec.needs_engines)
        raise BackendUnavailableError(f"no backend is installed; pip install 'seqpar-deploy[...]' with one of {extras}")
    for name, following in zip(names, [*names[1:], None], strict=True):
        try:
            _log.debug("opening %s on backend %s, %s", bundle.path, name, compute_precision)
            return _open_verified(bundle, find_spec(name), threads, compute_precision)
        except BackendError as error:
            if following is None:
                raise
            # A missing SDK or device is normal, for example where RTX engines are built without a GPU.
            level = logging.INFO if isinstance(error, BackendUnavailableError) else logging.WARNING
            _log.log(level, "skipping backend %s, trying %s: %s", name, following, error)
    raise AssertionError("unreachable: the last backend returns or raises")


def _open_verified(
    bundle: Bundle, spec: BackendSpec, threads: int | None, compute_precision: ComputePrecision
) -> Backend[Any]:
    """Open a backend. One on a GPU must reproduce the bundle's golden sequences, or BackendError is raised."""
    if spec.device == "cpu":  # the export already checks CPU runtimes
        return _open(bundle, spec, threads, compute_precision)
    known = known_result(bundle, subject_of(bundle, spec))
    if known is not None and known.failure:
        raise BackendError(f"{_NOT_REPRODUCED}: {known.failure}")
    backend = _open(bundle, spec, threads, compute_precision)
    try:
        if known is None and (failure := _check(bundle, spec, backend)):
            raise BackendError(f"{_NOT_REPRODUCED}: {failure}")
    except BaseException:
        backend.close()
        raise
    return backend


def verify_backend(bundle: Bundle, name: BackendName) -> None:
    """Check whether a backend reproduces the bundle's golden sequences on this machine, and store the result.

    Raises:
        BackendUnavailableError: The SDK is missing, or there is no GPU.
        BackendError: The backend does not open or run the bundle, or does not reproduce the sequences.
    """
    spec = find_spec(name)
    with contextlib.closing(_open(bundle, spec, None, "native")) as backend:
        if failure := _check(bundle, spec, backend):
            raise BackendError(f"{_NOT_REPRODUCED}: {failure}")


def _check(bundle: Bundle, spec: BackendSpec, backend: Backend[Any]) -> str | None:
    failure = difference_from_golden(bundle, backend)
    keep_result(bundle, Result(subject=subject_of(bundle, spec), failure=failure))
    if failure is None:
        _log.info("backend %s reproduces the golden sequences of %s on this machine", spec.name, bundle.path)
    return failure


def open_session(
    graph: Graph,
    name: BackendName = "auto",
    *,
    threads: int | None = None,
    compute_precision: ComputePrecision = "native",
) -> Session:
    """Open any ONNX graph, for example a detector's.

    Args:
        graph: The path of the ONNX file, or its content.
        name: Name of the backend. Default: `auto`, the first CPU runtime that opens the graph. TensorRT backends run
            engines only, so the first other backend of their device is used instead, or else `auto`.
        threads: CPU threads per inference. Default: the runtime's choice within the CPU quota.
        compute_precision: `native`, `bf16` or `int8`. Default: `native`, the precision of the graph.

    Returns:
        The session.

    Raises:
        BackendUnavailableError: The runtime is not installed, or cannot compute this graph correctly on this processor.
        BackendError: The runtime cannot open the graph.
    """
    candidates = _session_specs(name)
    for spec, following in zip(candidates, [*candidates[1:], None], strict=True):
        try:
            _check_precision(spec, compute_precision)
            assert spec.open_session is not None
            return spec.open_session(graph, threads=threads, compute_precision=compute_precision)
        except BackendUnavailableError as error:
            if following is None:
                raise
            _log.warning("skipping backend %s, trying %s: %s", spec.name, following.name, error)
    raise BackendUnavailableError("no runtime is installed; pip install 'seqpar-deploy[cpu]'")


def _session_specs(name: BackendName) -> list[BackendSpec]:
    """Return the specs to try, in order."""
    named = None if name == "auto" else find_spec(name)
    if named is not None and named.open_session is not None:
        return [named]
    able = [spec for spec in specs_in_order() if spec.open_session is not None and spec.is_available()]
    same_device = [spec for spec in able if named is not None and spec.device == named.device]
    return same_device or [spec for spec in able if spec.device == "cpu"]
