"""Run the backends for NVIDIA GPUs on strict stand-ins, thousands of times: threads, failures, closes, collections.

    .venv/bin/python benchmarks/gpu_stress.py [--schedules 10000] [--seed 0] [--processes 2]

The seed determines the schedule: batches and profiles, the order of threads, the progress of the device, failures,
garbage collections, and the thread that closes the backend. Batches are trimmed to several widths, and some rows have
drafts. Tokens and pooled features must equal those of the host backend. Leaks, deadlocks and calls that are undefined
on hardware are failures. No GPU is needed (see tests/fakes/stress.py).
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import datetime
import json
import logging
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqpar_deploy.files import write_whole
from seqpar_deploy.interruption import stop_on_signal
from seqpar_deploy.machine import describe_machine

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

RESULT = ROOT / "benchmarks" / "results" / "gpu-stress.json"
CHUNK = 25  # schedules that a process runs before it reports
_KEPT = 50  # failures that the result lists

_material: Any = None  # of this process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=10_000, help="number of schedules; default: 10000")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first schedule; default: 0")
    parser.add_argument("--processes", type=int, default=2, help="number of processes; default: 2")
    parser.add_argument("--take-back", metavar="NAME", help="undo one fix, to plant a fault; see tests/fakes/faults.py")
    parser.add_argument("--until-failure", action="store_true", help="stop after the first failure")
    parser.add_argument("--allow", metavar="KIND,...", default="", help="kinds of failure that do not count")
    parser.add_argument("--bundle", type=Path, help="a tiny trimmed FP16 bundle; default: one is exported, in 20 s")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    if options.take_back is not None:
        from fakes.faults import FAULTS

        if options.take_back not in FAULTS:
            parser.error(f"--take-back must be one of {', '.join(FAULTS)}, got {options.take_back}")
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or export_tiny(Path(folder))
        result = stress(bundle, Path(folder), options)
    write_whole(options.out, (json.dumps(result, indent=2) + "\n").encode())
    sys.exit(1 if result["failed"] else 0)


def export_tiny(folder: Path) -> Path:
    """Export the bundle that the tests use. Its crops have three widths."""
    from fakes.bundles import export_trimmed

    return export_trimmed(folder / "tiny")


def stress(bundle: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run the schedules, and return their totals and failures."""
    found = Findings()
    started = time.perf_counter()
    last = options.seed + options.schedules
    chunks = iter([range(start, min(start + CHUNK, last)) for start in range(options.seed, last, CHUNK)])
    pool = concurrent.futures.ProcessPoolExecutor(
        options.processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=prepare,
        initargs=(bundle, folder),
    )
    allow = tuple(filter(None, options.allow.split(",")))
    with stop_on_signal() as received, pool:
        running = {
            pool.submit(run_chunk, seeds, allow, options.take_back) for _, seeds in zip(range(4), chunks, strict=False)
        }
        while running:
            done, running = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
            for future in done:
                found.add(future.result())
            rate = (time.perf_counter() - started) / max(1, found.schedules)
            end = "\r" if sys.stderr.isatty() else "\n"
            line = (
                f"{found.schedules} of {options.schedules} schedules, {found.failed} failed, {rate * 1e3:.0f} ms each"
            )
            print(line, end=end, file=sys.stderr, flush=True)
            if not (received or (options.until_failure and found.failed)):
                running |= {
                    pool.submit(run_chunk, seeds, allow, options.take_back)
                    for _, seeds in zip(done, chunks, strict=False)
                }
    found.show()
    return {
        "what": "seeded schedules of the backends for NVIDIA GPUs on stand-ins for CUDA and the SDKs",
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "first_seed": options.seed,
        "taken_back": options.take_back,
        "allowed": list(allow),
        "interrupted": bool(received),
        "seconds": round(time.perf_counter() - started, 1),
        **found.summary(),
    }


class Findings:
    """Totals of the schedules."""

    def __init__(self) -> None:
        self.schedules, self.failed = 0, 0
        self._counts: collections.Counter[str] = collections.Counter()
        self._failures: list[tuple[int, list[str]]] = []
        self._reasons: dict[str, list[int]] = collections.defaultdict(list)

    def add(self, outcomes: list[tuple[int, list[str], collections.Counter[str]]]) -> None:
        for seed, reasons, counts in outcomes:
            self.schedules += 1
            self._counts.update(counts)
            if reasons:
                self.failed += 1
                self._failures.append((seed, reasons))
            for sort in sorted({sort_of(reason) for reason in reasons}):
                self._reasons[sort].append(seed)

    def _sorts(self) -> Iterator[tuple[str, int, int]]:
        for sort, seeds in sorted(self._reasons.items(), key=lambda item: -len(item[1])):
            yield sort, len(seeds), min(seeds)

    def show(self) -> None:
        print(f"{self.schedules} schedules, {self.failed} failed")
        for sort, count, first in self._sorts():
            print(f"{count:6} times, first with seed {first}: {sort}")

    def summary(self) -> dict[str, Any]:
        return {
            "schedules": self.schedules,
            "failed": self.failed,
            "counts": dict(sorted(self._counts.items())),
            "reasons": [{"sort": sort, "schedules": n, "first_seed": first} for sort, n, first in self._sorts()],
            "failures": [{"seed": seed, "reasons": reasons[:10]} for seed, reasons in sorted(self._failures)[:_KEPT]],
        }


def sort_of(reason: str) -> str:
    """Return a reason without its figures, to group failures."""
    return re.sub(r"\s+", " ", re.sub(r"0x[0-9a-f]+|\d+|[\[(].*[\])]", "#", reason))[:160]


def prepare(bundle: Path, folder: Path) -> None:
    """Set up a process that runs schedules. It ignores Ctrl-C, which the parent handles."""
    global _material
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from fakes.stress import Material

    logging.disable()
    _material = Material(bundle, folder / str(os.getpid()))


def run_chunk(
    seeds: range, allow: tuple[str, ...], take_back: str | None
) -> list[tuple[int, list[str], collections.Counter[str]]]:
    from fakes.faults import planted
    from fakes.stress import run_schedule

    outcomes = []
    with planted(take_back):
        for seed in seeds:
            outcome = run_schedule(_material, seed, allow=allow)
            outcomes.append((seed, outcome.reasons, outcome.counts))
    return outcomes


if __name__ == "__main__":
    main()
