"""A benchmark result as a page, with the speed-up first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seqpar_deploy.reports.charts import (
    VariantRow,
    breakdown,
    distributions,
    fastest,
    look_legend,
    mark_legend,
    median_bars,
    read_variants,
    stage_legend,
)
from seqpar_deploy.reports.machine import bundle_facts, machine_facts
from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.numbers import (
    NONE,
    column,
    counted,
    duration,
    known,
    megabytes,
    milliseconds,
    number,
    percent,
    times,
)
from seqpar_deploy.reports.page import badge, facts, figure, page, section, table, tiles
from seqpar_deploy.reports.roofline import GRAPHS, graph_note, roofline
from seqpar_deploy.reports.throughput import throughput


def bench_page(result: Mapping[str, Any]) -> str:
    """A benchmark result (the JSON of `seqpar-bench`) as HTML. Any part of it may be missing."""
    variants = read_variants(result)
    best = fastest(variants)
    headline = _headline(variants, best)
    body = join(
        tag("p", "Benchmark", class_="kind"),
        tag("h1", headline),
        tag("p", _verdict(variants, best), " ", _where(result)),
        tiles(_tiles(variants, best)),
        _times(variants, best),
        _table(variants, best),
        _time_and_throughput(variants, best),
        _roofline(variants, best, result),
        _skipped(result),
        _about(result),
    )
    return page(headline, body)


def _headline(variants: Sequence[VariantRow], best: VariantRow | None) -> str:
    if best is None:
        return "No variant returned the reference's tokens" if variants else "No measurements"
    if best.speedup is None or best is variants[0]:
        return f"{milliseconds(best.p50)} with {best.description}"
    return f"{best.speedup:.1f} times as fast as {_name_of(variants[0])}"


def _name_of(first: VariantRow) -> str:
    return "the published procedure" if first.name == "published" else first.description


def _verdict(variants: Sequence[VariantRow], best: VariantRow | None) -> Html | None:
    if best is None or len(variants) < 2:
        return None
    others = [str(variant.number) for variant in variants if variant.data.get("identical") is False]
    every = " on every variant" if all(variant.data.get("identical") for variant in variants) else ""
    differ = (
        badge(f"other tokens on {'variant' if len(others) == 1 else 'variants'} {', '.join(others)}", False)
        if others
        else None
    )
    return join(badge(f"tokens identical{every}", True), " ", differ)


def _where(result: Mapping[str, Any]) -> str:
    bundle, machine, settings = (result.get(key) or {} for key in ("bundle", "machine", "settings"))
    name = " ".join(str(bundle[key]) for key in ("label_set", "precision") if bundle.get(key))
    parts = [
        f"bundle {name}" if name else None,
        f"on {machine['processor']}" if machine.get("processor") else None,
        _counted(machine.get("cores"), "core"),
        _counted(settings.get("crops"), "crop"),
        _counted(settings.get("runs"), "run"),
        _counted(settings.get("threads"), "thread"),
        result.get("date"),
    ]
    return ", ".join(str(part) for part in parts if part)


def _counted(count: Any, one: str) -> str | None:
    """`1 crop`, `20 crops`; an unexpected value as it is."""
    return counted(count, one) if isinstance(count, int) else f"{count} {one}s" if count else None


def _tiles(variants: Sequence[VariantRow], best: VariantRow | None) -> list[tuple[str, object, object]]:
    if best is None:
        return []
    data, first = best.data, variants[0]
    found: list[tuple[str, object, object]] = [("fastest variant, median", milliseconds(best.p50), best.description)]
    if best is not first:
        found.append(("first variant, median", milliseconds(first.p50), first.description))
    for key, name, format_value in _OF_THE_BEST:
        if known(data.get(key)):
            found.append((name, format_value(data[key]), "fastest variant"))
    return found


_OF_THE_BEST: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("p99", "99th percentile", milliseconds),
    ("cold_start_seconds", "cold start", duration),
    ("peak_memory_bytes", "peak memory", megabytes),
    ("joules_per_crop", "energy per crop", lambda joules: f"{number(joules)} J"),
)


def _times(variants: Sequence[VariantRow], best: VariantRow | None) -> Html | None:
    bars, strips = median_bars(variants), distributions(variants)
    if not (bars or strips):
        return None
    parts = [
        figure(bars, "Median time, and speed-up over variant 1", look_legend(variants, best)) if bars else None,
        figure(strips, "Every run", mark_legend()) if strips else None,
    ]
    return section("Time per run", tag("div", *parts, class_="pair"))


def _table(variants: Sequence[VariantRow], best: VariantRow | None) -> Html | None:
    if not variants:
        return None

    def figures(key: str, scale: float = 1.0) -> list[str | None]:
        return column([variant.data.get(key) for variant in variants], scale)

    columns: dict[str, Sequence[object]] = {
        "": [variant.number for variant in variants],
        "variant": [variant.description for variant in variants],
        "p50, ms": figures("p50", 1e3),
        "speed-up": [times(variant.speedup) if variant.speedup else None for variant in variants],
        "tokens": [_tokens(variant) for variant in variants],
        "precision": [variant.data.get("precision") for variant in variants],
        "p95, ms": figures("p95", 1e3),
        "p99, ms": figures("p99", 1e3),
        "steps": figures("steps"),
        "ms per step": figures("step_seconds", 1e3),
        "memory, MB": figures("peak_memory_bytes", 1e-6),
        "load, s": figures("load_seconds"),
        "first call, s": figures("first_call_seconds"),
        "cold start, s": figures("cold_start_seconds"),
        "J per crop": figures("joules_per_crop"),
    }
    rows = zip(*columns.values(), strict=True)
    note = (
        "The fastest variant with the reference's tokens is highlighted. Steps are decoder steps per crop. A cold "
        "start is the time from the start of a new process to its first prediction."
    )
    return section(
        "All measurements",
        table(tuple(columns), rows, label="All variants", words=(1, 4, 5), best=variants.index(best) if best else None),
        tag("p", note, class_="note"),
    )


def _tokens(variant: VariantRow) -> Html | None:
    identical = variant.data.get("identical")
    return None if identical is None else badge("identical" if identical else "differ", bool(identical))


def _time_and_throughput(variants: Sequence[VariantRow], best: VariantRow | None) -> Html | None:
    stages, rates = breakdown(variants), throughput(variants)
    if not (stages or rates):
        return None
    parts = [
        figure(stages, "Share of the median time", stage_legend()) if stages else None,
        figure(rates, "Throughput, by variant number", look_legend(variants, best)) if rates else None,
    ]
    return section("Time per stage, and throughput", tag("div", *parts, class_="pair"))


def _roofline(variants: Sequence[VariantRow], best: VariantRow | None, result: Mapping[str, Any]) -> Html | None:
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
    place = measured.index(best) if best in measured else None
    beside = tag(
        "div",
        tag("p", _bounds_in_words(shares)),
        table(
            tuple(columns),
            rows,
            label="Shares of the roofline",
            words=(),
            best=place,
        ),
    )
    return section(
        "Share of the machine's peak rates",
        tag("div", figure(chart, "Roofline", graph_note()) if chart else None, beside, class_="pair"),
    )


def _reached(share: Mapping[str, Any]) -> str | None:
    """The share of the rate that bounds the graph."""
    bound = share.get("bound_by")
    return f"{percent(share.get(f'share_of_{bound}'))} of {_BOUNDS[bound][0]}" if bound in _BOUNDS else None


def _bounds_in_words(shares: Sequence[Mapping[str, Any]]) -> str:
    """Per graph the rate that bounds most variants, and the largest share of it that a variant reaches."""
    sentences = []
    for graph, name in GRAPHS.items():
        of_graph = [share for share in shares if share["graph"] == graph]
        for bound, (_, words) in _BOUNDS.items():
            bounded = [share for share in of_graph if share.get("bound_by") == bound]
            reached = [share[f"share_of_{bound}"] for share in bounded if known(share.get(f"share_of_{bound}"))]
            if 2 * len(bounded) > len(of_graph) and reached:
                sentences.append(
                    f"The {name} is bound by the {words}. The best variant reaches {percent(max(reached))} of it."
                )
    return " ".join(sentences)


_BOUNDS = {"gemm": ("GEMM rate", "GEMM rate"), "bandwidth": ("bandwidth", "memory bandwidth")}


def _skipped(result: Mapping[str, Any]) -> Html | None:
    skipped = result.get("skipped") or ()
    rows = [(variant.get("name") or NONE, variant.get("why") or NONE) for variant in skipped]
    return (
        section("Skipped", table(("variant", "reason"), rows, label="Skipped variants", words=(0, 1))) if rows else None
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
