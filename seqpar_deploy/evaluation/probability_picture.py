"""Picture of a reliability diagram beside a risk-coverage curve, 1200 pixels wide."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING

from seqpar_deploy.evaluation.picture import check_available
from seqpar_deploy.evaluation.probability_metrics import ProbabilityMetrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = (("#2f6c9f", "-", "o"), ("#b3661b", "--", "s"), ("#767d85", ":", "^"))  # differ in grey, too
_INK, _FAINT, _GRID, _PAPER = "#22262b", "#767d85", "#e6e9ec", "#ffffff"


def draw_reliability(curves: Mapping[str, ProbabilityMetrics], title: str) -> bytes:
    """Draw a PNG of one to three results.

    Args:
        curves: Result by name, for example `calibrated` and `uncalibrated`.
        title: The heading.

    Returns:
        The PNG. On the left is the share of yes per bin of the probability, with dots as large as the bin's share of
        cells. On the right is the share of errors if only the most certain cells are decided.

    Raises:
        BackendUnavailableError: matplotlib is not installed.
    """
    check_available()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.4), dpi=150, facecolor=_PAPER)
    left = figure.add_axes((0.08, 0.13, 0.38, 0.66))
    right = figure.add_axes((0.58, 0.13, 0.38, 0.66))
    for axes, across, up in (
        (left, "predicted probability", "share of yes"),
        (right, "cells decided", "errors among them"),
    ):
        axes.set_xlabel(across, fontsize=9, color=_INK)
        axes.set_ylabel(up, fontsize=9, color=_INK)
        axes.tick_params(length=0, labelsize=8, labelcolor=_FAINT)
        axes.grid(color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
    left.set(xlim=(-0.07, 1.07), ylim=(-0.07, 1.07))
    left.plot([0, 1], [0, 1], color=_FAINT, linewidth=0.8)
    worst = 0.0
    for (name, metrics), (colour, line, mark) in zip(curves.items(), _STYLES, strict=False):
        _draw_bins(left, metrics, colour, line, mark)
        coverage, error = zip(*metrics.risk_coverage, strict=True)
        right.plot(coverage, error, color=colour, linestyle=line, linewidth=1.6, label=_label(name, metrics))
        worst = max(worst, *error)
    right.set(xlim=(0, 1.02), ylim=(0, max(0.01, 1.15 * worst)))
    for axis in (right.xaxis, right.yaxis):
        axis.set_major_formatter(_per_cent)
    right.legend(loc="upper left", fontsize=8, frameon=False, labelcolor=_INK)
    figure.text(0.03, 0.94, title, fontsize=11, color=_INK, weight="bold", va="center")
    note = "Dots are as large as their share of cells. On the line, probabilities are calibrated."
    figure.text(0.03, 0.875, note, fontsize=8, color=_FAINT, va="center")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_bins(axes: Axes, metrics: ProbabilityMetrics, colour: str, line: str, mark: str) -> None:
    bins = metrics.reliability
    cells = sum(one.cells for one in bins)
    across, up = [one.probability for one in bins], [one.share for one in bins]
    axes.plot(across, up, color=colour, linestyle=line, linewidth=1.0)
    sizes = [12 + 500 * one.cells / cells for one in bins]
    axes.scatter(across, up, s=sizes, color=colour, marker=mark, alpha=0.75, linewidth=0)


def _label(name: str, metrics: ProbabilityMetrics) -> str:
    return f"{name}, ECE {metrics.ece.value:.3f}"


def _per_cent(value: float, _position: object = None) -> str:
    return f"{100 * value:.3g} %"
