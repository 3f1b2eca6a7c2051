"""Size a service of 500 cameras and an archive of 100,000,000 crops, with a simulation that is checked against a run.

    .venv/bin/python benchmarks/scale.py --bundle FOLDER [--only check,bytes,sizing] [--seconds 40]

`check`: the demo model in this process answers requests that arrive at random times, whether it keeps up or not. The
same arrivals are simulated with service times that were measured before, on other crops. Median and p99 of the waiting
time are compared at several loads. `bytes`: what a crop costs on the network, as JPEG and as raw pixels. `sizing`: the
simulated fleet for the full-size model, whose rates are those of `comparison-x86_64-cpu.json`.

Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import collections
import csv
import datetime
import functools
import io
import json
import random
import statistics
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from scale_simulation import Fleet, ServiceTime, percentile, poisson_arrivals, simulate

from seqpar_deploy import Recognizer, read_image
from seqpar_deploy.cli.console import stage
from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import data_dir, sample_crops

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RESULT = RESULTS / "scale.json"
PARTS = ("check", "bytes", "sizing")
BATCH, DELAY = 8, 0.005  # of the check
LOADS = (0.5, 0.7, 0.85)  # share of the throughput at whole batches
SAMPLES = 40  # service times per batch size
CAMERAS = 500
STREET_SECONDS = 79.5  # length of the street video, which has 6 people at a time
CLIP_START = 690  # frame of the whole video at which the sample clip begins
ARCHIVE = 100_000_000
SERVER = 16  # recognizers of two cores on a server of 32 cores
MINUTES = 5  # of a simulated service


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="the demo model's bundle; needed for check")
    parser.add_argument("--seconds", type=float, default=40, help="of each run of the check; default: 40")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts with commas; default: {','.join(PARTS)}")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"--only must be of {', '.join(PARTS)}, got {', '.join(unknown)}")
    if "check" in wanted and options.bundle is None:
        parser.error("check needs --bundle")
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    if "check" in wanted:
        with stage("check"), Recognizer.from_bundle(options.bundle, batch_size=BATCH) as recognizer:
            result["check"] = check(recognizer, options.seconds)
            result["check"]["machine"] = describe_machine()
    if "bytes" in wanted:
        with stage("bytes"):
            result["bytes"] = count_bytes()
    if "sizing" in wanted:
        with stage("sizing"):
            result["sizing"] = size_fleets()
    result["date"] = datetime.date.today().isoformat()
    write_whole(options.out, (json.dumps(result, indent=2) + "\n").encode())
    print(json.dumps({part: result[part] for part in wanted}, indent=2))


# Check


def check(recognizer: Recognizer, seconds: float) -> dict[str, Any]:
    """Compare simulated with measured waiting times at several loads."""
    crops = street_crops()
    draw = random.Random(0)
    service = measure_service(recognizer, crops[::2], draw)
    rate = BATCH / statistics.fmean(service[BATCH])
    runs = []
    for load in LOADS:
        arrivals = poisson_arrivals(lambda _time, load=load: load * rate, seconds, draw)
        waits, own = run_open_loop(recognizer, crops[1::2], arrivals, draw)
        runs.append(
            {
                "load": load,
                "requests": len(arrivals),
                "measured": _waiting(waits, [size for size, taken in own.items() for _ in taken]),
                "simulated": simulated(service, arrivals),
                "simulated with the run's own service times": simulated(own, arrivals),
            }
        )
    times = {size: round(statistics.median(taken), 5) for size, taken in service.items()}
    return {
        "model": "demo",
        "max_batch": BATCH,
        "delay": DELAY,
        "crops_per_second": round(rate, 1),
        "service_seconds": times,
        "runs": runs,
    }


def simulated(service: Mapping[int, Sequence[float]], arrivals: Sequence[float]) -> dict[str, Any]:
    """Return the medians of 20 simulations whose service times are drawn from those measured, by size of the batch."""

    def drawn(size: int, draw: random.Random) -> float:
        return draw.choice(
            service[min((known for known in service if service[known]), key=lambda one: abs(one - size))]
        )

    fleet = Fleet(recognizers=1, service=drawn, max_batch=BATCH, delay=DELAY)
    outcomes = [simulate(fleet, arrivals, seed) for seed in range(20)]
    each = [_waiting(one.waits, one.batches) for one in outcomes]
    tails = [one["p99"] for one in each]
    middle = {name: round(statistics.median(one[name] for one in each), 4) for name in each[0]}
    return {**middle, "p99_range": [min(tails), max(tails)]}


def _waiting(waits: Sequence[float], batches: Sequence[int]) -> dict[str, float]:
    return {
        "median": round(statistics.median(waits), 4),
        "p99": round(percentile(waits, 99), 4),
        "mean_batch": round(statistics.fmean(batches), 2),
    }


def street_crops() -> list[Crop]:
    """Return the labelled people of the street clip."""
    import av

    folder = data_dir("samples") / "vtest"
    boxes = collections.defaultdict(list)
    with (folder / "tracks.csv").open() as file:
        for row in csv.DictReader(file):
            boxes[int(row["frame"]) - CLIP_START].append(
                [int(row[side]) for side in ("left", "top", "right", "bottom")]
            )
    crops = []
    with av.open(str(folder / "street.mp4")) as container:
        for number, frame in enumerate(container.decode(video=0)):
            image = frame.to_ndarray(format="rgb24") if boxes[number] else None
            crops += [image[top:bottom, left:right] for left, top, right, bottom in boxes[number]]
    return crops


def measure_service(recognizer: Recognizer, crops: Sequence[Crop], draw: random.Random) -> dict[int, list[float]]:
    """Return the seconds of batches of each size, of crops drawn at random."""
    taken: dict[int, list[float]] = {size: [] for size in range(1, BATCH + 1)}
    for run in range(SAMPLES + 2):  # the first two are warm-up
        for size in draw.sample(list(taken), len(taken)):
            batch = draw.choices(crops, k=size)
            start = time.perf_counter()
            recognizer.predict(batch)
            if run > 1:
                taken[size].append(time.perf_counter() - start)
    return taken


def run_open_loop(
    recognizer: Recognizer, crops: Sequence[Crop], arrivals: Sequence[float], draw: random.Random
) -> tuple[list[float], dict[int, list[float]]]:
    """Answer requests at their times, and return the waiting time of each, and the seconds of batches by size."""
    pictures = draw.choices(crops, k=len(arrivals))
    queue: collections.deque[int] = collections.deque()
    more = threading.Condition()
    begin = time.perf_counter()

    def feed() -> None:
        for request, arrival in enumerate(arrivals):
            time.sleep(max(0.0, begin + arrival - time.perf_counter()))
            with more:
                queue.append(request)
                more.notify()

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    waits: list[float] = []
    service: dict[int, list[float]] = {size: [] for size in range(1, BATCH + 1)}
    while len(waits) < len(arrivals):
        with more:
            while not queue:
                more.wait()
            while len(queue) < BATCH and (left := begin + arrivals[queue[0]] + DELAY - time.perf_counter()) > 0:
                more.wait(left)
            requests = [queue.popleft() for _ in range(min(BATCH, len(queue)))]
        now = time.perf_counter() - begin
        waits += [now - arrivals[request] for request in requests]
        recognizer.predict([pictures[request] for request in requests])
        service[len(requests)].append(time.perf_counter() - begin - now)
    feeder.join()
    return waits, service


# Bytes


def count_bytes() -> dict[str, Any]:
    """Return the mean bytes of a crop, in the forms in which it may be sent."""
    found = {}
    sets = {"sample crops": [read_image(path) for path in sample_crops()], "people of the street clip": street_crops()}
    for name, crops in sets.items():
        heights = sorted(crop.shape[0] for crop in crops)
        found[name] = {
            "crops": len(crops),
            "median_height": heights[len(heights) // 2],
            "raw": round(statistics.fmean(crop.nbytes for crop in crops)),
            "jpeg_90": _mean_bytes(crops, format="JPEG", quality=90),
            "jpeg_75": _mean_bytes(crops, format="JPEG", quality=75),
            "png": _mean_bytes(crops, format="PNG"),
        }
    return found


def _mean_bytes(crops: Sequence[Crop], **options: Any) -> int:
    sizes = []
    for crop in crops:
        buffer = io.BytesIO()
        Image.fromarray(crop).save(buffer, **options)
        sizes.append(buffer.tell())
    return round(statistics.fmean(sizes))


# Sizing


def size_fleets() -> dict[str, Any]:
    """Simulate the service of the full-size model in int8 with its fallback, on recognizers of two cores."""
    measured = json.loads((RESULTS / "comparison-x86_64-cpu.json").read_text())
    seconds = {variant["name"]: variant["p50"] for variant in measured["variants"]}
    exactness = json.loads((RESULTS / "exactness-x86_64-cpu.json").read_text())
    (share,) = (
        one["fallback_share"]
        for one in exactness["results"]
        if (one["backend"], one["compute_precision"]) == ("openvino", "int8")
    )
    quick, exact = seconds["openvino-int8-speculative"], seconds["openvino-speculative"]

    def service(size: int, draw: random.Random) -> float:
        return sum(quick + exact * (draw.random() < share) for _ in range(size))

    per_crop = quick + share * exact
    rate = CAMERAS * json.loads((RESULTS / "street.json").read_text())["crops"] / STREET_SECONDS
    server = functools.partial(_server, service, per_crop)
    fleet = functools.partial(_fleet, service, per_crop, rate)
    return {
        "model": "ViT-L/14, int8 with fallback, OpenVINO",
        "crops_per_second_per_core": {
            "fp32": round(1 / seconds["onnxruntime-speculative"] / 2, 2),
            "bf16": round(1 / seconds["openvino-bf16-speculative"] / 2, 2),
            "int8": round(1 / quick / 2, 2),
            "int8 with fallback": round(1 / per_crop / 2, 2),
        },
        "cameras": CAMERAS,
        "crops_per_second": round(rate, 1),
        "one server": {load: server(load) for load in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)},
        "one server, batches": {size: server(0.7, max_batch=size, delay=0.01) for size in (2, 4, 8)},
        "one server, failures": {load: server(load, mean_uptime=3600.0) for load in (0.7, 0.9)},
        "shared queue": {load: fleet(load) for load in (0.95,)},
        "a server lost for 120 s": {load: fleet(load, outages=((60, 120, SERVER),)) for load in (0.9, 0.95)},
        "all lost for 20 s": {load: fleet(load, outages=((60, 20, 10**6),)) for load in (0.5, 0.7, 0.9)},
        "twice as many crops for 60 s": {load: fleet(load, peak=2.0) for load in (0.45, 0.6, 0.7)},
        "archive_core_hours": round(ARCHIVE * per_crop * 2 / 3600),
    }


def _server(
    service: ServiceTime, per_crop: float, load: float, *, max_batch: int = 1, **options: float
) -> dict[str, Any]:
    """Simulate 20 minutes of one server, with a queue of its own."""
    arrivals = poisson_arrivals(lambda _time: load * SERVER / per_crop, 1200, random.Random(0))
    fleet = Fleet(recognizers=SERVER, service=service, max_batch=max_batch, **options)  # type: ignore[arg-type]
    return simulate(fleet, arrivals, 1).summary()


def _fleet(
    service: ServiceTime,
    per_crop: float,
    rate: float,
    load: float,
    *,
    peak: float = 1.0,
    outages: tuple[tuple[float, float, int], ...] = (),
) -> dict[str, Any]:
    """Simulate minutes of all servers behind one queue. A peak and an outage begin after 60 s."""

    def at(moment: float) -> float:
        return rate * peak if 60 <= moment < 120 else rate

    arrivals = poisson_arrivals(at, 60 * MINUTES, random.Random(0))
    recognizers = round(rate * per_crop / load)
    fleet = Fleet(recognizers=recognizers, service=service, max_batch=1, outages=outages)
    return {"cores": 2 * recognizers, **simulate(fleet, arrivals, 1).summary()}


if __name__ == "__main__":
    main()
