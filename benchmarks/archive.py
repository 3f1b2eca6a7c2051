"""Run `seqpar archive` on 20,000 small crops: speed, memory, kills, a finished plan of 1,000,000 entries, two nodes.

    .venv/bin/python benchmarks/archive.py [--bundle FOLDER] [--work FOLDER] [--only kills]

Each stage compares its files of results, byte by byte, with those of the undisturbed run. Stages that are done in the
work folder are not repeated, so that they can run one by one.
"""

from __future__ import annotations

import argparse
import datetime
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from demo_bundle import export_demo
from PIL import Image

from seqpar_deploy import Bundle, Recognizer, read_image
from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.resources import sample_crops
from seqpar_deploy.serving.archive.entries import Entry
from seqpar_deploy.serving.archive.job import shard_file
from seqpar_deploy.serving.archive.plan import Plan, Settings
from seqpar_deploy.serving.archive.status import read_status
from seqpar_deploy.serving.archive.worker import calibration_hash

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from fakes.archive_job import (  # noqa: E402
    ArchiveProcess,
    Nodes,
    bytes_of,
    descendants,
    is_worker,
    memory_of,
    rows_of,
    wait_until,
)

RESULT = ROOT / "benchmarks" / "results" / "archive.json"
STAGES = ("undisturbed", "in_process", "kills", "million", "nodes")
SHARD, BATCH, WORKERS = 256, 64, 2
LIMIT = 500.0  # seconds of one run
PORT = 6399  # of the head of the cluster of two nodes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="bundle; default: the demo model, exported here")
    parser.add_argument("--work", type=Path, help="folder of crops and jobs; default: a temporary one")
    parser.add_argument("--only", choices=STAGES, action="append", help="stage to run; default: all")
    parser.add_argument("--crops", type=int, default=20_000, help="number of crops; default: 20000")
    parser.add_argument("--kills", type=int, default=20, help="number of kills; default: 20")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments; default: 0")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        options.work = (options.work or Path(temporary)).absolute()
        options.work.mkdir(parents=True, exist_ok=True)
        options.bundle = options.bundle or export_demo(options.work / "bundle").path
        make_crops(options.work / "crops", options.crops)
        values = json.loads(options.out.read_bytes()) if options.only and options.out.exists() else {}
        for name in options.only or STAGES:
            values[name] = globals()[name](options)
            print(name, json.dumps(values[name], indent=2), flush=True)
            values |= {"crops": options.crops, "shard_size": SHARD, "workers": WORKERS, "threads_per_worker": 1}
            values |= {"date": datetime.date.today().isoformat(), "machine": describe_machine()}
            write_whole(options.out, (json.dumps(values, indent=2) + "\n").encode())


def make_crops(folder: Path, number: int) -> None:
    """Write variants of the sample crops, each of another brightness and part, as JPEG of 64 x 160 pixels."""
    if folder.exists():
        return
    rng = np.random.default_rng(0)
    samples = [Image.fromarray(read_image(path)) for path in sample_crops()]
    folder.mkdir()
    for place in range(number):
        sample = samples[place % len(samples)]
        left, top = rng.integers(0, 8, 2).tolist()
        part = sample.crop((left, top, sample.width - 8 + left, sample.height - 8 + top)).resize((64, 160))
        part.point([min(255, int(value * rng.uniform(0.7, 1.2))) for value in range(256)] * 3).save(
            folder / f"{place:06d}.jpg", quality=90
        )


def words(options: argparse.Namespace, job: str, *more: object) -> list[object]:
    common = ["--workers", WORKERS, "--threads", 1, "--shard-size", SHARD]
    return [options.work / "crops", "--bundle", options.bundle, "--out", options.work / job, *common, *more]


def undisturbed(options: argparse.Namespace) -> dict[str, Any]:
    """The speed, with and without the start, and the memory of driver and workers, sampled each half second."""
    job, log = options.work / "undisturbed", options.work / "undisturbed.log"
    start = time.monotonic()
    run = ArchiveProcess(*words(options, "undisturbed"), log=log)
    driver, worker, everything = 0, 0, 0
    while run.is_running():
        below = list(descendants(run.process.pid))
        driver = max(driver, memory_of(run.process.pid))
        worker = max([worker, *(memory_of(pid) for pid in below if is_worker(pid))])
        everything = max(everything, memory_of(run.process.pid) + sum(map(memory_of, below)))
        time.sleep(0.5)
    assert run.wait(LIMIT) == 0, log.read_text()
    seconds = time.monotonic() - start
    written = sorted(file.stat().st_mtime for file in (job / "shards").iterdir())
    rows = rows_of(job)
    assert len({row["id"] for row in rows}) == len(rows) == options.crops
    steady = SHARD * (len(written) - 2) / (written[-2] - written[0])
    return {
        "seconds": seconds,
        "per_second": options.crops / seconds,
        "per_second_after_the_start": steady,
        "errors": sum(row["error"] is not None for row in rows),
        "bytes_per_row": sum(map(len, bytes_of(job).values())) / len(rows),
        "peak_mb": {"driver": driver / 1e6, "worker": worker / 1e6, "all_with_ray": everything / 1e6},
    }


