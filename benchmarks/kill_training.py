"""Kill a training run at random moments, resume it each time, and compare its weights with an uninterrupted run.

.venv/bin/python benchmarks/kill_training.py [--kills 10] [--seed 0]
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seqpar_deploy.machine import describe_machine
from seqpar_deploy.synth import write_pa100k

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "kill_training.json"
EPOCHS = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="kills, by SIGKILL; default: 10")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments; default: 0")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"JSON file; default: {RESULTS.relative_to(ROOT)}")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pa100k(folder / "data", train=320, val=32, test=32, seed=1, workers=2)
        start = time.monotonic()
        subprocess.run(command(folder, "whole"), check=True, capture_output=True)
        whole = time.monotonic() - start

        moments: list[float] = []
        while len(moments) < options.kills:
            running = subprocess.Popen(command(folder, "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            moment = rng.uniform(4, max(6, whole / 3))  # the first seconds import PyTorch
            try:
                running.wait(moment)
                print(f"finished after {len(moments)} kills", flush=True)
                break
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()
                moments.append(round(moment, 2))
                print(f"killed after {moment:.1f} s", flush=True)
        subprocess.run(command(folder, "killed"), check=True, capture_output=True)
        same = {
            file: same_weights(folder / "whole" / file, folder / "killed" / file)
            for file in ("last.safetensors", "best-f1.safetensors", "best-ma.safetensors")
        }
    result = {"kills": len(moments), "seconds_before_each": moments, "identical": same, "machine": describe_machine()}
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    sys.exit(0 if all(same.values()) and len(moments) == options.kills else 1)


def command(folder: Path, run: str) -> list[str]:
    data = folder / "data"
    arguments = ["train", "--label-set", "pa100k", "--data", f"{data}@train", "--validation", f"{data}@val"]
    arguments += ["--recipe", write_recipe(folder), "--out", folder / run, "--save-every", "1", "--workers", "1"]
    return [str(Path(sys.executable).parent / "seqpar"), *map(str, arguments)]


def write_recipe(folder: Path) -> Path:
    """Write a shortened demo recipe."""
    text = (Path(__file__).parents[1] / "train" / "demo.toml").read_text()
    lines = [f"epochs = {EPOCHS}" if line.startswith("epochs =") else line for line in text.splitlines()]
    lines = ["pictures_per_epoch = 320" if line.startswith("pictures_per_epoch") else line for line in lines]
    (folder / "short.toml").write_text("\n".join(lines))
    return folder / "short.toml"


def same_weights(one: Path, other: Path) -> bool:
    import safetensors.torch
    import torch

    a, b = safetensors.torch.load_file(one), safetensors.torch.load_file(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


if __name__ == "__main__":
    main()
