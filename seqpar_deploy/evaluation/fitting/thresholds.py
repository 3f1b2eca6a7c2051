"""Choose thresholds on labelled people, for an objective or under a bound of the error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seqpar_deploy.calibration.maps import Float64Array, Floats, log_odds, probability
from seqpar_deploy.calibration.thresholds import Thresholds
from seqpar_deploy.calibration.thresholds import thresholds_to_toml as thresholds_to_toml  # seqpar calibrate uses both
from seqpar_deploy.errors import CalibrationError
from seqpar_deploy.evaluation.fitting.error_bound import bound_error, symmetric
from seqpar_deploy.vocab import LabelSet

Labels = npt.NDArray[np.int8]
Objective = Literal["probable", "f1", "ma", "precision", "max_error"]

CONFIDENCE = 0.9  # default of --confidence
_DIGITS = 4  # of a chosen threshold: people read them, and 166 people do not tell more
_F1_CANDIDATES = [round(0.3 + 0.01 * step, 2) for step in range(41)]  # 0.3 to 0.7
_PART = 0.7  # of the log-odds of the share; on held-out people, mA is flat from 0.6 to 0.8, and F1 falls
_PRIOR = 10  # people who count as their calibrated probabilities, when a precision is estimated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """Say how thresholds are chosen.

    Attributes:
        objective: `probable` is 0.5 for every attribute, `f1` the highest F1 over people, `ma` the highest mA over
            attributes, `precision` the lowest thresholds of a precision, `max_error` a bound of the error.
        value: The precision, or the greatest error. Default: None, for the other objectives.
        confidence: Confidence of `max_error`. Default: None, for the other objectives.
    """

    objective: Objective = "f1"
    value: float | None = None
    confidence: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as JSON values, without those that are None."""
        return {key: value for key, value in dataclasses.asdict(self).items() if value is not None}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Chosen:
    """Hold chosen thresholds.

    Attributes:
        thresholds: The thresholds.
        rule: How they were chosen, as JSON values.
        notes: What a reader must know, a sentence each.
    """

    thresholds: Thresholds
    rule: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def parse_rule(objective: str | None, max_error: float | None, confidence: float | None) -> Rule:
    """Make the rule of the options `--objective`, `--max-error` and `--confidence`.

    Args:
        objective: `f1`, `ma`, `probable`, or a precision such as `precision=0.95`. None: `f1`.
        max_error: Greatest share of wrong states among `yes` and `no`, above 0 and below 0.5. None: no bound.
        confidence: Confidence of the bound, 0.5 to below 1. None: 0.9.

    Returns:
        The rule.

    Raises:
        CalibrationError: A value is out of range, or two exclude each other.
    """
    if max_error is not None:
        if objective is not None:
            raise CalibrationError(f"--objective must be omitted with --max-error, got {objective}; omit one of them")
        if not 0 < max_error < 0.5:
            raise CalibrationError(
                f"--max-error must be above 0 and below 0.5, got {max_error:g}; for example 0.02 for 2 %"
            )
        confidence = CONFIDENCE if confidence is None else confidence
        if not 0.5 <= confidence < 1:
            raise CalibrationError(f"--confidence must be 0.5 to below 1, got {confidence:g}; for example 0.9")
        return Rule(objective="max_error", value=max_error, confidence=confidence)
    if confidence is not None:
        raise CalibrationError(f"--confidence must be given with --max-error only, got {confidence:g}; omit it")
    if objective is None or objective == "f1":  # 0.5 for all loses 0.4 points of F1 against the emitted labels
        return Rule(objective="f1")
    if objective == "probable":
        return Rule(objective="probable")
    if objective == "ma":
        return Rule(objective="ma")
    name, _, text = objective.partition("=")
    if name == "precision":
        return Rule(objective="precision", value=_precision(text))
    raise CalibrationError(
        f"--objective must be probable, f1, ma or precision=VALUE, got {objective!r}; for example precision=0.95"
    )


def choose_thresholds(
    rule: Rule,
    probabilities: Floats,
    labels: Labels,
    label_set: LabelSet,
    groups: Sequence[str],
) -> Chosen:
    """Choose thresholds on labelled people.

    Args:
        rule: How to choose them.
        probabilities: Calibrated probabilities (M, n), each of a map that was fitted without the person's group.
        labels: int8 (M, n), 1 yes, 0 no, -1 unknown.
        label_set: The label set. At most one attribute of an exclusive group is `yes`.
        groups: The group of each person. People of one group are alike.

    Returns:
        The thresholds.

    Raises:
        CalibrationError: The shapes differ, a probability is NaN, or nothing can be promised.
    """
    _check(probabilities, labels, label_set, groups)
    values = np.asarray(probabilities, dtype=np.float64)
    attributes = values.shape[1]
    if rule.objective == "f1":
        return _cut(np.full(attributes, _shared_for_f1(values, label_set)), rule, label_set)
    if rule.objective == "ma":
        # With calibrated probabilities, the sum of both recalls is greatest at the share of people who have the
        # attribute, which the mean probability estimates with less noise than labels do. Rare attributes make that
        # share, and so the gain, uncertain: thresholds a part of the way from 0.5 lose less F1 for the same mA.
        return _cut(probability(_PART * log_odds(values.mean(axis=0))), rule, label_set)
    if rule.objective == "precision" and rule.value is not None:
        at = np.array([_for_precision(values[:, k], labels[:, k], rule.value) for k in range(attributes)])
        return _cut(at, rule, label_set, _never_yes(at, rule.value, label_set))
    if rule.objective == "max_error" and rule.value is not None:
        return _bounded(values, labels, groups, rule, label_set)
    return _cut(np.full(attributes, 0.5), rule, label_set)


