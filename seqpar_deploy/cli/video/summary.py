"""The result of a run of `seqpar video`: lines in the log, and an error if it is incomplete."""

from __future__ import annotations

import logging
from pathlib import Path

from seqpar_deploy.calibration.drift import DriftReport
from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.pipeline import Summary
from seqpar_deploy.video.sinks import Sinks

_log = logging.getLogger(__name__)


def log_summary(summary: Summary, files: list[Path], *, profile: bool) -> None:
    """Log the result of the run. Standard output is not free for it: it may carry the events."""
    frames, dropped = sum(summary.frames.values()), sum(summary.dropped.values())
    lost = f", {dropped} dropped" if dropped else ""
    unrecognized = f" and {summary.unrecognized} without a good enough crop" if summary.unrecognized else ""
    rate = frames / summary.seconds if summary.seconds else 0.0
    people = f"{summary.people} {'person' if summary.people == 1 else 'people'}{unrecognized}"
    _log.info("%s, %d crops classified, %d frames%s, %.0f per second", people, summary.crops, frames, lost, rate)
    for file in files:
        _log.info("wrote %s", file)
    if profile:
        _log.info("%-16s %8s %8s %8s", "stage", "entered", "ms each", "seconds")
        for name, (times, seconds) in summary.stages.items():
            _log.info("%-16s %8d %8.2f %8.2f", name, times, 1e3 * seconds / times, seconds)


def log_drift(report: DriftReport) -> None:
    people = f"{report.people} {'person' if report.people == 1 else 'people'}"
    if not report.looks:
        _log.info("monitor: %s, too few to compare with the calibration set", people)
    else:
        _log.info("monitor: %s, %s", people, f"drift of {', '.join(report.drifted)}" if report.drifted else "no drift")


def raise_failures(summary: Summary, sinks: Sinks, *, sources: int, outputs: int) -> None:
    """Raise VideoError if the run is incomplete."""
    if sinks.all_lost:
        raise VideoError("every output failed; the log above names the causes")
    if summary.failed:
        raise VideoError(
            f"{len(summary.failed)} of {sources} sources could not be read in full; the log above names the causes"
        )
    if summary.hung:
        raise VideoError("an output hung and was abandoned; it and the outputs after it may lack events")
    if sinks.incomplete:
        raise VideoError(f"{len(sinks.incomplete)} of {outputs} outputs are incomplete; the log above names the causes")
