"""Regenerates results/exactness-*.json: does quicker arithmetic change tokens of the demo model, and what stops it?

    .venv/bin/python benchmarks/exactness.py         # about 4 minutes

`seqpar tune` finds the margin below which crops are rechecked, on 200 crops. Then 1,000 others are recognised, without
the recheck and with it, and their tokens compared with eager PyTorch's in FP32.
"""

from __future__ import annotations

import datetime
import json
import platform
from pathlib import Path
from typing import Any

from seqpar_deploy import Recognizer
from seqpar_deploy.bench.tune import Candidate, tune
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.cli.console import stage
from seqpar_deploy.exporting.export import export_bundle
from seqpar_deploy.exporting.recipe import load_recipe
from seqpar_deploy.files import write_whole
from seqpar_deploy.images import read_image
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.modeling.eager import CachedEagerBackend
from seqpar_deploy.modeling.load import load_network
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import data_dir, sample_crops
from seqpar_deploy.synth.render import render_person

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "runs" / "exactness" / "demo-int8"
TUNED_ON, TESTED_ON = 200, 1000
TUNING_SEED, TEST_SEED = 4000, 2000  # rendered people, of no training and no calibration


def main() -> None:
    checkpoint = data_dir("models") / "demo" / "demo.safetensors"
    export_bundle(checkpoint, load_recipe("int8"), BUNDLE, overwrite=True, progress=stage)
    tuning = tune(Bundle.open(BUNDLE), people(TUNING_SEED, TUNED_ON), progress=stage)

    crops = [read_image(path) for path in sample_crops()]
    crops += people(TEST_SEED, TESTED_ON - len(crops))
    loaded = load_network(checkpoint)
    eager = CachedEagerBackend(loaded.network, loaded.token_table, loaded.label_set.preprocessing)
    with stage("eager FP32"):
        wanted = tokens(Recognizer(Bundle.open(BUNDLE), eager), crops)
    results = [compare(candidate, crops, wanted) for candidate in tuning.candidates if not candidate.speculative]
    values = {
        "what": "crops of the demo model whose tokens differ from eager PyTorch's in FP32, by arithmetic",
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "tuned_on": TUNED_ON,
        "tested_on": TESTED_ON,
        "results": results,
    }
    out = ROOT / "benchmarks" / "results" / f"exactness-{platform.machine()}-cpu.json"
    write_whole(out, (json.dumps(values, indent=2) + "\n").encode())
    for result in results:
        print(result)


def people(seed: int, count: int) -> list[Crop]:
    return [render_person(seed, index)[0] for index in range(count)]


def tokens(recognizer: Recognizer, crops: list[Crop]) -> list[tuple[int, ...]]:
    with recognizer:
        return [prediction.tokens for prediction in recognizer.predict(crops)]


def compare(candidate: Candidate, crops: list[Crop], wanted: list[tuple[int, ...]]) -> dict[str, Any]:
    """How many crops differ, as they come and rechecked with the margin that was tuned."""

    def differing(fallback_margin: float) -> int:
        options: dict[str, Any] = {"backend": candidate.backend, "compute_precision": candidate.compute_precision}
        said = tokens(Recognizer.from_bundle(BUNDLE, fallback_margin=fallback_margin, **options), crops)
        return sum(a != b for a, b in zip(said, wanted, strict=True))

    with stage(f"{candidate.backend}, {candidate.compute_precision}"):
        return {
            "backend": candidate.backend,
            "compute_precision": candidate.compute_precision,
            "fallback_margin": candidate.fallback_margin,
            "fallback_share": candidate.fallback_share,
            "different": differing(0.0),
            "different_after_fallback": differing(candidate.fallback_margin or 0.0),
        }


if __name__ == "__main__":
    main()
