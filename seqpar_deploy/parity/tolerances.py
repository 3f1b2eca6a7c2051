"""The crops and tolerances of the parity gate. A recipe defines them, and the bundle's manifest stores them."""

from __future__ import annotations

import dataclasses
from typing import Literal

from seqpar_deploy.bundle import MANIFEST, Bundle
from seqpar_deploy.config import Crops, Positive, PositiveNumber, typed
from seqpar_deploy.errors import RecipeError

# Backends that can run a bundle during its export, before it has a digest or engines.
GateBackend = Literal["onnxruntime", "openvino", "onnxruntime-cuda"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParityTolerances:
    """Configure the parity gate. Log-probabilities are natural logarithms.

    Attributes:
        backend: The backend that the export checks. Default: `onnxruntime`.
        crops: Real crops. Default: 20. Adversarial crops are always included.
        rendered: Rendered crops, at most 2,000. Default: 8.
        beams: Crops that are also decoded with beam search and speculatively. Default: 8.
        largest_batch: Larger batch sizes of profiles are checked at this size, in crops. Default: 32.
        log_prob_median: Tolerance of the median difference of log-probabilities.
        log_prob_max: Tolerance of the largest difference of log-probabilities.
        tie_margin: Different tokens count as a tie if the checkpoint's margin is below this value.
    """

    backend: GateBackend = "onnxruntime"
    crops: Positive = 20
    rendered: Crops = 8
    beams: Crops = 8
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
    """Return the tolerances in a bundle's manifest. Raises RecipeError."""
    source = str(bundle.path / MANIFEST)
    hint = "export the bundle again with seqpar-export"
    return typed(bundle.manifest, _Manifest, source=source, error=RecipeError, hint=hint).recipe.parity
