"""No wait of the training is without end: each ends in a result, in one line, or at the first signal."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seqpar_deploy.datasets import Dataset, load_dataset
from seqpar_deploy.errors import SeqparError, TrainingError
from seqpar_deploy.preprocess import Crop, Preprocessing
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.training import loop, readers
from seqpar_deploy.training.loader import Loader, Schedule, Source
from seqpar_deploy.training.recipe import Augmentation, load_training_recipe
from seqpar_deploy.training.run import Process, Run
from seqpar_deploy.training.start import new_model
from seqpar_deploy.training.state import load_state

pytestmark = pytest.mark.slow

ALONE = Process(rank=0, world=1, device=torch.device("cpu"))


@pytest.fixture
def own_squares(squares: Path, tmp_path: Path) -> Path:
    """A copy of the data, to be damaged."""
    import shutil

    return Path(shutil.copytree(squares.parent, tmp_path / "data")) / squares.name


def loader(dataset: Dataset, workers: int = 1) -> Loader:
    schedule = Schedule(sources=(Source(dataset=dataset),), pictures_per_epoch=0, batch_size=4, seed=1)
    return Loader(
        schedule=schedule, image_size=16, preprocessing=Preprocessing(), augmentation=Augmentation(), workers=workers
    )


@pytest.mark.parametrize("free", [0, 65536])
def test_full_shared_memory_is_named_before_work(
    squares: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: int
) -> None:
    monkeypatch.setattr(readers, "_SHARED", tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=free // 4096, f_frsize=4096))
    with pytest.raises(TrainingError, match=rf"{tmp_path.name}.*{free // 1024} kB.*--workers 0"):
        next(loader(load_dataset("pa100k", squares)).batches(0, 3))
    readers.check_workers(0)


def test_a_tiny_dev_shm_is_refused_in_one_line(squares: Path, tmp_path: Path) -> None:
    run = [sys.executable, "-m", "seqpar_deploy", "train", "--data", str(squares), "--label-set", "pa100k", "--out"]
    small = "mount -t tmpfs -o size=64k none /dev/shm && exec "
    probe = ["unshare", "-m", "sh", "-c", f"{small} true"]
    if not Path("/dev/shm").is_dir() or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root and unshare")
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", small + '"$@"', "sh", *run, str(tmp_path / "run"), "--workers", "1"],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "64 kB" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS, signal.SIGSEGV])
def test_a_reading_process_that_dies_is_one_line(squares: Path, number: int) -> None:
    batches = loader(load_dataset("pa100k", squares)).batches(0, 500)
    next(batches)
    for child in multiprocessing.active_children():
        os.kill(child.pid or 0, number)
    with pytest.raises(TrainingError, match="--workers"):
        list(batches)
    assert multiprocessing.active_children() == []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Broken(Dataset):
    """Raises what no file of its own explains."""

    def crop(self, index: int) -> Any:
        raise MemoryError if index % 2 else OSError(24, "Too many open files")


def test_a_reading_process_that_raises_is_one_line(squares: Path) -> None:
    dataset = load_dataset("pa100k", squares)
    broken = Broken(**{field.name: getattr(dataset, field.name) for field in dataclasses.fields(Dataset)})
    with pytest.raises(TrainingError, match="--workers"):
        list(loader(broken).batches(0, 3))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_vanishes_is_named(own_squares: Path, workers: int) -> None:
    dataset = load_dataset("pa100k", own_squares)
    batches = loader(dataset, workers).batches(0, 500)
    next(batches)
    dataset.images[5].unlink()
    with pytest.raises(SeqparError, match=dataset.images[5].name):
        list(batches)


class Stuck(Dataset):
    """A picture that is a pipe gives no bytes, like one on a network drive that is gone."""

    def crop(self, index: int) -> Crop:
        if self.images[index].is_fifo():
            self.images[index].read_bytes()
        return super().crop(index)


@pytest.fixture
def stuck(own_squares: Path) -> Dataset:
    """The tenth picture is stuck."""
    dataset = load_dataset("pa100k", own_squares)
    dataset.images[9].unlink()
    os.mkfifo(dataset.images[9])
    return Stuck(**{field.name: getattr(dataset, field.name) for field in dataclasses.fields(Dataset)})


def test_a_picture_that_gives_no_bytes_ends_the_wait(stuck: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_PATIENCE", 8.0)
    with pytest.raises(TrainingError, match=r"8 s.*drive"):
        list(loader(stuck).batches(0, 500))
    assert multiprocessing.active_children() == []


@pytest.fixture
def new_run(recipe_file: Callable[..., Path], tmp_path: Path) -> Callable[..., Run]:
    def new(dataset: Dataset, **options: Any) -> Run:
        recipe = load_training_recipe(recipe_file(epochs=2, pictures=16))
        labels = load_label_set("pa100k")
        return Run(
            recipe=recipe, label_set=labels, sources=(Source(dataset=dataset),), out=tmp_path / "run",
            **{"validation": None, **options},
        )  # fmt: skip

    return new


def train(run: Run) -> list[dict[str, Any]]:
    model = new_model(run.recipe.model, run.label_set, seed=run.seed)
    return list(loop.train(run, model, ALONE, progress=lambda done, total: None))


@pytest.fixture
def later() -> Iterator[Callable[[int], None]]:
    """Send this process a signal after three seconds, unless the test ends first."""
    timers: list[threading.Timer] = []

    def send(number: int) -> None:
        timers.append(threading.Timer(3.0, os.kill, (os.getpid(), number)))
        timers[-1].start()

    yield send
    for timer in timers:
        timer.cancel()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_ends_a_wait_for_pictures(
    stuck: Dataset, new_run: Callable[..., Run], later: Callable[[int], None], workers: int, number: int
) -> None:
    only = stuck.subset([9, *range(9)])
    run = new_run(only, workers=workers)
    later(number)
    with pytest.raises(KeyboardInterrupt):
        train(run)
    assert multiprocessing.active_children() == []
    assert load_state(run.out, run.identity()) is not None


@pytest.mark.parametrize("problem", [RuntimeError("out of memory"), MemoryError()])
def test_the_state_is_saved_before_the_validation(
    squares: Path, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, problem: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise problem

    run = new_run(load_dataset("pa100k", squares, "train"), validation=load_dataset("pa100k", squares, "test"))
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", fail)
        with pytest.raises(type(problem)):
            train(run)
    state = load_state(run.out, run.identity())
    assert state is not None
    assert state.step == 2
    assert [row["epoch"] for row in train(run)] == [1, 2]


def test_a_signal_ends_a_validation_that_waits(
    squares: Path, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, later: Callable[[int], None]
) -> None:
    run = new_run(load_dataset("pa100k", squares, "train"), validation=load_dataset("pa100k", squares, "test"))
    monkeypatch.setattr(loop, "validate", lambda *_, **__: time.sleep(600))
    later(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        train(run)
    assert load_state(run.out, run.identity()) is not None


def test_a_missing_last_checkpoint_is_written_at_the_next_start(squares: Path, new_run: Callable[..., Run]) -> None:
    """A kill may come between the last state and the checkpoint."""
    run = new_run(load_dataset("pa100k", squares, "train"))
    train(run)
    (run.out / loop.LAST).unlink()
    assert [row["epoch"] for row in train(run)] == [2]
    assert (run.out / loop.LAST).is_file()
    assert train(run) == []
