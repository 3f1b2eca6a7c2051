"""An export recipe: opset, precision, batch profiles and parity tolerances, from a TOML file in `export/`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from seqpar_deploy.bundle import BatchProfile, Precision
from seqpar_deploy.errors import RecipeError
from seqpar_deploy.parity.tolerances import ParityTolerances, check_tolerances, dataclass_from
from seqpar_deploy.resources import read_recipe_toml

FORMAT = 1
OPSETS = range(18, 26)  # what torch exports and the runtimes read; export/fp32.toml says which is portable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Int8:
    """Quicker graphs beside the exact ones, their activations' ranges found on so many crops: real ones, then drawn."""

    calibration_crops: int = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a checkpoint becomes a bundle. `int8` is None where it holds no 8-bit graphs."""

    name: str
    precision: Precision
    opset: int
    batches: tuple[BatchProfile, ...]
    parity: ParityTolerances
    int8: Int8 | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"format": FORMAT, **dataclasses.asdict(self)}


def load_recipe(name_or_path: str | Path) -> Recipe:
    """A recipe that ships with the package (`fp16`) or a TOML file of your own. Raises RecipeError."""
    values = read_recipe_toml(name_or_path)
    try:
        return _recipe_from_dict(values)
    except ValueError as error:
        raise RecipeError(f"{name_or_path} is not a recipe: {error}; see export/fp32.toml for the form") from None


def _recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    if values.get("format") != FORMAT:
        raise ValueError(f"format is {values.get('format')!r}, wanted {FORMAT}")
    recipe = dataclass_from(
        Recipe,
        {
            **{key: value for key, value in values.items() if key != "format"},
            "batches": _batches(values.get("batches", [{}])),
            "parity": dataclass_from(ParityTolerances, values.get("parity", {}), "parity "),
            "int8": dataclass_from(Int8, values["int8"], "int8 ") if "int8" in values else None,
        },
    )
    if not isinstance(recipe.name, str):
        raise ValueError(f"name is {recipe.name!r}, wanted a text")
    if recipe.precision not in get_args(Precision):
        raise ValueError(f"precision is {recipe.precision!r}, wanted one of {list(get_args(Precision))}")
    if type(recipe.opset) is not int or recipe.opset not in OPSETS:
        raise ValueError(f"opset is {recipe.opset!r}, wanted {OPSETS.start} to {OPSETS.stop - 1}")
    if recipe.int8 and recipe.precision != "fp32":
        raise ValueError(f"8-bit graphs are made of fp32 ones, precision is {recipe.precision!r}; leave out [int8]")
    if recipe.int8 and (type(recipe.int8.calibration_crops) is not int or recipe.int8.calibration_crops < 1):
        raise ValueError(f"int8 calibration_crops is {recipe.int8.calibration_crops!r}, wanted 1 or more")
    check_tolerances(recipe.parity)
    return recipe


def _batches(tables: Any) -> tuple[BatchProfile, ...]:
    if not isinstance(tables, list) or not tables:
        raise ValueError(f"batches are {tables!r}, wanted one or more tables [[batches]]")
    batches = tuple(dataclass_from(BatchProfile, table, "batches ") for table in tables)
    for batch in batches:
        sizes = dataclasses.astuple(batch)
        if not all(type(size) is int for size in sizes) or not 1 <= batch.min <= batch.opt <= batch.max:
            raise ValueError(f"batches hold {batch}, wanted whole numbers 1 <= min <= opt <= max")
    return batches
