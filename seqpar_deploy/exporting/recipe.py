"""An export recipe: opset, precision, batch profiles and parity tolerances, from a TOML file in `export/`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import msgspec

from seqpar_deploy.bundle import BatchProfile, Precision
from seqpar_deploy.config import Positive, Text, typed, without_format
from seqpar_deploy.errors import RecipeError
from seqpar_deploy.parity.tolerances import ParityTolerances
from seqpar_deploy.resources import read_recipe_toml

FORMAT = 1
# What torch exports and the runtimes read; export/fp32.toml says which is portable.
Opset = Annotated[int, msgspec.Meta(ge=18, le=25)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Int8:
    """Faster graphs beside the exact ones, their activations' ranges found on so many crops: real ones, then drawn."""

    calibration_crops: Positive = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a checkpoint becomes a bundle. `int8` is None if it holds no 8-bit graphs."""

    name: Text
    precision: Precision
    opset: Opset
    batches: tuple[BatchProfile, ...] = (BatchProfile(),)
    parity: ParityTolerances
    int8: Int8 | None = None

    def __post_init__(self) -> None:
        if not self.batches:
            raise ValueError("batches must be one or more tables [[batches]], got none")
        if self.int8 and self.precision != "fp32":
            raise ValueError(f"precision must be 'fp32' for 8-bit graphs, got {self.precision!r}; leave out [int8]")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {"format": FORMAT, **dataclasses.asdict(self)}


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A recipe that ships with the package (`fp16`) or a TOML file of your own. Raises RecipeError."""
    source, hint = str(name_or_path), "see export/fp32.toml for the form"
    values = without_format(read_recipe_toml(name_or_path), FORMAT, source=source, error=RecipeError, hint=hint)
    return typed(values, Recipe, source=source, error=RecipeError, hint=hint, known_keys_only=True)
