"""`seqpar predict`: attributes of people in picture files."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from seqpar_deploy.backends import BackendName, ComputePrecision
from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import USAGE_ERROR, print_error, print_line
from seqpar_deploy.decoding import Beam, Speculative, Strategy
from seqpar_deploy.errors import ImageError, StrategyError
from seqpar_deploy.files import check_writable
from seqpar_deploy.images import find_pictures, read_image
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.recognizer import Prediction, Recognizer

_log = logging.getLogger(__name__)

_READ_AHEAD = 256  # pictures in memory at a time


def predict(
    pictures: Annotated[
        list[str],
        typer.Argument(help="Image files, folders or quoted globs, one person per image.", show_default=False),
    ],
    bundle: options.BundleOption,
    backend: Annotated[
        BackendName, typer.Option(help="Backend. auto takes the tuned one, else the first that opens the bundle.")
    ] = "auto",
    beam: options.Beam = 1,
    speculative: Annotated[
        bool, typer.Option("--speculative", help="Decode speculatively: the same tokens as greedy, often faster.")
    ] = False,
    batch_size: options.BatchSize = None,
    threads: options.Threads = None,
    compute_precision: Annotated[
        ComputePrecision | None,
        typer.Option(
            help="Precision on CPUs: native is the bundle's own; bf16 and int8 are faster. Default: the tuned one, "
            "else native.",
        ),
    ] = None,
    fallback_margin: Annotated[
        float | None,
        typer.Option(
            help="With bf16 or int8: re-run a crop in native precision if the log-probability margin of any token is "
            "below this value. Default: the tuned one.",
            min=0,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON Lines, one object per image.")] = False,
    annotate: Annotated[
        Path | None, typer.Option(help="Also write each image with its attributes drawn into this folder.")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Check the bundle's file hashes first.")] = True,
) -> None:
    """Predict the attributes of people in image files.

    Prints each image's attributes with their probabilities. An image that cannot be read is reported on standard error
    and skipped; the exit code is then 2.

    Examples:
      seqpar predict photos/ --bundle bundles/peta
      seqpar predict "crops/*.jpg" --bundle bundles/peta --json > attributes.jsonl
    """
    check_writable(annotate, folder=True)
    paths = find_pictures(pictures)
    strategy = _strategy(beam, speculative)
    names = _short_names(paths)
    if annotate:
        _check_apart(paths, annotate, names)
    failed = 0
    with Recognizer.from_bundle(
        bundle,
        backend=backend,
        strategy=strategy,
        batch_size=batch_size,
        threads=threads,
        compute_precision=compute_precision,
        fallback_margin=fallback_margin,
        verify=verify,
    ) as recognizer:
        width = max(map(len, names.values()))
        for chunk in _chunks(paths, _READ_AHEAD):
            crops = _read(chunk)
            failed += len(chunk) - len(crops)
            predictions = recognizer.predict_iter(list(crops.values()))
            for path, prediction in zip(crops, predictions, strict=True):
                row = _json_line(path, prediction) if as_json else _table_row(names[path], width, prediction)
                if annotate is not None:
                    _annotate(annotate, names[path], crops[path], prediction)
                if not print_line(row) and annotate is None:
                    raise typer.Exit(USAGE_ERROR if failed else 0)  # nobody reads the others
        _log.info("%d people, on %s (%s)", len(paths) - failed, recognizer.backend.name, recognizer.backend.device)
    if failed:
        raise typer.Exit(USAGE_ERROR)


def _read(paths: list[Path]) -> dict[Path, Crop]:
    """The images that can be read. Errors of the others are logged."""
    crops: dict[Path, Crop] = {}
    for path in paths:
        try:
            crops[path] = read_image(path)
        except ImageError as error:
            print_error(error)
    return crops


def _strategy(beam: int, speculative: bool) -> Strategy | None:
    """None where nothing is asked for: greedy, or as tuned."""
    if speculative:
        if beam != 1:
            raise StrategyError(f"--speculative is greedy, --beam is {beam}; leave one of them out")
        return Speculative()
    return None if beam == 1 else Beam(width=beam)


def _chunks(paths: list[Path], size: int) -> Iterator[list[Path]]:
    for start in range(0, len(paths), size):
        yield paths[start : start + size]


def _short_names(paths: list[Path]) -> dict[Path, str]:
    """File names, with as many of their folders as it takes to tell them apart."""
    names = {path: path.name for path in paths}
    if len(set(names.values())) < len(paths):
        names = {path: str(path) for path in paths}
    return names


def _json_line(path: Path, prediction: Prediction) -> str:
    values: dict[str, Any] = {
        "image": str(path),
        "attributes": [
            {"name": name, "score": round(score, 6)}
            for name, score in zip(prediction.attributes, prediction.scores, strict=True)
        ],
        "tokens": prediction.tokens,
        "steps": prediction.steps,
    }
    return json.dumps(values, ensure_ascii=False)


def _table_row(name: str, width: int, prediction: Prediction) -> str:
    attributes = ", ".join(
        f"{attribute} {score:.2f}" for attribute, score in zip(prediction.attributes, prediction.scores, strict=True)
    )
    return f"{name:<{width}}  {attributes or '(no attributes)'}"


def _annotate(folder: Path, name: str, crop: Crop, prediction: Prediction) -> None:
    from seqpar_deploy.annotate import annotate, save_picture

    save_picture(annotate(crop, prediction), _annotated_path(folder, name))


def _annotated_path(folder: Path, name: str) -> Path:
    """Where a picture's annotated one goes; `a.jpg` and `a.png` do not go to the same."""
    flat = name.strip("/").replace("/", "_")
    return folder / (flat if flat.lower().endswith(".png") else f"{flat}.png")


def _check_apart(paths: list[Path], folder: Path, names: dict[Path, str]) -> None:
    """Raise ImageError if an annotated picture would take the place of one that is read."""
    read = {path.resolve() for path in paths}
    for path in paths:
        if (written := _annotated_path(folder, names[path])).resolve() in read:
            raise ImageError(f"{written} is one of the pictures, it is not overwritten; give --annotate another folder")
