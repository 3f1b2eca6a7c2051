"""Charts with two axes: throughput against batch size, and the roofline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from seqpar_deploy.reports.charts import VariantRow, legend
from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.numbers import known, number, percent, prefixed, tick
from seqpar_deploy.reports.svg import WIDTH, Scale, colour, drawing, line, mark, spread, text, wide, x_axis, y_axis

_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, WIDTH - 30, 30.0, 330.0
_HEIGHT = _BOTTOM + 38
GRAPHS = {"encoder": "encoder", "decoder_step": "decoder step"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Point:
    """A variant's graph in the roofline: FLOPs per byte, FLOPs per second, and the text of its tooltip."""

    variant: VariantRow
    graph: str
    intensity: float
    rate: float
    tip: str


def throughput(variants: Sequence[VariantRow]) -> Html | None:
    """Crops per second by batch size, one numbered line per variant; None if nothing was measured."""
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
    ends = spread([y(points[-1][1]) for points in series.values()], 12, _TOP, _BOTTOM)
    for (index, points), label in zip(series.items(), ends, strict=True):
        path = " ".join(f"{x(batch):.1f},{y(rate):.1f}" for batch, rate in points)
        parts.append(tag("polyline", points=path, fill="none", stroke=colour(index - 1), stroke_width=1.8))
        name = variants[index - 1].description
        parts += [
            mark(x(batch), y(rate), index - 1, tip=f"{name}: {number(rate)} crops/s in batches of {batch}")
            for batch, rate in points
        ]
        parts.append(_number(x(points[-1][0]), y(points[-1][1]), _RIGHT + 8, label, index))
    return drawing(_HEIGHT, "Crops per second by batch size, per variant", *parts)


def roofline(variants: Sequence[VariantRow], result: Mapping[str, Any]) -> Html | None:
    """FLOPs per second by FLOPs per byte: the machine's roofline as lines, each variant's two graphs as points.

    None if the roofline or the shares are missing.
    """
    measured = result.get("roofline") or {}
    bandwidth = measured.get("bytes_per_second")
    peaks = {name: rate for name, rate in (measured.get("gemm_flops_per_second") or {}).items() if _positive(rate)}
    points = _points(variants, result)
    if not (_positive(bandwidth) and peaks and points):
        return None
    ridges = [peak / bandwidth for peak in peaks.values()]
    x = Scale.over([point.intensity for point in points] + ridges + [0.5 * min(ridges)], _LEFT, _RIGHT, log=True)
    y = Scale.over([*(point.rate for point in points), *peaks.values()], _BOTTOM, _TOP, log=True)
    parts: list[object] = [
        x_axis(x, _TOP, _BOTTOM, "FLOPs per byte read or written", prefixed),
        y_axis(y, _LEFT, _RIGHT, "FLOPs per second", prefixed),
        *_roofs(x, y, float(bandwidth), peaks),
    ]
    clusters: dict[tuple[str, int], list[Point]] = {}
    for point in points:
        clusters.setdefault((point.graph, round(x(point.intensity) / 20)), []).append(point)
    for cluster in clusters.values():
        parts += _cluster(cluster, x, y)
    return drawing(_HEIGHT, "Roofline: encoder and decoder step of each variant below the machine's peak rates", *parts)


def throughput_legend(variants: Sequence[VariantRow]) -> Html:
    """The numbers and names of the variants in `throughput`."""
    return legend([(colour(variant.number - 1), variant.label) for variant in variants if _throughput(variant)])


def graph_legend() -> Html:
    return legend([(colour(series), f"{name}, by variant number") for series, name in enumerate(GRAPHS.values())])


def _points(variants: Sequence[VariantRow], result: Mapping[str, Any]) -> list[Point]:
    """The shares that can be drawn."""
    by_name = {variant.name: variant for variant in variants}
    found = []
    for share in result.get("shares") or ():
        variant, graph = by_name.get(str(share.get("variant"))), str(share.get("graph"))
        flops, size, seconds = (share.get(name) for name in ("flops", "bytes", "seconds"))
        if variant and graph in GRAPHS and _positive(flops) and _positive(size) and _positive(seconds):
            rate = flops / seconds
            tip = f"{variant.description}, {GRAPHS[graph]}: {prefixed(rate)}FLOP/s, "
            tip += f"{percent(share.get('share_of_gemm'))} of the GEMM rate, "
            tip += f"{percent(share.get('share_of_bandwidth'))} of bandwidth"
            found.append(Point(variant=variant, graph=graph, intensity=flops / size, rate=rate, tip=tip))
    return found


def _roofs(x: Scale, y: Scale, bandwidth: float, peaks: Mapping[str, float]) -> list[Html]:
    """One slope for the memory, one level per precision, each with its name on the line."""
    top = max(peaks.values())
    start = max(x.low, y.low / bandwidth)
    ridge = top / bandwidth
    look = {"stroke": "var(--faint)", "stroke_width": 1.6}
    parts = [line(x(start), y(start * bandwidth), x(ridge), y(top), **look)]
    heights = spread([y(peak) + 4 for peak in peaks.values()], 13, _TOP, _BOTTOM)
    for (precision, peak), height in zip(peaks.items(), heights, strict=True):
        parts.append(line(x(peak / bandwidth), y(peak), _RIGHT, y(peak), **look))
        name = f"{precision} {prefixed(peak)}FLOP/s"
        parts.append(text(x(peak / bandwidth) - 8, height, name, anchor="end", kind="faint halo"))
    below = max(start, 0.5 * min(peaks.values()) / bandwidth)
    name = f"memory {prefixed(bandwidth)}B/s"
    parts.append(text(x(below) + 8, y(below * bandwidth) + 10, name, kind="faint halo"))
    return parts


def _cluster(points: Sequence[Point], x: Scale, y: Scale) -> list[Html]:
    """Points above one another, with their numbers in a column beside them."""
    heights = spread([y(point.rate) for point in points], 13, _TOP + 6, _BOTTOM - 2)
    beside = max(x(point.intensity) for point in points) + 14
    numbers = [
        _number(x(point.intensity), y(point.rate), beside, height, point.variant.number)
        for point, height in zip(points, heights, strict=True)
    ]
    series = list(GRAPHS).index(points[0].graph)
    return numbers + [mark(x(point.intensity), y(point.rate), series, tip=point.tip) for point in points]


def _number(x: float, y: float, label_x: float, label_y: float, number_: int) -> Html:
    """A variant's number beside its point, and a thin line between them."""
    left = label_x < x
    return join(
        line(x, y, label_x + (2 if left else -2), label_y, class_="thread"),
        text(label_x, label_y + 4, number_, anchor="end" if left else "start", kind="halo"),
    )


def _throughput(variant: VariantRow) -> list[tuple[int, float]]:
    points = variant.data.get("throughput") or ()
    return sorted(
        (int(point["batch"]), float(point["crops_per_second"]))
        for point in points
        if _positive(point.get("batch")) and _positive(point.get("crops_per_second"))
    )


def _positive(value: Any) -> TypeGuard[float]:
    return known(value) and value > 0
