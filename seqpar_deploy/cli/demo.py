"""`seqpar demo`: try the package on the sample people and the street clip that ship with it."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from seqpar_deploy import __version__
from seqpar_deploy.annotate import BACKGROUND, annotate, save_picture
from seqpar_deploy.backends import BackendName
from seqpar_deploy.bundle import MANIFEST, Bundle
from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import INTERRUPTED, print_line, raise_interruption, stage
from seqpar_deploy.errors import BundleError, SeqparError, VideoError
from seqpar_deploy.files import new_folder, sha256_of
from seqpar_deploy.images import read_image
from seqpar_deploy.interruption import stop_on_signal
from seqpar_deploy.machine import usable_cores
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.resources import data_dir, sample_crops

_log = logging.getLogger(__name__)

_MARKER = "seqpar-demo.json"  # lists the files of an output folder, so that only those are ever replaced
_OUT = Path("seqpar-demo")
_ON_THE_SHEET = 6
_UNCERTAIN = 0.5

_README = """# The demo of seqpar-deploy, to play with

| | |
|---|---|
| `bundle/` | the demo model, ready to run without PyTorch |
| `samples/crops/` | 20 pictures of people |
| `samples/vtest/street.mp4` | a street, 10 seconds |

For example, in this folder:

```
seqpar predict samples/crops --bundle bundle --annotate annotated
seqpar video samples/vtest/street.mp4 --bundle bundle --annotate street.mp4 --report people.html
seqpar info bundle
seqpar tune bundle samples/crops/*.png
```

The demo model is small. It was trained on rendered people and few real ones: it is for trying the tools, not for use.
`samples/README.md` gives the source of the pictures and the clip.
"""


def demo(
    out: Annotated[
        Path | None,
        typer.Option(help=f"Output folder. Default: {_OUT}. The output of an earlier demo is replaced."),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="Copy the demo bundle and the samples into this folder, and do nothing else."),
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option("--bundle", "-b", help="Bundle folder. Default: the demo bundle in the wheel.")
    ] = None,
    backend: options.Backend = "auto",
) -> None:
    """Try the demo model on the sample people and a street clip.

    Prints the attributes of 20 sample people. Writes annotated pictures, the annotated street clip, its events and a
    page of all people in it. Needs neither PyTorch nor a network. Ctrl-C leaves no output.

    Examples:
      seqpar demo
      seqpar demo --export playground
    """
    if export is not None and out is not None:
        raise typer.BadParameter("--export and --out exclude each other; leave out one of them")
    folder = export or out or _OUT
    _check_output(folder)
    opened = _open_bundle(bundle)
    if export is not None:
        _export(opened, folder)
    else:
        _run(opened, folder, backend)


def _open_bundle(given: Path | None) -> Bundle:
    """Open the given bundle, else the one in the wheel, else one that this checkout has built. Raises BundleError."""
    if given is not None:
        return Bundle.open(given)
    checkpoint = data_dir("models") / "demo" / "demo.safetensors"
    built = data_dir("build") / "demo-bundle", data_dir("runs") / "make-demo" / "bundle"  # by `make wheel`, `make demo`
    for place in (data_dir("bundles") / "demo", *built):
        if (place / MANIFEST).is_file():
            found = Bundle.open(place)
            if found.manifest.get("checkpoint", {}).get("sha256") == sha256_of(checkpoint):
                return found
            _log.warning("ignoring %s: it was exported from another checkpoint than %s", place, checkpoint)
    raise BundleError(
        "no demo bundle in this installation; in a checkout, `make wheel` builds it; or pass --bundle with an exported "
        "bundle"
    )


def _check_output(folder: Path) -> None:
    """Raise SeqparError if the folder holds anything but the output of an earlier demo."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SeqparError(f"output must be a folder, got the file {folder}; choose another name")
    if Path.cwd().is_relative_to(folder.resolve()):
        raise SeqparError(f"output must be a folder inside the current one, got {folder}; choose another name")
    other = sorted(_files_in(folder) - _listed(folder))
    if other:
        raise SeqparError(f"{folder} holds other files, for example {other[0]}; choose another folder")


def _files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file()}


