"""`seqpar synth`: a rendered pedestrian set in PA-100K's file format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqpar_deploy.cli.console import stage


def synth(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder to write; one begun with the same options is gone on with.")
    ] = None,
    train: Annotated[int, typer.Option(min=0, help="Pictures to train on.")] = 50_000,
    val: Annotated[int, typer.Option(min=0, help="Pictures to choose a checkpoint by.")] = 2_000,
    test: Annotated[int, typer.Option(min=0, help="Pictures to test on.")] = 5_000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same pictures.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that draw. Default: 2, or 1 if only one core is usable.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also write the first people of this seed, labelled, as one PNG.")
    ] = None,
) -> None:
    """Draw SYNTHETIC pedestrians with PA-100K's 26 attributes, to pre-train and to test on; no photographs."""
    from seqpar_deploy.synth import contact_sheet, write_pa100k

    if folder is None and sheet is None:
        raise typer.BadParameter("give a folder to write, --sheet, or both")
    if sheet is not None:
        contact_sheet(sheet, seed=seed)
        print(f"{sheet}: the first people of seed {seed}, synthetic")
    if folder is not None:
        with stage(f"drawing {train + val + test} synthetic people") as update:
            write_pa100k(folder, train=train, val=val, test=test, seed=seed, workers=workers, progress=update)
        print(f"{folder}: {train} train, {val} val, {test} test, synthetic, PA-100K format")
