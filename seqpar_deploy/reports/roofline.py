"""The roofline chart: how close each variant's graphs come to the machine's peak rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from seqpar_deploy.reports.charts import VariantRow, fastest, look
from seqpar_deploy.reports.labels import Rectangle, label_size, place_label
from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.numbers import percent, positive, prefixed
from seqpar_deploy.reports.svg import WIDTH, Scale, drawing, line, mark, text, x_axis, y_axis

_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, WIDTH - 30, 30.0, 330.0
_NEAR = 13.0  # points closer than this share a label
GRAPHS = {"encoder": "encoder", "decoder_step": "decoder step"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Point:
    """A variant's graph in the chart, and the text of its tooltip."""

    variant: VariantRow
    graph: str
    x: float
    y: float
    tip: str

    @property
    def box(self) -> Rectangle:
        return self.x - 5, self.y - 5, self.x + 5, self.y + 5


def roofline(variants: Sequence[VariantRow], result: Mapping[str, Any]) -> Html | None:
    """FLOPs per second by FLOPs per byte: the machine's roofline as lines, each variant's two graphs as points.

    None if the roofline or the shares are missing.
    """
    measured = result.get("roofline") or {}
    bandwidth = measured.get("bytes_per_second")
    peaks = {name: rate for name, rate in (measured.get("gemm_flops_per_second") or {}).items() if positive(rate)}
    shares = _shares(variants, result)
    if not (positive(bandwidth) and peaks and shares):
        return None
    ridges = [peak / bandwidth for peak in peaks.values()]
    intensities = [share["flops"] / share["bytes"] for _, share in shares]
    rates = [share["flops"] / share["seconds"] for _, share in shares]
    x = Scale.over([*intensities, *ridges, 0.5 * min(ridges)], _LEFT, _RIGHT, log=True)
    y = Scale.over([*rates, *peaks.values()], _BOTTOM, _TOP, log=True)
    points = [
        _Point(variant=variant, graph=share["graph"], x=x(intensity), y=y(rate), tip=_tip(variant, share, rate))
        for (variant, share), intensity, rate in zip(shares, intensities, rates, strict=True)
    ]
    best = fastest(variants)
    obstacles = [point.box for point in points]
    parts: list[object] = [
        x_axis(x, _TOP, _BOTTOM, "FLOPs per byte read or written", prefixed),
        y_axis(y, _LEFT, _RIGHT, "FLOPs per second", prefixed),
        *_roofs(x, y, float(bandwidth), peaks, obstacles),
    ]
    for point in sorted(points, key=lambda point: point.variant is best):  # the fastest above the others
        square = point.graph != next(iter(GRAPHS))
        parts.append(mark(point.x, point.y, look(point.variant, best), square=square, tip=point.tip))
    parts += _labels(points, best, obstacles)
    words = "Roofline: encoder and decoder step of each variant below the machine's peak rates"
    return drawing(_BOTTOM + 38, words, *parts)


def graph_note() -> str:
    """Return the meaning of the points in `roofline`."""
    return "Circles: encoder. Squares: decoder step. Numbers: variants."


def _shares(variants: Sequence[VariantRow], result: Mapping[str, Any]) -> list[tuple[VariantRow, Mapping[str, Any]]]:
    """The shares that can be drawn, each with its variant."""
    by_name = {variant.name: variant for variant in variants}
    return [
        (by_name[str(share.get("variant"))], share)
        for share in result.get("shares") or ()
        if str(share.get("variant")) in by_name
        and share.get("graph") in GRAPHS
        and all(positive(share.get(name)) for name in ("flops", "bytes", "seconds"))
    ]


def _tip(variant: VariantRow, share: Mapping[str, Any], rate: float) -> str:
    of_gemm, of_bandwidth = percent(share.get("share_of_gemm")), percent(share.get("share_of_bandwidth"))
    rates = f"{prefixed(rate)}FLOP/s, {of_gemm} of the GEMM rate, {of_bandwidth} of the memory bandwidth"
    return f"{variant.description}, {GRAPHS[share['graph']]}: {rates}"


