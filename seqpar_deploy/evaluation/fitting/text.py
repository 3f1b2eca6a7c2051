"""Text of a calibration: its report on people held out, and its thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seqpar_deploy.calibration.sidecar import AttributeCalibration
from seqpar_deploy.evaluation.fitting.calibrate import Calibrated
from seqpar_deploy.evaluation.fitting.maps import LEAST

_SCORES = {"ece": "ECE, 15 bins", "brier": "Brier score", "nll": "negative log-likelihood"}
_PUBLISHED = {"ma": "mA", "accuracy": "Acc", "precision": "Prec", "recall": "Recall", "f1": "F1"}


def format_calibrated(done: Calibrated) -> str:
    """Format the report, the attributes and the notes of a calibration."""
    values = done.report.values
    parts = [
        _probabilities(values),
        _labels(values),
        _attributes(done.calibration.attributes, values),
        *(f"note: {note}" for note in done.notes),
    ]
    return "\n\n".join(parts)


def _probabilities(values: Mapping[str, Any]) -> str:
    before, after = values["uncalibrated"], values["calibrated"]
    rows: list[tuple[str, str, str]] = [
        (f"held out, {values['folds']} folds", "not calibrated", "calibrated"),
        *((title, _estimate(before[name]), _estimate(after[name])) for name, title in _SCORES.items()),
        ("  difference", "", _estimate(values["nll_difference"], sign="+")),
        (f"mean AUC, {LEAST}+ of each", _estimate(before["auc"]), "the same: a map keeps the order"),
        ("  emitted labels", _estimate(values["auc_of_emitted_labels"]), ""),
    ]
    return _table(rows)


def _labels(values: Mapping[str, Any]) -> str:
    published, before, after = values["published"], values["uncalibrated"], values["calibrated"]
    rows = [("held out, per cent", "emitted labels", "at thresholds", "difference")]
    for name, title in _PUBLISHED.items():
        difference = published["difference"].get(name)
        shown = "" if difference is None else _estimate(difference, sign="+", scale=100)
        first, second = (f"{100 * published[key][name]:.2f}" for key in ("emitted", "at_thresholds"))
        rows.append((title, first, second, shown))
    for name, title in {"coverage": "coverage", "error": "error if decided"}.items():
        rows.append((title, _estimate(before[name], scale=100), _estimate(after[name], scale=100), ""))
    return _table(rows)


def _attributes(attributes: Mapping[str, AttributeCalibration], values: Mapping[str, Any]) -> str:
    rows = [("attribute", "yes", "no", "map", "slope", "offset", "no below", "yes from")]
    rows += [
        (
            name,
            f"{one.positives}",
            f"{one.negatives}",
            one.map,
            f"{one.slope:.2f}",
            f"{one.offset:+.2f}",
            _threshold(one.no),
            _threshold(one.yes),
        )
        for name, one in attributes.items()
    ]
    return _table(rows)


def _threshold(value: float | None) -> str:
    return "never" if value is None else f"{value:.3f}"


def _estimate(estimate: Mapping[str, float | None] | None, *, sign: str = "", scale: float = 1) -> str:
    """Format an estimate and its interval, for example `0.012 (0.009 to 0.015)`."""
    if estimate is None or estimate["value"] is None:
        return "-"
    digits = 3 if scale == 1 else 2
    value, low, high = (
        "-" if number is None else f"{scale * number:{sign}.{digits}f}"
        for number in (estimate["value"], estimate["low"], estimate["high"])
    )
    return f"{value} ({low} to {high})"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
