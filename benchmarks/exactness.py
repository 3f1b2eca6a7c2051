"""Count the crops whose tokens change, for the demo model: in reduced precision, and by drafts.

    .venv/bin/python benchmarks/exactness.py

It takes about 4 minutes. `seqpar tune` measures the fallback margin on 200 crops. Then the script classifies 1,000
other crops, without the fallback and with it, and compares their tokens with those of eager PyTorch in FP32. Drafts are
verified in native precision, so their tokens must equal those of greedy decoding on the same backend: with the bundle's
draft head, with the sequence of the crop before as the caller's draft, and with random drafts, at several batch sizes.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
from demo_bundle import CHECKPOINT, export_demo

from seqpar_deploy import Recognizer
from seqpar_deploy.bench.tune import MeasuredConfiguration, tune
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.cli.console import stage
from seqpar_deploy.decoding import Greedy, Speculative
from seqpar_deploy.decoding.base import Draft
from seqpar_deploy.files import write_whole
from seqpar_deploy.images import read_image
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import sample_crops
from seqpar_deploy.synth.render import render_person

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / f"exactness-{platform.machine()}-cpu.json"
TUNING_SEED, TEST_SEED = 4000, 2000  # rendered people, of no training and no calibration


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tune-crops", type=int, default=200, help="crops to measure the margin on; default: 200")
    parser.add_argument("--crops", type=int, default=1000, help="crops to compare, of which 20 are real; default: 1000")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "exactness", help="folder for the bundle")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    bundle = export_demo(options.work / "demo-int8", "int8", progress=stage)
    tuning = tune(bundle, people(TUNING_SEED, options.tune_crops), progress=stage)

    crops = [read_image(path) for path in sample_crops()][: options.crops]
    crops += people(TEST_SEED, options.crops - len(crops))
    with stage("eager FP32"):
        expected = tokens(eager_recognizer(bundle), crops)
    measured = (one for one in tuning.configurations if not one.speculative)
    results = [compare(bundle, one, crops, expected) for one in measured]
    names = dict.fromkeys(one.backend for one in tuning.configurations)
    drafts = [verify_drafts(bundle, name, crops) for name in names]
    values = {
        "what": "crops of the demo model whose tokens differ from eager PyTorch's in FP32, by compute precision",
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "tuned_on": options.tune_crops,
        "tested_on": options.crops,
        "results": results,
        "drafts": drafts,
    }
    write_whole(options.out, (json.dumps(values, indent=2) + "\n").encode())
    for result in [*results, *drafts]:
        print(result)


def eager_recognizer(bundle: Bundle) -> Recognizer:
    from seqpar_deploy.modeling.eager import CachedEagerBackend
    from seqpar_deploy.modeling.load import load_network

    loaded = load_network(CHECKPOINT)
    return Recognizer(bundle, CachedEagerBackend(loaded.network, loaded.token_table, bundle.preprocessing))


def people(seed: int, count: int) -> list[Crop]:
    return [render_person(seed, index)[0] for index in range(count)]


def tokens(recognizer: Recognizer, crops: list[Crop]) -> list[tuple[int, ...]]:
    with recognizer:
        return [prediction.tokens for prediction in recognizer.predict(crops)]


def compare(
    bundle: Bundle, measured: MeasuredConfiguration, crops: list[Crop], expected: list[tuple[int, ...]]
) -> dict[str, Any]:
    """Count the crops whose tokens change, without the fallback and with the tuned margin."""

    def differing(fallback_margin: float) -> int:
        options: dict[str, Any] = {"backend": measured.backend, "compute_precision": measured.compute_precision}
        got = tokens(Recognizer.from_bundle(bundle.path, fallback_margin=fallback_margin, **options), crops)
        return sum(a != b for a, b in zip(got, expected, strict=True))

    with stage(f"{measured.backend}, {measured.compute_precision}"):
        return {
            "backend": measured.backend,
            "compute_precision": measured.compute_precision,
            "fallback_margin": measured.fallback_margin,
            "fallback_share": measured.fallback_share,
            "different": differing(0.0),
            "different_after_fallback": differing(measured.fallback_margin or 0.0),
        }


def verify_drafts(bundle: Bundle, backend: str, crops: list[Crop]) -> dict[str, Any]:
    """Count the crops whose tokens differ from greedy ones, by kind of draft. Crops with a tie may."""
    options: dict[str, Any] = {"backend": backend, "compute_precision": "native"}
    with stage(f"drafts on {backend}"):
        expected = tokens(Recognizer.from_bundle(bundle.path, strategy=Greedy(), **options), crops)
        rng = np.random.default_rng(0)
        vocabulary = bundle.dimensions.vocabulary
        kinds: dict[str, list[Draft] | None] = {
            "head": None,
            "head, and the crop before": [None, *expected[:-1]],
            "head, and random tokens": [
                tuple(rng.integers(0, vocabulary, rng.integers(1, vocabulary)).tolist()) for _ in crops
            ],
        }
        different: dict[str, int] = {}
        for size in (1, 4, 16):
            strategy = Speculative()
            with Recognizer.from_bundle(bundle.path, strategy=strategy, batch_size=size, **options) as recognizer:
                for kind, drafts in kinds.items():
                    got = [one.tokens for one in recognizer.predict(crops, drafts=drafts)]
                    wrong = sum(a != b for a, b in zip(got, expected, strict=True))
                    different[f"{kind}, batch {size}"] = wrong
    return {"backend": backend, "crops": len(crops), "different_from_greedy": different}


if __name__ == "__main__":
    main()
