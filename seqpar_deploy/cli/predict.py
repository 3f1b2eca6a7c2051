"""`seqpar predict`: attributes of people in picture files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from seqpar_deploy.backends import BackendName
from seqpar_deploy.cli.console import USAGE_ERROR, print_error
from seqpar_deploy.decoding import Beam, Speculative, Strategy
from seqpar_deploy.errors import ImageError, StrategyError
from seqpar_deploy.images import find_pictures, read_image
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.recognizer import Prediction, Recognizer

_READ_AHEAD = 256  # pictures in memory at a time


def predict(
    pictures: Annotated[
        list[str], typer.Argument(help="Picture files, folders or quoted globs, one person a picture.")
    ],
    bundle: Annotated[Path, typer.Option("--bundle", "-b", help="The bundle to run.")],
    backend: Annotated[str, typer.Option(help=f"{', '.join(get_args(BackendName))}.")] = "auto",
    beam: Annotated[int, typer.Option(help="Beam width; 1 is greedy.")] = 1,
    speculative: Annotated[
        bool, typer.Option("--speculative", help="Greedy, several guessed tokens a step: often faster, same result.")
    ] = False,
    batch_size: Annotated[int | None, typer.Option(help="Crops an inference; the bundle's profile by default.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads an inference.")] = None,
    compute_precision: Annotated[
        str | None, typer.Option(help="exact, or quicker on CPUs: bf16, int8; as seqpar tune found best by default.")
    ] = None,
    fallback_margin: Annotated[
        float | None, typer.Option(help="With bf16 and int8: choices closer than this are made again exactly.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON Lines, one object a picture.")] = False,
    annotate: Annotated[
        Path | None, typer.Option(help="Write the pictures with their attributes into this folder.")
    ] = None,
    verify: Annotated[bool, typer.Option(help="Check the bundle's hashes first.")] = True,
) -> None:
    """Print the attributes of each person, with the probability each was emitted with.

    A picture that cannot be read gets a line on standard error; the others are still predicted, and the exit code is 2.
    """
    paths = find_pictures(pictures)
    strategy = _strategy(beam, speculative)
    names = _short_names(paths)
    if annotate:
        _check_apart(paths, annotate, names)
    failed = 0
    with Recognizer.from_bundle(
        bundle,
        backend=backend,  # type: ignore[arg-type]
        strategy=strategy,
        batch_size=batch_size,
        threads=threads,
        compute_precision=compute_precision,  # type: ignore[arg-type]
        fallback_margin=fallback_margin,
        verify=verify,
    ) as recognizer:
        width = max(map(len, names.values()))
        for chunk in _chunks(paths, _READ_AHEAD):
            crops: dict[Path, Crop] = {}
            for path in chunk:
                try:
                    crops[path] = read_image(path)
                except ImageError as error:
                    failed += 1
                    print_error(error)
            predictions = recognizer.predict_iter(list(crops.values()))
            for path, prediction in zip(crops, predictions, strict=True):
                print(
                    _json_line(path, prediction) if as_json else _table_row(names[path], width, prediction), flush=True
                )
                if annotate is not None:
                    _annotate(annotate, names[path], crops[path], prediction)
        if not as_json:
            print(
                f"{len(paths) - failed} people, on {recognizer.backend.name} ({recognizer.backend.device})",
                file=sys.stderr,
            )
    if failed:
        raise typer.Exit(USAGE_ERROR)


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
