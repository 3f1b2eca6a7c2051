"""The chart of throughput by batch size."""

from __future__ import annotations

from collections.abc import Sequence

from seqpar_deploy.reports.charts import VariantRow, fastest, look
from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.numbers import number, positive, tick
from seqpar_deploy.reports.svg import WIDTH, Scale, drawing, line, mark, spread, text, wide, y_axis

_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, WIDTH - 30, 30.0, 330.0
_HEIGHT = _BOTTOM + 38


def throughput(variants: Sequence[VariantRow]) -> Html | None:
    """Crops per second by batch size, one numbered curve per variant; None if nothing was measured."""
    series = {variant.number: points for variant in variants if (points := _throughput(variant))}
    if not series:
        return None
    batches = sorted({batch for points in series.values() for batch, _ in points})
    rates = [rate for points in series.values() for _, rate in points]
    x = Scale(low=batches[0], high=max(batches[-1], 2 * batches[0]), start=_LEFT + 8, end=_RIGHT - 8, log=True)
    y = Scale.over(rates, _BOTTOM, _TOP, log=wide(rates, 12))
    parts: list[object] = [
        y_axis(y, _LEFT, _RIGHT, "crops per second" + (", logarithmic scale" if y.log else ""), tick),
        *(text(x(batch), _BOTTOM + 14, batch, anchor="middle", kind="faint") for batch in batches),
        text((_LEFT + _RIGHT) / 2, _BOTTOM + 30, "batch size", anchor="middle", kind="faint"),
    ]
    best = fastest(variants)
    drawn = sorted(series, key=lambda index: variants[index - 1] is best)  # the fastest above the others
    for index in drawn:
        parts += _curve(variants[index - 1], series[index], x, y, best)
    ends: dict[int, list[int]] = {}  # by the largest batch, not the same for all
    for index in drawn:
        ends.setdefault(series[index][-1][0], []).append(index)
    for batch, at_end in ends.items():
        beside = _RIGHT + 8 if batch == batches[-1] else x(batch) + 12
        heights = spread([y(series[index][-1][1]) for index in at_end], 12, _TOP, _BOTTOM)
        for index, height in zip(at_end, heights, strict=True):
            kind = "strong halo" if variants[index - 1] is best else "halo"
            parts.append(_number(x(batch), y(series[index][-1][1]), beside, height, index, kind))
    return drawing(_HEIGHT, "Crops per second by batch size, per variant", *parts)


def _curve(
    variant: VariantRow, points: Sequence[tuple[int, float]], x: Scale, y: Scale, best: VariantRow | None
) -> list[Html]:
    path = " ".join(f"{x(batch):.1f},{y(rate):.1f}" for batch, rate in points)
    filled = look(variant, best)
    stroke, width = filled.get("stroke", filled["fill"]), 2.6 if variant is best else 1.4
    curve = tag("polyline", points=path, fill="none", stroke=stroke, stroke_width=width, class_=filled.get("class_"))
    tips = (f"{variant.description}: {number(rate)} crops/s in batches of {batch}" for batch, rate in points)
    return [curve, *(mark(x(batch), y(rate), filled, tip=tip) for (batch, rate), tip in zip(points, tips, strict=True))]


def _number(x: float, y: float, label_x: float, label_y: float, number_: int, kind: str) -> Html:
    """A variant's number right of its point, and a thin line between them."""
    return join(line(x, y, label_x - 2, label_y, class_="thread"), text(label_x, label_y + 4, number_, kind=kind))


def _throughput(variant: VariantRow) -> list[tuple[int, float]]:
    points = variant.data.get("throughput") or ()
    return sorted(
        (int(point["batch"]), float(point["crops_per_second"]))
        for point in points
        if positive(point.get("batch")) and positive(point.get("crops_per_second"))
    )
