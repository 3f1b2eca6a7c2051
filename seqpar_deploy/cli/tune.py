"""`seqpar tune`: the quickest way to run a bundle on this machine that changes no token."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from seqpar_deploy.bench.tune import format_tuning
from seqpar_deploy.bench.tune import tune as tune_bundle
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.cli.console import stage
from seqpar_deploy.files import write_whole
from seqpar_deploy.images import find_pictures, read_image
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.resources import sample_crops
from seqpar_deploy.synth.render import render_person
from seqpar_deploy.tuned import save_tuned

_SEED = 4000  # of no training, no calibration, no parity crop and no test


def tune(
    bundle: Annotated[Path, typer.Argument(help="The bundle; the choice is kept in its folder.")],
    pictures: Annotated[
        list[str] | None,
        typer.Argument(help="Crops of your own cameras: files, folders or quoted globs. Better than ours."),
    ] = None,
    crops: Annotated[
        int,
        typer.Option(help="How many to take in all: your pictures, or 20 of ours, and people drawn for it.", min=100),
    ] = 200,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write what was measured here.")] = None,
) -> None:
    """Measure all backends and arithmetic of this machine; keep the quickest that says what exact arithmetic says.

    `Recognizer.from_bundle` and `seqpar predict` use it from then on, unless told otherwise. Bundles made with the
    recipe int8 hold quicker graphs to choose from.
    """
    opened = Bundle.open(bundle)
    chosen = [read_image(path) for path in (find_pictures(pictures) if pictures else sample_crops())]
    chosen += [render_person(_SEED, index)[0] for index in range(crops - len(chosen))]
    tuning = tune_bundle(opened, chosen, progress=stage)
    choice = tuning.choice
    machine = describe_machine()
    print(f"{opened.label_set.name}, {opened.precision}, one crop at a time; answers on {tuning.crops} crops")
    print(f"on {machine['processor']}, {machine['cores']} cores\n")
    print(format_tuning(tuning))
    for line in tuning.skipped:
        print(f"  left out: {line}")
    batches = ", ".join(f"{rate:.3g} at {size}" for size, rate in tuning.throughput.items())
    print(f"\ncrops a second by batch, before rechecks: {batches}")
    if choice.fallback_margin is not None:
        print("rechecked are crops with a choice closer than what 99.9 % of all choices were moved by")
    if json_file:
        values = {"machine": machine, "bundle": opened.digest, **dataclasses.asdict(tuning)}
        write_whole(json_file, (json.dumps(values, indent=2) + "\n").encode())
    kept = save_tuned(opened, choice, dataclasses.asdict(tuning))
    print(f"kept in {kept}: {_describe(choice.threads)}, batches of {choice.batch_size}")


def _describe(threads: int | None) -> str:
    return "as many threads as the runtime likes" if threads is None else f"threads: {threads}"
