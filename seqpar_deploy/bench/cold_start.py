"""Measure the time from the start of a process to its first prediction, as after a restart or in a cloud function.

    python -m seqpar_deploy.bench.cold_start BUNDLE --backend onnxruntime

That process runs the README's example and prints the seconds of each part. The bundle's files are in the system's
cache, since they were read before.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqpar_deploy import Bundle, Recognizer, read_image
from seqpar_deploy.errors import BackendError
from seqpar_deploy.resources import sample_crops

_TIMEOUT = 600  # seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColdStart:
    """Hold the times of a cold start.

    Attributes:
        cold_start_seconds: From the start of the process to its first prediction.
        load_seconds: The part for loading.
        first_call_seconds: The part for the first call.
        peak_memory_bytes: Peak memory of the process, or None if the system does not report it.
    """

    cold_start_seconds: float
    load_seconds: float
    first_call_seconds: float
    peak_memory_bytes: int | None


def measure_cold_start(arguments: Sequence[str]) -> ColdStart:
    """Run the process with these arguments (see `main`). Raises BackendError."""
    command = [sys.executable, "-m", "seqpar_deploy.bench.cold_start", *arguments]
    start = time.monotonic()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise BackendError(
            f"a new process must predict within {_TIMEOUT} s, it took longer; leave this variant out"
        ) from None
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
        raise BackendError(f"a new process failed: {last}") from None
    printed = json.loads(done.stdout.splitlines()[-1])
    # The monotonic clock is the same in all processes.
    return ColdStart(cold_start_seconds=printed.pop("predicted_at") - start, **printed)


def main() -> None:
    """Open the bundle, predict one crop, print one line of JSON."""
    parser = argparse.ArgumentParser(description="Open a bundle, or its checkpoint, and predict one sample crop.")
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--checkpoint", type=Path, help="run this in PyTorch instead of the bundle")
    parser.add_argument("--encoder")
    parser.add_argument("--decoder-heads", type=int)
    parser.add_argument("--device", default="cpu", help="device of PyTorch")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    crop = read_image(sample_crops()[0])
    start = time.monotonic()
    recognizer = _open(options)
    loaded = time.monotonic()
    recognizer.predict([crop])
    predicted = time.monotonic()
    values = {"predicted_at": predicted, "load_seconds": loaded - start, "first_call_seconds": predicted - loaded}
    print(json.dumps(values | {"peak_memory_bytes": _peak_memory()}), flush=True)


def _open(options: argparse.Namespace) -> Recognizer:
    if options.checkpoint is None:
        return Recognizer.from_bundle(options.bundle, backend=options.backend, threads=options.threads)
    from seqpar_deploy.bench.torch_variants import cached_eager, load_model

    bundle = Bundle.open(options.bundle, verify=False)
    model = load_model(
        bundle,
        options.checkpoint,
        encoder=options.encoder,
        decoder_heads=options.decoder_heads,
        device=options.device,
        threads=options.threads,
    )
    backend: Any = cached_eager(model)
    return Recognizer(bundle, backend)


def _peak_memory() -> int | None:
    """The largest resident set of this process. Not getrusage's: Linux starts that one at the parent's size."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(sizes[0]) if sizes else None


if __name__ == "__main__":
    main()
