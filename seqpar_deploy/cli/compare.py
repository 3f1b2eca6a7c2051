"""`seqpar compare`: predictions and speed of two bundles on the same pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import USAGE_ERROR, emit_result, print_error, stage
from seqpar_deploy.cli.layout import printable
from seqpar_deploy.errors import ImageError, SeqparError
from seqpar_deploy.files import check_writable, write_whole
from seqpar_deploy.images import find_pictures, read_image
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.recognizer import Recognizer
from seqpar_deploy.serving.compare import (
    BundleComparison,
    ChangedCrop,
    Comparer,
    check_same_attributes,
    measure_speed,
)

_READ_AHEAD = 256  # pictures in memory at a time
_TIMED = 32  # crops of a timed run, at most
_SHOWN = 4  # attributes per picture of a page whose state is the same

_Page = Annotated[
    Path | None,
    typer.Option(help="Also write the result, with the pictures that changed most, to this HTML page.", metavar="FILE"),
]
_FailBelow = Annotated[
    float | None,
    typer.Option(
        help="Exit with code 1 if the agreement of any attribute is below this share, for example 0.99.",
        metavar="SHARE",
        show_default="never",
    ),
]


def compare_bundles(
    old: Annotated[Path, typer.Argument(help="Bundle in use.", metavar="OLD")],
    new: Annotated[Path, typer.Argument(help="Bundle that would replace it.", metavar="NEW")],
    pictures: Annotated[
        list[str],
        typer.Argument(help="Image files, folders or quoted globs. Each image shows one person.", metavar="PICTURES"),
    ],
    backend: options.TunedBackend = "auto",
    threads: options.Threads = None,
    runs: Annotated[int, typer.Option(help=f"Timed runs of each bundle on {_TIMED} crops at most.", min=1)] = 5,
    fail_below: _FailBelow = None,
    as_json: options.AsJson = False,
    output: options.Output = None,
    page: _Page = None,
) -> None:
    """Compare the predictions of two bundles.

    Print the share of states that agree per attribute, the mean change of its probability, how many sequences differ,
    and the speed of both. Timed runs of the bundles take turns. Both must have the same attributes.

    If an image cannot be read, the command reports it, compares the others, and exits with code 2.

    Examples:
      seqpar compare bundles/peta bundles/peta-int8 crops/
      seqpar compare bundles/peta bundles/next crops/ --page changes.html
    """
    check_writable(output, page)
    if fail_below is not None and not 0 <= fail_below <= 1:
        raise SeqparError(f"--fail-below must be a share from 0 to 1, got {fail_below}; for example 0.99")
    check_same_attributes(*(Bundle.open(each, verify=False).shown for each in (old, new)))
    problems: list[ImageError] = []
    paths = find_pictures(pictures)
    with stage("loading"):
        first = Recognizer.from_bundle(old, backend=backend, threads=threads)
    with first:
        with stage("loading"):
            second = Recognizer.from_bundle(new, backend=backend, threads=threads)
        with second:
            result, timed = _compared(first, second, paths, problems)
            with stage("measuring") as on_progress:
                rates = measure_speed((first, second), timed, runs=runs, on_progress=on_progress)
            bundles = [_described(path, each) for path, each in ((old, first), (new, second))]
    values = {
        **result.to_dict(),
        **dict(zip(("old_rate", "new_rate"), rates, strict=True)),
        "bundles": bundles,
        "unreadable": [str(error) for error in problems],
    }
    if page:
        from seqpar_deploy.reports.compare_page import compare_page

        changes = [(one.name, one.crop, _differences(one, result)) for one in result.changed]
        document = compare_page(values, changes, bundles, describe_machine())
        write_whole(page, document.encode("utf-8", "backslashreplace"))
    emit_result(values, _text(values), as_json=as_json, output=output)
    if problems:
        raise typer.Exit(USAGE_ERROR)
    if fail_below is not None and min(one.agreement for one in result.attributes) < fail_below:
        raise typer.Exit(1)


def _compared(
    first: Recognizer, second: Recognizer, paths: list[Path], problems: list[ImageError]
) -> tuple[BundleComparison, list[Crop]]:
    """Return the comparison on all pictures that can be read, and crops for timed runs."""
    comparer = Comparer(first.label_set)
    timed: list[Crop] = []
    with stage("comparing") as on_progress:
        for start in range(0, len(paths), _READ_AHEAD):
            crops: dict[str, Crop] = {}
            for path in paths[start : start + _READ_AHEAD]:
                try:
                    crops[str(path)] = read_image(path)
                except ImageError as error:
                    problems.append(error)
                    print_error(error)
            some = list(crops.values())
            comparer.add(list(crops), some, first.predict(some), second.predict(some))
            timed += some[: _TIMED - len(timed)]
            on_progress(min(start + _READ_AHEAD, len(paths)), len(paths))
    if not timed:
        raise ImageError("no picture can be read; name one that can")
    return comparer.result(), timed


def _described(path: Path, recognizer: Recognizer) -> dict[str, Any]:
    bundle, backend = recognizer.bundle, recognizer.backend
    return {
        "name": path.resolve().name,
        "digest": bundle.digest,
        "precision": bundle.precision,
        "backend": f"{backend.name} ({backend.device})",
    }


def _differences(one: ChangedCrop, result: BundleComparison) -> dict[str, tuple[str, str, float, float]]:
    """Return the attributes whose state differs, and some of those whose probability changed most."""
    names = [attribute.name for attribute in result.attributes]
    probabilities = (one.old.probabilities.tolist(), one.new.probabilities.tolist())
    rows = dict(zip(names, zip(one.old.states, one.new.states, *probabilities, strict=True), strict=True))
    same = [name for name in names if name not in one.states]
    same.sort(key=lambda name: -abs(rows[name][3] - rows[name][2]))
    return {name: rows[name] for name in (*one.states, *same[:_SHOWN])}


def _text(values: dict[str, Any]) -> str:
    crops, faster = values["crops"], values["new_rate"] / values["old_rate"]
    lines = [
        f"{which}  {printable(bundle['name'])}  {bundle['precision']} on {bundle['backend']}, {rate:.1f} crops/s"
        for which, bundle, rate in zip(
            ("old", "new"), values["bundles"], (values["old_rate"], values["new_rate"]), strict=True
        )
    ]
    lines[1] += f", {faster:.2f} times as fast"
    lines += [
        f"{crops} crops: {values['sequences_differ']} with another sequence, "
        f"{values['states_differ']} with another state",
        f"{100 * values['agreement']:.2f} % of the states agree",
        "",
    ]
    attributes = sorted(values["attributes"], key=lambda one: (one["agreement"], -one["mean_change"]))
    width = max(len("attribute"), *(len(printable(one["name"])) for one in attributes))
    lines.append(f"{'attribute':{width}}  agreement  old yes  new yes  mean change  largest")
    lines += [
        f"{printable(one['name']):{width}}  {one['agreement']:9.4f}  {one['old_yes']:7d}  {one['new_yes']:7d}  "
        f"{one['mean_change']:11.4f}  {one['largest_change']:7.4f}"
        for one in attributes
    ]
    return "\n".join(lines)
