"""The learning curves of a run as a figure: training loss, and validation scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

_INK, _FAINT, _GRID, _F1, _MA = "#22262b", "#767d85", "#e6e9ec", "#2f6c9f", "#c06a1c"
_SCORES = {"f1": ("instance F1", _F1), "ma": ("mA", _MA)}


def learning_curves_figure(history: Sequence[Mapping[str, float]], title: str) -> Figure:
    """Return the figure, 1,320 pixels wide at 120 dpi.

    Args:
        history: A row per epoch with `epoch` and `loss` and, if the epoch was validated, `f1` and `ma` from 0 to 1.
        title: Name of the run.
    """
    validated = [row for row in history if "f1" in row]
    figure = Figure(figsize=(11, 4.4), dpi=120, facecolor="white")
    figure.text(0.02, 0.945, title, fontsize=11, color=_INK, weight="bold", va="center")
    figure.text(0.02, 0.875, _summary(history, validated), fontsize=9, color=_INK, va="center")
    left = figure.add_axes((0.055, 0.13, 0.405, 0.6))
    right = figure.add_axes((0.545, 0.13, 0.36, 0.6))
    epochs = [row["epoch"] for row in history]
    _style(left, epochs, "training loss per token")
    _curve(left, epochs, [row["loss"] for row in history], _INK)
    left.set_ylim(bottom=0)
    _style(right, epochs, "validation score, best epoch marked")
    right.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    ends = {}
    for score, (_, colour) in _SCORES.items():
        if validated:
            values = [row[score] for row in validated]
            _curve(right, [row["epoch"] for row in validated], values, colour)
            best = _best(validated, score)
            right.plot([best["epoch"]], [best[score]], "o", color=colour, markersize=6)
            ends[score] = values[-1]
    if ends:
        low = min(min(row[score] for row in validated) for score in _SCORES)
        room = 0.04 * (1 - low) + 0.002
        right.set_ylim(low - room, 1 + room)
        _name_curves(right, ends)
    else:
        right.text(0.5, 0.5, "no validation yet", transform=right.transAxes, color=_FAINT, ha="center", va="center")
        right.set_yticks([])
    return figure


def _summary(history: Sequence[Mapping[str, float]], validated: Sequence[Mapping[str, float]]) -> str:
    parts = [f"{len(history):,} {'epoch' if len(history) == 1 else 'epochs'}"]
    if history:
        parts.append(f"loss {history[-1]['loss']:.3g}")
    for score, (name, _) in _SCORES.items() if validated else ():
        best = _best(validated, score)
        parts.append(f"best {name} {100 * best[score]:.1f} % at epoch {best['epoch']:.0f}")
    return "     ".join(parts)


def _best(validated: Sequence[Mapping[str, float]], score: str) -> Mapping[str, float]:
    return max(validated, key=lambda row: row[score])


def _curve(axes: Axes, epochs: Sequence[float], values: Sequence[float], colour: str) -> None:
    axes.plot(epochs, values, color=colour, linewidth=1.6, marker="o" if len(epochs) < 3 else None, markersize=4)


def _style(axes: Axes, epochs: Sequence[float], title: str) -> None:
    axes.set_title(title, loc="left", fontsize=9, color=_INK, pad=8)
    axes.set_xlabel("epoch", fontsize=8, color=_FAINT)
    axes.tick_params(length=0, labelsize=8, labelcolor=_FAINT)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    first, last = (min(epochs), max(epochs)) if epochs else (0, 1)
    room = max(0.5 if last - first < 1 else 0.0, 0.02 * (last - first))
    axes.set_xlim(first - room, last + room)


def _name_curves(axes: Axes, ends: Mapping[str, float]) -> None:
    """Write each score's name right of the axes, at the end of its curve or, to keep both legible, near it."""
    low, high = axes.get_ylim()
    gap = 0.08 * (high - low)
    names = sorted(ends, key=lambda score: ends[score])
    heights = [ends[score] for score in names]
    if heights[1] - heights[0] < gap:
        middle = min(sum(heights) / 2, high - gap / 2)
        heights = [middle - gap / 2, middle + gap / 2]
    for score, height in zip(names, heights, strict=True):
        name, colour = _SCORES[score]
        axes.annotate(
            name, (1.02, height), xycoords=("axes fraction", "data"), color=colour, fontsize=9, va="center",
            annotation_clip=False,
        )  # fmt: skip