def _bounded(
    probabilities: Float64Array, labels: Labels, groups: Sequence[str], rule: Rule, label_set: LabelSet
) -> Chosen:
    max_error, confidence = rule.value or 0.0, rule.confidence or CONFIDENCE
    found = bound_error(
        probabilities,
        labels,
        groups,
        max_error=max_error,
        confidence=confidence,
        exclusive=label_set.exclusive,
    )
    note = (
        f"at confidence {confidence:g}, at most {max_error:.2%} of the states yes and no are wrong, as a mean over "
        f"attributes: yes from {found.limit:g}, no below {1 - found.limit:.5g}. On the data, {found.error:.2%} of them "
        f"are wrong, and {found.coverage:.1%} of all states are yes or no"
    )
    return Chosen(
        thresholds=symmetric(found.limit, len(label_set), label_set.exclusive),
        rule={**rule.to_dict(), "found": dataclasses.asdict(found)},
        notes=(note,),
    )


def _shared_for_f1(probabilities: Float64Array, label_set: LabelSet) -> float:
    """Return the threshold of all attributes with the highest F1 that the probabilities themselves expect.

    Labels would add noise: F1 on held-out people was 84.8 +- 0.1 %, with the threshold of the highest F1 on the labels
    84.6 +- 0.3 %, with 0.5 84.4 %, of the emitted labels 84.6 %.
    """

    def expected(at: float) -> float:
        codes = _decide(np.full(probabilities.shape[1], at), label_set).codes(probabilities)
        right = (probabilities * (codes == 1)).sum(axis=1)
        both = (codes == 1).sum(axis=1) + probabilities.sum(axis=1)
        return float(np.divide(2 * right, both, out=np.zeros(len(both)), where=both > 0).mean())

    return max(_F1_CANDIDATES, key=expected)


def _for_precision(probabilities: Float64Array, labels: Labels, precision: float) -> float:
    """Return the lowest threshold of one attribute whose precision reaches a value. Infinite if none does.

    The labels of the people above a threshold are averaged with as many as `_PRIOR` people whose precision is the mean
    of their probabilities, so that three people who are right do not make a precision of 100 %.
    """
    known = labels >= 0
    order = np.argsort(-probabilities[known], kind="stable")
    chances, yes = probabilities[known][order], labels[known][order] == 1
    above = np.arange(1, len(chances) + 1)
    reached = (yes.cumsum() + _PRIOR * chances.cumsum() / above) / (above + _PRIOR) >= precision
    last = np.append(chances[1:] < chances[:-1], True)[: len(chances)]  # of those who are equally probable
    found = np.flatnonzero(reached & last)
    if not len(found):
        return math.inf
    # Half-way to the next person, who is not to be `yes`.
    following = chances[found[-1] + 1] if found[-1] + 1 < len(chances) else chances[found[-1]]
    return float((chances[found[-1]] + following) / 2)


def _never_yes(at: Float64Array, precision: float, label_set: LabelSet) -> tuple[str, ...]:
    names = [one.name for one, value in zip(label_set.attributes, at, strict=True) if not np.isfinite(value)]
    if not names:
        return ()
    return (f"no threshold reaches precision {precision:g} for {', '.join(names)}: these are never yes",)


def _decide(at: Float64Array, label_set: LabelSet) -> Thresholds:
    """Return thresholds that decide every attribute: yes from `at` on, else no. Infinite: never yes."""
    return Thresholds(yes=at, no=np.minimum(at, 1.0), exclusive=label_set.exclusive)


def _cut(at: Float64Array, rule: Rule, label_set: LabelSet, notes: tuple[str, ...] = ()) -> Chosen:
    """Return thresholds that decide every attribute: yes from `at` on, else no."""
    return Chosen(thresholds=_decide(np.round(at, _DIGITS), label_set), rule=rule.to_dict(), notes=notes)


def _precision(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise CalibrationError(
            f"--objective precision must be above 0 and below 1, got {text!r}; for example precision=0.95"
        )
    return value


def _check(probabilities: Floats, labels: Labels, label_set: LabelSet, groups: Sequence[str]) -> None:
    expected = (len(groups), len(label_set))
    if np.shape(probabilities) != expected or np.shape(labels) != expected:
        raise CalibrationError(
            f"probabilities and labels must be (people, attributes) {expected}, got {np.shape(probabilities)} and "
            f"{np.shape(labels)}; pass a group for each person"
        )
    if not np.isfinite(probabilities).all():
        raise CalibrationError("probabilities must be numbers, got NaN; check the bundle with seqpar parity")
