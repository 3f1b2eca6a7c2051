"""Store the fastest settings for a bundle on this machine, measured by `seqpar tune`, in the sidecar `tuned.json`.

They apply to one bundle, processor, number of cores, set of backends and version of the runtimes. On any mismatch they
are ignored with one log line, and `backend="auto"` uses its defaults.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Annotated, Any

import msgspec

from seqpar_deploy.backends import BackendName, ComputePrecision, backends_for
from seqpar_deploy.backends.registry import runtime_versions
from seqpar_deploy.bundle import TUNED, Bundle
from seqpar_deploy.config import parse_json, typed
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.files import finite
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.sidecars import sidecars, write_sidecar

_log = logging.getLogger(__name__)

FORMAT = 2  # 1 had margins that cover tokens and no probabilities
_Count = Annotated[int, msgspec.Meta(ge=1, le=1024)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned:
    """Describe how to run a bundle.

    Attributes:
        backend: Name of the backend.
        compute_precision: `native`, `bf16` or `int8`. Default: `native`.
        fallback_margin: Crops with a margin below this value are re-run in native precision. Default: None, for
            `native`.
        speculative: Whether to decode speculatively. Default: False.
        threads: CPU threads per inference. Default: None, the runtime's choice.
        batch_size: Crops per batch. Default: None, as many as the bundle's largest profile allows.
    """

    backend: BackendName
    compute_precision: ComputePrecision = "native"
    fallback_margin: Annotated[float, msgspec.Meta(ge=0)] | None = None
    speculative: bool = False
    threads: _Count | None = None
    batch_size: _Count | None = None

    def __post_init__(self) -> None:
        if self.compute_precision != "native" and self.fallback_margin is None:
            raise ValueError(f"fallback_margin must be given for compute_precision {self.compute_precision!r}")


def save_tuned(bundle: Bundle, tuned: Tuned, measured: Any = None) -> Path:
    """Store settings beside their bundle, with the measurements (JSON values) that they are based on.

    Returns:
        The path of the file, see `sidecars.write_sidecar`.
    """
    values = {"format": FORMAT, **_made_for(bundle), "choice": dataclasses.asdict(tuned), "measured": finite(measured)}
    return write_sidecar(bundle, TUNED, (json.dumps(values, indent=2) + "\n").encode())


def load_tuned(bundle: Bundle) -> Tuned | None:
    """Return the stored settings, or None if there are none for this bundle, machine and runtimes."""
    reasons = []
    for path, content in sidecars(bundle, TUNED):
        try:
            return _tuned_from(content, _made_for(bundle), source=str(path))
        except SeqparError as error:
            reasons.append(str(error))
    if reasons:
        _log.warning("ignoring %s: %s; run seqpar tune on this machine", TUNED, reasons[0])
    return None


def _tuned_from(content: bytes, made_for: dict[str, Any], *, source: str) -> Tuned:
    values = parse_json(content, source=source, error=SeqparError)
    for key, expected in {"format": FORMAT, **made_for}.items():
        if values.get(key) != expected:
            raise SeqparError(f"{source}: {key} must be {expected!r}, got {values.get(key)!r}")
    return typed(values.get("choice"), Tuned, source=source, error=SeqparError, path="choice", known_keys_only=True)


def _made_for(bundle: Bundle) -> dict[str, Any]:
    machine = describe_machine()
    backends = backends_for(bundle)
    return {
        "bundle": bundle.digest,
        "processor": machine["processor"],
        "cores": machine["cores"],
        "backends": backends,  # an engine built later may be faster
        "runtimes": runtime_versions(backends),
    }
