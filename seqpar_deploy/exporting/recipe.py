"""Export recipes: opset, precision, batch profiles and parity tolerances, from TOML files in `export/`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import msgspec

from seqpar_deploy.bundle import BatchProfile, Precision
from seqpar_deploy.config import Text, typed, without_format
from seqpar_deploy.errors import RecipeError
from seqpar_deploy.parity.tolerances import ParityTolerances
from seqpar_deploy.resources import read_recipe_toml

FORMAT = 1
# The opsets that torch exports and the runtimes read. export/fp32.toml names the portable one.
Opset = Annotated[int, msgspec.Meta(ge=18, le=25)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Int8:
    """Configure the 8-bit graphs.

    Attributes:
        calibration_crops: Crops for calibration: sample crops first, then rendered ones. At most 2,000. Default: 64.
    """

    calibration_crops: Annotated[int, msgspec.Meta(ge=1, le=2000)] = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drafts:
    """Configure the fit of the draft head, see `decoding/drafts.py`.

    Attributes:
        crops: Crops to fit on: sample crops first, then varied and rendered ones. 40 to 100,000. Default: 1,000.
        seconds: Time budget for the model's answers. At least 100 crops are used, even if they take longer.
            Default: 60.
    """

    crops: Annotated[int, msgspec.Meta(ge=40, le=100_000)] = 1000
    seconds: Annotated[float, msgspec.Meta(ge=0)] = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Describe how a checkpoint is exported.

    Attributes:
        name: The recipe's name.
        precision: Precision of the graphs, `fp32` or `fp16`.
        opset: The ONNX opset, 18 to 25.
        batches: Batch profiles that engines are built for. Default: one, 1 to 32 crops.
        parity: The crops and tolerances of the parity gate.
        int8: The 8-bit graphs, for `fp32`. Default: None, no 8-bit graphs.
        drafts: The fit of the draft head. Default: None, no draft head.
    """

    name: Text
    precision: Precision
    opset: Opset
    batches: tuple[BatchProfile, ...] = (BatchProfile(),)
    parity: ParityTolerances
    int8: Int8 | None = None
    drafts: Drafts | None = None

    def __post_init__(self) -> None:
        if not self.batches:
            raise ValueError("batches must have one table [[batches]] or more, got none")
        if self.int8 and self.precision != "fp32":
            raise ValueError(f"precision must be 'fp32' for 8-bit graphs, got {self.precision!r}; leave out [int8]")

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain values for a manifest."""
        return {"format": FORMAT, **dataclasses.asdict(self)}


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Load an export recipe.

    Args:
        name_or_path: A recipe that ships, `fp32`, `fp16` or `int8`, or the path of your own TOML file.

    Returns:
        The recipe.

    Raises:
        RecipeError: The recipe cannot be found or read, or a value is out of range.
    """
    source, hint = str(name_or_path), "see export/fp32.toml for an example"
    values = without_format(read_recipe_toml(name_or_path), FORMAT, source=source, error=RecipeError, hint=hint)
    return typed(values, Recipe, source=source, error=RecipeError, hint=hint, known_keys_only=True)
