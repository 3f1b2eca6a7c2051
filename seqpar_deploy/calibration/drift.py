"""Detect that the probabilities of new people no longer follow those of the calibration set.

Two cumulative distributions are compared as in the test of Kolmogorov and Smirnov, at the edges of the calibration's
bins. At each edge, Fisher's exact test compares the share of people whose probability is at or above it. It needs no
assumption on the distributions or counts, and its limit is closer for rare attributes than that of Kolmogorov and
Smirnov. The false-alarm rate is divided by the number of edges of all attributes (Bonferroni), without those that
separate nobody. The k-th look spends 1 / (k (k + 1)) of it, so that all looks together spend it, however many there
are.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.calibration.maps import Float64Array, Floats
from seqpar_deploy.calibration.sidecar import BINS, Calibration
from seqpar_deploy.errors import CalibrationError
from seqpar_deploy.vocab import LabelSet

Int64Array = npt.NDArray[np.int64]

FIRST_LOOK = 8  # people: enough for an attribute that most of them have and few of the calibration set, or the reverse
WINDOW = 512  # people: with more, the reference, some hundred people, sets the limit
FALSE_ALARM_RATE = 0.01


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttributeDrift:
    """Compare one attribute's probabilities with those of the calibration set, at the edge where they differ most.

    Attributes:
        name: Name of the attribute.
        edge: A probability, at which the shares are least alike by Fisher's test.
        share: Share of the people of the latest look whose probability is `edge` or more, 0 to 1.
        expected: The same share of the calibration set.
        p_value: Chance of such a difference without drift, corrected for all edges, attributes and looks.
        since: Number of people after which `p_value` was first at or below the false-alarm rate. None if it never was.
    """

    name: str
    edge: float
    share: float
    expected: float
    p_value: float
    since: int | None

    @property
    def distance(self) -> float:
        """The difference of the shares, 0 to 1."""
        return abs(self.share - self.expected)

    @property
    def drifted(self) -> bool:
        """Whether `p_value` was at or below the false-alarm rate at any look."""
        return self.since is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriftReport:
    """Result of a `DriftMonitor` so far.

    Attributes:
        people: Number of people added.
        looks: Number of looks so far. The first needs 8 people.
        looked_at: Number of people that the latest look compared, the latest of all. 0 before the first look.
        reference: Number of independent people of the calibration set: its groups.
        false_alarm_rate: Chance that any attribute counts as drifted in a run without drift, at most.
        attributes: One entry per attribute, in the label set's order. Empty before the first look.
    """

    people: int
    looks: int
    looked_at: int
    reference: int
    false_alarm_rate: float
    attributes: tuple[AttributeDrift, ...]

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of the attributes that have drifted."""
        return tuple(one.name for one in self.attributes if one.drifted)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**dataclasses.asdict(self), "drifted": list(self.drifted)}


