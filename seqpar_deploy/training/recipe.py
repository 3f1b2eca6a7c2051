"""A training recipe: the network, the optimiser and the augmentation, from a TOML file in `train/`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from seqpar_deploy.errors import RecipeError
from seqpar_deploy.resources import read_training_recipe_toml

FORMAT = 1

Precision = Literal["fp32", "bf16", "fp16"]


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

    epochs: int = 50
    batch_size: int = 32
    accumulate: int = 1  # parts a batch is computed in, where it does not fit at once
    learning_rate: float = 1e-6
    muon: float = 0.0  # Muon's rate; 0 leaves everything to AdamW
    image_tower: float = 1.0  # shares of the learning rate; 0 freezes the part
    text_tower: float = 1.0
    decoder: float = 1.0
    weight_decay: float = 1e-4
    warmup_epochs: float = 5
    warmup_start: float = 0.01  # shares of the learning rate
    floor: float = 0.002
    clip_norm: float = 1.0
    schedule: Literal["epoch", "step"] = "epoch"  # when the rate changes; published: once an epoch
    label_smoothing: float = 0.0
    presence: float = 0.0  # weight of a second loss on the image tower alone, for towers that start from random weights
    average: float = 0.0  # decay a step of the averaged weights that are scored and kept; 0 keeps the last ones
    precision: Precision = "fp32"
    eos: bool = True  # <eos> ends the targets; the release leaves it out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What training pictures go through. Flip and shift are published; the rest is for training on little data."""

    flip: bool = True  # left and right, every second picture
    shift: int = 10  # at most so many pixels of the model's input, each way
    margin: float = 0.0  # cut off or add at each border, at most this share of the side
    colour: float = 0.0  # brightness, contrast, saturation and white balance vary by about this share
    erase: float = 0.0  # how often a rectangle is painted over
    blur: float = 0.0  # how often a picture loses resolution


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """How a checkpoint is trained."""

    name: str
    model: Model = Model()
    optimiser: Optimiser = Optimiser()
    augmentation: Augmentation = Augmentation()
    pictures_per_epoch: int = 0  # 0: each picture once

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **dataclasses.asdict(self)}


def load_training_recipe(name_or_path: str | Path) -> TrainingRecipe:
    """A recipe that ships with the package (`published`) or a TOML file of your own. Raises RecipeError."""
    return training_recipe_from_dict(read_training_recipe_toml(name_or_path), source=str(name_or_path))


def training_recipe_from_dict(values: Mapping[str, Any], *, source: str) -> TrainingRecipe:
    """Read plain values, as a TOML file or `to_dict` gives them; `source` names them in errors. Raises RecipeError."""
    try:
        if values["format"] != FORMAT:
            raise ValueError(f"format is {values['format']!r}, wanted {FORMAT}")
        parts = {key: value for key, value in values.items() if key != "format"}
        for part, kind in (("model", Model), ("optimiser", Optimiser), ("augmentation", Augmentation)):
            parts[part] = kind(**parts.get(part, {}))
            _check_types(parts[part])
        recipe = TrainingRecipe(**parts)
        _check_types(recipe)
        _check_ranges(recipe)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        what = f"misses key {error}" if isinstance(error, KeyError) else str(error)
        raise RecipeError(f"{source} is not a training recipe: {what}; see train/published.toml for the form") from None
    return recipe


def _check_types(part: Any) -> None:
    hints = get_type_hints(type(part))
    for field in dataclasses.fields(part):
        value, hint = getattr(part, field.name), hints[field.name]
        wanted = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}.get(hint)
        if wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and hint is not bool)):
            raise ValueError(f"{field.name} is {value!r}, wanted {hint.__name__}")
        if get_args(hint) and all(isinstance(choice, str) for choice in get_args(hint)) and value not in get_args(hint):
            raise ValueError(f"{field.name} is {value!r}, wanted one of {list(get_args(hint))}")


def _check_ranges(recipe: TrainingRecipe) -> None:
    optimiser, augmentation = recipe.optimiser, recipe.augmentation
    if min(optimiser.epochs, optimiser.batch_size, optimiser.accumulate) < 1:
        raise ValueError("epochs, batch_size and accumulate must be 1 or more")
    if optimiser.batch_size % optimiser.accumulate:
        raise ValueError(f"accumulate {optimiser.accumulate} does not divide batch_size {optimiser.batch_size}")
    for name in ("label_smoothing", "average", "floor", "warmup_start"):
        if not 0 <= getattr(optimiser, name) < 1:
            raise ValueError(f"{name} is {getattr(optimiser, name)}, wanted 0 or more and less than 1")
    for name in ("learning_rate", "clip_norm"):
        if not getattr(optimiser, name) > 0:
            raise ValueError(f"{name} is {getattr(optimiser, name)}, wanted a number above 0")
    for name in ("muon", "image_tower", "text_tower", "decoder", "weight_decay", "warmup_epochs", "presence"):
        if getattr(optimiser, name) < 0:
            raise ValueError(f"{name} is {getattr(optimiser, name)}, wanted 0 or more")
    for name in ("margin", "colour", "erase", "blur"):
        if not 0 <= getattr(augmentation, name) <= 1:
            raise ValueError(f"{name} is {getattr(augmentation, name)}, wanted 0 to 1")
    if augmentation.shift < 0 or recipe.pictures_per_epoch < 0:
        raise ValueError("shift and pictures_per_epoch must be 0 or more")
