"""`seqpar archive`: recognise archives of pictures and videos, and show the state of a job."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path
from typing import Annotated

import typer

from seqpar_deploy.backends import ComputePrecision
from seqpar_deploy.backends.base import REDUCED_PRECISIONS
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.calibration.sidecar import Calibration, load_calibration
from seqpar_deploy.calibration.thresholds import Thresholds, read_thresholds
from seqpar_deploy.cli import options
from seqpar_deploy.cli.console import INTERRUPTED, emit_result, stage
from seqpar_deploy.errors import ArchiveError
from seqpar_deploy.files import check_writable
from seqpar_deploy.interruption import stop_on_signal
from seqpar_deploy.serving.archive.finish import drift_of, write_uncertain
from seqpar_deploy.serving.archive.naming import Naming
from seqpar_deploy.serving.archive.run import ArchiveOptions, ModelOptions, RunSummary, run_archive
from seqpar_deploy.serving.archive.status import JobStatus, read_status
from seqpar_deploy.video.uncertain_crops import check_uncertain
from seqpar_deploy.without import Boundary

_log = logging.getLogger(__name__)

_UNCERTAIN = "uncertain-crops"

_Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        help="Pictures, videos, folders, quoted globs, .tar, .parquet with a column image, .csv or .jsonl, as paths or "
        "addresses such as s3://bucket/people. None resumes the job as planned.",
        metavar="INPUTS",
        show_default=False,
    ),
]
_Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the job. An interrupted job in it is resumed.", metavar="FOLDER")
]
_Address = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster: auto for that of this machine, or HOST:PORT. Inputs and bundle have the same paths on all "
        "nodes.",
        metavar="ADDRESS",
        show_default="a local Ray for this run",
    ),
]
_Workers = Annotated[
    int | None,
    typer.Option(
        help="Processes that recognise.",
        metavar="N",
        min=1,
        max=100_000,
        show_default="one per core, as far as half of the memory allows",
    ),
]
_Threads = Annotated[
    int | None,
    typer.Option(
        help="CPU threads per worker.", metavar="N", min=1, max=1024, show_default="the cores, shared by the workers"
    ),
]
_ShardSize = Annotated[
    int | None,
    typer.Option(
        help="Pictures per shard, and rows per file of results. A video is a shard of its own.",
        metavar="N",
        min=1,
        max=1_000_000,
        show_default="1024, or that of the plan",
    ),
]
_Camera = Annotated[
    str | None,
    typer.Option(
        help="Camera of all pictures, or a regular expression whose group finds it in the path, for example "
        r"'cam-(\d+)'.",
        metavar="PATTERN",
    ),
]
_CapturedAt = Annotated[
    str | None,
    typer.Option(
        help="Form of the time in names, for example %Y%m%d-%H%M%S. The directives are those of strftime; %s is "
        "seconds since 1970.",
        metavar="PATTERN",
        show_default="of tables and containers only",
    ),
]
_TimeZone = Annotated[
    str, typer.Option(help="Time zone of times without an offset, for example Europe/Berlin.", metavar="NAME")
]
_ListAgain = Annotated[
    bool, typer.Option("--list-again", help="List inputs of the plan again, and add files that are new.")
]
_Tries = Annotated[
    int,
    typer.Option(
        help="Set a picture or video aside, as a row with an error, after it has cost this number of workers.",
        metavar="N",
        min=1,
        max=100,
    ),
]
_TimeLimit = Annotated[
    float,
    typer.Option(
        help="Seconds that 64 pictures, or a video without a new frame, may take. Then the worker counts as lost.",
        metavar="SECONDS",
        min=1,
    ),
]
_ComputePrecision = Annotated[
    ComputePrecision | None,
    typer.Option(
        help="Precision of the computation on CPUs. bf16 and int8 need --fallback-margin.", show_default="native"
    ),
]
_FallbackMargin = Annotated[
    float | None,
    typer.Option(
        help="With --compute-precision bf16 or int8: re-run a crop in native precision if the log-probability margin "
        "of any token is below this value.",
        min=0,
    ),
]
_Monitor = Annotated[
    bool,
    typer.Option(
        "--monitor", help="At the end, compare the probabilities of all pictures with those of the calibration set."
    ),
]
_KeepUncertain = Annotated[
    int | None,
    typer.Option(
        help="At the end, write the N most uncertain pictures as a table to label.", metavar="N", min=1, max=10_000
    ),
]
_UncertainCrops = Annotated[
    Path | None,
    typer.Option(
        "--uncertain-crops", help="New folder for --keep-uncertain.", metavar="FOLDER", show_default=_UNCERTAIN
    ),
]
_Job = Annotated[Path, typer.Argument(help="Folder of a job.", metavar="JOB")]


def run(
    out: _Out,
    bundle: options.BundleOption,
    inputs: _Inputs = None,
    address: _Address = None,
    workers: _Workers = None,
    threads: _Threads = None,
    shard_size: _ShardSize = None,
    camera: _Camera = None,
    captured_at: _CapturedAt = None,
    time_zone: _TimeZone = "UTC",
    list_again: _ListAgain = False,
    backend: options.Backend = "auto",
    compute_precision: _ComputePrecision = None,
    fallback_margin: _FallbackMargin = None,
    thresholds: options.Thresholds = None,
    without: options.Without = None,
    tries: _Tries = 2,
    time_limit: _TimeLimit = 600.0,
    monitor: _Monitor = False,
    keep_uncertain: _KeepUncertain = None,
    uncertain_crops: _UncertainCrops = None,
) -> None:
    """Recognise the people of an archive, and write Parquet files.

    Plan the inputs into shards, recognise them on the workers of a Ray cluster, and write a file per shard to
    OUT/shards: a row per picture, or per person of a video. A picture that cannot be read is a row with an error.

    The same command resumes a job that was interrupted or killed: finished shards stay, and only missing ones run.
    Other inputs are added to the plan. Another bundle or another option that changes results is refused.

    Examples:
      seqpar archive crops/ --bundle bundles/peta --out jobs/june
      seqpar archive videos/ -b bundles/peta -o jobs/june --camera "(gate-[0-9]+)"
      seqpar archive --bundle bundles/peta --out jobs/june
    """
    if keep_uncertain is None:
        options.check_needed("--keep-uncertain", {"--uncertain-crops": uncertain_crops})
    if fallback_margin is not None and compute_precision not in REDUCED_PRECISIONS:
        options.check_needed("--compute-precision bf16 or int8", {"--fallback-margin": fallback_margin})
    names = tuple(options.names_of(without))
    check_writable(out, folder=True)
    folder = (uncertain_crops or Path(_UNCERTAIN)) if keep_uncertain is not None else None
    if folder is not None:
        check_uncertain(folder)
    if monitor:
        _calibration(bundle)  # before any work
    start = time.monotonic()
    summary = run_archive(
        inputs or [],
        bundle,
        out,
        naming=Naming(camera=camera, captured_at=captured_at, time_zone=time_zone),
        model=ModelOptions(
            backend=backend,
            compute_precision=compute_precision,
            fallback_margin=fallback_margin,
            thresholds=thresholds,
            without=names,
        ),
        shard_size=shard_size,
        options=ArchiveOptions(
            address=address,
            workers=workers,
            threads=threads,
            list_again=list_again,
            tries=tries,
            time_limit=time_limit,
        ),
        progress=stage,
        stop=stop_on_signal,
    )
    _log_summary(summary, read_status(out), out, time.monotonic() - start)
    if summary.stopped:
        raise typer.Exit(INTERRUPTED)
    if monitor:
        _log_drift(summary, bundle, out)
    if folder is not None and keep_uncertain is not None:
        _write_uncertain(summary, bundle, out, folder, keep_uncertain, thresholds)


def status(job: _Job, as_json: options.AsJson = False, output: options.Output = None) -> None:
    """Show the state of a job.

    Print its inputs, and the numbers of shards, rows and errors so far.

    Examples:
      seqpar archive status jobs/june
    """
    check_writable(output)
    state = read_status(job)
    values = {**dataclasses.asdict(state), "finished": state.finished}
    emit_result(values, _status_text(state), as_json=as_json, output=output)


def _status_text(state: JobStatus) -> str:
    kind = "finished" if state.finished else "running" if state.running else "interrupted"
    return "\n".join(
        [
            f"state    {kind}",
            f"bundle   {state.bundle[:12]}",
            f"entries  {state.finished_entries} of {state.entries}",
            f"shards   {state.finished_shards} of {state.shards}",
            f"rows     {state.rows}, {state.errors} with an error",
            *(f"input    {name}" for name in state.inputs),
        ]
    )


def _log_summary(summary: RunSummary, state: JobStatus, out: Path, seconds: float) -> None:
    rate = f", {summary.done / seconds:.1f} per second" if summary.done else ""
    _log.info("%d entries in this run%s", summary.done, rate)
    _log.info(
        "%s: %d of %d shards finished, %d rows, %d with an error",
        *(out, state.finished_shards, state.shards, state.rows, state.errors),
    )
    if summary.stopped:
        _log.warning("stopped; run the same command to resume")


def _calibration(bundle: Path) -> tuple[Bundle, Calibration]:
    """Return the bundle and its calibration. Raises ArchiveError if it has none."""
    opened = Bundle.open(bundle, verify=False)
    calibration = load_calibration(opened)
    if calibration is None:
        raise ArchiveError(
            f"--monitor needs a calibration, got none that fits {bundle}; run seqpar calibrate, or omit --monitor"
        )
    return opened, calibration


def _boundary(bundle: Bundle, summary: RunSummary) -> Boundary:
    """Return the boundary between the bundle and the results of the job."""
    shown = summary.plan.settings.attributes or [one.name for one in bundle.shown.attributes]
    return Boundary(bundle.label_set, [one.name for one in bundle.label_set.attributes if one.name not in shown])


def _log_drift(summary: RunSummary, bundle: Path, out: Path) -> None:
    opened, calibration = _calibration(bundle)
    shown = _boundary(opened, summary).label_set
    with stage("comparing with the calibration set") as on_progress:
        report = drift_of(out, summary.plan, calibration.limited_to(shown), shown, on_progress)
    for one in report.attributes:
        if one.drifted:
            _log.warning(
                "%s has drifted: %.0f %% of people have a probability of %.2f or more, %.0f %% in the calibration set "
                "(p %.1g)",
                *(one.name, 100 * one.share, one.edge, 100 * one.expected, one.p_value),
            )
    drifted = f"drift of {', '.join(report.drifted)}" if report.drifted else "no drift"
    few = "too few to compare with the calibration set"
    _log.info("monitor: %d pictures, %s", report.people, drifted if report.looks else few)


def _write_uncertain(summary: RunSummary, bundle: Path, out: Path, folder: Path, most: int, given: Path | None) -> None:
    opened = Bundle.open(bundle, verify=False)
    thresholds: Thresholds | None
    if given is not None:
        thresholds = read_thresholds(given, opened.label_set)
    else:
        calibration = load_calibration(opened)
        thresholds = None if calibration is None else calibration.thresholds(opened.label_set)
    boundary = _boundary(opened, summary)
    shown, limits = boundary.label_set, boundary.thresholds(thresholds)
    with stage("finding uncertain pictures") as on_progress:
        if write_uncertain(out, summary.plan, folder, most, shown, limits, on_progress):
            _log.info("wrote %s", folder)
