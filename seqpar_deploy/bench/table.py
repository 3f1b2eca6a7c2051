"""Results of the benchmark for a person to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Sequence[str]


def format_result(result: Mapping[str, Any]) -> str:
    """Everything a run has measured: times, costs, the machine's limits, and what was left out."""
    settings, machine = result["settings"], result["machine"]
    crops, runs = settings["crops"], settings["runs"]
    head = (
        f"{crops} crop{'s' if crops > 1 else ''} at a time, {result['bundle']['label_set']}, {runs} runs; medians, ms\n"
        f"on {machine['processor']}, {machine['cores']} cores"
    )
    parts = [head, _ladder(result["variants"]), _costs(result["variants"]), _limits(result), _shares(result)]
    parts.append(_skipped(result["skipped"]))
    return "\n\n".join(part for part in parts if part)


def columns(rows: Sequence[Row]) -> str:
    """Rows in columns: the first flush left, the others flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _ladder(variants: Sequence[Mapping[str, Any]]) -> str:
    stages = ("preprocess", "encode", "decode", "host")
    rows: list[Row] = [("", "p50", "p95", "p99", *stages, "steps", "a step", "faster", "tokens")]
    for variant in variants:
        times = [variant["p50"], variant["p95"], variant["p99"], *(variant["stages"][stage] for stage in stages)]
        rows.append(
            (
                variant["description"],
                *(_ms(seconds) for seconds in times),
                f"{variant['steps']:g}",
                f"{1e3 * variant['step_seconds']:.2f}",
                f"{variants[0]['p50'] / variant['p50']:.2f}x",
                "reference" if variant["reference"] else "identical" if variant["identical"] else "DIFFERENT",
            )
        )
    return columns(rows)


def _costs(variants: Sequence[Mapping[str, Any]]) -> str:
    batches = sorted({entry["batch"] for variant in variants for entry in variant["throughput"]})
    heads = [f"crops/s at {batch}" for batch in batches]
    rows: list[Row] = [("", "cold start", "loading", "first call", "peak MB", "J/crop", *heads)]
    for variant in variants:
        rates = {entry["batch"]: f"{entry['crops_per_second']:.2f}" for entry in variant["throughput"]}
        memory, joules = variant["peak_memory_bytes"], variant["joules_per_crop"]
        rows.append(
            (
                variant["description"],
                *(_ms(variant[key]) for key in ("cold_start_seconds", "load_seconds", "first_call_seconds")),
                "-" if memory is None else f"{memory / 1e6:.0f}",
                "-" if joules is None else f"{joules:.3g}",
                *(rates.get(batch, "-") for batch in batches),
            )
        )
    return columns(rows)


def _limits(result: Mapping[str, Any]) -> str:
    limits, model = result["limits"], result["model"]
    products = [
        f"{precision} {rate / 1e9:.0f} ({limits['products_by'][precision]})"
        for precision, rate in limits["products_per_second"].items()
        if rate is not None
    ]
    return "\n".join(
        [
            f"this machine at best: products, GFLOP/s: {'; '.join(products)}",
            f"  reads, GB/s: {limits['bytes_per_second'] / 1e9:.1f} of a step's bytes ({limits['bytes_by']}), "
            f"{limits['streamed_bytes_per_second'] / 1e9:.1f} beyond the cache ({limits['streamed_by']})",
            f"this model: encoder {_work(model, 'encoder')} a crop, decoder step {_work(model, 'step')}",
        ]
    )


def _work(model: Mapping[str, int], graph: str) -> str:
    return f"{model[f'{graph}_operations'] / 1e9:.3g} GFLOP and {model[f'{graph}_bytes'] / 1e6:.3g} MB"


def _shares(result: Mapping[str, Any]) -> str:
    if not result["shares"]:
        return ""
    described = {variant["name"]: variant["description"] for variant in result["variants"]}
    rows: list[Row] = [("share of this machine's best", "graph", "ms", "products", "bandwidth", "binds")]
    for share in result["shares"]:
        rows.append(
            (
                described[share["variant"]],
                share["graph"],
                f"{1e3 * share['seconds']:.2f}",
                f"{share['share_of_products']:.1%}",
                f"{share['share_of_bandwidth']:.1%}",
                share["binds"],
            )
        )
    return columns(rows)


def _skipped(skipped: Sequence[Mapping[str, str]]) -> str:
    names_of: dict[str, list[str]] = {}
    for entry in skipped:
        names_of.setdefault(entry["why"], []).append(entry["name"])
    return "\n".join(f"skipped {', '.join(names)}: {why}" for why, names in names_of.items())


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.1f}"
