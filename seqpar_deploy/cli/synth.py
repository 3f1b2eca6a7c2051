"""`seqpar synth`: render a synthetic dataset in PA-100K's file format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import emit_result, stage
from seqpar_deploy.files import check_writable

_TRAIN, _VAL, _TEST = 50_000, 2_000, 5_000  # images


def synth(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Folder to write the dataset to. An interrupted run with the same options is resumed. May be omitted "
            "with --sheet.",
            metavar="FOLDER",
        ),
    ] = None,
    train: Annotated[int | None, typer.Option(help="Training images.", show_default=str(_TRAIN), min=0)] = None,
    val: Annotated[int | None, typer.Option(help="Validation images.", show_default=str(_VAL), min=0)] = None,
    test: Annotated[int | None, typer.Option(help="Test images.", show_default=str(_TEST), min=0)] = None,
    seed: Annotated[int, typer.Option(help="Random seed. The same seed renders the same images.", min=0)] = 0,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes that render.", show_default="2, or 1 if only one core is usable", min=1),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Also write the first 48 people of this seed, with labels, to this PNG.", metavar="FILE"),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Render a synthetic dataset in PA-100K's format.

    The rendered people have PA-100K's 26 attributes. The dataset contains no photographs. It is for pre-training and
    for tests.

    Examples:
      seqpar synth data/synthetic
      seqpar synth data/small --train 1000 --val 100 --test 100 --sheet sheet.png
    """
    check_writable(folder, folder=True)
    check_writable(sheet)
    if folder is None and sheet is not None:
        options.check_needed("FOLDER", {"--train": train, "--val": val, "--test": test, "--workers": workers})
    from seqpar_deploy.synth import contact_sheet, write_pa100k

    if folder is None and sheet is None:
        raise typer.BadParameter(
            "FOLDER or --sheet must be given, got neither; add a folder, a PNG for --sheet, or both"
        )
    lines = []
    if sheet is not None:
        contact_sheet(sheet, seed=seed)
        lines.append(f"{sheet}: the first people of seed {seed}, synthetic")
    counts = {"train": _or(train, _TRAIN), "val": _or(val, _VAL), "test": _or(test, _TEST)}
    if folder is not None:
        with stage(f"rendering {sum(counts.values())} synthetic people") as update:
            write_pa100k(folder, **counts, seed=seed, workers=workers, progress=update)
        images = ", ".join(f"{count} {split}" for split, count in counts.items())
        lines.append(f"{folder}: {images} images, synthetic, PA-100K format")
    places = {"folder": str(folder) if folder else None, "sheet": str(sheet) if sheet else None}
    emit_result({**places, "seed": seed, **(counts if folder else {})}, "\n".join(lines), as_json=as_json)


def _or(given: int | None, default: int) -> int:
    return default if given is None else given
