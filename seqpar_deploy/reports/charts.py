"""Charts with a row for each rung: a ladder of times, their distributions, where the time goes.

A rung is a row of `RungView`s made once from a bench result, so that its number and name are the same everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.numbers import known, milliseconds, number, percent, times
from seqpar_deploy.reports.svg import WIDTH, Scale, box, drawing, fitted, line, text, wide, x_axis

STAGES = {
    "preprocess": "preprocessing",
    "encode": "encoder",
    "decode": "decoder steps",
    "host": "the rest, on the host",
}

_ROW = 38.0  # a line of text and a bar
_MARGIN = 4.0
_POINTS = 60  # runs drawn at most; more are thinned by rank


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rung:
    """One rung of a bench result: `number` counts from 1, `speedup` is over the first rung where both are known."""

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
        """Seconds; None where it is not known."""
        value = self.data.get("p50")
        return float(value) if known(value) and value > 0 else None


def read_rungs(result: Mapping[str, Any]) -> list[Rung]:
    """The rungs of a bench result, in its order."""
    rungs: list[Rung] = []
    for data in result.get("rungs") or ():
        name = str(data.get("name") or f"rung {len(rungs) + 1}")
        description = str(data.get("description") or name)
        rung = Rung(number=len(rungs) + 1, name=name, description=description, speedup=None, data=data)
        first = rungs[0].p50 if rungs else rung.p50
        rungs.append(dataclasses.replace(rung, speedup=first / rung.p50 if first and rung.p50 else None))
    return rungs


def ladder(rungs: Sequence[Rung]) -> Html | None:
    """Bars of the median, the first rung's in grey; None if no rung has one."""
    timed = [rung for rung in rungs if rung.p50]
    if not timed:
        return None
    scale = _scale([rung.p50 for rung in timed if rung.p50])

    def bar(rung: Rung, y: float) -> Html:
        fill = "var(--rest)" if rung is rungs[0] else "var(--accent)"
        width = scale(rung.p50 or scale.low) - _MARGIN
        return box(_MARGIN, y, width, 14, rx=2, fill=fill, tip=f"{rung.label}: {milliseconds(rung.p50)}")

    def value(rung: Rung) -> str:
        return f"{milliseconds(rung.p50)}   {times(rung.speedup)}"

    label = "Median time of each rung: " + "; ".join(f"{r.description} {milliseconds(r.p50)}" for r in timed)
    return _rows(timed, scale, label, bar, value)


def distributions(rungs: Sequence[Rung]) -> Html | None:
    """Every run as a point, p50, p95 and p99 as marks; None if no rung has runs."""
    runs = {rung.number: _runs(rung) for rung in rungs}
    timed = [rung for rung in rungs if len(runs[rung.number])]
    if not timed:
        return None
    scale = _scale([float(second) for rung in timed for second in runs[rung.number]], points=True)

    def strip(rung: Rung, y: float) -> Html:
        seconds = runs[rung.number]
        thinned = seconds if len(seconds) <= _POINTS else np.quantile(seconds, np.linspace(0, 1, _POINTS))
        points = (
            tag("circle", cx=scale(float(second)), cy=y + 7, r=3, fill="var(--c1)", fill_opacity=0.35)
            for second in thinned
        )
        marks = (_mark(rung, name, scale, y) for name in ("p50", "p95", "p99"))
        return join(line(scale(seconds[0]), y + 7, scale(seconds[-1]), y + 7, class_="grid"), *points, *marks)

    def value(rung: Rung) -> str:
        return " / ".join(number(1e3 * rung.data[p]) if known(rung.data.get(p)) else "\u2013" for p in _MARKS)

    label = "Every run's time, rung by rung, with p50, p95 and p99"
    return _rows(timed, scale, label, strip, value, "p50 / p95 / p99, ms")