def _listed(folder: Path) -> set[str]:
    """Files of an earlier demo in a folder, by its marker."""
    try:
        names = json.loads((folder / _MARKER).read_text(encoding="utf-8"))["files"]
        return {_MARKER, *map(str, names)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


@contextlib.contextmanager
def _new_output(folder: Path) -> Iterator[Path]:
    """A folder that becomes `folder` if the block succeeds, and vanishes otherwise."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    with new_folder(folder, marker=_MARKER, overwrite=folder.exists(), error=SeqparError) as staging:
        yield staging
        marker = {"seqpar_deploy": __version__, "files": sorted(_files_in(staging))}
        (staging / _MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
        _check_output(folder)  # a file may have come in the meantime
        raise_interruption()


def _export(bundle: Bundle, folder: Path) -> None:
    with _new_output(folder) as staging:
        (staging / "bundle").mkdir()
        for name in (MANIFEST, *bundle.manifest["files"]):  # without sidecars, which belong to one machine
            shutil.copyfile(bundle.path / name, staging / "bundle" / name)
        samples = data_dir("samples")
        for path in sorted(path for path in samples.rglob("*") if path.is_file()):
            copy = staging / "samples" / path.relative_to(samples)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        (staging / "README.md").write_text(_README, encoding="utf-8")
    print_line(f"{folder / 'bundle'}: the demo bundle\n{folder / 'samples'}: 20 pictures of people and a street clip")
    print_line(f"Commands to try: {folder / 'README.md'}")


def _run(bundle: Bundle, folder: Path, backend: BackendName) -> None:
    with (
        _new_output(folder) as staging,
        Recognizer.from_bundle(bundle.path, backend=backend, verify=False) as recognizer,
    ):
        _log.info("demo bundle on %s (%s)", recognizer.backend.name, recognizer.backend.device)
        _pictures(recognizer, staging)
        street = _street(recognizer, staging)
    print_line(
        f"""
Street clip: {street}.
An attribute with a question mark has a probability below {_UNCERTAIN}.
The demo model is small, trained on rendered people and few real ones. It is for
trying the tools, not for use.

{folder / "pictures"}: the sample people with their attributes
{folder / "people.png"}: {_ON_THE_SHEET} of them on one sheet
{folder / "street.mp4"}: the street clip with boxes and attributes
{folder / "people.jsonl"}: the events of the clip, as JSON Lines
{folder / "people.html"}: a page of all people in the clip

Copy the model and the samples, to try more: seqpar demo --export playground
Open {(folder / "people.html").resolve().as_uri()}"""
    )


def _pictures(recognizer: Recognizer, folder: Path) -> None:
    """Print the attributes of the sample people, and write annotated pictures and a sheet of the first ones."""
    paths = sample_crops()
    crops = [read_image(path) for path in paths]
    width = max(60, min(120, shutil.get_terminal_size((80, 24)).columns))
    sheet: list[Image.Image] = []
    for path, crop, prediction in zip(paths, crops, recognizer.predict_iter(crops), strict=True):
        picture = annotate(crop, prediction)
        save_picture(picture, folder / "pictures" / f"{path.stem}.png")
        sheet.append(picture)
        name = "-".join(path.stem.split("-")[:2])  # person-01 of person-01-f0640
        print_line(_row(name, prediction, width))
    save_picture(_contact_sheet(sheet[:_ON_THE_SHEET]), folder / "people.png")


def _row(name: str, prediction: Prediction, width: int) -> str:
    attributes = ", ".join(
        f"{attribute}\N{NO-BREAK SPACE}{score:.2f}{'?' if score < _UNCERTAIN else ''}"
        for attribute, score in zip(prediction.attributes, prediction.scores, strict=True)
    )
    lines = textwrap.wrap(
        f"{name}  {attributes or '(no attributes)'}",
        width,
        subsequent_indent=" " * (len(name) + 2),
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _contact_sheet(pictures: list[Image.Image]) -> Image.Image:
    """Combine pictures, three per row."""
    width, height = max(image.width for image in pictures), max(image.height for image in pictures)
    sheet = Image.new("RGB", (3 * width, (len(pictures) + 2) // 3 * height), BACKGROUND)
    for place, image in enumerate(pictures):
        sheet.paste(image, (place % 3 * width, place // 3 * height))
    return sheet


def _street(recognizer: Recognizer, folder: Path) -> str:
    """Write the street clip with attributes, its events and the page of its people. Returns a summary.

    Raises VideoError if an output is incomplete, and ends the command if a signal came.
    """
    from seqpar_deploy.video.detect.motion import MotionDetector
    from seqpar_deploy.video.detect.opencv import limit_threads
    from seqpar_deploy.video.pipeline import Pipeline
    from seqpar_deploy.video.sinks import Sinks
    from seqpar_deploy.video.sinks.annotated import AnnotatedSink
    from seqpar_deploy.video.sinks.jsonl import JsonlSink
    from seqpar_deploy.video.sinks.report import ReportSink
    from seqpar_deploy.video.sources.source import Source
    from seqpar_deploy.video.sources.spec import expand_sources

    [spec] = expand_sources([str(data_dir("samples") / "vtest" / "street.mp4")])
    limit_threads(usable_cores())
    video = folder / "street.mp4"
    with contextlib.ExitStack() as opened:
        sinks = [
            AnnotatedSink(spec.name, video),
            ReportSink(folder / "people.html", videos={spec.name: video}),
            JsonlSink(folder / "people.jsonl"),
        ]
        fan_out = Sinks(sinks)
        on_progress = opened.enter_context(stage("following the people in the street clip"))
        pipeline = Pipeline([Source(spec)], MotionDetector(), recognizer, fan_out, on_progress=on_progress)
        raise_interruption()  # one that came while runtimes were imported
        with stop_on_signal(pipeline.request_stop) as interrupted:
            summary = pipeline.run()
    if interrupted:
        _log.warning("interrupted; nothing was left half-written")
        raise typer.Exit(INTERRUPTED)
    if summary.failed or summary.hung or fan_out.incomplete or fan_out.all_lost:
        raise VideoError("the street clip or its outputs are incomplete, see above")
    frames = sum(summary.frames.values())
    people = f"{summary.people} {'person' if summary.people == 1 else 'people'}"
    return f"{people} in {frames} frames, {summary.crops} crops classified"
