"""`seqpar synth`: a rendered pedestrian set in PA-100K's file format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import emit_result, stage
from seqpar_deploy.files import check_writable


def synth(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Folder to write. An interrupted dataset with the same options is resumed.", show_default=False
        ),
    ] = None,
    train: Annotated[int, typer.Option(min=0, help="Training images.")] = 50_000,
    val: Annotated[int, typer.Option(min=0, help="Validation images.")] = 2_000,
    test: Annotated[int, typer.Option(min=0, help="Test images.")] = 5_000,
    seed: Annotated[int, typer.Option(min=0, help="Random seed; the same seed renders the same images.")] = 0,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that render. Default: 2, or 1 if only one core is usable.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also write the first 48 people of this seed, with labels, to this PNG.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Render a synthetic dataset in PA-100K's format.

    The people have PA-100K's 26 attributes. Use the dataset to pre-train and to test; it contains no photographs.

    Examples:
      seqpar synth data/synthetic
      seqpar synth data/small --train 1000 --val 100 --test 100 --sheet sheet.png
    """
    check_writable(folder, folder=True)
    check_writable(sheet)
    from seqpar_deploy.synth import contact_sheet, write_pa100k

    if folder is None and sheet is None:
        raise typer.BadParameter("FOLDER or --sheet is required; pass a folder to write, a PNG for the sheet, or both")
    lines = []
    if sheet is not None:
        contact_sheet(sheet, seed=seed)
        lines.append(f"{sheet}: the first people of seed {seed}, synthetic")
    if folder is not None:
        with stage(f"rendering {train + val + test} synthetic people") as update:
            write_pa100k(folder, train=train, val=val, test=test, seed=seed, workers=workers, progress=update)
        lines.append(f"{folder}: {train} train, {val} val, {test} test, synthetic, PA-100K format")
    places = {"folder": str(folder) if folder else None, "sheet": str(sheet) if sheet else None}
    counts = {"train": train, "val": val, "test": test} if folder else {}
    emit_result({**places, "seed": seed, **counts}, "\n".join(lines), as_json=as_json)
