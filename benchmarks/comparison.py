"""Regenerates results/ladder-*.json: the full-size model (ViT-L/14, PETA, random weights) on this machine's CPU.

    .venv/bin/python benchmarks/ladder.py            # 40 minutes; 4 GB of disk in runs/, 2 GB in /tmp

Options go on to seqpar-bench, `--skip eager-compiled` say. Every alternative is held in memory at a time.

Weights are random from a seed, so the labels mean nothing. They never say `<eos>`: every sequence has the full 35
tokens, the most a PETA checkpoint can take. How many steps speculative decoding takes depends on the weights. Nearly
every choice of theirs is a near-tie, so that rungs in quicker arithmetic say other tokens: what that arithmetic does to
trained weights, and what stops it, exactness.py measures.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import torch

from seqpar_deploy.modeling.architecture import vit_l_14
from seqpar_deploy.modeling.checkpoint import save_checkpoint
from seqpar_deploy.modeling.random_weights import random_model
from seqpar_deploy.resources import load_label_set

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "runs" / "full-size"


def main() -> None:
    label_set = load_label_set("peta")
    checkpoint, bundle = WORK / "peta-random.safetensors", WORK / "peta-random-int8"
    if not checkpoint.exists():
        print("making random full-size weights", file=sys.stderr)
        save_checkpoint(checkpoint, random_model(vit_l_14(len(label_set))), label_set, dtype=torch.float32)
    scripts = Path(sys.executable).parent
    subprocess.run(
        [scripts / "seqpar-export", "checkpoint", checkpoint, "--out", bundle, "--recipe", "int8", "--overwrite"],
        check=True,
    )
    result = ROOT / "benchmarks" / "results" / f"ladder-{platform.machine()}-cpu.json"
    command = [scripts / "seqpar-bench", bundle, "--checkpoint", checkpoint, "--output", result]
    subprocess.run([*command, "--runs", "20", "--batches", "1,4", *sys.argv[1:]], check=True)


if __name__ == "__main__":
    main()
