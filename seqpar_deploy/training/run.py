"""The definition of a training run, and the processes of `torchrun`."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed

from seqpar_deploy.datasets import UNKNOWN, Dataset
from seqpar_deploy.errors import DatasetError, TrainingError
from seqpar_deploy.training.loader import Source
from seqpar_deploy.training.recipe import TrainingRecipe
from seqpar_deploy.vocab import LabelSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One training run.

    Attributes:
        recipe: The network, the optimiser and the augmentation.
        label_set: The attributes to learn.
        sources: The data sets to train on, with their shares.
        validation: The data set to score after an epoch. None: no scores.
        out: Output folder. An interrupted run in it is resumed.
        start: SHA-256 of the checkpoint to start from, and the name of its weights if one was chosen. None for a new
            network. Default: None.
        seed: Seed of weights, order, augmentation and dropout. Default: 0.
        workers: Processes that read pictures. Default: 0, the training process itself.
        validate_every: Epochs per validation. The last epoch is always validated. Default: 1.
        save_every: Seconds between saved states. A state is also saved after each epoch. Default: 300.

    Raises:
        DatasetError: The shares differ, and the recipe has no `pictures_per_epoch`.
    """

    recipe: TrainingRecipe
    label_set: LabelSet
    sources: tuple[Source, ...]
    validation: Dataset | None
    out: Path
    start: str | None = None
    seed: int = 0
    workers: int = 0
    validate_every: int = 1
    save_every: float = 300.0

    def __post_init__(self) -> None:
        if self.recipe.pictures_per_epoch == 0 and len({source.share for source in self.sources}) > 1:
            raise DatasetError(
                "shares of the data must be equal if the recipe has no pictures_per_epoch, got different ones; set "
                "pictures_per_epoch in the recipe"
            )

    def identity(self) -> dict[str, Any]:
        """Return the values that a stored state must have in common with this run to be resumed."""
        digest = hashlib.sha256()
        for source in self.sources:
            digest.update(f"{source.share} {len(source.dataset)}".encode())
            digest.update(source.dataset.labels.tobytes())
            for image in source.dataset.images:
                digest.update(image.name.encode())
        return {
            "recipe": self.recipe.to_dict(),
            "label_set": self.label_set.name,
            "phrases": list(self.label_set.phrases),
            "data": digest.hexdigest(),
            "start": self.start,
            "seed": self.seed,
        }

    def unlabelled(self) -> list[str]:
        """Return the names of the attributes that are unknown for all people of all sources."""
        labelled = np.any([(source.dataset.labels != UNKNOWN).any(axis=0) for source in self.sources], axis=0)
        return [
            attribute.name for attribute, known in zip(self.label_set.attributes, labelled, strict=True) if not known
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process:
    """This process among those that `torchrun` started.

    Attributes:
        rank: Index of the process. 0 without `torchrun`.
        world: Number of processes. 1 without `torchrun`.
        device: Device of the process.
    """

    rank: int
    world: int
    device: torch.device


@contextlib.contextmanager
def joined_processes() -> Iterator[Process]:
    """Join the processes that `torchrun` started, one per GPU, and leave them at the end of the block.

    Raises TrainingError if they do not find each other.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if world > 1:
        try:
            torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"the {world} processes of the run must find each other, got one alone; start all of them with torchrun"
            ) from error
    try:
        yield Process(rank=rank, world=world, device=device)
    finally:
        if world > 1:
            torch.distributed.destroy_process_group()
