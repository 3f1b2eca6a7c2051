"""The state of a run survives a full disk, and a run keeps out of folders of others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors
import safetensors.torch
import torch

from seqpar_deploy.errors import TrainingError
from seqpar_deploy.training.run_files import check_folder, write_recipe
from seqpar_deploy.training.state import TrainingState, check_room, load_state, moments_size, save_state

RUN = {"recipe": {}, "phrases": [], "data": "0", "seed": 0}
CHECKPOINTS = ("best-ma.safetensors", "best-f1.safetensors", "last.safetensors")


def state(step: int) -> TrainingState:
    return TrainingState(step=step, tensors={"w": torch.ones(3)}, run=RUN, history=[], scaler={})


@pytest.mark.parametrize(
    ("problem", "named"),
    [
        (safetensors.SafetensorError("I/O error: No space left on device (os error 28)"), "free some space"),
        (safetensors.SafetensorError("I/O error: Disk quota exceeded (os error 122)"), "quota"),
        (OSError(30, "Read-only file system"), "another disk"),
    ],
)
def test_the_earlier_state_stays_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: Exception, named: str
) -> None:
    save_state(tmp_path, state(1))

    def fail(_tensors: object, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise problem

    monkeypatch.setattr(safetensors.torch, "save_file", fail)
    with pytest.raises(TrainingError, match=rf"state\.safetensors cannot be written: .*{named}"):
        save_state(tmp_path, state(2))
    kept = load_state(tmp_path, RUN)
    assert kept is not None
    assert kept.step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_room_is_checked_for_two_states_and_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = 2 * 4_000_000 + 3 * 1_000_000
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=free, f_frsize=1))
    check_room(tmp_path / "run", 4_000_000, 1_000_000, CHECKPOINTS)
    free -= 1_000_000
    with pytest.raises(TrainingError, match=r"run .*11\.0 MB.*10\.0 MB"):
        check_room(tmp_path / "run", 4_000_000, 1_000_000, CHECKPOINTS)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.safetensors").write_bytes(bytes(1_000_000))  # to be replaced
    check_room(tmp_path / "run", 4_000_000, 1_000_000, CHECKPOINTS)


def test_moments_are_counted_per_optimiser() -> None:
    layer = torch.nn.Linear(4, 4, bias=False)
    assert moments_size([torch.optim.AdamW(layer.parameters())]) == 2 * 4 * 16
    assert moments_size([torch.optim.Muon(layer.parameters())]) == 4 * 16


@pytest.mark.parametrize(
    ("name", "content"), [("log.csv", "time,price\n"), ("recipe.json", '{"flour": 3}'), ("last.safetensors", "x")]
)
def test_files_of_others_are_not_overwritten(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(TrainingError, match=rf"{name}.*--out"):
        check_folder(tmp_path, CHECKPOINTS)


def test_a_new_folder_a_run_and_notes_beside_it_pass(tmp_path: Path) -> None:
    check_folder(tmp_path / "missing", CHECKPOINTS)
    (tmp_path / "notes.txt").write_text("x")
    check_folder(tmp_path, CHECKPOINTS)
    write_recipe(tmp_path, RUN)
    (tmp_path / "log.csv").write_text("epoch\n")
    check_folder(tmp_path, CHECKPOINTS)
    assert json.loads((tmp_path / "recipe.json").read_text()) == RUN
