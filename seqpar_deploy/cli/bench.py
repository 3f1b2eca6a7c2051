"""`seqpar bench`: measure a bundle against its alternatives, or compare two results."""

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

_Checkpoint = Annotated[
    Path | None,
    typer.Option(
        help="Checkpoint of the bundle. Also measure the PyTorch variants and other exports of it.",
        metavar="FILE",
        show_default="measure the backends only",
    ),
]
_Only = Annotated[
    str | None,
    typer.Option(help="Variants to measure, for example openvino,onnxruntime.", metavar="NAMES", show_default="all"),
]
_Skip = Annotated[
    str | None,
    typer.Option(help="Variants to skip, for example published,eager.", metavar="NAMES", show_default="none"),
]
_Batches = Annotated[
    str | None,
    typer.Option(
        help="Batch sizes to measure throughput at, comma-separated.",
        metavar="SIZES",
        show_default="1,4,16, up to the largest batch of the bundle",
    ),
]
_Seconds = Annotated[
    float,
    typer.Option(help="Seconds to measure each throughput and each limit of the machine.", metavar="SECONDS", min=0.01),
]


def run(
    bundle: options.BundleArgument,
    checkpoint: _Checkpoint = None,
    decoder_heads: options.DecoderHeads = None,
    encoder: options.Encoder = None,
    only: _Only = None,
    skip: _Skip = None,
    crops: Annotated[int, typer.Option(help="Crops per timed run, taken from the sample crops.", min=1)] = 1,
    ratio: Annotated[
        float | None,
        typer.Option(
            help="Reshape the sample crops to this height per width, for example 2.5.",
            metavar="RATIO",
            min=0.1,
            max=10,
            show_default="their own",
        ),
    ] = None,
    runs: Annotated[int, typer.Option(help="Timed runs per variant.", min=1)] = 5,
    batches: _Batches = None,
    threads: options.Threads = None,
    device: Annotated[options.Device, typer.Option(help="With --checkpoint: device of the PyTorch variants.")] = "cpu",
    seconds: _Seconds = 0.5,
    as_json: options.AsJson = False,
    output: options.Output = None,
    html: Annotated[Path | None, typer.Option(help="Also write the result to this HTML page.", metavar="FILE")] = None,
) -> None:
    """Measure a bundle against its alternatives on this machine.

    Run the variants in turn, from crops to attributes, and print time, memory, energy, and the share of the machine's
    limits that each reaches. The exit code is 1 if a variant in native precision returns different tokens.

    Examples:
      seqpar bench run bundles/peta --output today.json
      seqpar bench run bundles/peta --checkpoint f1_best.pth --html speed.html
    """
    check_writable(output, html)
    if checkpoint is None:
        needing = {"--device cuda": device == "cuda", "--encoder": encoder, "--decoder-heads": decoder_heads}
        options.check_needed("--checkpoint", needing)
    settings = Settings(
        crops=crops,
        runs=runs,
        batches=_batches(batches) if batches else None,
        threads=threads,
        seconds=seconds,
        ratio=ratio,
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
    first: Annotated[
        Path, typer.Argument(help="Baseline: a file that seqpar bench run --output wrote.", metavar="FIRST")
    ],
    second: Annotated[Path, typer.Argument(help="Result to compare with the baseline.", metavar="SECOND")],
    fail_above: Annotated[
        float | None,
        typer.Option(
            help="Exit with code 1 if a variant takes more than this factor of its time in FIRST, is missing from "
            "SECOND, or returns different tokens there. For example, 1.1 allows 10 % more time.",
            metavar="FACTOR",
            show_default="never",
        ),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Variant to compare.", metavar="NAME", show_default="all")] = None,
    as_json: options.AsJson = False,
    output: options.Output = None,
) -> None:
    """Compare two results of seqpar bench run.

    Print the median time per variant in both results, their ratio, and other differences, for example of machines.

    Examples:
      seqpar bench compare yesterday.json today.json
      seqpar bench compare yesterday.json today.json --fail-above 1.1
    """
    check_writable(output)
    if fail_above is not None and not 0 < fail_above < float("inf"):
        raise SeqparError(f"--fail-above must be a number above 0, got {fail_above}; for example, 1.1 allows 10 % more")
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
        return f"{second} lacks these variants, or they return different tokens: {', '.join(found.lost)}"
    if slower := found.slower_than(fail_above):
        listed = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in slower.items())
        return f"{second} is slower than {first} by more than {fail_above:g}: {listed}"
    return f"{second} has no variant slower than in {first} by more than {fail_above:g}"


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
        raise SeqparError(f"--batches must be whole numbers above 0, got {text!r}; for example 1,4,16")
    return batches