def in_process(options: argparse.Namespace) -> dict[str, Any]:
    """Two processes that read and recognise half of the crops each, in batches of the plan: no Ray, no Parquet."""
    paths = sorted((options.work / "crops").iterdir())
    context = multiprocessing.get_context("spawn")
    with context.Pool(WORKERS) as pool:
        shares = [(str(options.bundle), [str(path) for path in paths[place::WORKERS]]) for place in range(WORKERS)]
        seconds = pool.starmap(recognise, shares)
    return {"seconds_after_the_start": max(seconds), "per_second_after_the_start": len(paths) / max(seconds)}


def recognise(bundle: str, paths: Sequence[str]) -> float:
    with Recognizer.from_bundle(bundle, threads=1) as recognizer:
        recognizer.predict([read_image(path) for path in paths[:BATCH]])
        start = time.monotonic()
        for place in range(0, len(paths), BATCH):
            recognizer.predict([read_image(path) for path in paths[place : place + BATCH]])
        return time.monotonic() - start


def kills(options: argparse.Namespace) -> dict[str, Any]:
    """Kill a worker, the driver or the raylet at random moments, and resume until the job is finished."""
    choose = random.Random(options.seed)
    job, log = options.work / "killed", options.work / "killed.log"
    killed: Counter[str] = Counter()
    runs, finished, start = 0, False, time.monotonic()
    while not finished:
        run = ArchiveProcess(*words(options, "killed"), log=log)
        runs += 1
        before = len(list(job.glob("shards/*.parquet")))
        wait_until(lambda: not run.is_running() or len(list(job.glob("shards/*.parquet"))) > before, 120)  # noqa: B023
        while run.is_running():
            if killed.total() < options.kills and options.kills - killed.total() >= 1:
                time.sleep(choose.uniform(0, 2))
                target = choose.choice(("worker", "worker", "driver", "raylet"))
                killed[target] += run.kill(target)
            else:
                time.sleep(0.2)
        finished = run.wait(LIMIT) == 0
        if runs > 3 * options.kills:
            raise RuntimeError(log.read_text())
    return {"kills": dict(killed), "runs": runs, "seconds": time.monotonic() - start, **compared(options, job)}


def compared(options: argparse.Namespace, job: Path) -> dict[str, Any]:
    """Compare a job with the undisturbed one."""
    rows, expected = rows_of(job), rows_of(options.work / "undisturbed")
    ids = Counter(row["id"] for row in rows)
    other = {row["id"]: row for row in expected}
    ours, theirs = bytes_of(job), bytes_of(options.work / "undisturbed")
    return {
        "rows": len(rows),
        "missing": len(set(other) - set(ids)),
        "twice": sum(count > 1 for count in ids.values()),
        "other_tokens_or_states": sum(
            (row["tokens"], row["states"]) != (other[row["id"]]["tokens"], other[row["id"]]["states"]) for row in rows
        ),
        "files": len(ours),
        "files_that_differ": sum(ours.get(name) != content for name, content in theirs.items()),
        "other_files": sorted(set(ours) - set(theirs)),
    }


def million(options: argparse.Namespace) -> dict[str, Any]:
    """Resume a finished plan of 1,000,000 entries, with copies of one file as its results."""
    job, count = options.work / "million", 1_000_000
    bundle = Bundle.open(options.bundle)
    settings = Settings(bundle=bundle.digest, calibration=calibration_hash(bundle, None))
    start = time.monotonic()
    if not (job / "plan.json").exists():
        (options.work / "undisturbed" / "shards" / "000000.parquet").stat()
        entries = (Entry(kind="picture", source=f"/people/{place // 1000}/{place}.jpg") for place in range(count))
        job.mkdir(exist_ok=True)
        Plan(settings=settings).extended(job, ["/people"], entries, lambda _count: None)
    planned = time.monotonic() - start
    content = (options.work / "undisturbed" / "shards" / "000000.parquet").read_bytes()
    plan = Plan.load(job)
    assert plan is not None
    for shard in plan.shards():
        shard_file(job, shard.number).parent.mkdir(exist_ok=True)
        shard_file(job, shard.number).write_bytes(content)
    start = time.monotonic()
    run = ArchiveProcess("--bundle", options.bundle, "--out", job, log=options.work / "million.log")
    assert run.wait(LIMIT) == 0
    resumed = time.monotonic() - start
    start = time.monotonic()
    shards = read_status(job).finished_shards
    files = sum(file.stat().st_size for file in (job / "entries").iterdir())
    return {
        "entries": count,
        "shards": shards,
        "seconds_to_plan": planned,
        "seconds_of_the_command": resumed,
        "seconds_of_status": time.monotonic() - start,
        "plan_bytes_per_entry": files / count,
    }


def nodes(options: argparse.Namespace) -> dict[str, Any]:
    """Run on two nodes of Ray, which are two raylets on this machine, and kill one in the middle."""
    job, log = options.work / "nodes", options.work / "nodes.log"
    with tempfile.TemporaryDirectory(prefix="nodes-", dir="/tmp") as folder, Nodes(PORT, Path(folder)) as cluster:
        given = words(options, "nodes", "--address", cluster.address)
        run = ArchiveProcess(*given, log=log, environment=cluster.environment)
        assert wait_until(lambda: len(list(job.glob("shards/*.parquet"))) >= 8, LIMIT), log.read_text()
        at = len(list(job.glob("shards/*.parquet")))
        lost = cluster.kill_last()
        code = run.wait(LIMIT)
    return {"exit_code": code, "shards_at_the_kill": at, "workers_lost": lost, **compared(options, job)}


if __name__ == "__main__":
    main()
