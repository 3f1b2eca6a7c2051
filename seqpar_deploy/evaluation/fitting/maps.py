"""Fit the maps of a calibration: logistic (Platt) per attribute, shrunk to a shared one.

How strongly they are shrunk is chosen by cross-validation over groups, by negative log-likelihood. `candidates.py` has
the maps that these were compared with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seqpar_deploy.calibration.maps import Float64Array, Floats, LogisticMaps, log_odds, probability
from seqpar_deploy.errors import CalibrationError
from seqpar_deploy.evaluation.fitting.shrinkage import Parameters, Penalty, fit_shrunk

Labels = npt.NDArray[np.int8]

LEAST = 10  # positives and negatives that an attribute needs for a map of its own
FOLDS = 10
_SELECTION_FOLDS = 5
# From strong to weak, so that a fit begins near the one before. On 166 people the loss of the weaker half differs by
# less than 0.5 %, so a finer grid brings nothing.
_SLOPES = (100.0, 10.0, 3.0, 1.0)
_OFFSETS = (10.0, 3.0, 1.0, 0.3)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FittedMaps:
    """Hold fitted maps.

    Attributes:
        maps: A map per attribute.
        own: Whether each attribute has a map of its own, bool (n,). The others use the shared one.
        shrinkage: Strength of the shrinkage that cross-validation chose.
        held_out: Probabilities of the fitting people, each by maps of this strength that were fitted without the
            person's group, float32 (M, n). Thresholds are chosen on these.
    """

    maps: LogisticMaps
    own: npt.NDArray[np.bool_]
    shrinkage: Penalty
    held_out: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shrunk:
    """Hold shrunk maps of any features, and the strength that cross-validation chose for them."""

    parameters: Parameters
    penalty: Penalty
    own: npt.NDArray[np.bool_]
    held_out: Float64Array


def fit_maps(probabilities: Floats, labels: Labels, groups: Sequence[str]) -> FittedMaps:
    """Fit the maps of a calibration.

    Args:
        probabilities: The decoder's probabilities, (M, n), see `calibration/probabilities.py`.
        labels: int8 (M, n): 1 yes, 0 no, -1 unknown.
        groups: M names. Cross-validation keeps people of one name together.

    Returns:
        The maps. Attributes with fewer than 10 positives or 10 negatives use the shared one.

    Raises:
        CalibrationError: There are fewer than two groups, or no labels.
    """
    found = fit_selected(log_odds(probabilities)[:, :, None], labels, groups)
    return FittedMaps(
        maps=LogisticMaps(slopes=found.parameters.slopes[:, 0], offsets=found.parameters.offsets),
        own=found.own,
        shrinkage=found.penalty,
        held_out=found.held_out.astype(np.float32),
    )


def cross_fitted(
    probabilities: Floats, labels: Labels, groups: Sequence[str], folds: int = FOLDS, seed: int = 0
) -> npt.NDArray[np.float32]:
    """Return calibrated probabilities (M, n), each by maps that were fitted and selected without the person's group.

    Args:
        probabilities: The decoder's probabilities, (M, n).
        labels: int8 (M, n): 1 yes, 0 no, -1 unknown.
        groups: M names.
        folds: Parts that the groups are dealt to. Default: 10.
        seed: Seed of the deal. Default: 0.

    Raises:
        CalibrationError: There are too few groups, or no labels.
    """
    found = np.zeros(np.shape(probabilities), dtype=np.float32)
    for held in deal_groups(groups, folds, seed):
        rest = ~held
        fitted = fit_maps(
            probabilities[rest], labels[rest], [group for group, kept in zip(groups, rest, strict=True) if kept]
        )
        found[held] = fitted.maps(probabilities[held])
    return found


def deal_groups(groups: Sequence[str], folds: int, seed: int) -> list[npt.NDArray[np.bool_]]:
    """Deal groups to folds at random, as evenly as their number allows.

    Returns:
        Per fold, whether each person is in it, bool (M,). There are fewer folds if there are fewer groups.

    Raises:
        CalibrationError: There are fewer than two groups.
    """
    names, place = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        raise CalibrationError(
            "fitting data must have two or more groups of people to be held out in turn, got "
            f"{len(names)}; add people of other groups, or correct the column group"
        )
    folds = min(folds, len(names))
    fold = np.random.default_rng(seed).permutation(len(names)) % folds
    return [fold[place] == one for one in range(folds)]


def fit_selected(features: Float64Array, labels: Labels, groups: Sequence[str], *, shared_only: bool = False) -> Shrunk:
    """Fit shrunk maps of any features (M, n, F), with the strength of the least held-out negative log-likelihood.

    `shared_only` gives all attributes one map. Raises CalibrationError.
    """
    known, yes = labels >= 0, labels == 1
    if not known.any():
        raise CalibrationError("fitting data must have labels, got none; fill the columns of the attributes")
    own = _have_enough(labels) & (not shared_only)
    grid = [Penalty(slope=slope, offset=offset) for slope in _SLOPES for offset in _OFFSETS] if own.any() else []
    grid = grid or [Penalty(slope=_SLOPES[0], offset=_OFFSETS[0])]
    odds = np.zeros((len(grid), *labels.shape))
    for held in deal_groups(groups, _SELECTION_FOLDS, seed=1):
        there = _have_enough(labels[~held]) & own
        maps: Parameters | None = None
        for place, penalty in enumerate(grid):
            maps = fit_shrunk(features[~held], labels[~held], there, penalty, maps)
            odds[place, held] = maps(features[held])
    losses = ((np.logaddexp(0, odds) - yes * odds) * known).sum(axis=(1, 2))
    best = int(losses.argmin())
    return Shrunk(
        parameters=fit_shrunk(features, labels, own, grid[best]),
        penalty=grid[best],
        own=own,
        held_out=probability(odds[best]),
    )


def _have_enough(labels: Labels) -> npt.NDArray[np.bool_]:
    """Return the attributes with at least LEAST positives and negatives, bool (n,)."""
    return np.asarray(((labels == 1).sum(axis=0) >= LEAST) & ((labels == 0).sum(axis=0) >= LEAST))