def _roofs(x: Scale, y: Scale, bandwidth: float, peaks: Mapping[str, float], obstacles: list[Rectangle]) -> list[Html]:
    """One slope for the memory, one level per precision, with their names. They become obstacles for other labels."""
    top = max(peaks.values())
    start = max(x.low, y.low / bandwidth)
    ridge = top / bandwidth
    drawn = {"stroke": "var(--faint)", "stroke_width": 1.6}
    lines = [line(x(start), y(start * bandwidth), x(ridge), y(top), **drawn)]
    slope = [
        (x(start * (ridge / start) ** (step / 60)), y(bandwidth * start * (ridge / start) ** (step / 60)))
        for step in range(61)
    ]
    obstacles += [(left - 2, up - 2, left + 2, up + 2) for left, up in slope]
    for peak in peaks.values():
        lines.append(line(x(peak / bandwidth), y(peak), _RIGHT, y(peak), **drawn))
        obstacles.append((x(peak / bandwidth), y(peak) - 2, _RIGHT, y(peak) + 2))
    names = []
    for precision, peak in peaks.items():
        at, name = x(peak / bandwidth), f"{precision} {prefixed(peak)}FLOP/s"
        width, height = label_size(name)
        beside = [(at - 7 - width, y(peak) + lift - height / 2) for lift in (0, -9, 9, -15, 15)]
        on_line = [(left, y(peak) - height - 4) for left in (at + 6, _RIGHT - width)]
        names.append(_text(name, [*beside, *on_line], obstacles, "faint halo"))
    middle = (start * min(peaks.values()) / bandwidth) ** 0.5
    name = f"memory {prefixed(bandwidth)}B/s"
    spots = [(x(at) + 9, y(at * bandwidth) + 4) for at in (middle, middle * 1.7, middle / 1.7, start)]
    return [*lines, *names, _text(name, spots, obstacles, "faint halo")]


def _labels(points: Sequence[_Point], best: VariantRow | None, obstacles: list[Rectangle]) -> list[Html]:
    """The variants' numbers beside their points; points that lie together share a label."""
    groups: list[list[_Point]] = []
    for point in sorted(points, key=lambda point: (point.graph, round(point.x / 8), point.y)):
        last = groups[-1][-1] if groups else None
        together = last is not None and last.graph == point.graph and abs(last.x - point.x) < 8
        if last is not None and together and point.y - last.y < _NEAR:
            groups[-1].append(point)
        else:
            groups.append([point])
    labels = []
    for group in groups:
        content = ", ".join(str(point.variant.number) for point in group)
        width, height = label_size(content)
        right, left = max(point.x for point in group) + 8, min(point.x for point in group) - 8 - width
        middle, top, bottom = (group[0].y + group[-1].y - height) / 2, group[0].y - 6 - height, group[-1].y + 6
        centre = (left + right) / 2
        anchors = [(side, middle + lift) for lift in (0, -7, 7) for side in (right, left)]
        anchors += [(centre, top), (centre, bottom), (right, top), (right, bottom), (left, top), (left, bottom)]
        place = _place(content, anchors, obstacles)
        numbers = [
            tag("tspan", ", " if index else None, point.variant.number, class_=_strong(point, best))
            for index, point in enumerate(group)
        ]
        labels.append(text(place[0] + 1, place[3] - 2.5, join(*numbers), kind="halo"))
    return labels


def _strong(point: _Point, best: VariantRow | None) -> str | None:
    return "strong" if point.variant is best else None


def _text(content: str, anchors: Sequence[tuple[float, float]], obstacles: list[Rectangle], kind: str) -> Html:
    place = _place(content, anchors, obstacles)
    return text(place[0] + 1, place[3] - 2.5, content, kind=kind)


def _place(content: str, anchors: Sequence[tuple[float, float]], obstacles: list[Rectangle]) -> Rectangle:
    """A place for a label, which becomes an obstacle for the next ones."""
    place = place_label(content, anchors, obstacles, (2.0, 14.0, WIDTH, _BOTTOM))
    obstacles.append(place)
    return place
