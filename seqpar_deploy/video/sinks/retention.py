"""Deletes what outputs have kept for too long, in a thread."""

from __future__ import annotations

import datetime
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from seqpar_deploy.errors import SinkError
from seqpar_deploy.video.sinks.base import BaseSink
from seqpar_deploy.video.sinks.fan_out import one_line
from seqpar_deploy.video.sinks.metrics import Health, Metrics

_OFTEN, _SELDOM = 10.0, 600.0  # seconds between two rounds, at least and at most
_ROUNDS = 100  # rounds per retention: what is older by one hundredth of it is gone
_ENDING = 5.0  # seconds for the thread to end

_AGE = re.compile(r"(\d{1,5})([mhdw])")
_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_LONGEST = 100 * 365 * _UNITS["d"]

_log = logging.getLogger(__name__)


def parse_age(text: str) -> float:
    """Return the seconds of an age of up to 100 years: a number with m, h, d or w. Raises SinkError.

    Example:
        >>> parse_age("7d")
        604800.0
    """
    found = _AGE.fullmatch(text.strip())
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not seconds:
        raise SinkError(f"--retain must be a time with m, h, d or w, got {text!r}; for example 12h or 7d")
    if seconds > _LONGEST:
        raise SinkError(f"--retain must be at most 100 years, got {text!r}; omit it to delete nothing")
    return float(seconds)


@runtime_checkable
class Keeps(Protocol):
    """Protocol of an output that keeps something and can delete it by age."""

    name: str

    def delete_before(self, time: datetime.datetime) -> int:
        """Delete what is of before a time.

        Args:
            time: The time, with a time zone.

        Returns:
            Number of things deleted.
        """
        ...


class Retention(BaseSink):
    """Deletes what outputs keep once it is older than `seconds`, now and then every hundredth of that time.

    Rounds are 10 s to 10 minutes apart. An output that fails is logged once, reported in `/healthz`, and tried again in
    the next round. It is a sink so that the pipeline closes it.

    Args:
        seconds: Age from which something is deleted.
        outputs: The outputs.
        metrics: Metrics that count what was deleted. Default: not published.
        health: Health checks that report failures. Default: not published.
        now: Function that returns seconds since 1970. Default: `time.time`.

    Example:
        crops = SavedCropsSink("crops")
        watch("rtsp://camera/1", recognizer, sinks=[crops, Retention(7 * 86400, [crops])])
    """

    def __init__(
        self,
        seconds: float,
        outputs: Sequence[Keeps],
        *,
        metrics: Metrics | None = None,
        health: Health | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = f"retention of {seconds:g} s"
        self._seconds, self._outputs, self._now = seconds, outputs, now
        self._deleted = (metrics or Metrics()).counter(
            "seqpar_retention_deleted_total", "Files and entries deleted for their age.", "output"
        )
        self._health = health or Health()
        self._problems: dict[str, str] = {}
        for output in outputs:
            self._health.watch(f"retention of {output.name}", lambda name=output.name: self._problems.get(name))  # type: ignore[misc]
        self._every = min(_SELDOM, max(_OFTEN, seconds / _ROUNDS))
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)
        self._thread.start()

    def run_once(self) -> int:
        """Delete what is too old, and return the number of things deleted."""
        before = datetime.datetime.fromtimestamp(self._now() - self._seconds, datetime.timezone.utc)
        total = 0
        for output in self._outputs:
            try:
                deleted = output.delete_before(before)
            except Exception as error:  # the others must be cleaned all the same
                why = one_line(error)
                if self._problems.get(output.name) != why:
                    _log.warning("retention of %s: %s; retrying", output.name, why)
                self._problems[output.name] = why
                continue
            if self._problems.pop(output.name, None):
                _log.info("retention of %s: works again", output.name)
            self._deleted.labels(output.name).inc(deleted)
            total += deleted
        return total

    def close(self) -> None:
        self._end.set()
        self._thread.join(_ENDING)
        for output in self._outputs:
            self._health.forget(f"retention of {output.name}")

    def _run(self) -> None:
        while True:
            self.run_once()
            if self._end.wait(self._every):
                return
