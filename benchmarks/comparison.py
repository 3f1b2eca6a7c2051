"""Compare the full-size model (ViT-L/14, PETA, random weights) in all its variants on this machine's CPU.

    .venv/bin/python benchmarks/comparison.py

The bundle is exported as trimmed, and the crops have `--ratio` (1:2.5). Variants with "full padding" read the same
crops with all their padding and without drafts, as bundles did before trimming. `--ratios` also measures the bundle's
variants at other ratios, each in a file of its own.

It takes 40 minutes, 4 GB of disk in runs/ and 2 GB in /tmp. All variants are in memory at the same time.

Weights are random from a seed, so the labels have no meaning. They never emit `<eos>`: every sequence has the full 35
tokens, the most that a PETA checkpoint can emit. The number of steps of speculative decoding depends on the weights.
Nearly all of their choices are near-ties, so variants in reduced precision return other tokens. exactness.py measures
how reduced precision changes the tokens of trained weights, and how the fallback prevents that.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / f"comparison-{platform.machine()}-cpu.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="timed runs per variant; default: 20")
    parser.add_argument("--batches", default="1,4", help="batch sizes to measure throughput at; default: 1,4")
    parser.add_argument("--ratio", type=float, default=2.5, help="height per width of the crops; default: 2.5")
    parser.add_argument("--ratios", default="", help="other ratios to measure, for example 1,2,3; default: none")
    parser.add_argument("--only", help="variants to measure, comma-separated; default: all")
    parser.add_argument("--skip", help="variants to skip, comma-separated, for example eager-compiled")
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "runs" / "full-size",
        help="folder for checkpoint and bundle; default: runs/full-size",
    )
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    checkpoint, bundle = options.work / "peta-random.safetensors", options.work / "peta-random-int8"
    if not checkpoint.exists():
        print("making random full-size weights", file=sys.stderr)
        save_random_checkpoint(checkpoint)
    scripts = Path(sys.executable).parent
    export = [scripts / "seqpar-export", "checkpoint", checkpoint, "--out", bundle, "--recipe", "int8", "--overwrite"]
    subprocess.run([*export, "--trim"], check=True)
    bench = [scripts / "seqpar-bench", bundle, "--runs", str(options.runs), "--batches", options.batches]
    chosen = [word for name in ("only", "skip") if (value := getattr(options, name)) for word in (f"--{name}", value)]
    others = [float(ratio) for ratio in options.ratios.split(",") if ratio]
    for ratio in others:
        out = options.out.with_name(f"{options.out.stem}-{ratio:g}.json")
        subprocess.run([*bench, "--ratio", str(ratio), "--output", out], check=True)
    whole = [*bench, "--checkpoint", checkpoint, *chosen, "--ratio", str(options.ratio), "--output", options.out]
    subprocess.run(whole, check=True)


def save_random_checkpoint(path: Path) -> None:
    import torch

    from seqpar_deploy.modeling.architecture import vit_l_14
    from seqpar_deploy.modeling.checkpoint import save_checkpoint
    from seqpar_deploy.modeling.random_weights import random_model
    from seqpar_deploy.resources import load_label_set

    label_set = load_label_set("peta")
    save_checkpoint(path, random_model(vit_l_14(len(label_set))), label_set, dtype=torch.float32)


if __name__ == "__main__":
    main()
