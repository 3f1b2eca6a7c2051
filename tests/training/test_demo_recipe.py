"""A short version of the demo model's training: the demo recipe at a quarter of the pixels, on 48 rendered people."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from seqpar_deploy.datasets import load_dataset
from seqpar_deploy.evaluation.metrics import compute_metrics
from seqpar_deploy.resources import data_dir

pytestmark = pytest.mark.heavy

SEQPAR = Path(sys.executable).parent / "seqpar"

SHORTER = {
    "pictures_per_epoch = 8000": "pictures_per_epoch = 960",
    "image_size = 128": "image_size = 64",
    "epochs = 40": "epochs = 4",
    "batch_size = 64": "batch_size = 16",
    "average = 0.995": "average = 0.9",
    'precision = "bf16"': 'precision = "fp32"',  # not every CPU has bf16
    "erase = 0.1": "erase = 0.0",
}


def test_the_demo_recipe_learns_what_is_drawn(tmp_path: Path) -> None:
    """It tells the people it has seen apart: better by far than the best answer that looks at no picture."""
    text = (data_dir("train") / "demo.toml").read_text()
    for ours, shorter in SHORTER.items():
        assert ours in text
        text = text.replace(ours, shorter)
    recipe, people, out = tmp_path / "short.toml", tmp_path / "people", tmp_path / "run"
    recipe.write_text(text)
    run("synth", people, "--train", 48, "--val", 0, "--test", 0)
    data = f"{people}@train"
    run("train", "--label-set", "pa100k", "--recipe", recipe, "--data", data, "--validation", data, "--out", out,
        "--workers", "0", "--validate-every", "4")  # fmt: skip
    with (out / "log.csv").open() as file:
        log = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in log]
    assert losses[-1] < 0.3 * losses[0]
    assert float(log[-1]["f1"]) > 0.9 > blind_f1(people) + 0.3


def blind_f1(people: Path) -> float:
    """F1 of saying of everybody what most people have, at the threshold that suits it best."""
    labels = load_dataset("pa100k", people, split="train").labels
    share = (labels == 1).mean(axis=0)
    return max(compute_metrics(np.broadcast_to(share >= least, labels.shape), labels).f1 for least in np.unique(share))


def run(*arguments: object) -> None:
    done = subprocess.run([SEQPAR, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
