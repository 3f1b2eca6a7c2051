"""What a run tells of itself: `recipe.json`, `log.csv` and the learning curves."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqpar_deploy.files import replacing

RECIPE, LOG, CURVES = "recipe.json", "log.csv", "learning_curves.png"

_COLUMNS = (
    "epoch", "learning_rate", "loss", "images_per_second", "waiting", "ma", "accuracy", "precision", "recall", "f1",
)  # fmt: skip


def write_recipe(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the recipe as it was resolved, and what it was run on. Atomic."""
    with replacing(folder / RECIPE) as staging:
        staging.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def write_log(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write the log anew, a row an epoch. Atomic."""
    with replacing(folder / LOG) as staging, staging.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
        writer.writeheader()
        for row in history:
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})


def draw_curves(folder: Path) -> Path:
    """Draw the log: loss on the left, validation scores on the right, by epoch."""
    from matplotlib.figure import Figure

    with (folder / LOG).open(newline="", encoding="utf-8") as file:
        history = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([row["epoch"] for row in history], [row["loss"] for row in history], color="#1f4e79")
    left.set(xlabel="epoch", ylabel="loss a token, training")
    validated = [row for row in history if "f1" in row]
    for score, label, colour in (("f1", "instance F1", "#1f4e79"), ("ma", "mA", "#c0504d")):
        right.plot([row["epoch"] for row in validated], [row[score] for row in validated], color=colour, label=label)
    right.set(xlabel="epoch", ylabel="validation", ylim=(None, 1.0))
    if validated:
        right.legend(frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    with replacing(folder / CURVES) as staging:
        figure.savefig(staging, format="png", dpi=120)
    return folder / CURVES
