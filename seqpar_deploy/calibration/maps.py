"""Maps from the decoder's probabilities to calibrated ones: a logistic (Platt) map of the log-odds per attribute."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Float64Array = npt.NDArray[np.float64]

_LEAST = 1e-6  # probabilities are limited to this and 1 minus it, so that their log-odds are finite


def log_odds(probabilities: Floats) -> Float64Array:
    """Return log(p / (1 - p)) of probabilities (...), which are limited to 1e-6 from 0 and 1."""
    values = np.asarray(probabilities, dtype=np.float64)
    limited = np.minimum(np.maximum(values, _LEAST), 1 - _LEAST)  # np.clip takes 5 us more per crop
    return np.asarray(np.log(limited) - np.log1p(-limited))


def probability(odds: Floats) -> Float64Array:
    """Return the probability of log-odds (...)."""
    limited = np.minimum(np.maximum(np.asarray(odds, dtype=np.float64), -50), 50)
    return np.asarray(1 / (1 + np.exp(-limited)))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LogisticMaps:
    """Hold a map per attribute: calibrated log-odds = slope * log-odds + offset.

    Slopes are above 0, so a map never changes the order of people.

    Attributes:
        slopes: float64 (n,), above 0.
        offsets: float64 (n,).
    """

    slopes: Float64Array
    offsets: Float64Array

    def __call__(self, probabilities: Floats) -> npt.NDArray[np.float32]:
        """Return calibrated probabilities (..., n) float32 of those of the decoder (..., n)."""
        return probability(self.slopes * log_odds(probabilities) + self.offsets).astype(np.float32)
