"""`seqpar predict`: attributes of people in image files."""

from __future__ import annotations

import dataclasses
import logging
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from seqpar_deploy.annotate import annotate as draw
from seqpar_deploy.annotate import save_picture
from seqpar_deploy.backends import ComputePrecision
from seqpar_deploy.backends.base import REDUCED_PRECISIONS
from seqpar_deploy.cli import options, recognizers
from seqpar_deploy.cli.console import USAGE_ERROR, json_text, print_error, print_line
from seqpar_deploy.cli.layout import printable
from seqpar_deploy.cli.parameters import takes
from seqpar_deploy.cli.recognizers import ServerRequest
from seqpar_deploy.decoding import Beam, Speculative, Strategy
from seqpar_deploy.errors import ImageError, StrategyError
from seqpar_deploy.files import check_writable
from seqpar_deploy.images import find_pictures, read_image
from seqpar_deploy.prediction import Prediction, prediction_values
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.vocab import LabelSet

_log = logging.getLogger(__name__)

_DRAFTS = 2  # model inputs along the longer side of a draft; with 1, 5 to 8 % of the sequences changed
_READ_AHEAD = 256  # images in memory at a time
_LONGEST_NAME = 120  # bytes of an annotated image's name without suffix; encrypted file systems take 143 in all


