"""`seqpar-bench`: a bundle against its alternatives, and this machine's limits; one result against another."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from seqpar_deploy.bench.measure import Settings, measure
from seqpar_deploy.bench.regression import compare as compare_results
from seqpar_deploy.bench.table import format_result
from seqpar_deploy.bench.variants import BenchContext, make_variants
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.cli.console import new_app, run_app, stage
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.files import write_whole
from seqpar_deploy.images import read_image
from seqpar_deploy.resources import sample_crops

app = new_app("Time a bundle against its alternatives on this machine, and compare what they say.")


@app.command()
def bench(
    bundle: Annotated[Path | None, typer.Argument(help="The bundle to measure.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Its checkpoint; without it only the backends are compared.")
    ] = None,
    decoder_heads: Annotated[int | None, typer.Option(help="As given to seqpar-export.")] = None,
    encoder: Annotated[str | None, typer.Option(help="As given to seqpar-export.")] = None,
    only: Annotated[str | None, typer.Option(help="Measure only these alternatives, by name, with commas.")] = None,
    skip: Annotated[str | None, typer.Option(help="Leave these alternatives out.")] = None,
    crops: Annotated[int, typer.Option(help="Crops at a time, of the sample crops in turn.", min=1)] = 1,
    runs: Annotated[int, typer.Option(help="Timed runs of each alternative.", min=1)] = 5,
    batches: Annotated[
        str | None, typer.Option(help="Batch sizes to measure the throughput of; 1,4,16 as far as the bundle allows.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; the runtimes' choice by default.", min=1)] = None,
    device: Annotated[str, typer.Option(help="What PyTorch runs on, cpu or cuda.")] = "cpu",
    seconds: Annotated[
        float, typer.Option(help="For each throughput and each of the machine's limits.", min=0.01)
    ] = 0.5,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result here.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="Also write a page of it here.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Measure nothing: compare two files of --json.", metavar="FIRST SECOND"),
    ] = None,
    fail_above: Annotated[
        float | None,
        typer.Option(help="With --compare: exit code 1 if the second is slower by more than this factor, 1.1 say."),
    ] = None,
    variant: Annotated[str | None, typer.Option(help="With --compare: look at this alternative alone.")] = None,
) -> None:
    """Run the alternatives in turn, end to end, and print their times, what else they cost, and what they reach of this
    machine's limits. Exit code 1 if one says something else, unless its arithmetic is meant to be less exact."""
    if compare is not None:
        _compare(*compare, fail_above, variant)
        return
    if fail_above is not None or variant is not None:
        raise SeqparError("--fail-above and --variant need --compare with two results")
    if bundle is None:
        raise SeqparError("which bundle? pass its folder, or --compare and two results")
    if device not in ("cpu", "cuda"):
        raise SeqparError(f"--device is {device!r}, wanted cpu or cuda")
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
    print(format_result(result))
    if json_file:
        write_whole(json_file, (json.dumps(result, indent=2) + "\n").encode())
    if html_file:
        from seqpar_deploy.reports.bench_page import bench_page

        write_whole(html_file, bench_page(result).encode())
    if not all(entry["identical"] or entry["reduced"] for entry in result["variants"]):
        raise typer.Exit(1)


def _compare(first: Path, second: Path, fail_above: float | None, variant: str | None) -> None:
    if fail_above is not None and not 0 < fail_above < float("inf"):
        raise SeqparError(f"--fail-above is {fail_above}, wanted a number above 0, such as 1.1")
    found = compare_results(first, second, variant=variant)
    print(found.format())
    if fail_above is None:
        return
    if found.lost:
        print(f"\n{second.name} has lost, or says other tokens on: {', '.join(found.lost)}")
        raise typer.Exit(1)
    if slower := found.slower_than(fail_above):
        listed = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in slower.items())
        print(f"\n{second.name} is slower than {first.name} by more than {fail_above:g}: {listed}")
        raise typer.Exit(1)
    print(f"\n{second.name} is nowhere slower than {first.name} by more than {fail_above:g}")


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _batches(text: str) -> tuple[int, ...]:
    try:
        batches = tuple(int(part) for part in text.split(","))
    except ValueError:
        batches = ()
    if not batches or min(batches) < 1:
        raise SeqparError(f"--batches is {text!r}, wanted numbers of crops such as 1,4,16")
    return batches


def run() -> None:
    """Entry point of `seqpar-bench`."""
    run_app(app)


if __name__ == "__main__":
    run()
