"""Picture of scores, with one row per attribute, 1200 pixels wide."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from seqpar_deploy.errors import BackendUnavailableError
from seqpar_deploy.evaluation.metrics import AttributeMetrics, Metrics
from seqpar_deploy.evaluation.score_table import OVERALL, recalls
from seqpar_deploy.vocab import LabelSet

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 150
_WIDTH = 8.0  # inches
_ROW, _GAP, _HEAD, _FOOT = 0.20, 0.11, 1.12, 0.42  # inches: an attribute, between groups, above and below the rows
_NAMES, _BARS = 2.15 / _WIDTH, 3.75 / _WIDTH  # shares of the width
_YES, _NO, _INK, _FAINT, _PAPER = "#2f6c9f", "#b9c4cd", "#22262b", "#767d85", "#ffffff"
_COLUMNS = (("yes", 1.14), ("known", 1.27), ("mA", 1.38), ("F1", 1.49))  # right edges; the bars end at 1


def check_available() -> None:
    """Raise BackendUnavailableError, naming what to install, if pictures cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise BackendUnavailableError(
            "a picture needs matplotlib, which is not installed; pip install 'seqpar-deploy[eval]'"
        ) from None


def draw_metrics(metrics: Metrics, label_set: LabelSet, title: str) -> bytes:
    """Draw a PNG: bars for recall on yes and on no, then counts, mA and F1, grouped as the label set."""
    check_available()
    from matplotlib.figure import Figure

    places, depth = _places(label_set)
    height = _HEAD + depth + _FOOT
    figure = Figure(figsize=(_WIDTH, height), dpi=_DPI, facecolor=_PAPER)
    axes = figure.add_axes((_NAMES, _FOOT / height, _BARS, depth / height))
    axes.set(xlim=(0, 1), ylim=(depth, 0))
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100 %"], fontsize=7.5, color=_FAINT)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.grid(axis="x", color="#e6e9ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    for attribute, row, top in zip(label_set.attributes, metrics.attributes, places, strict=True):
        _draw_row(axes, attribute.name, row, top)

    left = 0.2 / _WIDTH
    overall = "     ".join(f"{title} {100 * getattr(metrics, name):.1f}" for name, title in OVERALL.items())
    figure.text(left, 1 - 0.30 / height, title, fontsize=11, color=_INK, weight="bold", va="center")
    people = "1 person" if metrics.people == 1 else f"{metrics.people:,} people"
    figure.text(left, 1 - 0.56 / height, f"{people}     {overall}", fontsize=9, color=_INK, va="center")
    for name, right in _COLUMNS:
        axes.text(right, -0.14, name, fontsize=7.5, color=_FAINT, ha="right", va="center")
    axes.text(0, -0.14, "■", fontsize=7.5, color=_YES, va="center")
    axes.text(0.035, -0.14, "recall on yes", fontsize=7.5, color=_FAINT, va="center")
    axes.text(0.27, -0.14, "■", fontsize=7.5, color=_NO, va="center")
    axes.text(0.305, -0.14, "recall on no", fontsize=7.5, color=_FAINT, va="center")

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _places(label_set: LabelSet) -> tuple[list[float], float]:
    """The top of each attribute's row, and the bottom of the last, in inches."""
    places: list[float] = []
    depth = 0.0
    before = label_set.attributes[0].group
    for attribute in label_set.attributes:
        depth += _GAP if attribute.group != before else 0
        places.append(depth)
        depth, before = depth + _ROW, attribute.group
    return places, depth


def _draw_row(axes: Axes, name: str, row: AttributeMetrics, top: float) -> None:
    middle = top + _ROW / 2
    axes.text(-0.025, middle, name, fontsize=8.5, color=_INK, ha="right", va="center")
    yes, no = recalls(row)
    for score, place, colour in ((yes, -0.040, _YES), (no, 0.040, _NO)):
        if score is not None:
            axes.barh(middle + place, score, height=0.066, color=colour, linewidth=0)
    values = (
        f"{row.positives:,}",
        f"{row.known:,}",
        f"{100 * row.ma:.1f}" if row.known else "-",
        f"{100 * row.f1:.1f}" if row.positives or row.predicted else "-",
    )
    for value, (_, right) in zip(values, _COLUMNS, strict=True):
        axes.text(right, middle, value, fontsize=8, color=_INK, ha="right", va="center")
