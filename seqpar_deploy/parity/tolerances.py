"""What the parity gate runs and what it lets pass; a bundle carries its recipe's tolerances in the manifest."""

from __future__ import annotations

import dataclasses
from typing import Literal

from seqpar_deploy.bundle import MANIFEST, Bundle
from seqpar_deploy.config import NotNegative, Positive, PositiveNumber, typed
from seqpar_deploy.errors import RecipeError

# What an export can check a bundle on before it has a digest and engines.
GateBackend = Literal["onnxruntime", "openvino", "onnxruntime-cuda"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityTolerances:
    """What the parity gate runs, and what it lets pass. Log-probabilities are natural logarithms.

    `crops` are real ones, `rendered` drawn ones; adversarial crops come in any case. `beams` crops are searched with
    beams and speculatively as well. Profiles' batch sizes above `largest_batch` are checked at that size.
    """

    backend: GateBackend = "onnxruntime"
    crops: Positive = 20
    rendered: NotNegative = 8
    beams: NotNegative = 8
    largest_batch: Positive = 32
    log_prob_median: PositiveNumber
    log_prob_max: PositiveNumber
    tie_margin: PositiveNumber


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Recipe:
    parity: ParityTolerances


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Manifest:
    recipe: _Recipe


def tolerances_of(bundle: Bundle) -> ParityTolerances:
    """The tolerances a bundle was made with. Raises RecipeError."""
    source = str(bundle.path / MANIFEST)
    hint = "export the bundle again with seqpar-export"
    return typed(bundle.manifest, _Manifest, source=source, error=RecipeError, hint=hint).recipe.parity