class DriftMonitor:
    """Compare the probabilities of new people with those of the calibration set. Thread-safe.

    It looks at the first 8, 16, 32, 64, 128, 256 and 512 people, and then at each further 512. Its memory does not grow
    with the number of people.

    The false-alarm rate holds for independent people. Add one entry per person, not per crop, and of one crop:
    calibration sets hold single crops, and a mean of several crops has another distribution. With halves of the 166
    people of the demo model's test fifth, 1 of 2,000 runs had a false alarm, at one person per group. With several
    per group in the run, it was 7 of 500.

    Args:
        calibration: The calibration, with its reference.
        label_set: The label set of the bundle.
        false_alarm_rate: Chance that any attribute counts as drifted in a run of any length without drift, at most.
            Above 0, below 1. Default: 0.01.

    Raises:
        CalibrationError: The calibration set has no people, or the rate is out of range.

    Examples:
        >>> monitor = DriftMonitor(recognizer.calibration, recognizer.label_set)
        >>> for prediction in recognizer.predict(crops):
        ...     monitor.add(prediction.probabilities)
        >>> monitor.look()
        >>> print(monitor.report().drifted)
    """

    def __init__(
        self, calibration: Calibration, label_set: LabelSet, *, false_alarm_rate: float = FALSE_ALARM_RATE
    ) -> None:
        if not 0 < false_alarm_rate < 1:
            raise CalibrationError(f"false_alarm_rate must be above 0 and below 1, got {false_alarm_rate}")
        counts = calibration.distributions
        # Crops of one group are not independent, so they count as one.
        self._reference = min(calibration.data.groups, int(counts.sum(axis=1).min()))
        if not self._reference:
            raise CalibrationError("the calibration set must have people, got none; run seqpar calibrate again")
        self._names = tuple(attribute.name for attribute in label_set.attributes)
        self._rate = false_alarm_rate
        self._expected = _from_edges(counts) / counts.sum(axis=1, keepdims=True)  # shares
        self._rows = np.arange(len(self._names))
        self._counts = np.zeros((len(self._names), BINS), dtype=np.int64)  # of the window
        self._people = self._in_window = self._looks = self._looked_at = self._people_at_look = 0
        self._next = FIRST_LOOK
        self._since: list[int | None] = [None] * len(self._names)
        self._latest: tuple[AttributeDrift, ...] = ()
        self._lock = threading.Lock()

    def add(self, probabilities: Floats) -> tuple[AttributeDrift, ...]:
        """Add a person, and look if it is time to.

        Args:
            probabilities: Calibrated probabilities of one crop, (n,). A person with NaN is ignored.

        Returns:
            The attributes that drifted just now. Each attribute is returned once.
        """
        values = np.asarray(probabilities)
        if not np.isfinite(values).all():
            return ()
        with self._lock:
            self._counts[self._rows, bins(values)] += 1
            self._people += 1
            self._in_window += 1
            return self._look() if self._in_window == self._next else ()

    def look(self) -> tuple[AttributeDrift, ...]:
        """Look at the end of a run, if the people since the last full window are 8 or more, and one is new.

        Returns:
            The attributes that drifted just now.
        """
        with self._lock:
            nobody_new = self._people == self._people_at_look
            return () if nobody_new or self._in_window < FIRST_LOOK else self._look()

    def report(self) -> DriftReport:
        """Return the result so far, as of the latest look."""
        with self._lock:
            return DriftReport(
                people=self._people,
                looks=self._looks,
                looked_at=self._looked_at,
                reference=self._reference,
                false_alarm_rate=self._rate,
                attributes=self._latest,
            )

    def _look(self) -> tuple[AttributeDrift, ...]:
        self._looks += 1
        self._looked_at = people = self._in_window
        self._people_at_look = self._people
        above = _from_edges(self._counts)
        expected = np.rint(self._expected * self._reference).astype(np.int64)
        p_values, tests = fisher_tests(above, people, expected, self._reference)
        decisive = p_values.argmin(axis=1)
        least = np.minimum(1, p_values.min(axis=1) * tests * self._looks * (self._looks + 1))
        new = [place for place in np.flatnonzero(least <= self._rate).tolist() if self._since[place] is None]
        for place in new:
            self._since[place] = self._people
        self._latest = tuple(
            AttributeDrift(
                name=name,
                edge=(edge + 1) / BINS,
                share=float(above[place, edge] / people),
                expected=float(self._expected[place, edge]),
                p_value=float(least[place]),
                since=self._since[place],
            )
            for place, (name, edge) in enumerate(zip(self._names, decisive.tolist(), strict=True))
        )
        if people >= WINDOW:
            self._counts[:] = 0
            self._in_window = 0
        elif people == self._next:
            self._next = min(2 * self._next, WINDOW)
        return tuple(self._latest[place] for place in new)


def bins(probabilities: Floats) -> Int64Array:
    """Return the bin of each probability, 0 to `BINS` - 1, int64 (...)."""
    return np.minimum((np.asarray(probabilities) * BINS).astype(np.int64), BINS - 1)


def _from_edges(counts: Int64Array) -> Int64Array:
    """Return the people at or above each edge between two bins, int64 (n, BINS - 1)."""
    return np.asarray(counts[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:])


def fisher_tests(some: Int64Array, people: int, others: Int64Array, reference: int) -> tuple[Float64Array, int]:
    """Test by Fisher's exact test whether shares of two groups of people are equal.

    Args:
        some: Number of `people` at or above each edge, int64 (n, E).
        people: Size of the first group.
        others: Number of `reference` at or above each edge, int64 (n, E).
        reference: Size of the second group.

    Returns:
        Two-sided p-values (n, E), and the number of different tests. Edges that separate nobody of both groups, or
        the same people as the edge before, are no tests of their own.
    """
    total, both = people + reference, (some + others)[..., None]
    of = np.concatenate([[0.0], np.log(np.arange(1, total + 1)).cumsum()])  # logarithm of the factorial
    drawn = np.arange(people + 1)
    rest = total - both
    possible = (drawn <= both) & (people - drawn <= rest)
    here, there = np.where(possible, drawn, 0), np.where(possible, people - drawn, 0)
    logs = of[both] - of[here] - of[np.maximum(both - here, 0)] + of[rest] - of[there] - of[np.maximum(rest - there, 0)]
    logs -= of[total] - of[people] - of[reference]
    chances = np.where(possible, np.exp(np.where(possible, logs, -np.inf)), 0.0)
    upper = np.where(drawn >= some[..., None], chances, 0.0).sum(axis=-1)
    lower = np.where(drawn <= some[..., None], chances, 0.0).sum(axis=-1)
    margins = some + others
    differs = np.diff(margins, axis=1, prepend=total) != 0
    tests = int((differs & (margins > 0)).sum())
    return np.minimum(1, 2 * np.minimum(upper, lower)), max(1, tests)
