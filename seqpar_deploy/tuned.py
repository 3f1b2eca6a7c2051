"""What `seqpar tune` found best for a bundle on this machine, kept beside the bundle.

    BUNDLE/tuned.json

It holds for one bundle, processor, number of cores, set of backends and version of the runtime, and is passed over in
silence anywhere else: then `backend="auto"` chooses as if there were none.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, get_args

from seqpar_deploy.backends import BackendName, ComputePrecision, backends_for
from seqpar_deploy.backends.registry import runtime_versions
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine

FORMAT = 1
TUNED = "tuned.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned:
    """How to run a bundle. `recheck` is the margin below which crops are recognised again in exact arithmetic, None
    where the arithmetic is exact."""

    backend: BackendName
    compute_precision: ComputePrecision = "native"
    fallback_margin: float | None = None
    speculative: bool = False
    threads: int | None = None
    batch_size: int | None = None


def save_tuned(bundle: Bundle, tuned: Tuned, measured: Any = None) -> None:
    """Keep a choice beside its bundle, with what was `measured` (JSON values) to make it."""
    values = {"format": FORMAT, **_made_for(bundle), "choice": dataclasses.asdict(tuned), "measured": measured}
    write_whole(bundle.path / TUNED, (json.dumps(values, indent=2) + "\n").encode())


def load_tuned(bundle: Bundle) -> Tuned | None:
    """The choice beside a bundle, if it was made for this bundle, machine and runtime."""
    try:
        values = json.loads((bundle.path / TUNED).read_text(encoding="utf-8"))
        if any(values[key] != wanted for key, wanted in {"format": FORMAT, **_made_for(bundle)}.items()):
            return None
        tuned = Tuned(**values["choice"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return tuned if _is_sound(tuned) else None


def _is_sound(tuned: Tuned) -> bool:
    counts = [count for count in (tuned.threads, tuned.batch_size) if count is not None]
    return (
        tuned.backend in get_args(BackendName)
        and tuned.compute_precision in get_args(ComputePrecision)
        and (
            tuned.compute_precision == "native"
            or (isinstance(tuned.fallback_margin, int | float) and tuned.fallback_margin >= 0)
        )
        and type(tuned.speculative) is bool
        and all(type(count) is int and 0 < count <= 1024 for count in counts)
    )


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
