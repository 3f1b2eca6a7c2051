"""How fast is a bundle? A bench result as a page, the answer first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seqpar_deploy.reports.charts import (
    Rung,
    breakdown,
    distributions,
    ladder,
    mark_legend,
    read_rungs,
    stage_legend,
)
from seqpar_deploy.reports.machine import bundle_facts, machine_facts
from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.numbers import NONE, duration, known, megabytes, milliseconds, number, percent, times
from seqpar_deploy.reports.page import badge, facts, figure, page, section, table, tiles
from seqpar_deploy.reports.plots import GRAPHS, graph_legend, roofline, throughput, throughput_legend


def bench_page(result: Mapping[str, Any]) -> str:
    """A bench result (`seqpar-bench --out`) as HTML. Any part of it may be missing."""
    rungs = read_rungs(result)
    best = _best(rungs)
    headline = _headline(rungs, best)
    body = join(
        tag("p", "Speed report", class_="kind"),
        tag("h1", headline),
        tag("p", _verdict(rungs, best), " ", _where(result)),
        tiles(_tiles(rungs, best)),
        _times(rungs),
        _table(rungs),
        _time_and_throughput(rungs),
        _limits(rungs, result),
        _skipped(result),
        _about(result),
    )
    return page(headline, body)


def _best(rungs: Sequence[Rung]) -> Rung | None:
    """The fastest of those that say the same tokens as the first; no other counts."""
    same = [rung for rung in rungs if rung.p50 and rung.data.get("identical")]
    return min(same, key=lambda rung: rung.p50 or 0.0, default=None)


def _headline(rungs: Sequence[Rung], best: Rung | None) -> str:
    if best is None:
        return "No rung was measured" if not rungs else "No rung gave the first rung's tokens"
    if best.speedup is None or best is rungs[0]:
        return f"{milliseconds(best.p50)} with {best.description}"
    return f"{times(best.speedup)} as fast as {_name_of(rungs[0])}: {milliseconds(best.p50)} with {best.description}"


def _name_of(first: Rung) -> str:
    return "the published procedure" if first.name == "published" else first.description


def _verdict(rungs: Sequence[Rung], best: Rung | None) -> Html | None:
    if best is None or len(rungs) < 2:
        return None
    others = [str(rung.number) for rung in rungs if rung.data.get("identical") is False]
    if not others:
        return badge("identical tokens on every rung", True)
    return join(badge("identical tokens", True), " ", badge(f"other tokens on rung {', '.join(others)}", False))


def _where(result: Mapping[str, Any]) -> str:
    bundle, machine, settings = (result.get(key) or {} for key in ("bundle", "machine", "settings"))
    name = " ".join(str(bundle[key]) for key in ("label_set", "precision") if bundle.get(key))
    crops = settings.get("crops")
    parts = [
        f"bundle {name}" if name else None,
        f"on {machine['processor']}" if machine.get("processor") else None,
        f"{machine['cores']} cores" if machine.get("cores") else None,
        f"{crops} crop{'' if crops == 1 else 's'} at a time" if crops else None,
        f"{settings['runs']} runs" if settings.get("runs") else None,
        f"{settings['threads']} threads" if settings.get("threads") else None,
        result.get("date"),
    ]
    return ", ".join(str(part) for part in parts if part)


def _tiles(rungs: Sequence[Rung], best: Rung | None) -> list[tuple[str, object, object]]:
    if best is None:
        return []
    data = best.data
    found: list[tuple[str, object, object]] = [
        ("median, fastest rung", milliseconds(best.p50), f"p99 {milliseconds(data.get('p99'))}"),
    ]
    if best is not rungs[0]:
        found.append(("median, first rung", milliseconds(rungs[0].p50), _name_of(rungs[0])))
    if known(data.get("cold_start_seconds")):
        found.append(("from start to answer", duration(data["cold_start_seconds"]), "fastest rung, a new process"))
    if known(data.get("peak_memory_bytes")):
        found.append(("peak memory", megabytes(data["peak_memory_bytes"]), "fastest rung"))
    if known(data.get("joules_per_crop")):
        found.append(("energy for a crop", f"{number(data['joules_per_crop'])} J", "fastest rung"))
    return found


def _times(rungs: Sequence[Rung]) -> Html | None:
    bars, strips = ladder(rungs), distributions(rungs)
    if not (bars or strips):
        return None
    parts = [
        figure(bars, "Median time, and how many times faster than rung 1") if bars else None,
        figure(strips, "Every run", mark_legend()) if strips else None,
    ]
    return section("The ladder", tag("div", *parts, class_="pair"))


def _table(rungs: Sequence[Rung]) -> Html | None:
    if not rungs:
        return None
    heads = ("", "rung", "precision", "tokens", "p50, ms", "p95, ms", "p99, ms", "times faster", "steps", "a step, ms")
    heads += ("memory, MB", "load, s", "first call, s", "cold start, s", "J a crop")
    rows = [_row(rung) for rung in rungs]
    note = (
        "Steps are those of the decoder for a crop. A cold start is a new process, from its start to its first answer."
    )
    return section(
        "Every figure", table(heads, rows, label="Every rung", words=(1, 2, 3)), tag("p", note, class_="note")
    )


def _row(rung: Rung) -> list[object]:
    data = rung.data
    identical = data.get("identical")
    size = data.get("peak_memory_bytes")
    tokens = None if identical is None else badge("identical" if identical else "differ", bool(identical))
    plain = ("load_seconds", "first_call_seconds", "cold_start_seconds", "joules_per_crop")
    return [
        rung.number,
        rung.description,
        data.get("precision"),
        tokens,
        *(_cell(data.get(key), 1e3) for key in ("p50", "p95", "p99")),
        times(rung.speedup) if rung.speedup else None,
        _cell(data.get("steps")),
        _cell(data.get("step_seconds"), 1e3),
        f"{size / 1e6:,.0f}" if known(size) else None,
        *(_cell(data.get(key)) for key in plain),
    ]


def _cell(value: Any, scale: float = 1.0) -> str | None:
    return number(scale * value) if known(value) else None


def _time_and_throughput(rungs: Sequence[Rung]) -> Html | None:
    stages, rates = breakdown(rungs), throughput(rungs)
    if not (stages or rates):
        return None
    parts = [
        figure(stages, "Share of the median time", stage_legend()) if stages else None,
        figure(rates, "Throughput", throughput_legend(rungs)) if rates else None,
    ]
    return section("Where the time goes, and many crops at once", tag("div", *parts, class_="pair"))


def _limits(rungs: Sequence[Rung], result: Mapping[str, Any]) -> Html | None:
    shares = [share for share in result.get("shares") or () if share.get("graph") in GRAPHS]
    if not shares:
        return None
    chart = roofline(rungs, result)
    numbers = {rung.name: rung.number for rung in rungs}
    heads = ("rung", "graph", "ms", "of products", "of bandwidth", "bound by")
    rows = (
        (
            numbers.get(str(share.get("rung")), str(share.get("rung"))),
            GRAPHS[share["graph"]],
            _cell(share.get("seconds"), 1e3),
            percent(share.get("share_of_products")),
            percent(share.get("share_of_bandwidth")),
            _BINDS.get(str(share.get("binds")), share.get("binds")),
        )
        for share in shares
    )
    beside = join(
        tag("p", _limits_in_words(shares)),
        table(heads, rows, label="Shares of the device's limits", words=(1, 5)),
    )
    picture = figure(chart, "Roofline", graph_legend()) if chart else None
    return section("How near the device's limits", tag("div", picture, tag("div", beside), class_="pair"))


_BINDS = {"products": "products (arithmetic)", "bandwidth": "bandwidth (memory)"}


def _limits_in_words(shares: Sequence[Mapping[str, Any]]) -> str:
    """For each graph what binds it on most rungs, and how near the nearest rung comes."""
    sentences = []
    for graph, name in GRAPHS.items():
        of_graph = [share for share in shares if share["graph"] == graph]
        for limit, words in _LIMITS.items():
            bound = [share for share in of_graph if share.get("binds") == limit]
            reached = [share[f"share_of_{limit}"] for share in bound if known(share.get(f"share_of_{limit}"))]
            if 2 * len(bound) > len(of_graph) and reached:
                sentences.append(f"The {name} is bound by {words}: at best {percent(max(reached))} of it is reached.")
    return " ".join(sentences)


_LIMITS = {
    "products": "what the device can multiply and add",
    "bandwidth": "how fast the device reads memory",
}


def _skipped(result: Mapping[str, Any]) -> Html | None:
    skipped = result.get("skipped") or ()
    rows = [(rung.get("name") or NONE, rung.get("why") or NONE) for rung in skipped]
    return section("Not measured", table(("rung", "why"), rows, label="Skipped rungs", words=(0, 1))) if rows else None


def _about(result: Mapping[str, Any]) -> Html:
    return section(
        "Bundle and machine",
        facts(
            [
                ("measured", result.get("what")),
                *bundle_facts(result.get("bundle") or {}),
                *machine_facts(result.get("machine")),
            ]
        ),
    )
