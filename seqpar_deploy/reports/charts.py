"""Charts with one row per variant: median times, their distributions, and the share of each stage.

Each variant becomes one `VariantRow`, so that its number and name are the same in all charts and tables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.numbers import known, milliseconds, percent, tick, times
from seqpar_deploy.reports.svg import WIDTH, Scale, box, drawing, fitted, line, text, wide, x_axis

STAGES = {"preprocess": "preprocessing", "encode": "encoder", "decode": "decoder steps", "host": "host"}

_ROW, _BAR = 41.0, 14.0  # a line of text and a bar; the bar
_MARGIN = 4.0
_POINTS = 60  # runs drawn at most; more are thinned by rank


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariantRow:
    """A variant of a benchmark result. `number` counts from 1; `speedup` is over the first variant, if known."""

    number: int
    name: str
    description: str
    speedup: float | None
    data: Mapping[str, Any]

    @property
    def label(self) -> str:
        return f"{self.number}  {self.description}"

    @property
    def p50(self) -> float | None:
        """Seconds; None if unknown."""
        value = self.data.get("p50")
        return float(value) if known(value) and value > 0 else None


def read_variants(result: Mapping[str, Any]) -> list[VariantRow]:
    """The variants of a benchmark result, in its order."""
    variants: list[VariantRow] = []
    for data in result.get("variants") or ():
        name = str(data.get("name") or f"variant {len(variants) + 1}")
        description = str(data.get("description") or name)
        variant = VariantRow(number=len(variants) + 1, name=name, description=description, speedup=None, data=data)
        first = variants[0].p50 if variants else variant.p50
        variants.append(dataclasses.replace(variant, speedup=first / variant.p50 if first and variant.p50 else None))
    return variants


def fastest(variants: Sequence[VariantRow]) -> VariantRow | None:
    """Return the fastest variant with the reference's tokens. Variants with other tokens do not count."""
    same = [variant for variant in variants if variant.p50 and variant.data.get("identical")]
    return min(same, key=lambda variant: variant.p50 or 0.0, default=None)


def look(variant: VariantRow, best: VariantRow | None) -> dict[str, str]:
    """Return the fill of a variant: the accent for the fastest, grey for others, hollow for those with other tokens."""
    if variant is best:
        return {"fill": "var(--accent)", "class_": "best"}
    if variant.data.get("identical") is False:
        return {"fill": "var(--paper)", "stroke": "var(--rest)"}
    return {"fill": "var(--rest)"}


def look_legend(variants: Sequence[VariantRow], best: VariantRow | None) -> Html | None:
    """The meaning of `look`: the kinds that occur among the variants."""
    entries = [("var(--accent)", f"{best.label}, the fastest with the reference's tokens")] if best else []
    rest = [variant for variant in variants if variant is not best]
    if any(variant.data.get("identical") is not False for variant in rest):
        entries.append(("var(--rest)", "other variants"))
    if any(variant.data.get("identical") is False for variant in rest):
        entries.append(("none; box-shadow: inset 0 0 0 1.5px var(--rest)", "variants with other tokens"))
    return legend(entries) if entries else None


def median_bars(variants: Sequence[VariantRow]) -> Html | None:
    """Bars of the median, the fastest variant's in the accent colour; None if no variant has one.

    On a logarithmic scale, on which a length means nothing, they are points on stalks.
    """
    timed = {variant.number: variant.p50 for variant in variants if variant.p50}
    best = fastest(variants)
    if not timed:
        return None
    scale = _scale(list(timed.values()), end=WIDTH - 128)

    def bar(variant: VariantRow, y: float) -> Html:
        seconds = timed[variant.number]
        return join(
            _stalk(scale(seconds), y, look(variant, best))
            if scale.log
            else box(_MARGIN, y, scale(seconds) - _MARGIN, _BAR, **look(variant, best)),
            text(WIDTH - 54, y + 11.5, milliseconds(seconds), anchor="end", kind="halo"),
            text(WIDTH, y + 11.5, times(variant.speedup), anchor="end", kind="strong halo")
            if variant.speedup
            else None,
        )

    shown = [variant for variant in variants if variant.number in timed]
    label = "Median time: " + "; ".join(
        f"{variant.description} {milliseconds(timed[variant.number])}" for variant in shown
    )
    return _rows(shown, scale, label, bar)


def _stalk(x: float, y: float, filled: Mapping[str, str]) -> Html:
    middle = y + _BAR / 2
    return join(
        line(_MARGIN, middle, x, middle, stroke=filled.get("stroke", filled["fill"]), stroke_width=1.5),
        tag("circle", cx=x, cy=middle, r=5.5, **filled),
    )


