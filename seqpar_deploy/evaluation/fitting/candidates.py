"""Ways to calibrate, with one signature, to be compared by cross-validation. `seqpar calibrate` uses `fit_maps`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from seqpar_deploy.calibration.maps import Float64Array, Floats, log_odds, probability
from seqpar_deploy.errors import BackendUnavailableError
from seqpar_deploy.evaluation.fitting.maps import LEAST, Labels, fit_maps, fit_selected

Calibrator = Callable[[Floats], Floats]
Fit = Callable[[Floats, Labels, Sequence[str]], Calibrator]
"""Fits a calibration to probabilities (M, n), labels (M, n) and M groups. It maps other probabilities (..., n)."""


def _none(probabilities: Floats, labels: Labels, groups: Sequence[str]) -> Calibrator:
    return lambda others: others


def _temperature(probabilities: Floats, labels: Labels, groups: Sequence[str]) -> Calibrator:
    """One factor of all log-odds, by Newton's method on its logarithm."""
    known = labels >= 0
    odds, yes = log_odds(probabilities[known]), labels[known] == 1
    log_slope = 0.0
    for _ in range(100):
        scaled = odds * np.exp(log_slope)
        chance = probability(scaled)
        curvature = (chance * (1 - chance) * scaled**2).sum() + 1e-6
        step = float(((chance - yes) * scaled).sum() / curvature)
        log_slope -= float(np.clip(step, -1, 1))
        if abs(step) < 1e-9:
            break
    return lambda others: probability(log_odds(others) * np.exp(log_slope))


def _shared_platt(probabilities: Floats, labels: Labels, groups: Sequence[str]) -> Calibrator:
    found = fit_selected(log_odds(probabilities)[:, :, None], labels, groups, shared_only=True)
    return lambda others: probability(found.parameters(log_odds(others)[:, :, None]))


def _shrunk_platt(probabilities: Floats, labels: Labels, groups: Sequence[str]) -> Calibrator:
    return fit_maps(probabilities, labels, groups).maps


def _beta_features(probabilities: Floats) -> Float64Array:
    limited = np.clip(np.asarray(probabilities, dtype=np.float64), 1e-6, 1 - 1e-6)
    return np.stack([np.log(limited), -np.log1p(-limited)], axis=-1)


def _beta(shared_only: bool) -> Fit:
    def fit(probabilities: Floats, labels: Labels, groups: Sequence[str]) -> Calibrator:
        found = fit_selected(_beta_features(probabilities), labels, groups, shared_only=shared_only)
        return lambda others: probability(found.parameters(_beta_features(others)))

    return fit


def _isotonic_steps(probabilities: Floats, labels: Labels) -> tuple[Float64Array, Float64Array]:
    """Return (probabilities, calibrated ones) of known labels, ascending."""
    try:
        from scipy.optimize import isotonic_regression
    except ImportError:
        raise BackendUnavailableError(
            "isotonic maps need SciPy 1.12 or later; pip install 'seqpar-deploy[eval]'"
        ) from None
    known = labels >= 0
    # Equal probabilities get one value, the mean of their labels.
    values, place, counts = np.unique(probabilities[known], return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=labels[known] == 1) / counts
    return values.astype(np.float64), isotonic_regression(means, weights=counts).x


def _isotonic(probabilities: Floats, labels: Labels, groups: Sequence[str]) -> Calibrator:
    steps = _isotonic_steps(probabilities, labels)
    return lambda others: np.interp(others, *steps)


def _isotonic_each(probabilities: Floats, labels: Labels, groups: Sequence[str]) -> Calibrator:
    """One map per attribute. Attributes with too few labels use the pooled one."""
    pooled = _isotonic_steps(probabilities, labels)
    steps = [
        _isotonic_steps(probabilities[:, place], column) if _has_enough(column) else pooled
        for place, column in enumerate(labels.T)
    ]
    return lambda others: np.stack([np.interp(others[:, k], *step) for k, step in enumerate(steps)], axis=1)


def _has_enough(column: Labels) -> bool:
    return min(int((column == 1).sum()), int((column == 0).sum())) >= LEAST


CANDIDATES: Mapping[str, Fit] = {
    "none": _none,
    "temperature": _temperature,
    "Platt, shared": _shared_platt,
    "Platt per attribute, shrunk": _shrunk_platt,
    "beta, shared": _beta(shared_only=True),
    "beta per attribute, shrunk": _beta(shared_only=False),
    "isotonic, pooled": _isotonic,
    "isotonic per attribute": _isotonic_each,
}
"""Fits by name."""
