"""`seqpar bench`: measure a bundle against its alternatives, compare two results."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from seqpar_deploy.bench.measure import Settings, measure
from seqpar_deploy.bench.regression import Regression
from seqpar_deploy.bench.regression import compare as compare_results
from seqpar_deploy.bench.table import format_result
from seqpar_deploy.bench.variants import BenchContext, make_variants
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import emit_result, stage
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.files import check_writable, write_whole
from seqpar_deploy.images import read_image
from seqpar_deploy.resources import sample_crops


def run(
    bundle: options.BundleArgument,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Checkpoint of the bundle, to measure PyTorch variants too. Default: only the backends."),
    ] = None,
    decoder_heads: options.DecoderHeads = None,
    encoder: options.Encoder = None,
    only: Annotated[str | None, typer.Option(help="Variants to measure, comma-separated. Default: all.")] = None,
    skip: Annotated[str | None, typer.Option(help="Variants to skip, comma-separated. Default: none.")] = None,
    crops: Annotated[int, typer.Option(help="Crops per timed run, from the sample crops.", min=1)] = 1,
    runs: Annotated[int, typer.Option(help="Timed runs of each variant.", min=1)] = 5,
    batches: Annotated[
        str | None,
        typer.Option(
            help="Batch sizes to measure throughput at, comma-separated. Default: 1,4,16, up to the bundle's largest "
            "batch."
        ),
    ] = None,
    threads: options.Threads = None,
    device: Annotated[options.Device, typer.Option(help="Device of the PyTorch variants.")] = "cpu",
    seconds: Annotated[
        float, typer.Option(help="Seconds to measure each throughput and each limit of the machine.", min=0.01)
    ] = 0.5,
    as_json: options.AsJson = False,
    output: options.Output = None,
    html: Annotated[Path | None, typer.Option(help="Also write the result to this HTML page.")] = None,
) -> None:
    """Measure a bundle against its alternatives on this machine.

    Runs the variants in turn, end to end, and prints their times, memory, energy, and share of the machine's limits.
    The exit code is 1 if a variant in native precision returns different tokens.

    Examples:
      seqpar bench run bundles/peta --output today.json
      seqpar bench run bundles/peta --checkpoint f1_best.pth --html speed.html
    """
    check_writable(output, html)
    settings = Settings(
        crops=crops, runs=runs, batches=_batches(batches) if batches else None, threads=threads, seconds=seconds
    )
    with tempfile.TemporaryDirectory(prefix="seqpar-bench-") as folder:
        with stage("loading"):
            context = BenchContext(
                Bundle.open(bundle),
                checkpoint=checkpoint,
                encoder=encoder,
                decoder_heads=decoder_heads,
                device=device,
                threads=threads,
                batch=crops,
                folder=Path(folder),
            )
            variants, skipped = make_variants(context, only=_names(only), skip=_names(skip))
        pictures = [read_image(path) for path in sample_crops()]
        result = measure(context, variants, skipped, pictures, settings, progress=stage)
    if html:
        from seqpar_deploy.reports.bench_page import bench_page

        write_whole(html, bench_page(result).encode())
    emit_result(result, format_result(result), as_json=as_json, output=output)
    if not all(entry["identical"] or entry["reduced"] for entry in result["variants"]):
        raise typer.Exit(1)


def compare(
    first: Annotated[Path, typer.Argument(help="Baseline: a file of `seqpar bench run --output`.", show_default=False)],
    second: Annotated[Path, typer.Argument(help="Result to compare with it.", show_default=False)],
    fail_above: Annotated[
        float | None,
        typer.Option(
            help="Exit with code 1 if a variant of the second is slower by more than this factor, for example 1.1, or "
            "is missing or returns wrong tokens. Default: never."
        ),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Variant to compare. Default: all.")] = None,
    as_json: options.AsJson = False,
    output: options.Output = None,
) -> None:
    """Compare two results of `seqpar bench run`.

    Prints the median time of each variant in both results, their ratio, and what else differs.

    Examples:
      seqpar bench compare yesterday.json today.json
      seqpar bench compare yesterday.json today.json --fail-above 1.1
    """
    check_writable(output)
    if fail_above is not None and not 0 < fail_above < float("inf"):
        raise SeqparError(f"--fail-above must be a number above 0, got {fail_above}; 1.1 allows 10 % more time")
    found = compare_results(first, second, variant=variant)
    verdict = _verdict(found, first.name, second.name, fail_above)
    text = f"{found.format()}\n\n{verdict}" if verdict else found.format()
    emit_result(_comparison_values(found, fail_above), text, as_json=as_json, output=output)
    if fail_above is not None and (found.lost or found.slower_than(fail_above)):
        raise typer.Exit(1)


def _verdict(found: Regression, first: str, second: str, fail_above: float | None) -> str | None:
    if fail_above is None:
        return None
    if found.lost:
        return f"{second} has lost, or returns other tokens on: {', '.join(found.lost)}"
    if slower := found.slower_than(fail_above):
        listed = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in slower.items())
        return f"{second} is slower than {first} by more than {fail_above:g}: {listed}"
    return f"{second} is nowhere slower than {first} by more than {fail_above:g}"


def _comparison_values(found: Regression, fail_above: float | None) -> dict[str, Any]:
    return {
        "variants": [
            {"name": name, "first_seconds": first, "second_seconds": second, "ratio": found.ratios[name]}
            for name, (first, second) in found.medians.items()
        ],
        "notes": list(found.notes),
        "lost": list(found.lost),
        "fail_above": fail_above,
        "slower": [] if fail_above is None else list(found.slower_than(fail_above)),
    }


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _batches(text: str) -> tuple[int, ...]:
    try:
        batches = tuple(int(part) for part in text.split(","))
    except ValueError:
        batches = ()
    if not batches or min(batches) < 1:
        raise SeqparError(f"--batches must be batch sizes such as 1,4,16, got {text!r}")
    return batches
