"""The files of a run beside its weights: `recipe.json`, `log.csv` and the learning curves."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqpar_deploy.errors import TrainingError
from seqpar_deploy.files import write_whole
from seqpar_deploy.training.curves import learning_curves_figure

RECIPE, LOG, CURVES = "recipe.json", "log.csv", "learning_curves.png"

_DRAW_EVERY = 10.0  # seconds; a drawing may cost more than a short epoch
_COLUMNS = (
    "epoch", "learning_rate", "loss", "images_per_second", "waiting", "ma", "accuracy", "precision", "recall", "f1",
)  # fmt: skip


def check_folder(folder: Path, names: Sequence[str]) -> None:
    """Raise TrainingError if a file that the run would write exists and is not of a run.

    Args:
        folder: Output folder of the run. It may be missing.
        names: Names of the checkpoints and the state of a run.
    """
    present = [name for name in (RECIPE, LOG, CURVES, *names) if (folder / name).exists()]
    try:
        values = json.loads((folder / RECIPE).read_bytes()) if present else {}
        ours = isinstance(values, dict) and {"recipe", "phrases", "data"} <= values.keys()
    except (OSError, ValueError, RecursionError):
        ours = False
    if present and not ours:
        raise TrainingError(
            f"{folder} must be new or the folder of a run, got one whose {present[0]} is of something else; choose "
            "another --out"
        )


def write_recipe(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the resolved recipe and the identity of the run. Atomic. Raises SeqparError."""
    write_whole(folder / RECIPE, (json.dumps(values, indent=2) + "\n").encode())


def write_log(folder: Path, history: Sequence[dict[str, Any]]) -> None:
    """Write the whole log, a row per epoch. Atomic. Raises SeqparError."""
    file = io.StringIO(newline="")
    writer = csv.DictWriter(file, _COLUMNS, extrasaction="ignore")
    writer.writeheader()
    for row in history:
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    write_whole(folder / LOG, file.getvalue().encode())


@contextlib.contextmanager
def learning_curves(folder: Path) -> Iterator[Callable[[], None]]:
    """Yield a function to call after each epoch. It draws at most every 10 s, and the last epoch in any case."""
    drawn, stale = -math.inf, False

    def update() -> None:
        nonlocal drawn, stale
        stale = time.monotonic() - drawn < _DRAW_EVERY
        if not stale:
            draw_curves(folder)
            drawn = time.monotonic()

    try:
        yield update
    finally:
        if stale:
            draw_curves(folder)


def draw_curves(folder: Path) -> Path:
    """Draw the log: training loss on the left, validation scores on the right, per epoch. Raises SeqparError."""
    with (folder / LOG).open(newline="", encoding="utf-8") as file:
        history = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    picture = io.BytesIO()
    learning_curves_figure(history, f"Training: {folder.resolve().name}").savefig(picture, format="png")
    write_whole(folder / CURVES, picture.getvalue())
    return folder / CURVES
