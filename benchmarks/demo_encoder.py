"""Measure the encoder time of the demo model on trimmed crops, as a share of that on whole crops.

    .venv/bin/python benchmarks/demo_encoder.py

Runs on whole and on trimmed crops take turns, so that other programs slow down both. The ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from demo_bundle import export_demo
from demo_model import RESULTS, write

from seqpar_deploy.backends import Backend, open_backend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.preprocess import CropBatch, prepare_batch

HEIGHT, WIDTH = 150, 60  # a crop of 1:2.5
BATCHES = (1, 8)
BACKENDS = ("onnxruntime", "openvino")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300, help="runs of each width and batch; default: 300")
    parser.add_argument("--bundle", type=Path, help="bundle of the demo model; default: export it")
    parser.add_argument("--threads", type=int, help="threads per run; default: the backend's")
    parser.add_argument("--out", type=Path, default=RESULTS / "demo-encoder.json", help="JSON file")
    options = parser.parse_args()
    result: dict[str, Any] = {"what": "seconds per batch of the encoder, medians", "crop": [WIDTH, HEIGHT]}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = Bundle.open(options.bundle) if options.bundle else export_demo(Path(folder) / "demo")
        trimming = bundle.trimming
        if trimming is None:
            raise SystemExit(f"padding of {bundle.path.name} must be trimmed, got {bundle.padding}")
        preprocessing = bundle.label_set.preprocessing
        rng = np.random.default_rng(0)
        crops = list(rng.integers(0, 256, size=(max(BATCHES), HEIGHT, WIDTH, 3), dtype=np.uint8))
        result["columns"] = trimming.columns_of(crops[0], preprocessing)
        whole = prepare_batch(crops, image_size=bundle.dimensions.image_size, preprocessing=preprocessing)
        trimmed = np.ascontiguousarray(trimming.trim(whole, result["columns"]))
        for name in BACKENDS:
            backend = open_backend(bundle, name, threads=options.threads)
            for size in BATCHES:
                found[f"{name}, batch {size}"] = compare(backend, whole[:size], trimmed[:size], options.runs)
                print(name, size, found[f"{name}, batch {size}"], flush=True)
            backend.close()
    write(options.out, {**result, "runs": options.runs, "batches": found, "machine": describe_machine()})


def compare(backend: Backend[Any], whole: CropBatch, trimmed: CropBatch, runs: int) -> dict[str, float]:
    """Return the medians of alternating runs, and their ratio."""
    times: dict[str, list[float]] = {"whole": [], "trimmed": []}
    for run in range(runs + 10):
        for name, crops in (("whole", whole), ("trimmed", trimmed)):
            start = time.perf_counter()
            backend.encode(crops)
            if run >= 10:  # the first ones warm up
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {**medians, "ratio": medians["trimmed"] / medians["whole"]}


if __name__ == "__main__":
    main()