def breakdown(rungs: Sequence[Rung]) -> Html | None:
    """Shares of the median time by stage; None if no rung has stages. Its legend is `stage_legend`."""
    staged = [rung for rung in rungs if sum(_stages(rung).values()) > 0]
    if not staged:
        return None
    scale = Scale(low=0, high=1, start=_MARGIN, end=WIDTH - 16)

    def stack(rung: Rung, y: float) -> Html:
        stages, parts, done = _stages(rung), [], 0.0
        total = sum(stages.values())
        for series, (stage, seconds) in enumerate(stages.items()):
            share = seconds / total
            tip = f"{STAGES[stage]}: {milliseconds(seconds)}, {percent(share)}"
            width = scale(done + share) - scale(done)
            parts.append(box(scale(done), y, width, 14, fill=f"var(--c{series + 1})", stroke="var(--paper)", tip=tip))
            done += share
        return join(*parts)

    def value(rung: Rung) -> str:
        return milliseconds(sum(_stages(rung).values()))

    return _rows(staged, scale, "Where each rung's time goes", stack, value, axis="share of the time", say=percent)


def legend(entries: Sequence[tuple[str, str]]) -> Html:
    """Colours and what they stand for."""
    return tag(
        "ul",
        *(tag("li", tag("span", class_="swatch", style=f"background: {fill}"), name) for fill, name in entries),
        class_="legend",
    )


def stage_legend() -> Html:
    return legend([(f"var(--c{series + 1})", name) for series, name in enumerate(STAGES.values())])


_MARKS = {"p50": ("var(--ink)", 2.4), "p95": ("var(--c2)", 2.0), "p99": ("var(--c4)", 2.0)}


def _mark(rung: Rung, name: str, scale: Scale, y: float) -> Html | None:
    value = rung.data.get(name)
    if not known(value) or not scale.low <= value <= scale.high:
        return None
    stroke, width = _MARKS[name]
    tip = tag("title", f"{rung.description}: {name} {milliseconds(value)}")
    x = scale(value)
    return tag("line", tip, x1=x, y1=y - 1, x2=x, y2=y + 15, stroke=stroke, stroke_width=width)


def mark_legend() -> Html:
    return legend([(stroke, name) for name, (stroke, _) in _MARKS.items()])


def _scale(seconds: Sequence[float], *, points: bool = False) -> Scale:
    """Over milliseconds' worth of seconds; logarithmic if the longest dwarfs the shortest."""
    return Scale.over(seconds, _MARGIN + (6 if points else 0), WIDTH - 16, log=wide(seconds, 12 if points else 30))


def _runs(rung: Rung) -> np.ndarray[Any, np.dtype[np.float64]]:
    seconds = [float(second) for second in rung.data.get("seconds") or () if known(second) and second > 0]
    return np.sort(np.array(seconds, dtype=np.float64))


def _stages(rung: Rung) -> dict[str, float]:
    stages = rung.data.get("stages") or {}
    return {stage: float(stages[stage]) if known(stages.get(stage)) and stages[stage] > 0 else 0.0 for stage in STAGES}


def _rows(
    rungs: Sequence[Rung],
    scale: Scale,
    label: str,
    shape: Callable[[Rung, float], Html],
    value: Callable[[Rung], str],
    heading: str | None = None,
    axis: str | None = None,
    say: Callable[[float], str] | None = None,
) -> Html:
    """For each rung its name and value and under them `shape(rung, y)`, over one axis."""
    top = 18.0 if heading else 2.0
    bottom = top + _ROW * len(rungs)
    parts: list[Html] = [text(WIDTH - 2, 12, heading, anchor="end", kind="faint")] if heading else []
    title = axis or ("milliseconds, logarithmic scale" if scale.log else "milliseconds")
    parts.append(x_axis(scale, top, bottom, title, say or (lambda seconds: number(1e3 * seconds))))
    for place, rung in enumerate(rungs):
        y = top + _ROW * place
        words = value(rung)
        parts += [
            text(_MARGIN, y + 13, fitted(rung.label, WIDTH - 16 - 6.6 * len(words)), kind="halo"),
            text(WIDTH - 2, y + 13, words, anchor="end", kind="strong halo"),
            shape(rung, y + 18),
        ]
    return drawing(bottom + 36, label, *parts)
