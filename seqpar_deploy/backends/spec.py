"""What a runtime declares of itself: one `BackendSpec` in each file of `backends/` that runs bundles, listed in
`registry.py`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol

from seqpar_deploy.backends.base import Backend, ComputePrecision
from seqpar_deploy.backends.sessions import Graph, Session
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BackendUnavailableError


class SessionOpener(Protocol):
    """Opens any ONNX graph. Raises BackendUnavailableError, BackendError."""

    def __call__(self, graph: Graph, *, threads: int | None, compute_precision: ComputePrecision) -> Session: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """One way to run a bundle.

    Attributes:
        name: What users call it.
        device: What it computes on.
        extra: The extra of this package that installs its SDK.
        load_sdk: Imports the SDK. Raises BackendUnavailableError that names the extra.
        open: Opens a bundle, given threads and a compute precision it has.
        open_session: Opens any ONNX graph, for detectors and measurements. None if it runs engines alone.
        compute_precisions: Those the runtime has; which of them this machine has, `why_not` says.
        why_not: Why this machine cannot compute in one of them, None if it can. Called when the SDK is loaded.
        needs_engines: Whether a bundle runs only if engines were built beside it.
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
        """Whether the SDK is installed; a device is not looked for."""
        try:
            self.load_sdk()
        except BackendUnavailableError:
            return False
        return True
