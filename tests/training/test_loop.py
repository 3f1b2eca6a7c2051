"""Training learns, and can be stopped at any moment without a trace."""

from __future__ import annotations

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

from seqpar_deploy.datasets import load_dataset
from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.training.optimisers import learning_rate
from seqpar_deploy.training.recipe import Optimiser

pytestmark = pytest.mark.slow

SEQPAR = Path(sys.executable).parent / "seqpar"


def command(squares: Path, recipe: Path, out: Path, *more: object) -> list[str]:
    arguments = [SEQPAR, "train", "--label-set", "pa100k", "--recipe", recipe, "--out", out, *more]
    arguments += ["--data", f"{squares}@train", "--validation", f"{squares}@test", "--workers", "0"]
    return list(map(str, arguments))


def train(squares: Path, recipe: Path, out: Path, *more: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(squares, recipe, out, *more), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == code, done.stderr
    return done


def weights(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(path)


def assert_same_weights(one: Path, other: Path) -> None:
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.fixture(scope="module")
def trained(squares: Path, write_recipe: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 epochs with `tiny.toml` beside it; not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    done = train(squares, write_recipe(folder, epochs=12), folder / "run")
    assert done.stdout.count("epoch") == 12
    return folder / "run"


def test_training_learns_and_writes_what_it_says(trained: Path) -> None:
    with (trained / "log.csv").open() as file:
        log = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    assert log[-1]["loss"] < 0.2 < 1.5 < log[0]["loss"]
    assert log[-1]["f1"] > 0.95 > log[0]["f1"]
    assert {path.name for path in trained.iterdir()} == {
        "best-f1.safetensors", "best-ma.safetensors", "last.safetensors", "learning_curves.png", "log.csv",
        "recipe.json", "state.safetensors",
    }  # fmt: skip
    best = load_checkpoint(trained / "best-f1.safetensors")
    assert best.metadata["training"]["f1"] == pytest.approx(max(row["f1"] for row in log), abs=1e-5)
    assert build_model(best, load_label_set("pa100k")).architecture.embed_dim == 32


def test_a_stopped_run_ends_with_the_weights_of_one_that_was_not(
    squares: Path, recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    """`benchmarks/kill_training.py` does this ten times over on a longer run."""
    recipe = recipe_file(epochs=30, more="muon = 0.02\npresence = 0.5")
    whole = tmp_path / "whole"
    train(squares, recipe, whole)
    for kill in ("SIGKILL", "SIGTERM"):
        stop_and_go_on(squares, recipe, tmp_path / kill, kill)
        for name in ("last.safetensors", "best-f1.safetensors"):
            assert_same_weights(whole / name, tmp_path / kill / name)
        again = train(squares, recipe, tmp_path / kill)
        assert "--out" in again.stderr


def stop_and_go_on(squares: Path, recipe: Path, killed: Path, kill: str) -> None:
    """A run that gets this signal before it has ended, and is then started again."""
    rng = random.Random(kill)
    running = subprocess.Popen(
        command(squares, recipe, killed, "--save-every", "0.2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (killed / "state.safetensors").is_file() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.5))
    assert running.poll() is None, "it was over before it could be stopped"
    os.kill(running.pid, getattr(signal, kill))
    _, errors = running.communicate(timeout=60)
    if kill == "SIGTERM":
        assert running.returncode == 130
        assert "interrupted" in errors
    assert not (killed / "last.safetensors").exists()
    train(squares, recipe, killed)


def test_two_processes_train_as_one_would(squares: Path, recipe_file: Callable[..., Path], tmp_path: Path) -> None:
    recipe = recipe_file(epochs=12)
    launched = command(squares, recipe, tmp_path / "two")[1:]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "seqpar_deploy", *launched],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch") == 12
    with (tmp_path / "two" / "log.csv").open() as file:
        assert float(list(csv.DictReader(file))[-1]["f1"]) > 0.95


def test_training_goes_on_from_a_checkpoint(
    squares: Path, trained: Path, recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = recipe_file(epochs=1)
    train(squares, recipe, tmp_path / "second", "--from", trained / "last.safetensors")
    with (tmp_path / "second" / "log.csv").open() as file:
        assert float(next(csv.DictReader(file))["loss"]) < 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "1"], "another seed"),
        (["--recipe", "none"], "'none'"),
        (["--data", "nowhere.csv"], "nowhere.csv does not exist"),
        (["--from", "nowhere.safetensors"], "no such file: nowhere.safetensors"),
        (["--label-set", "peta"], "at least one attribute of label set peta"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    squares: Path, trained: Path, tmp_path: Path, change: list[str], message: str
) -> None:
    out = trained if "--seed" in change else tmp_path / "run"
    done = train(squares, trained.with_name("tiny.toml"), out, *change, code=2)
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert message in lines[0]
    assert "Traceback" not in done.stderr


def test_a_damaged_picture_ends_the_run_with_its_name(
    squares: Path, recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    import shutil

    copy = tmp_path / "data"
    shutil.copytree(squares.parent, copy)
    train_split = load_dataset("pa100k", copy / squares.name, "train")
    test_split = load_dataset("pa100k", copy / squares.name, "test")
    for damaged, workers in ((train_split, "0"), (train_split, "1"), (test_split, "1")):
        picture = damaged.images[3]
        whole = picture.read_bytes()
        picture.write_bytes(b"\x89PNG\r\n")
        out = tmp_path / f"{damaged.split}-{workers}"
        done = train(copy / squares.name, recipe_file(epochs=1), out, "--workers", workers, code=2)
        picture.write_bytes(whole)
        assert picture.name in done.stderr
        assert "Traceback" not in done.stderr


def test_the_rate_warms_up_and_falls_as_published() -> None:
    recipe = Optimiser(epochs=50, learning_rate=1.0)
    by_epoch = [learning_rate(recipe, epoch * 10 + 9, 10) for epoch in range(50)]
    assert by_epoch[0] == pytest.approx(0.01)
    assert by_epoch[1] == pytest.approx(0.01 + 0.99 / 5)
    assert by_epoch[25] == pytest.approx(0.501)
    assert by_epoch == [*sorted(by_epoch[:5]), *sorted(by_epoch[5:], reverse=True)]


def test_a_full_disk_ends_the_run_with_the_files_name(
    squares: Path, recipe_file: Callable[..., Path], tmp_path: Path
) -> None:
    """A limit on the size of files stands in for the disk."""
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = subprocess.run(
        command(squares, recipe_file(epochs=1), tmp_path / "run"),
        capture_output=True, text=True, check=False, preexec_fn=limit,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path.name for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
