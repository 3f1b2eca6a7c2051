"""`seqpar-bench`: a bundle against PyTorch, on this machine."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from seqpar_deploy.backends import available_backends, open_backend
from seqpar_deploy.bench.ladder import Rung, Timing, format_table, run_ladder
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.cli.console import new_app, run_app, stage
from seqpar_deploy.decoding import Speculative
from seqpar_deploy.errors import BackendUnavailableError, CheckpointError
from seqpar_deploy.files import write_whole
from seqpar_deploy.images import read_image
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.resources import sample_crops

app = new_app("Time a bundle against PyTorch on this machine, and compare what they say.")


@app.command()
def bench(
    bundle: Annotated[Path, typer.Argument(help="The bundle to measure.")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="Its checkpoint; without it only the backends are compared.")
    ] = None,
    decoder_heads: Annotated[int | None, typer.Option(help="As given to seqpar-export.")] = None,
    encoder: Annotated[str | None, typer.Option(help="As given to seqpar-export.")] = None,
    backends: Annotated[str | None, typer.Option(help="Comma-separated; all that are installed by default.")] = None,
    crops: Annotated[int, typer.Option(help="Crops a batch, of the sample crops in turn.", min=1)] = 1,
    runs: Annotated[int, typer.Option(help="Timed runs of each alternative.", min=1)] = 5,
    threads: Annotated[int | None, typer.Option(help="CPU threads; the runtimes' choice by default.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the result here.")] = None,
) -> None:
    """Run the alternatives in turn, end to end, and print their medians and ratios; exit code 1 if tokens differ."""
    opened = Bundle.open(bundle)
    with stage("loading"):
        rungs = _eager_rungs(opened, checkpoint, encoder, decoder_heads, threads) if checkpoint else []
        for name in backends.split(",") if backends else available_backends():
            backend = open_backend(opened, name, threads=threads)  # type: ignore[arg-type]
            label = f"bundle {opened.precision}, {name}"
            rungs.append(Rung(name=name, description=label, backend=backend))
            rungs.append(
                Rung(
                    name=f"{name}-speculative",
                    description=f"{label}, speculative",
                    backend=backend,
                    strategy=Speculative(),
                )
            )
    if not rungs:
        raise BackendUnavailableError(
            "nothing to measure: no backend is installed; pip install 'seqpar-deploy[openvino]'"
        )
    with stage("measuring") as progress:
        timings = run_ladder(
            rungs,
            [read_image(path) for path in sample_crops()],
            dimensions=opened.dimensions,
            preprocessing=opened.preprocessing,
            runs=runs,
            batch=crops,
            progress=progress,
        )
    machine = describe_machine()
    print(f"{crops} crop{'s' if crops > 1 else ''} a batch, {opened.label_set.name}, greedy, medians of {runs} runs")
    print(f"on {machine['processor']}, {machine['cores']} cores\n")
    print(format_table(timings))
    if json_file:
        result = _result(opened, timings, machine, crops, runs, threads)
        write_whole(json_file, (json.dumps(result, indent=2) + "\n").encode())
    if not all(timing.identical for timing in timings):
        raise typer.Exit(1)


def _eager_rungs(
    bundle: Bundle, checkpoint: Path, encoder: str | None, decoder_heads: int | None, threads: int | None
) -> list[Rung]:
    try:
        import torch

        from seqpar_deploy.modeling.checkpoint import build_model, load_checkpoint
        from seqpar_deploy.modeling.eager import CachedEagerBackend
        from seqpar_deploy.modeling.published import PublishedBackend
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            f"--checkpoint needs {error.name}, which is not installed; pip install 'seqpar-deploy[export]'"
        ) from None
    loaded = load_checkpoint(checkpoint)
    if loaded.sha256 != bundle.manifest["checkpoint"]["sha256"]:
        raise CheckpointError(
            f"{checkpoint.name} has sha256 {loaded.sha256[:12]}.., the bundle was made of "
            f"{bundle.manifest['checkpoint']['sha256'][:12]}..; pass the checkpoint it was exported from"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    label_set = bundle.label_set
    model = build_model(loaded, label_set, encoder=encoder, decoder_heads=decoder_heads)
    with torch.inference_mode():
        token_table = model.token_table(label_set.phrases)
    return [
        Rung(
            name="published",
            description="PyTorch, as published",
            backend=PublishedBackend(model, label_set.phrases, label_set.preprocessing),
        ),
        Rung(
            name="eager",
            description="PyTorch, text folded, cached",
            backend=CachedEagerBackend(model, token_table, label_set.preprocessing),
        ),
    ]


def _result(
    bundle: Bundle, timings: list[Timing], machine: dict[str, Any], crops: int, runs: int, threads: int | None
) -> dict[str, Any]:
    return {
        "what": "seconds end to end, from raw crops to attributes",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine,
        "bundle": {
            "digest": bundle.digest,
            "label_set": bundle.label_set.name,
            "precision": bundle.precision,
            "checkpoint": bundle.manifest["checkpoint"],
            "producer": bundle.manifest["producer"],
        },
        "crops": crops,
        "runs": runs,
        "threads": threads,
        "rungs": [timing.to_dict() for timing in timings],
        "faster_than_first": {timing.name: timings[0].median / timing.median for timing in timings},
    }


def run() -> None:
    """Entry point of `seqpar-bench`."""
    run_app(app)


if __name__ == "__main__":
    run()
