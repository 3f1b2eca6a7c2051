"""Make the demo model: draw people, train, store it small, score it. What models/demo/README.md quotes comes from here.

    .venv/bin/python benchmarks/demo_model.py --people PEOPLE.csv [--street runs/vtest/people.csv] [--epochs N]

Writes models/demo/demo.safetensors and benchmarks/results/demo-model.json. Interrupted, it goes on where it was. Two
processes train with a core each, which is faster on two cores than one process with both.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint, save_checkpoint
from seqpar_deploy.resources import load_label_set

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "runs"
MODEL = ROOT / "models" / "demo" / "demo.safetensors"
RESULT = ROOT / "benchmarks" / "results" / "demo-model.json"
SEQPAR = Path(sys.executable).parent / "seqpar"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=Path, required=True, help="real people: a table with groups")
    parser.add_argument("--street", type=Path, help="people cut from the street video: examples/cut_tracks.py")
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--out", type=Path, default=RUNS / "demo")
    parser.add_argument("--score-only", action="store_true", help="the run is finished: store and score it")
    options = parser.parse_args()

    rendered = RUNS / "rendered"
    if not options.score_only:
        run(SEQPAR, "synth", rendered, "--train", 40000, "--val", 500, "--test", 5000, "--seed", 0)
        train(options.recipe, rendered, options.people, options.out)
    store(options.out / "last.safetensors")
    tests = {"rendered": (rendered, "test"), "people": (options.people, "test")}
    if options.street:
        tests["street"] = (options.street, "held_out")
    result: dict[str, Any] = {
        "bytes": MODEL.stat().st_size,
        "recipe": json.loads((options.out / "recipe.json").read_text()),
    }
    for name, (data, split) in tests.items():
        result[name] = score(name, data, split)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


def train(recipe: str, rendered: Path, people: Path, out: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "seqpar_deploy.cli.main", "train", "--label-set", "pa100k", "--recipe", recipe, "--out", out]
    command += ["--data", f"{rendered}@train=0.85", "--data", f"{people}@train=0.15"]
    command += ["--validation", f"{rendered}@val", "--validate-every", "2"]
    run(*command, environment={"OMP_NUM_THREADS": "1"})


def store(trained: Path) -> None:
    """Float16, and without the words that no phrase uses."""
    label_set = load_label_set("pa100k")
    checkpoint = load_checkpoint(trained)
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"training": checkpoint.metadata.get("training")}
    save_checkpoint(MODEL, build_model(checkpoint, label_set), label_set, dtype=torch.float16, metadata=metadata)


def score(name: str, data: Path, split: str) -> dict[str, Any]:
    """`seqpar eval` of the stored checkpoint, with a picture beside it in runs/."""
    out, picture = RUNS / f"demo-{name}.json", RUNS / f"demo-{name}.png"
    run(SEQPAR, "eval", MODEL, "--data", data, "--split", split, "--json", out, "--picture", picture)
    values: dict[str, Any] = json.loads(out.read_text())
    values.pop("predictions", None)
    return values


def run(*command: object, environment: dict[str, str] | None = None) -> None:
    print("$", *command, flush=True)
    subprocess.run(list(map(str, command)), check=True, env={**os.environ, **(environment or {})})


if __name__ == "__main__":
    main()
