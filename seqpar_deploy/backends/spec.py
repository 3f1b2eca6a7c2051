"""The declaration of a backend: `BackendSpec`. Each file in `backends/` that runs bundles has one for `registry.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol

from seqpar_deploy.backends.base import Backend, ComputePrecision
from seqpar_deploy.backends.sessions import Graph, Session
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BackendUnavailableError


class SessionOpener(Protocol):
    """Open any ONNX graph. Raises BackendUnavailableError, BackendError."""

    def __call__(self, graph: Graph, *, threads: int | None, compute_precision: ComputePrecision) -> Session: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """Declare a backend.

    Attributes:
        name: The backend's public name.
        device: The device it computes on.
        extra: The extra of this package that installs its SDK.
        load_sdk: Imports the SDK. Raises BackendUnavailableError, which names the extra.
        open: Opens a bundle with a number of threads and one of `compute_precisions`.
        open_session: Opens any ONNX graph, for detectors and measurements. None if it runs engines only.
        compute_precisions: The precisions the runtime supports. `why_not` excludes those this machine lacks.
        why_not: Returns the reason if this machine cannot compute in a precision, else None. Needs a loaded SDK.
        needs_engines: Whether it runs only bundles that have engines for it.
    """

    name: str
    device: Literal["cpu", "cuda"]
    extra: str
    load_sdk: Callable[[], Any]
    open: Callable[[Bundle, int | None, ComputePrecision], Backend[Any]]
    open_session: SessionOpener | None = None
    compute_precisions: tuple[ComputePrecision, ...] = ("native",)
    why_not: Callable[[ComputePrecision], str | None] = lambda _: None
    needs_engines: bool = False

    def is_available(self) -> bool:
        """Return whether the SDK is installed. Devices are not checked."""
        try:
            self.load_sdk()
        except BackendUnavailableError:
            return False
        return True
