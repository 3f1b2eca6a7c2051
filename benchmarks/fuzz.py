"""Feed mutated files to the commands that read them: does each end in a result, or in one line and exit code 2?

    .venv/bin/python benchmarks/fuzz.py [--count 2000] [--seed 0] [--workers N]
    .venv/bin/python benchmarks/fuzz.py --seed 0 --kind videos --only 17 --keep build/fuzz

Kinds: checkpoints, bundles, pictures, videos, detectors, tables, logs (boxes, sequences and measurements of other runs)
and settings (label sets and recipes). Each input is read in a process of its own, within 30 s and 2 GB of memory. A
traceback, a hang, a crash, code that runs, a file outside the output folder or a half-written one is a fault: the input
is kept and the command that repeats it is printed. The exit code is 1 if there is a fault. Ctrl-C keeps the results so
far. Linux only.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "fuzz.json"
KINDS = ("checkpoints", "bundles", "pictures", "videos", "detectors", "tables", "logs", "settings")
KEPT = ROOT / "build" / "fuzz"
ALL = 2000  # inputs of a whole run


def main() -> None:
    # Before any library is loaded: pools of threads in the parent would not survive the fork.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    sys.dont_write_bytecode = True
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=ALL, help=f"inputs over all kinds; default: {ALL}")
    parser.add_argument("--seed", type=int, default=0, help="seed of all mutations; default: 0")
    parser.add_argument("--kind", choices=KINDS, help="only this kind; default: all")
    parser.add_argument("--only", type=int, metavar="INDEX", help="with --kind: only this input, which is kept")
    parser.add_argument("--seconds", type=float, default=30, help="limit of one input; default: 30")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="inputs at a time; default: all cores")
    parser.add_argument(
        "--keep", type=Path, default=ROOT / "build" / "fuzz", help="folder for faults; default: build/fuzz"
    )
    parser.add_argument("--seeds", type=Path, help="folder of sound files, made if missing; default: a temporary one")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    if options.only is not None and options.kind is None:
        parser.error("--only needs --kind")
    with tempfile.TemporaryDirectory(prefix="seqpar-fuzz-") as folder:
        code = fuzz(options, Path(folder))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Triton prints a page about leaks at the end of an interpreter that imported it


def fuzz(options: argparse.Namespace, folder: Path) -> int:
    """Run all kinds and write the result. Returns the exit code."""
    import fuzz_runner
    from fuzz_seeds import make_seeds

    began = time.monotonic()
    print("importing the libraries ...", file=sys.stderr, flush=True)
    fuzz_runner.warm_up()
    seeds = (options.seeds or folder / "seeds").absolute()
    if not seeds.exists():
        print("making the sound files ...", file=sys.stderr, flush=True)
        _in_a_child(lambda: make_seeds(seeds))
    before = _digest(seeds)
    stop: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: stop.append(number))
    kinds: dict[str, dict[str, Any]] = {}
    faults: list[dict[str, Any]] = []
    for kind, count in _counts(options).items():
        if not stop:
            kinds[kind] = _run_kind(kind, count, options, folder, seeds, faults, stop)
    if _digest(seeds) != before:
        faults.append({"kind": "all", "fault": "outside", "evidence": "a seed has changed"})
        print("FAULT: an input has changed the seeds", file=sys.stderr)
    _write(options, kinds, faults, time.monotonic() - began, stopped=bool(stop))
    return 130 if stop else 1 if faults else 0


def _counts(options: argparse.Namespace) -> dict[str, int]:
    """Return the number of inputs per kind. A small run has at least one of each."""
    from fuzz_kinds import KINDS as KNOWN

    if options.kind:
        return {options.kind: options.count if options.count != ALL else KNOWN[options.kind].share}
    return {kind: max(1, round(options.count * known.share / ALL)) for kind, known in KNOWN.items()}


def _run_kind(
    kind: str,
    count: int,
    options: argparse.Namespace,
    folder: Path,
    seeds: Path,
    faults: list[dict[str, Any]],
    stop: list[int],
) -> dict[str, Any]:
    import shutil

    from fuzz_kinds import make_case
    from fuzz_runner import Case, Limits, run_all

    indices = range(count) if options.only is None else (options.only,)

    def cases() -> Iterator[Case]:
        for index in indices:
            yield make_case(kind, index, seed=options.seed, seeds=seeds, folder=folder / f"{kind}-{index}")

    outcomes: collections.Counter[str] = collections.Counter()
    began, slowest, largest, shown = time.monotonic(), 0.0, 0, 0.0
    limits = Limits(seconds=options.seconds)
    for case, outcome in run_all(cases(), workers=options.workers, limits=limits, stopping=lambda: bool(stop)):
        outcomes[outcome.outcome] += 1
        slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.megabytes)
        index = int(case.folder.name.rpartition("-")[2])
        if outcome.is_fault:
            repeat = f"benchmarks/fuzz.py --seed {options.seed} --kind {kind} --only {index}"
            evidence = outcome.evidence.replace(str(folder), "").replace(str(ROOT), "")[:400]
            faults.append({"kind": kind, "fault": outcome.outcome, "evidence": evidence, "repeat": repeat})
            print(f"FAULT {outcome.outcome}: {case.about}: {outcome.evidence}\n  repeat: {repeat}", file=sys.stderr)
        if options.only is not None:
            print(f"{outcome.outcome}: {case.about}: {outcome.evidence}\n  seqpar {' '.join(case.arguments)}")
        if outcome.is_fault or options.only is not None:
            kept = options.keep / case.folder.name
            shutil.rmtree(kept, ignore_errors=True)
            shutil.copytree(case.folder, kept, symlinks=True)
        shutil.rmtree(case.folder)
        if time.monotonic() - shown > 2:
            shown = time.monotonic()
            print(f"{kind}: {outcomes.total()} of {len(indices)}, {dict(outcomes)}", file=sys.stderr, flush=True)
    seconds = time.monotonic() - began
    print(f"{kind}: {outcomes.total()} in {seconds:.0f} s, {dict(outcomes)}", file=sys.stderr, flush=True)
    return {
        "inputs": outcomes.total(),
        "result": outcomes.pop("result", 0),
        "refused": outcomes.pop("refused", 0),
        "faults": dict(outcomes),
        "seconds": round(seconds, 1),
        "slowest_seconds": round(slowest, 2),
        "largest_megabytes": largest,
    }


def _write(
    options: argparse.Namespace,
    kinds: dict[str, dict[str, Any]],
    faults: list[dict[str, Any]],
    seconds: float,
    *,
    stopped: bool,
) -> None:
    from seqpar_deploy.files import write_whole
    from seqpar_deploy.machine import describe_machine

    total = {key: sum(entry[key] for entry in kinds.values()) for key in ("inputs", "result", "refused")}
    values = {
        "what": "mutated inputs, each read by a command; refused is one line of error and exit code 2",
        "seed": options.seed,
        "interrupted": stopped,
        "limits": {"seconds": options.seconds, "memory_gb": 2},
        "workers": options.workers,
        "total": {**total, "faults": len(faults), "seconds": round(seconds, 1)},
        "kinds": kinds,
        "faults": faults,
        "machine": describe_machine(),
    }
    if options.only is None:
        write_whole(options.out, (json.dumps(values, indent=2) + "\n").encode())
    print(json.dumps(values["total"]))


def _in_a_child(work: Any) -> None:
    """Run in a fork, so that the threads that libraries start end with it. Exits if it fails."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        sys.exit("the sound files could not be made")


def _digest(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


if __name__ == "__main__":
    main()
