"""What the parity gate runs and what it lets pass; a bundle carries its recipe's tolerances in the manifest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, get_args

from seqpar_deploy.backends import BackendName
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import RecipeError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityTolerances:
    """What the parity gate runs, and what it lets pass. Log-probabilities are natural logarithms.

    `crops` are real ones, `rendered` drawn ones; adversarial crops come in any case. `beams` crops are searched with
    beams and speculatively as well. Profiles' batch sizes above `largest_batch` are checked at that size.
    """

    backend: BackendName = "onnxruntime"
    crops: int = 20
    rendered: int = 8
    beams: int = 8
    largest_batch: int = 32
    log_prob_median: float
    log_prob_max: float
    tie_margin: float


def tolerances_of(bundle: Bundle) -> ParityTolerances:
    """Those the bundle was made with. Raises RecipeError."""
    try:
        values = dict(bundle.manifest["recipe"]["parity"])
        tolerances: ParityTolerances = dataclass_from(ParityTolerances, values, "parity ")
        check_tolerances(tolerances)
        return tolerances
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(f"{bundle.path} holds no tolerances: {error}; export the bundle again") from None


def check_tolerances(parity: ParityTolerances) -> None:
    if parity.backend not in get_args(BackendName):
        raise ValueError(f"parity backend is {parity.backend!r}, wanted one of {list(get_args(BackendName))}")
    for name, least in (("crops", 1), ("rendered", 0), ("beams", 0), ("largest_batch", 1)):
        value = getattr(parity, name)
        if type(value) is not int or value < least:
            raise ValueError(f"parity {name} is {value!r}, wanted {least} or more")
    for name in ("log_prob_median", "log_prob_max", "tie_margin"):
        value = getattr(parity, name)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise ValueError(f"parity {name} is {value!r}, wanted a number above 0")


def dataclass_from(cls: Any, values: Any, where: str = "") -> Any:
    """A dataclass of what a table holds: each key a field, and a key for each field that has no default."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}is {values!r}, wanted a table")
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise ValueError(f"{where}has an unknown key {key!r}, known are {', '.join(fields)}")
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise ValueError(f"{where}misses key {name!r}")
    return cls(**values)
