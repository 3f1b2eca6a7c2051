"""A training recipe: the network, the optimiser and the augmentation, from a TOML file in `train/`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from seqpar_deploy.config import (
    NotNegative,
    NotNegativeNumber,
    Positive,
    PositiveNumber,
    Text,
    typed,
    without_format,
)
from seqpar_deploy.errors import RecipeError
from seqpar_deploy.resources import read_training_recipe_toml

FORMAT = 1

Precision = Literal["fp32", "bf16", "fp16"]
_Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
_BelowOne = Annotated[float, msgspec.Meta(ge=0, lt=1)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """Either an open_clip model's towers with the published decoder, or an architecture of one's own.

    `pretrained` is a tag of open_clip's registry or a local file of CLIP weights; empty starts from random weights.
    `architecture` holds the fields of `modeling.architecture.Architecture`, without `attributes`.
    """

    encoder: str = "ViT-L-14"
    pretrained: str = ""
    architecture: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimiser:
    """AdamW, linear warm-up, cosine decay. Rates are per step of `batch_size` pictures, however split.

    With `muon`, weight matrices inside the network are updated by Muon at that rate, the rest by AdamW at
    `learning_rate`: networks that start from random weights learn more from the same pictures.
    """

    epochs: Positive = 50
    batch_size: Positive = 32
    accumulate: Positive = 1  # parts a batch is computed in, where it does not fit at once
    learning_rate: PositiveNumber = 1e-6
    muon: NotNegativeNumber = 0.0  # Muon's rate; 0 leaves everything to AdamW
    image_tower: NotNegativeNumber = 1.0  # shares of the learning rate; 0 freezes the part
    text_tower: NotNegativeNumber = 1.0
    decoder: NotNegativeNumber = 1.0
    weight_decay: NotNegativeNumber = 1e-4
    warmup_epochs: NotNegativeNumber = 5
    warmup_start: _BelowOne = 0.01  # shares of the learning rate
    floor: _BelowOne = 0.002
    clip_norm: PositiveNumber = 1.0
    schedule: Literal["epoch", "step"] = "epoch"  # when the rate changes; published: once an epoch
    label_smoothing: _BelowOne = 0.0
    presence: NotNegativeNumber = 0.0  # weight of a second loss on the image tower alone, for random towers
    average: _BelowOne = 0.0  # decay a step of the averaged weights that are scored and kept; 0 keeps the last ones
    precision: Precision = "fp32"
    eos: bool = True  # <eos> ends the targets; the release leaves it out

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate must divide batch_size {self.batch_size}, got {self.accumulate}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What training pictures go through. Flip and shift are published; the rest is for training on little data."""

    flip: bool = True  # left and right, every second picture
    shift: NotNegative = 10  # at most so many pixels of the model's input, each way
    margin: _Share = 0.0  # cut off or add at each border, at most this share of the side
    colour: _Share = 0.0  # brightness, contrast, saturation and white balance vary by about this share
    erase: _Share = 0.0  # how often a rectangle is painted over
    blur: _Share = 0.0  # how often a picture loses resolution


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """How a checkpoint is trained."""

    name: Text
    model: Model = Model()
    optimiser: Optimiser = Optimiser()
    augmentation: Augmentation = Augmentation()
    pictures_per_epoch: NotNegative = 0  # 0: each picture once

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **dataclasses.asdict(self)}


def load_training_recipe(name_or_path: str | Path) -> TrainingRecipe:
    """A recipe that ships with the package (`published`) or a TOML file of your own. Raises RecipeError."""
    return training_recipe_from_dict(read_training_recipe_toml(name_or_path), source=str(name_or_path))


def training_recipe_from_dict(values: Mapping[str, Any], *, source: str) -> TrainingRecipe:
    """Read plain values, as a TOML file or `to_dict` gives them; `source` names them in errors. Raises RecipeError."""
    where: dict[str, Any] = {"source": source, "error": RecipeError, "hint": "see train/published.toml for the form"}
    return typed(without_format(values, FORMAT, **where), TrainingRecipe, known_keys_only=True, **where)