def distributions(variants: Sequence[VariantRow]) -> Html | None:
    """Every run as a point, p50, p95 and p99 as marks; None if no variant has runs."""
    runs = {variant.number: seconds for variant in variants if len(seconds := _runs(variant))}
    if not runs:
        return None
    everything = np.concatenate(list(runs.values())).tolist()
    scale = _scale(everything, start=_MARGIN + 8, widest=12)
    best = fastest(variants)

    def strip(variant: VariantRow, y: float) -> Html:
        seconds = runs[variant.number]
        thinned = seconds if len(seconds) <= _POINTS else np.quantile(seconds, np.linspace(0, 1, _POINTS))
        fill = "var(--accent)" if variant is best else "var(--rest)"
        dot = {"r": 3, "fill": fill, "fill_opacity": 0.55}
        points = (tag("circle", cx=scale(second), cy=y + _BAR / 2, **dot) for second in thinned.tolist())
        return join(*points, *(_mark(variant, name, scale, y) for name in _MARKS))

    label = "The time of every run per variant, with p50, p95 and p99"
    return _rows([variant for variant in variants if variant.number in runs], scale, label, strip)


def breakdown(variants: Sequence[VariantRow]) -> Html | None:
    """Shares of the median time by stage; None if no variant has stages. Its legend is `stage_legend`."""
    staged = [variant for variant in variants if sum(_stages(variant).values()) > 0]
    if not staged:
        return None
    scale = Scale(low=0, high=1, start=_MARGIN, end=WIDTH - 76)

    def stack(variant: VariantRow, y: float) -> Html:
        stages, done = _stages(variant), 0.0
        total = sum(stages.values())
        parts = [text(WIDTH, y + 11.5, milliseconds(total), anchor="end", kind="halo")]
        for stage, seconds in stages.items():
            tip = f"{STAGES[stage]}: {milliseconds(seconds)}, {percent(seconds / total)}"
            left, right = scale(done), scale(done + seconds / total)
            parts.append(box(left, y, right - left, _BAR, fill=_STAGE_COLOURS[stage], tip=tip))
            done += seconds / total
        return join(*parts)

    return _rows(
        staged, scale, "Share of the time per stage, per variant", stack, axis="share of the time", format_tick=percent
    )


def legend(entries: Sequence[tuple[str, str]]) -> Html:
    """Colours and their meaning."""
    return tag(
        "ul",
        *(tag("li", tag("span", class_="swatch", style=f"background: {fill}"), name) for fill, name in entries),
        class_="legend",
    )


def stage_legend() -> Html:
    return legend([(_STAGE_COLOURS[stage], name) for stage, name in STAGES.items()])


_STAGE_COLOURS = {"preprocess": "var(--c4)", "encode": "var(--c1)", "decode": "var(--c2)", "host": "var(--rest)"}
_MARKS = {"p50": ("var(--ink)", 2.4), "p95": ("var(--c2)", 2.0), "p99": ("var(--c4)", 2.0)}


def _mark(variant: VariantRow, name: str, scale: Scale, y: float) -> Html | None:
    value = variant.data.get(name)
    if not known(value) or not scale.low <= value <= scale.high:
        return None
    stroke, width = _MARKS[name]
    tip = tag("title", f"{variant.description}: {name} {milliseconds(value)}")
    x = scale(value)
    return tag("line", tip, x1=x, y1=y - 1, x2=x, y2=y + _BAR + 1, stroke=stroke, stroke_width=width)


def mark_legend() -> Html:
    return legend([(stroke, name) for name, (stroke, _) in _MARKS.items()])


def _scale(seconds: Sequence[float], *, start: float = _MARGIN, end: float = WIDTH - 22, widest: float = 30) -> Scale:
    """Over milliseconds; logarithmic if the longest is more than `widest` times the shortest."""
    return Scale.over(seconds, start, end, log=wide(seconds, widest))


def _runs(variant: VariantRow) -> np.ndarray[Any, np.dtype[np.float64]]:
    seconds = [float(second) for second in variant.data.get("seconds") or () if known(second) and second > 0]
    return np.sort(np.array(seconds, dtype=np.float64))


def _stages(variant: VariantRow) -> dict[str, float]:
    stages = variant.data.get("stages") or {}
    return {stage: float(stages[stage]) if known(stages.get(stage)) and stages[stage] > 0 else 0.0 for stage in STAGES}


def _rows(
    variants: Sequence[VariantRow],
    scale: Scale,
    label: str,
    shape: Callable[[VariantRow, float], Html],
    *,
    axis: str | None = None,
    format_tick: Callable[[float], str] | None = None,
) -> Html:
    """Per variant its name, and under it `shape(variant, y)`, over one axis."""
    bottom = _ROW * len(variants)
    best = fastest(variants)
    title = axis or ("milliseconds, logarithmic scale" if scale.log else "milliseconds")
    parts = [x_axis(scale, 0, bottom, title, format_tick or (lambda seconds: tick(1e3 * seconds)))]
    for place, variant in enumerate(variants):
        y = _ROW * place
        kind = "strong halo" if variant is best else "halo"
        name = text(_MARGIN, y + 13, fitted(variant.label, WIDTH - 8 * (variant is best)), kind=kind)
        parts.append(tag("g", name, shape(variant, y + 19), class_="best" if variant is best else None))
    return drawing(bottom + 36, label, *parts)
