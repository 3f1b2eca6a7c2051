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
    """The network: the towers of an open_clip model with the published decoder, or your own architecture.

    Attributes:
        encoder: Name of an open_clip model. Default: "ViT-L-14".
        pretrained: Tag of open_clip's registry, or a local file of CLIP weights. Default: empty, random weights.
        architecture: Fields of `modeling.architecture.Architecture` without `attributes`, in place of `encoder`.
            Default: None.
        trim: Whether the model reads crops without most of their padding, see `preprocess.Trimming`. The widths become
            part of the checkpoint: `columns` of `architecture`, or those of `preprocess.default_columns`. Default:
            False, as published.
    """

    encoder: str = "ViT-L-14"
    pretrained: str = ""
    architecture: Mapping[str, Any] | None = None
    trim: bool = False

    def __post_init__(self) -> None:
        if not self.trim and (self.architecture or {}).get("columns"):
            raise ValueError("trim must be true if the architecture has columns, got false")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimiser:
    """The optimiser: AdamW with linear warm-up and cosine decay. Rates are per step of `batch_size` pictures.

    Attributes:
        epochs: Number of epochs. Default: 50.
        batch_size: Pictures per step, over all processes. Default: 32.
        accumulate: Parts of a batch that are computed one after the other, to save memory. Default: 1.
        learning_rate: Rate of AdamW. Default: 1e-6.
        muon: Rate of Muon for weight matrices inside the network. Networks with random weights learn more from the same
            pictures with it. Default: 0, AdamW for all weights.
        image_tower: Share of the rate for the image tower. 0 freezes it. Default: 1.
        text_tower: Share of the rate for the text tower. Default: 1.
        decoder: Share of the rate for the decoder. Default: 1.
        weight_decay: Weight decay. Default: 1e-4.
        warmup_epochs: Epochs of warm-up. Default: 5.
        warmup_start: Share of the rate at the start of the warm-up. Default: 0.01.
        floor: Share of the rate at the end. Default: 0.002.
        clip_norm: Maximum norm of the gradient. Default: 1.
        schedule: Change of the rate, "epoch" (as published) or "step". Default: "epoch".
        label_smoothing: Label smoothing of the targets, 0 to 1. Default: 0.
        presence: Weight of a second loss on the image tower, for towers with random weights. Default: 0.
        average: Decay per step of the averaged weights, which are validated and saved. Default: 0, the last weights.
        precision: "fp32", "bf16" or "fp16". Default: "fp32".
        eos: Whether `<eos>` ends the targets. The published code has no `<eos>`. Default: True.
    """

    epochs: Positive = 50
    batch_size: Positive = 32
    accumulate: Positive = 1
    learning_rate: PositiveNumber = 1e-6
    muon: NotNegativeNumber = 0.0
    image_tower: NotNegativeNumber = 1.0
    text_tower: NotNegativeNumber = 1.0
    decoder: NotNegativeNumber = 1.0
    weight_decay: NotNegativeNumber = 1e-4
    warmup_epochs: NotNegativeNumber = 5
    warmup_start: _BelowOne = 0.01
    floor: _BelowOne = 0.002
    clip_norm: PositiveNumber = 1.0
    schedule: Literal["epoch", "step"] = "epoch"
    label_smoothing: _BelowOne = 0.0
    presence: NotNegativeNumber = 0.0
    average: _BelowOne = 0.0
    precision: Precision = "fp32"
    eos: bool = True

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate must divide batch_size {self.batch_size}, got {self.accumulate}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Augmentation of training pictures. `flip` and `shift` are published, the others are for small data sets.

    Attributes:
        flip: Whether half of the pictures are mirrored. Default: True.
        shift: Maximum shift in pixels of the model's input, in each direction. Default: 10.
        margin: Maximum share of a side to remove or add at each border. Default: 0.
        colour: Approximate variation of brightness, contrast, saturation and white balance. Default: 0.
        erase: Share of pictures with a painted rectangle. Default: 0.
        blur: Share of pictures with reduced resolution. Default: 0.
    """

    flip: bool = True
    shift: NotNegative = 10
    margin: _Share = 0.0
    colour: _Share = 0.0
    erase: _Share = 0.0
    blur: _Share = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """A training recipe.

    Attributes:
        name: Name of the recipe.
        model: The network.
        optimiser: The optimiser.
        augmentation: The augmentation.
        pictures_per_epoch: Pictures per epoch. Default: 0, each picture once.
    """

    name: Text
    model: Model = Model()
    optimiser: Optimiser = Optimiser()
    augmentation: Augmentation = Augmentation()
    pictures_per_epoch: NotNegative = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain values, in the form of the TOML file."""
        return {"format": FORMAT, **dataclasses.asdict(self)}


def load_training_recipe(name_or_path: str | Path) -> TrainingRecipe:
    """Load a recipe.

    Args:
        name_or_path: Name of a recipe that ships, for example "published", or a TOML file.

    Returns:
        The recipe.

    Raises:
        RecipeError: The file cannot be found or read, or a value is invalid. The message names file and key.
    """
    return training_recipe_from_dict(read_training_recipe_toml(name_or_path), source=str(name_or_path))


def training_recipe_from_dict(values: Mapping[str, Any], *, source: str) -> TrainingRecipe:
    """Convert plain values of a TOML file or of `to_dict`. `source` names them in errors. Raises RecipeError."""
    where: dict[str, Any] = {"source": source, "error": RecipeError, "hint": "see train/published.toml for the form"}
    return typed(without_format(values, FORMAT, **where), TrainingRecipe, known_keys_only=True, **where)
