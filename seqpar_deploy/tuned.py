"""The fastest way to run a bundle on this machine, as `seqpar tune` measured it: the sidecar `tuned.json`.

It holds for one bundle, processor, number of cores, set of backends and version of the runtimes. Anywhere else it is
ignored with one log line, and `backend="auto"` chooses as if there were none.
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

FORMAT = 1
_Count = Annotated[int, msgspec.Meta(ge=1, le=1024)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned:
    """How to run a bundle. `fallback_margin` is the margin below which a crop is re-run in full precision; None if
    every crop runs in full precision."""

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
    """Keep a choice beside its bundle, with the measurements (JSON values) it rests on.

    Returns:
        The file written, see `sidecars.write_sidecar`.
    """
    values = {"format": FORMAT, **_made_for(bundle), "choice": dataclasses.asdict(tuned), "measured": finite(measured)}
    return write_sidecar(bundle, TUNED, (json.dumps(values, indent=2) + "\n").encode())


def load_tuned(bundle: Bundle) -> Tuned | None:
    """The choice kept for a bundle, if it was made for this bundle, machine and runtimes."""
    reasons = []
    for path, content in sidecars(bundle, TUNED):
        try:
            return _tuned_from(content, _made_for(bundle), source=str(path))
        except SeqparError as error:
            reasons.append(str(error))
    if reasons:
        _log.warning("ignoring %s: %s; seqpar tune makes one for this machine", TUNED, reasons[0])
    return None


def _tuned_from(content: bytes, made_for: dict[str, Any], *, source: str) -> Tuned:
    values = parse_json(content, source=source, error=SeqparError)
    for key, expected in {"format": FORMAT, **made_for}.items():
        if values.get(key) != expected:
            raise SeqparError(f"{source} was made for another {key}: {values.get(key)!r}, here it is {expected!r}")
    return typed(values.get("choice"), Tuned, source=source, error=SeqparError, path="choice", known_keys_only=True)


def _made_for(bundle: Bundle) -> dict[str, Any]:
    machine = describe_machine()
    backends = backends_for(bundle)
    return {
        "bundle": bundle.digest,
        "processor": machine["processor"],
        "cores": machine["cores"],
        "backends": backends,  # an engine that was built since may be quicker
        "runtimes": runtime_versions(backends),
    }
