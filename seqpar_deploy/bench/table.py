"""Format benchmark results as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Sequence[str]


def format_result(result: Mapping[str, Any]) -> str:
    """Format all measurements of a run: times, costs, the machine's roofline, and skipped variants."""
    settings, machine = result["settings"], result["machine"]
    crops, runs = settings["crops"], settings["runs"]
    head = (
        f"{crops} crop{'s' if crops > 1 else ''} per batch, {result['bundle']['label_set']}, {runs} runs; medians, ms\n"
        f"on {machine['processor']}, {machine['cores']} cores"
    )
    parts = [
        head,
        _format_times(result["variants"]),
        _format_costs(result["variants"]),
        _format_roofline(result),
        _format_shares(result),
        _format_skipped(result["skipped"]),
    ]
    return "\n\n".join(part for part in parts if part)


def format_columns(rows: Sequence[Row]) -> str:
    """Format rows in columns. The first column is left-aligned, the others right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column == 0 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _format_times(variants: Sequence[Mapping[str, Any]]) -> str:
    stages = ("preprocess", "encode", "decode", "host")
    rows: list[Row] = [("", "p50", "p95", "p99", *stages, "steps", "ms/step", "faster", "tokens")]
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
    return format_columns(rows)


def _format_costs(variants: Sequence[Mapping[str, Any]]) -> str:
    batches = sorted({entry["batch"] for variant in variants for entry in variant["throughput"]})
    heads = [f"crops/s at {batch}" for batch in batches]
    rows: list[Row] = [("", "cold start", "load", "first call", "peak MB", "J/crop", *heads)]
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
    return format_columns(rows)


def _format_roofline(result: Mapping[str, Any]) -> str:
    roofline, model = result["roofline"], result["model"]
    peaks = [
        f"{precision} {rate / 1e9:.0f} ({roofline['gemm_by'][precision]})"
        for precision, rate in roofline["gemm_flops_per_second"].items()
        if rate is not None
    ]
    return "\n".join(
        [
            f"roofline of this machine: GEMM, GFLOP/s: {'; '.join(peaks)}",
            f"  memory reads, GB/s: {roofline['bytes_per_second'] / 1e9:.1f} for a step's bytes "
            f"({roofline['bytes_by']}), {roofline['streamed_bytes_per_second'] / 1e9:.1f} beyond the cache "
            f"({roofline['streamed_by']})",
            f"model: encoder {_format_work(model, 'encoder')} per crop, decoder step {_format_work(model, 'step')}",
        ]
    )


def _format_work(model: Mapping[str, int], graph: str) -> str:
    return f"{model[f'{graph}_flops'] / 1e9:.3g} GFLOP and {model[f'{graph}_bytes'] / 1e6:.3g} MB"


def _format_shares(result: Mapping[str, Any]) -> str:
    if not result["shares"]:
        return ""
    described = {variant["name"]: variant["description"] for variant in result["variants"]}
    rows: list[Row] = [("share of the roofline", "graph", "ms", "GEMM", "bandwidth", "bound by")]
    for share in result["shares"]:
        rows.append(
            (
                described[share["variant"]],
                share["graph"],
                f"{1e3 * share['seconds']:.2f}",
                f"{share['share_of_gemm']:.1%}",
                f"{share['share_of_bandwidth']:.1%}",
                share["bound_by"],
            )
        )
    return format_columns(rows)


def _format_skipped(skipped: Sequence[Mapping[str, str]]) -> str:
    names_of: dict[str, list[str]] = {}
    for entry in skipped:
        names_of.setdefault(entry["why"], []).append(entry["name"])
    return "\n".join(f"skipped {', '.join(names)}: {why}" for why, names in names_of.items())


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.1f}"
