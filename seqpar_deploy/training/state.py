"""Saves the state of a run in one safetensors file, from which a killed run resumes."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from seqpar_deploy.errors import TrainingError
from seqpar_deploy.files import check_space, replacing, why_not_written

STATE = "state.safetensors"
_METADATA = "seqpar_training"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True)
class TrainingState:
    """The state of a run after a step.

    Attributes:
        step: Number of steps done.
        tensors: Weights, averages and moments by role and name, for example `exp_avg.model.decoder.fc.weight`.
        run: Identity of the run. A state resumes only the run that saved it.
        history: One row per epoch.
        scaler: State of the gradient scaler.
    """

    step: int
    tensors: dict[str, Tensor]
    run: dict[str, Any]
    history: list[dict[str, Any]]
    scaler: dict[str, Any]


def save_state(folder: Path, state: TrainingState) -> None:
    """Write the state. It is atomic: a kill leaves the earlier state. Raises TrainingError."""
    values = {"step": state.step, "run": state.run, "history": state.history, "scaler": state.scaler}
    try:
        with replacing(folder / STATE) as staging:
            safetensors.torch.save_file(state.tensors, staging, metadata={_METADATA: json.dumps(values)})
    except (OSError, safetensors.SafetensorError) as error:
        raise not_written(folder / STATE, error) from None


def not_written(path: Path, error: OSError | safetensors.SafetensorError) -> TrainingError:
    """Return the error for a file of the run that could not be written. The earlier file is still there."""
    why = why_not_written(error, path) or " ".join(str(error).split())[:100]
    return TrainingError(f"{path} cannot be written: {why}. The same command resumes from the earlier state")


def check_room(folder: Path, state: int, checkpoint: int, checkpoints: Sequence[str]) -> None:
    """Raise TrainingError, before any work, if the disk cannot hold the files of a run.

    Args:
        folder: The run's folder.
        state: Size of a state in bytes. Two lie side by side while one replaces the other.
        checkpoint: Size of a checkpoint in bytes.
        checkpoints: Names of the checkpoints of the run.
    """
    present = [folder / name for name in (STATE, *checkpoints)]
    present_size = sum(path.stat().st_size for path in present if path.is_file())
    check_space(folder, 2 * state + len(checkpoints) * checkpoint - present_size, error=TrainingError)


def moments_size(optimisers: Sequence[torch.optim.Optimizer]) -> int:
    """Return the size in bytes of all moments: one per weight of Muon, two per weight of AdamW."""
    return sum(
        4 * parameter.numel() * (1 if isinstance(optimiser, torch.optim.Muon) else 2)
        for optimiser in optimisers
        for group in optimiser.param_groups
        for parameter in group["params"]
    )


def load_state(folder: Path, run: dict[str, Any]) -> TrainingState | None:
    """Return the state in a run's folder, None if there is none. Raises TrainingError if it is of another run."""
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()[_METADATA])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        _log.debug("cannot read %s", path, exc_info=error)
        raise TrainingError(f"{path} must be a training state, got a damaged file; remove it to start again") from None
    if different := [key for key in run if values["run"].get(key) != run[key]]:
        raise TrainingError(
            f"{folder} must be empty or contain this run, got a run with another {', '.join(different)}; choose "
            "another --out, or remove the folder"
        )
    return TrainingState(tensors=tensors, **values)


def optimiser_tensors(optimisers: Sequence[torch.optim.Optimizer], names: dict[int, str]) -> dict[str, Tensor]:
    """Return moments and step counts by role and parameter name; `names` maps `id(parameter)` to its name."""
    return {
        f"{role}.{names[id(parameter)]}": torch.as_tensor(value).detach().cpu().contiguous()
        for optimiser in optimisers
        for parameter, moments in optimiser.state.items()
        for role, value in moments.items()
    }


def restore_optimisers(
    optimisers: Sequence[torch.optim.Optimizer], names: dict[int, str], tensors: dict[str, Tensor]
) -> None:
    """Restore the tensors that `optimiser_tensors` returned."""
    for optimiser in optimisers:
        roles = ("momentum_buffer",) if isinstance(optimiser, torch.optim.Muon) else ("step", "exp_avg", "exp_avg_sq")
        for group in optimiser.param_groups:
            for parameter in group["params"]:
                stored = {role: tensors.get(f"{role}.{names[id(parameter)]}") for role in roles}
                if all(value is not None for value in stored.values()):
                    optimiser.state[parameter] = {
                        role: value.to(parameter.device) for role, value in stored.items() if value is not None
                    }
