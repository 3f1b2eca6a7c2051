"""Bootstrap intervals over people: whole groups are drawn, or people if there are no groups."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MOST_CELLS = 2_000_000  # resamples x people, so that 10,000 people take seconds

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Hold a score and its 95 % bootstrap interval. All are None if the score is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


def resampling_weights(people: int, groups: Sequence[str] | None, resamples: int, seed: int) -> Floats:
    """Return how often each person is drawn (1 + R, M). The first row is the data as it is.

    Args:
        people: M, the number of people.
        groups: M names. People of one name are drawn together. None: each person is drawn alone.
        resamples: R, less if there are more than 2,000 people, and at least 100.
        seed: Seed of the draws.
    """
    resamples = max(100, min(resamples, MOST_CELLS // people))
    _, place = np.unique(range(people) if groups is None else list(groups), return_inverse=True)
    count = int(place.max()) + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)
    return np.concatenate([np.ones((1, people)), drawn[:, place]])


def divided(some: Floats, others: Floats) -> Floats:
    """Return some / others, NaN where others is 0."""
    quotient: Floats = np.divide(some, others, out=np.full(np.shape(some), np.nan), where=others != 0)
    return quotient


def estimate(scores: Floats) -> Estimate:
    """Return the estimate of a score, given its value and those of the resamples, (1 + R,)."""
    drawn = scores[1:][~np.isnan(scores[1:])]
    if np.isnan(scores[0]) or not len(drawn):
        return Estimate(value=None)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value=float(scores[0]), low=float(low), high=float(high))
