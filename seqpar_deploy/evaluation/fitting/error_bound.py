"""Bound the share of wrong states among `yes` and `no`, by one limit of the probability for all attributes.

A state is `yes` from limit t on, `no` below 1 - t, and else `unknown`. The bound is exact for independent labels
(Clopper and Pearson, 1934). Labels of one person, and people of one group, err together. So the bound counts with
fewer labels, by the design effect (Korn and Graubard, 1998): the variance of the error over groups, relative to that
of independent labels.

Limits are tested from strict to loose, and the last one before the first failure is kept (fixed
sequence testing). Each test has the full confidence, and so has the limit that is kept: a wrong one is kept only if the
first wrong one passes.

The bound holds for the mean over attributes. Limits of their own would divide the confidence by the attributes: at 2 %
and 95 %, an attribute alone needs 149 people without an error, see `cells_without_error`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from seqpar_deploy.calibration.maps import Floats, probability
from seqpar_deploy.calibration.thresholds import Thresholds
from seqpar_deploy.errors import BackendUnavailableError, CalibrationError

Labels = npt.NDArray[np.int8]

# The limits that are tested, strict to loose: fixed before any label is seen. A step of 0.05 in log-odds decides 0.5 %
# more cells in the middle.
LIMITS = np.append(np.round(probability(np.arange(8, 0.01, -0.05)), 5), 0.5)
_EASY = 0.6  # of the greatest error: the first limit that is tested has this bound, if the probabilities are right
_USUAL_EFFECT = 1.7  # design effect of the demo model's people at limits of 0.9 to 0.99


@dataclasses.dataclass(frozen=True, kw_only=True)
class ErrorBound:
    """Hold a limit and what is known of the error under it.

    Attributes:
        limit: The states are `yes` from this probability on, and `no` below 1 minus it. 0.5 to 1.
        bound: The error is at most this, with the confidence.
        error: Share of wrong states among `yes` and `no` with a known label.
        coverage: Share of `yes` and `no` among all states with a known label.
        cells: Number of `yes` and `no` with a known label.
        design_effect: The cells tell as much as this many times fewer independent ones, 1 or more.
        freedom: Degrees of freedom of the design effect, 1 or more.
    """

    limit: float
    bound: float
    error: float
    coverage: float
    cells: int
    design_effect: float
    freedom: float


def cells_without_error(max_error: float, confidence: float) -> int:
    """Return how many independent labels, none of them wrong, bound the error. For 0.02 and 0.95: 149."""
    return math.ceil(math.log1p(-confidence) / math.log1p(-max_error))


def symmetric(limit: float, attributes: int, exclusive: tuple[tuple[int, ...], ...] = ()) -> Thresholds:
    """Return thresholds of all attributes: yes from a limit on, no below 1 minus it."""
    low = round(1 - limit, 5)
    return Thresholds(yes=np.full(attributes, limit), no=np.full(attributes, low), exclusive=exclusive)


def bound_error(
    probabilities: Floats,
    labels: Labels,
    groups: Sequence[str],
    *,
    max_error: float,
    confidence: float,
    exclusive: tuple[tuple[int, ...], ...] = (),
) -> ErrorBound:
    """Find the loosest limit whose error is bounded.

    Args:
        probabilities: Calibrated probabilities (M, n), each of a map that was fitted without the person's group.
        labels: int8 (M, n), 1 yes, 0 no, -1 unknown.
        groups: The group of each person.
        max_error: Greatest share of wrong states among `yes` and `no`, above 0 and below 1.
        confidence: Probability that the error is at most `max_error`, over people to calibrate on. Below 1.
        exclusive: Attributes of each exclusive group, as indices. At most one of a group is `yes`.

    Returns:
        The limit.

    Raises:
        CalibrationError: No limit passes. The error has the number of people that would be needed.
        BackendUnavailableError: SciPy is missing.
    """
    known = int((labels >= 0).sum())
    places = np.unique(np.asarray(groups), return_inverse=True)[1]
    passed: ErrorBound | None = None
    for limit in LIMITS[_first(probabilities, labels >= 0, max_error, confidence) :].tolist():
        codes = symmetric(limit, labels.shape[1], exclusive).codes(probabilities)
        decided = (codes >= 0) & (labels >= 0)
        tested = _test(limit, decided, decided & (codes != labels), places, known, confidence)
        if tested.bound > max_error:
            if passed is None:
                raise CalibrationError(_why_nothing(tested, max_error, confidence, len(labels)))
            break
        passed = tested
    assert passed is not None  # one limit or more is tested
    return passed


def _first(probabilities: Floats, known: npt.NDArray[np.bool_], max_error: float, confidence: float) -> int:
    """Return the place in `LIMITS` of the first limit to test: neither hard, nor with few labels.

    It follows from the probabilities only. If it depended on the labels, the test would not be valid.
    """
    chances = np.asarray(probabilities, dtype=np.float64)[known]
    certain = np.maximum(chances, 1 - chances)
    bounds = []
    for limit in LIMITS:
        decided = certain[certain >= limit]
        expected = float((1 - decided).mean()) if len(decided) else 1.0
        bounds.append(upper_bound(expected, len(decided) / _USUAL_EFFECT, confidence, freedom=math.inf))
    easy = np.flatnonzero(np.array(bounds) <= _EASY * max_error)
    return int(easy[-1] if len(easy) else np.argmin(bounds))


def _test(
    limit: float,
    decided: npt.NDArray[np.bool_],
    wrong: npt.NDArray[np.bool_],
    places: npt.NDArray[np.intp],
    known: int,
    confidence: float,
) -> ErrorBound:
    """Bound the error of a limit. `places` (M,) is the group of each person."""
    cells = np.bincount(places, weights=decided.sum(axis=1)).astype(np.float64)
    errors = np.bincount(places, weights=wrong.sum(axis=1))
    number, found = cells.sum(), errors.sum()
    rate = float(found / number) if number else 0.0
    effect = 1.0
    if found and (cells > 0).sum() > 1:
        # A large group pulls the rate towards its own, so its residual is raised by its share (as a jackknife does).
        residuals = (errors - rate * cells) / (1 - cells / number)
        variance = len(cells) / (len(cells) - 1) * (residuals**2).sum() / number**2
        effect = max(1.0, float(variance / max(rate * (1 - rate) / number, 1e-300)))
    freedom = _freedom(cells)
    alone = (cells > 0).sum() < 2  # nothing is known of other groups
    return ErrorBound(
        limit=limit,
        bound=1.0 if alone else upper_bound(rate, number / effect, confidence, freedom=freedom),
        error=rate,
        coverage=float(number / known) if known else 0.0,
        cells=int(number),
        design_effect=effect,
        freedom=freedom,
    )


def _freedom(cells: npt.NDArray[np.float64]) -> float:
    """Return the degrees of freedom of the design effect, given the cells of each group: fewer if some are large.

    With 131 groups of one person and four of 6 to 12, they are about 7 at 2 %. With 134, one fewer than the groups, the
    bound of 5 % at confidence 0.9 held in 86.5 % of 1,000 simulated fits instead of 90 %: if large groups happen to
    have few errors, both the error and the design effect are too low. With these, it held in 90.3 %.
    """
    squares = cells**2
    return max(1.0, float(squares.sum() ** 2 / max((squares**2).sum(), 1.0)) - 2)


def upper_bound(rate: float, number: float, confidence: float, *, freedom: float) -> float:
    """Return the one-sided bound by Clopper and Pearson of an error rate.

    Args:
        rate: Observed error rate.
        number: Independent labels, or as many as the labels tell. It need not be a whole number.
        confidence: Confidence of the bound.
        freedom: Degrees of freedom of the design effect. Few estimate it badly, so the labels count as fewer:
            Student's distribution is wider than the normal one. Infinite if the labels are independent.

    Returns:
        The bound, at most 1.
    """
    try:
        from scipy.special import betaincinv, ndtri, stdtrit
    except ImportError:
        raise BackendUnavailableError("--max-error needs SciPy; pip install 'seqpar-deploy[eval]'") from None
    if number <= 0:
        return 1.0
    if confidence > 0.5 and math.isfinite(freedom):
        number *= float(ndtri(confidence) / stdtrit(freedom, confidence)) ** 2
    wrong = rate * number
    return float(betaincinv(wrong + 1, number - wrong, confidence)) if number > wrong else 1.0


def _why_nothing(tested: ErrorBound, max_error: float, confidence: float, people: int) -> str:
    """Return why the first limit fails, with the number of people that would pass."""
    wanted = f"--max-error {max_error:g} at confidence {confidence:g}"
    seen = (
        f"{tested.error:.2%} of the {tested.cells} most certain labels are wrong, which bounds it to {tested.bound:.2%}"
    )
    if tested.error >= max_error:
        return f"{wanted} must be above the error of the most certain labels: {seen}; raise --max-error"
    number = float(cells_without_error(max_error, confidence))
    while upper_bound(tested.error, number, confidence, freedom=tested.freedom) > max_error and number < 1e9:
        number *= 1.02
    enough = math.ceil(number * tested.design_effect / (tested.cells / people))
    return (
        f"{wanted} must be promised by more people, got {people}: {seen}; calibrate on about {max(enough, people + 1)} "
        "people, or raise --max-error"
    )