_Pictures = Annotated[
    list[str],
    typer.Argument(
        help='Image files, folders or quoted globs such as "crops/*.jpg". Each image shows one person.',
        metavar="PICTURES",
    ),
]
_Speculative = Annotated[
    bool,
    typer.Option(
        "--speculative",
        help="Decode speculatively in batches of any size: the same tokens as greedy decoding. Default: as tuned, or "
        "for small batches if the bundle's drafts save time. Excludes --beam.",
    ),
]
_ComputePrecision = Annotated[
    ComputePrecision | None,
    typer.Option(
        help="Precision of the computation on CPUs. native is the precision of the bundle. bf16 and int8 are "
        "usually faster and need --fallback-margin.",
        show_default="native",
    ),
]
_FallbackMargin = Annotated[
    float | None,
    typer.Option(
        help="With --compute-precision bf16 or int8: re-run a crop in native precision if the log-probability "
        "margin of any token is below this value, for example 0.25. 0 re-runs none.",
        min=0,
    ),
]
_FastJpeg = Annotated[
    bool,
    typer.Option(
        "--fast-jpeg",
        help="Decode large JPEG pictures, from four times the model's input on, at 1/2, 1/4 or 1/8 of their size. It "
        "is faster, but about 1 in 20 of these answers changes.",
    ),
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON Lines, one object per image, instead of text.")]
_Annotate = Annotated[
    Path | None,
    typer.Option(help="Also write each image, with its attributes beside it, to this folder.", metavar="FOLDER"),
]
_Thresholds = Annotated[
    Path | None,
    typer.Option(
        help="Thresholds of the states yes, no and unknown (TOML), see docs/reference/thresholds.md.",
        metavar="FILE",
        show_default="those of the bundle's calibration",
    ),
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Request(ServerRequest):
    """The options of `seqpar predict`. Its fields are the parameters of the command."""

    pictures: _Pictures
    bundle: recognizers.Bundle = None
    backend: options.TunedBackend = "auto"
    beam: options.Beam = 1
    speculative: _Speculative = False
    batch_size: options.BatchSize = None
    threads: options.Threads = None
    compute_precision: _ComputePrecision = None
    fallback_margin: _FallbackMargin = None
    thresholds: _Thresholds = None
    without: options.Without = None
    fast_jpeg: _FastJpeg = False
    as_json: _AsJson = False
    annotate: _Annotate = None
    verify: Annotated[bool, typer.Option(help="Check the SHA-256 of the bundle's files first.")] = True


@takes(_Request)
def predict(request: _Request) -> None:
    """Predict the attributes of people in image files.

    Print one line per image: the attributes that the model finds, with their probabilities. If an image cannot be
    read, the command reports it on standard error, continues with the others, and exits with code 2.

    With --thresholds, or if seqpar calibrate has run, the line has the attributes whose state is yes, with calibrated
    probabilities, and then the unknown ones.

    If seqpar tune has run on this machine, its result sets backend, precision and decoding, unless --backend, --beam,
    --speculative, --batch-size, --threads, --compute-precision or --fallback-margin is given.

    With --server, a server recognises. The backend, its options and the thresholds are those of the server.

    Examples:
      seqpar predict photos/ --bundle bundles/peta
      seqpar predict "crops/*.jpg" --bundle bundles/peta --json > attributes.jsonl
      seqpar predict photos/ --server http://gpu-server:8000
    """
    _run(request)


def _run(request: _Request) -> None:
    strategy = _check_options(request)
    problems: list[ImageError] = []
    paths = find_pictures(request.pictures, _reported(problems))
    names = _short_names(paths)
    annotated = annotated_paths(request.annotate, names) if request.annotate else {}
    _check_apart(paths, annotated)
    open_local = None if request.bundle is None else lambda: _open_bundle(request, strategy)
    with request.open(open_local, without=request.without) as recognizer:
        width = max(map(len, names.values()))
        label_set = recognizer.label_set
        attributes = [attribute.name for attribute in label_set.attributes]
        local = recognizers.local_recognizer(recognizer)
        draft_size = _DRAFTS * local.bundle.dimensions.image_size if request.fast_jpeg and local else None
        done = 0
        for chunk in _chunks(paths, _READ_AHEAD):
            crops = _read(chunk, draft_size, _reported(problems))
            done += len(crops)
            predictions = recognizer.predict_iter(list(crops.values()))
            for path, prediction in zip(crops, predictions, strict=True):
                if request.as_json:
                    row = _json_line(path, prediction, label_set)
                elif recognizer.thresholds is None:
                    row = _table_row(names[path], width, prediction)
                else:
                    row = _states_row(names[path], width, prediction, attributes)
                if path in annotated:
                    save_picture(draw(crops[path], prediction), annotated[path])
                if not print_line(row) and not annotated:
                    # The reader of standard output is gone, so nobody needs the rest.
                    raise typer.Exit(USAGE_ERROR if problems else 0)
        _log.info("%d image%s on %s", done, "" if done == 1 else "s", recognizers.where(recognizer))
    if problems:
        raise typer.Exit(USAGE_ERROR)


def _check_options(request: _Request) -> Strategy | None:
    """Check the options, and return the strategy."""
    if request.fallback_margin is not None and request.compute_precision not in REDUCED_PRECISIONS:
        options.check_needed("--compute-precision bf16 or int8", {"--fallback-margin": request.fallback_margin})
    request.check(
        request.bundle,
        of_bundle={
            "--backend": request.backend != "auto",
            "--speculative": request.speculative,
            "--batch-size": request.batch_size,
            "--threads": request.threads,
            "--compute-precision": request.compute_precision,
            "--fast-jpeg": request.fast_jpeg,
            "--no-verify": not request.verify,
        },
        not_with_server={"--beam": request.beam != 1, "--thresholds": request.thresholds},
    )
    check_writable(request.annotate, folder=True)
    return _strategy(request.beam, request.speculative)


def _open_bundle(request: _Request, strategy: Strategy | None) -> Recognizer:
    assert request.bundle is not None
    return Recognizer.from_bundle(
        request.bundle,
        backend=request.backend,
        strategy=strategy,
        batch_size=request.batch_size,
        threads=request.threads,
        compute_precision=request.compute_precision,
        fallback_margin=request.fallback_margin,
        thresholds=request.thresholds,
        verify=request.verify,
    )


def _reported(problems: list[ImageError]) -> Callable[[ImageError], None]:
    """Return a function that logs a problem and adds it to the list."""

    def report(error: ImageError) -> None:
        problems.append(error)
        print_error(error)

    return report


def _read(paths: list[Path], draft_size: int | None, on_problem: Callable[[ImageError], None]) -> dict[Path, Crop]:
    """Return the images that can be read, and report each of the others."""
    crops: dict[Path, Crop] = {}
    for path in paths:
        try:
            crops[path] = read_image(path, draft_size=draft_size)
        except ImageError as error:
            on_problem(error)
    return crops


def _strategy(beam: int, speculative: bool) -> Strategy | None:
    """Return the strategy of the options, or None without any: greedy, with drafts where they pay, or as tuned."""
    if speculative:
        if beam != 1:
            raise StrategyError(f"--beam must be 1 with --speculative, got {beam}; omit one of them")
        return Speculative()
    return None if beam == 1 else Beam(width=beam)


def _chunks(paths: list[Path], size: int) -> Iterator[list[Path]]:
    for start in range(0, len(paths), size):
        yield paths[start : start + size]


def _short_names(paths: list[Path]) -> dict[Path, str]:
    """Return the name to print per path: the file name, or the whole path if two file names are equal."""
    names = {path: path.name for path in paths}
    if len(set(names.values())) < len(paths):
        names = {path: str(path) for path in paths}
    return {path: printable(name) for path, name in names.items()}


def _json_line(path: Path, prediction: Prediction, label_set: LabelSet) -> str:
    return json_text({"image": str(path), **prediction_values(prediction, label_set)})


def _table_row(name: str, width: int, prediction: Prediction) -> str:
    attributes = ", ".join(
        f"{attribute} {score:.2f}" for attribute, score in zip(prediction.attributes, prediction.scores, strict=True)
    )
    return f"{name:<{width}}  {attributes or '(no attributes)'}"


def _states_row(name: str, width: int, prediction: Prediction, attributes: Sequence[str]) -> str:
    """Return the line of an image: attributes that are yes, and then those that are unknown."""
    rows = list(zip(attributes, prediction.probabilities.tolist(), prediction.states, strict=True))
    yes, unknown = (
        ", ".join(f"{attribute} {probability:.2f}" for attribute, probability, state in rows if state == wanted)
        for wanted in ("yes", "unknown")
    )
    return f"{name:<{width}}  {yes or '(no attributes)'}" + (f"  unknown: {unknown}" if unknown else "")


def annotated_paths(folder: Path, names: Mapping[Path, str]) -> dict[Path, Path]:
    """Return the file for each annotated image: `a.jpg.png` for `a.jpg`, so that it differs from that of `a.png`.

    Names differ in more than case, are not hidden, and are short enough for every file system.

    Args:
        folder: Folder of the annotated images.
        names: The printed name of each image. Its folders become a part of the file's name.
    """
    found: dict[Path, Path] = {}
    taken: set[str] = set()
    for path, name in names.items():
        flat = re.sub(r'[\\/:*?"<>|]+', "_", name).lstrip("._ ")
        stem = flat[:-4] if flat.lower().endswith(".png") else flat
        while len(stem.encode()) > _LONGEST_NAME:
            stem = stem[:-1]
        unused, number = stem or "image", 1
        while unicodedata.normalize("NFC", unused).casefold() in taken:
            number += 1
            unused = f"{stem}-{number}"
        taken.add(unicodedata.normalize("NFC", unused).casefold())
        found[path] = folder / f"{unused}.png"
    return found


def _check_apart(paths: list[Path], annotated: Mapping[Path, Path]) -> None:
    """Raise ImageError if an annotated image would overwrite an input."""
    read = {identity for path in paths if (identity := _identity(path))}
    for written in annotated.values():
        if _identity(written) in read:
            raise ImageError(f"--annotate must not overwrite an input, got {written}; name another folder")


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and number of a file, which also agree if two paths differ in case only, or None without a file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
