"""`seqpar video --monitor`: report attributes whose probabilities have left those of the calibration set."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from seqpar_deploy.calibration.drift import AttributeDrift, DriftMonitor, DriftReport
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.video.crop_selection import Candidate
from seqpar_deploy.video.sinks.metrics import Metrics

_log = logging.getLogger(__name__)


class Monitor:
    """Counts one crop per track, its first, and logs and exports drift.

    Call it with each prediction, as `on_prediction` of a `Follower`, and `finish` after the last one.

    Args:
        drift: The monitor of the bundle's calibration.
        metrics: Metrics to export to. Default: not exported.
    """

    def __init__(self, drift: DriftMonitor, *, metrics: Metrics | None = None) -> None:
        metrics = metrics or Metrics()
        self._drift = drift
        self._looks = 0
        self._people = metrics.counter("seqpar_monitored_people_total", "People compared with the calibration set.")
        self._distance = metrics.gauge(
            "seqpar_drift",
            "Difference of the share of people above a probability from the calibration set.",
            "attribute",
        )
        self._drifted = metrics.gauge("seqpar_drifted", "1 if the attribute has drifted, else 0.", "attribute")

    def __call__(self, candidate: Candidate, prediction: Prediction, first: bool) -> None:
        """Add the first crop of a track."""
        if first:
            self._people.inc()
            self._tell(self._drift.add(prediction.probabilities))

    def finish(self) -> None:
        """Look at the people since the latest look."""
        self._tell(self._drift.look())

    def report(self) -> DriftReport:
        """Return the result so far."""
        return self._drift.report()

    def _tell(self, new: Sequence[AttributeDrift]) -> None:
        report = self._drift.report()
        if report.looks == self._looks:
            return
        self._looks = report.looks
        for one in report.attributes:
            self._distance.labels(one.name).set(one.distance)
            self._drifted.labels(one.name).set(one.drifted)
        for one in new:
            _log.warning(
                "%s has drifted: %.0f %% of people have a probability of %.2f or more, %.0f %% in the calibration set "
                "(p %.1g, after %d people)",
                one.name,
                100 * one.share,
                one.edge,
                100 * one.expected,
                one.p_value,
                report.people,
            )
