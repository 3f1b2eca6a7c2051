"""Fit one map of probabilities per attribute, shrunk to a map that all share, by penalised maximum likelihood.

A map of attribute k is z = sum over f of exp(a_kf) x_f + b_k, with log slopes a and an offset b, so slopes are above 0.
Its parameters are a shared part plus an own part. The fit minimises

    negative log-likelihood + 1/2 (slope penalty |own a|^2 + offset penalty |own b|^2), summed over attributes

by Fisher scoring. The information matrix has the form of an arrow (a small block per attribute, and the shared one), so
an iteration costs little more than the likelihood itself.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from seqpar_deploy.calibration.maps import Float64Array, probability

_RIDGE = 1e-2  # on shared parameters, towards the identity: keeps those of separable labels finite
_ITERATIONS = 100  # 4 to 8 are usual
_HALVINGS = 30
_STEEPEST = 1e6  # a step to a steeper slope is halved
_DONE = 1e-7  # relative decrease of the objective at which the fit ends


@dataclasses.dataclass(frozen=True, kw_only=True)
class Penalty:
    """Hold the strengths that pull the own parts of a map to 0. Labels of one attribute count 1 each.

    Attributes:
        slope: Strength on the difference of log slopes.
        offset: Strength on the difference of offsets.
    """

    slope: float
    offset: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Parameters:
    """Hold the maps of n attributes with F features: log slopes first, the offset last.

    Attributes:
        shared: Parameters that all attributes share, float64 (F + 1,).
        own: What each attribute adds to them, float64 (n, F + 1).
    """

    shared: Float64Array
    own: Float64Array

    @classmethod
    def identity(cls, attributes: int, features: int) -> Parameters:
        """Return the maps to begin with: slopes 1, offsets 0."""
        return cls(shared=np.zeros(features + 1), own=np.zeros((attributes, features + 1)))

    @property
    def slopes(self) -> Float64Array:
        """Slopes, float64 (n, F)."""
        return np.asarray(np.exp(np.clip(self.shared[:-1] + self.own[:, :-1], -50, 50)))

    @property
    def offsets(self) -> Float64Array:
        """Offsets, float64 (n,)."""
        return np.asarray(self.shared[-1] + self.own[:, -1])

    def __call__(self, features: Float64Array) -> Float64Array:
        """Return log-odds (M, n) of features (M, n, F)."""
        return np.asarray((features * self.slopes).sum(axis=-1) + self.offsets)


def fit_shrunk(
    features: Float64Array,
    labels: npt.NDArray[np.int8],
    own: npt.NDArray[np.bool_],
    penalty: Penalty,
    start: Parameters | None = None,
) -> Parameters:
    """Fit maps.

    Args:
        features: Features of each person and attribute, float64 (M, n, F).
        labels: int8 (M, n): 1 yes, 0 no, -1 unknown, which is left out.
        own: Attributes that have an own part, bool (n,). The others use the shared map.
        penalty: Strengths of the shrinkage.
        start: Maps to begin with, for example those of another penalty. Default: the identity.

    Returns:
        The parameters of the maps.
    """
    attributes, width = features.shape[1:]
    known, yes = labels >= 0, labels == 1
    strength = np.array([penalty.slope] * width + [penalty.offset])
    now = start or Parameters.identity(attributes, width)

    def objective(maps: Parameters) -> float:
        odds = maps(features)
        losses = np.logaddexp(0, odds) - yes * odds
        fine = (strength * maps.own**2).sum() + _RIDGE * (maps.shared**2).sum()
        return float((losses * known).sum() + fine / 2)

    value = objective(now)
    for _ in range(_ITERATIONS):
        shared_step, own_step = _step(features, known, yes, own, strength, now)
        size = 1.0
        for _ in range(_HALVINGS):
            following = Parameters(shared=now.shared + size * shared_step, own=now.own + size * own_step)
            if following.slopes.max() < _STEEPEST and (after := objective(following)) < value:
                break
            size /= 2
        else:
            return now
        decrease, value, now = value - after, after, following
        if decrease < _DONE * (abs(value) + 1):
            break
    return now


def _step(
    features: Float64Array,
    known: npt.NDArray[np.bool_],
    yes: npt.NDArray[np.bool_],
    own: npt.NDArray[np.bool_],
    strength: Float64Array,
    now: Parameters,
) -> tuple[Float64Array, Float64Array]:
    """Return the step of Fisher scoring for the shared (F + 1,) and own (n, F + 1) parameters."""
    chance = probability(now(features))
    residual = (chance - yes) * known
    weight = chance * (1 - chance) * known
    slopes = features * now.slopes  # the derivative of the log-odds by the log slopes; by the offset it is 1
    derivative = np.concatenate([slopes, np.ones((*slopes.shape[:2], 1))], axis=2).transpose(1, 2, 0)  # (n, F + 1, M)
    gradient = (derivative * residual.T[:, None]).sum(axis=2)
    information = (derivative * weight.T[:, None]) @ derivative.transpose(0, 2, 1)  # (n, F + 1, F + 1)

    inverse = np.linalg.inv(information + np.diag(strength + 1e-12)) * own[:, None, None]
    own_gradient = (gradient + strength * now.own) * own[:, None]
    ridge = _RIDGE * np.eye(len(strength))
    carried = information @ inverse  # the shared parameters' share of an own step
    reduced = information.sum(axis=0) + ridge - (carried @ information).sum(axis=0)
    reduced_gradient = (
        gradient.sum(axis=0) + _RIDGE * now.shared - (carried @ own_gradient[:, :, None]).sum(axis=0)[:, 0]
    )
    shared_step = -np.linalg.solve(reduced, reduced_gradient)
    own_step = -(inverse @ (own_gradient + information @ shared_step)[:, :, None])[:, :, 0]
    return shared_step, own_step
