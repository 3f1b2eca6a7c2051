"""`seqpar calibrate`: fit a bundle's calibration and thresholds on labelled people."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from seqpar_deploy.backends import BackendName, open_backend
from seqpar_deploy.bundle import CALIBRATION, Bundle
from seqpar_deploy.calibration.sidecar import save_calibration
from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import USAGE_ERROR, emit_result, print_error, stage
from seqpar_deploy.datasets import Dataset, check_exists, check_images, load_dataset
from seqpar_deploy.evaluation.fitting.calibrate import Calibrated, calibrate_model, check_data
from seqpar_deploy.evaluation.fitting.text import format_calibrated
from seqpar_deploy.evaluation.fitting.thresholds import Rule, parse_rule, thresholds_to_toml
from seqpar_deploy.evaluation.generate import Model
from seqpar_deploy.evaluation.picture import check_available
from seqpar_deploy.evaluation.probability_picture import draw_reliability
from seqpar_deploy.files import check_writable, write_whole
from seqpar_deploy.sidecars import check_sidecar_writable
from seqpar_deploy.vocab import LabelSet

_log = logging.getLogger(__name__)

SPLIT_DEFAULT = "all rows of a CSV or JSON Lines file; needed for a dataset folder"

_Data = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        help="Labelled people that the model was not trained on: a dataset's folder as published, or a CSV or JSON "
        "Lines file.",
        metavar="PATH",
    ),
]
_Objective = Annotated[
    str | None,
    typer.Option(
        help="Choose thresholds for the highest f1 or ma, for a precision, for example precision=0.95, or 0.5 for "
        "all: probable.",
        metavar="NAME",
        show_default="f1",
    ),
]
_MaxError = Annotated[
    float | None,
    typer.Option(
        help="Choose thresholds that keep the share of wrong states among yes and no below this value. Less "
        "certain attributes are unknown.",
        metavar="SHARE",
        show_default="no bound",
    ),
]


def calibrate(
    bundle: options.BundleArgument,
    data: _Data,
    split: Annotated[
        str | None, typer.Option(help="Split to calibrate on.", metavar="NAME", show_default=SPLIT_DEFAULT)
    ] = None,
    objective: _Objective = None,
    max_error: _MaxError = None,
    confidence: Annotated[
        float | None,
        typer.Option(help="Confidence of --max-error.", metavar="SHARE", show_default="0.9 with --max-error"),
    ] = None,
    backend: options.Backend = "auto",
    threads: options.Threads = None,
    write_thresholds: Annotated[
        Path | None,
        typer.Option(help="Also write the thresholds to this TOML file, which you can edit.", metavar="FILE"),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Also write a chart of the reliability to this PNG.", metavar="FILE")
    ] = None,
    as_json: options.AsJson = False,
    output: options.Output = None,
) -> None:
    """Calibrate the probabilities of a bundle on labelled people.

    Run the bundle in native precision, fit a map of the probability per attribute, and choose thresholds. The result is
    written to calibration.json in the bundle. seqpar predict, seqpar video and Recognizer.from_bundle use it.

    Print scores on people held out: each is calibrated by maps and thresholds that were fitted without the person's
    group. Attributes with fewer than 10 labels yes or no use a map that all share.

    If an image cannot be read, the command reports it, calibrates on the others, and exits with code 2.

    Examples:
      seqpar calibrate bundles/peta --data mine.csv --split val
      seqpar calibrate bundles/peta --data mine.csv --max-error 0.02
    """
    check_writable(output, picture, write_thresholds)
    rule = parse_rule(objective, max_error, confidence)
    if picture:
        check_available()  # fails now if matplotlib is missing, not after minutes
    opened = Bundle.open(bundle)
    check_sidecar_writable(opened, CALIBRATION)
    dataset = load_people(opened.label_set, data, split)
    done = calibrate_bundle(opened, dataset, rule, backend=backend, threads=threads)
    if write_thresholds:
        text = thresholds_to_toml(done.thresholds, opened.label_set)
        write_whole(write_thresholds, text.encode("utf-8", "backslashreplace"))
    if picture:
        curves = {"calibrated": done.report.calibrated, "not calibrated": done.report.uncalibrated}
        write_whole(picture, draw_reliability(curves, _title(opened, done)))
    values = {"bundle": str(opened.path), "digest": opened.digest, **calibration_values(done)}
    emit_result(values, f"{_title(opened, done)}\n\n{format_calibrated(done)}", as_json=as_json, output=output)
    if done.unreadable:
        raise typer.Exit(USAGE_ERROR)


def load_people(label_set: LabelSet, data: Path, split: str | None) -> Dataset:
    """Load the people to calibrate on, and check that they suffice. Raises SeqparError."""
    check_exists(data)
    dataset = load_dataset(label_set, data, split)
    check_data(dataset)
    check_images(dataset)
    return dataset


def calibrate_bundle(
    bundle: Bundle, dataset: Dataset, rule: Rule, *, backend: BackendName = "auto", threads: int | None = None
) -> Calibrated:
    """Calibrate a bundle, write its sidecar, and report people whose pictures cannot be read. Raises SeqparError."""
    with stage("loading"):
        opened = open_backend(bundle, backend, threads=threads)
    model = Model.of_bundle(bundle, opened)
    try:
        done = calibrate_model(model, dataset, rule, progress=stage)
    finally:
        opened.close()
    for error in done.unreadable.values():
        print_error(error)
    path = save_calibration(bundle, done.calibration)
    _log.info("wrote %s", path)
    return done


def calibration_values(done: Calibrated) -> dict[str, Any]:
    """Return a calibration as JSON values."""
    return {
        **dataclasses.asdict(done.calibration),
        "notes": list(done.notes),
        "unreadable": [str(error) for error in done.unreadable.values()],
    }


def _title(bundle: Bundle, done: Calibrated) -> str:
    data, left_out = done.calibration.data, len(done.unreadable)
    known = int((done.labels >= 0).sum())
    text = f"{bundle.path.resolve().name} on {data.name}, {data.split}: "
    text += f"{data.people} people in {data.groups} groups, {known} labels"
    return text + (f"; {left_out} people left out, because they cannot be read" if left_out else "")
