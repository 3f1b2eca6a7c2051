"""How fast is a bundle? A bench result as a page, the answer first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seqpar_deploy.reports.charts import (
    Variant,
    breakdown,
    comparison,
    distributions,
    mark_legend,
    read_rungs,
    stage_legend,
)
from seqpar_deploy.reports.machine import bundle_facts, machine_facts
from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.numbers import NONE, column, duration, known, megabytes, milliseconds, number, percent
from seqpar_deploy.reports.page import badge, facts, figure, page, section, table, tiles
from seqpar_deploy.reports.plots import GRAPHS, graph_legend, roofline, throughput, throughput_legend


def bench_page(result: Mapping[str, Any]) -> str:
    """A bench result (`seqpar-bench --out`) as HTML. Any part of it may be missing."""
    variants = read_rungs(result)
    best = _best(variants)
    headline = _headline(variants, best)
    body = join(
        tag("p", "Speed report", class_="kind"),
        tag("h1", headline),
        tag("p", _verdict(variants, best), " ", _where(result)),
        tiles(_tiles(variants, best)),
        _times(variants),
        _table(variants),
        _time_and_throughput(variants),
        _limits(variants, result),
        _skipped(result),
        _about(result),
    )
    return page(headline, body)


def _best(variants: Sequence[Variant]) -> Variant | None:
    """The fastest of those that say the same tokens as the first; no other counts."""
    same = [variant for variant in variants if variant.p50 and variant.data.get("identical")]
    return min(same, key=lambda variant: variant.p50 or 0.0, default=None)


def _headline(variants: Sequence[Variant], best: Variant | None) -> str:
    if best is None:
        return "No rung gave the first rung's tokens" if variants else "Nothing was measured"
    if best.speedup is None or best is variants[0]:
        return f"{milliseconds(best.p50)} with {best.description}"
    return f"{best.speedup:.1f} times as fast as {_name_of(variants[0])}"


def _name_of(first: Variant) -> str:
    return "the published procedure" if first.name == "published" else first.description


def _verdict(variants: Sequence[Variant], best: Variant | None) -> Html | None:
    if best is None or len(variants) < 2:
        return None
    others = [str(variant.number) for variant in variants if variant.data.get("identical") is False]
    every = " on every rung" if all(variant.data.get("identical") for variant in variants) else ""
    differ = badge(f"other tokens on rung {', '.join(others)}", False) if others else None
    return join(badge(f"tokens identical{every}", True), " ", differ)


def _where(result: Mapping[str, Any]) -> str:
    bundle, machine, settings = (result.get(key) or {} for key in ("bundle", "machine", "settings"))
    name = " ".join(str(bundle[key]) for key in ("label_set", "precision") if bundle.get(key))
    crops = settings.get("crops")
    parts = [
        f"bundle {name}" if name else None,
        f"on {machine['processor']}" if machine.get("processor") else None,
        f"{machine['cores']} cores" if machine.get("cores") else None,
        f"{crops} crop{'' if crops == 1 else 's'}" if crops else None,
        f"{settings['runs']} runs" if settings.get("runs") else None,
        f"{settings['threads']} threads" if settings.get("threads") else None,
        result.get("date"),
    ]
    return ", ".join(str(part) for part in parts if part)


def _tiles(variants: Sequence[Variant], best: Variant | None) -> list[tuple[str, object, object]]:
    if best is None:
        return []
    data, first = best.data, variants[0]
    found: list[tuple[str, object, object]] = [("fastest rung, median", milliseconds(best.p50), best.description)]
    if best is not first:
        found.append(("first rung, median", milliseconds(first.p50), first.description))
    for key, what, say in _OF_THE_BEST:
        if known(data.get(key)):
            found.append((what, say(data[key]), "fastest rung"))
    return found


_OF_THE_BEST: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("p99", "99th percentile", milliseconds),
    ("cold_start_seconds", "start to first answer", duration),
    ("peak_memory_bytes", "peak memory", megabytes),
    ("joules_per_crop", "energy for a crop", lambda joules: f"{number(joules)} J"),
)


def _times(variants: Sequence[Variant]) -> Html | None:
    bars, strips = comparison(variants), distributions(variants)
    if not (bars or strips):
        return None
    parts = [
        figure(bars, "Median time, and how many times faster than rung 1") if bars else None,
        figure(strips, "Every run", mark_legend()) if strips else None,
    ]
    return section("The ladder", tag("div", *parts, class_="pair"))


def _table(variants: Sequence[Variant]) -> Html | None:
    if not variants:
        return None

    def figures(key: str, scale: float = 1.0) -> list[str | None]:
        return column([variant.data.get(key) for variant in variants], scale)

    columns: dict[str, Sequence[object]] = {
        "": [variant.number for variant in variants],
        "variant": [variant.description for variant in variants],
        "precision": [variant.data.get("precision") for variant in variants],
        "tokens": [_tokens(variant) for variant in variants],
        "p50, ms": figures("p50", 1e3),
        "p95, ms": figures("p95", 1e3),
        "p99, ms": figures("p99", 1e3),
        "times faster": column([variant.speedup for variant in variants]),
        "steps": figures("steps"),
        "a step, ms": figures("step_seconds", 1e3),
        "memory, MB": figures("peak_memory_bytes", 1e-6),
        "load, s": figures("load_seconds"),
        "first call, s": figures("first_call_seconds"),
        "cold start, s": figures("cold_start_seconds"),
        "J a crop": figures("joules_per_crop"),
    }
    rows = zip(*columns.values(), strict=True)
    note = "Steps are the decoder's for a crop. A cold start is a new process, from its start to its first answer."
    return section(
        "Every figure",
        table(tuple(columns), rows, label="Every rung", words=(1, 2, 3)),
        tag("p", note, class_="note"),
    )


def _tokens(variant: Variant) -> Html | None:
    identical = variant.data.get("identical")
    return None if identical is None else badge("identical" if identical else "differ", bool(identical))


def _time_and_throughput(variants: Sequence[Variant]) -> Html | None:
    stages, rates = breakdown(variants), throughput(variants)
    if not (stages or rates):
        return None
    parts = [
        figure(stages, "Share of the median time", stage_legend()) if stages else None,
        figure(rates, "Throughput", throughput_legend(variants)) if rates else None,
    ]
    return section("Where the time goes, and throughput", tag("div", *parts, class_="pair"))


def _limits(variants: Sequence[Variant], result: Mapping[str, Any]) -> Html | None:
    shares = [share for share in result.get("shares") or () if share.get("graph") in GRAPHS]
    if not shares:
        return None
    chart = roofline(variants, result)
    found = {(str(share.get("variant")), share["graph"]): share for share in shares}
    measured = [variant for variant in variants if any((variant.name, graph) in found for graph in GRAPHS)]
    columns: dict[str, Sequence[object]] = {"": [variant.number for variant in measured]}
    for graph, name in GRAPHS.items():
        of_graph = [found.get((variant.name, graph), {}) for variant in measured]
        columns[f"{name}, ms"] = column([share.get("seconds") for share in of_graph], 1e3)
        columns[f"{name} reaches"] = [_reached(share) for share in of_graph]
    rows = zip(*columns.values(), strict=True)
    beside = tag(
        "div",
        tag("p", _limits_in_words(shares)),
        table(tuple(columns), rows, label="Shares of the device's limits", words=()),
    )
    return section(
        "How near the device's limits",
        tag("div", figure(chart, "Roofline", graph_legend()) if chart else None, beside, class_="pair"),
    )


def _reached(share: Mapping[str, Any]) -> str | None:
    """How much of the limit that binds is reached."""
    limit = share.get("binds")
    return f"{percent(share.get(f'share_of_{limit}'))} of {limit}" if limit in _LIMITS else None


def _limits_in_words(shares: Sequence[Mapping[str, Any]]) -> str:
    """For each graph what binds it on most rungs, and how near the nearest rung comes."""
    sentences = []
    for graph, name in GRAPHS.items():
        of_graph = [share for share in shares if share["graph"] == graph]
        for limit, words in _LIMITS.items():
            bound = [share for share in of_graph if share.get("binds") == limit]
            reached = [share[f"share_of_{limit}"] for share in bound if known(share.get(f"share_of_{limit}"))]
            if 2 * len(bound) > len(of_graph) and reached:
                sentences.append(f"The {name} is bound by {words}: at best it reaches {percent(max(reached))}.")
    return " ".join(sentences)


_LIMITS = {
    "products": "matrix products",
    "bandwidth": "memory bandwidth",
}


def _skipped(result: Mapping[str, Any]) -> Html | None:
    skipped = result.get("skipped") or ()
    rows = [(variant.get("name") or NONE, variant.get("why") or NONE) for variant in skipped]
    return (
        section("Not measured", table(("variant", "why"), rows, label="Skipped rungs", words=(0, 1))) if rows else None
    )


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
