"""Counts of the requests to a server, for programs, for Prometheus, for health checks and for the log."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seqpar_deploy.video.sinks import Health, Metrics

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerStats:
    """Hold the counts of a `RemoteRecognizer` so far.

    Attributes:
        requests: Requests that were sent, retries included.
        failures: Requests without a usable answer.
        retries: Requests that were sent again.
        reachable: Whether the latest request was answered. None before the first.
    """

    requests: int = 0
    failures: int = 0
    retries: int = 0
    reachable: bool | None = None


class Meter:
    """Counts requests. For any thread. It logs once when the server goes away, and once when it is back."""

    def __init__(self, name: str, metrics: Metrics | None, health: Health | None) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._stats = ServerStats()
        self._problem: str | None = None
        self._since = 0.0
        self._failures_before = 0
        self._health = health
        self._exported = None if metrics is None else _Exported(metrics, name)
        if health is not None:
            health.watch(name, lambda: self._problem)

    @property
    def stats(self) -> ServerStats:
        return self._stats

    def sent(self, *, again: bool) -> None:
        """Count a request that is about to be sent."""
        with self._lock:
            stats = self._stats
            self._stats = dataclasses.replace(stats, requests=stats.requests + 1, retries=stats.retries + again)
        if self._exported:
            self._exported.requests.inc()
            self._exported.retries.inc(again)

    def answered(self, seconds: float | None = None) -> None:
        """Record that the server has answered. `seconds` is the time of an inference."""
        with self._lock:
            was, self._stats = self._stats, dataclasses.replace(self._stats, reachable=True)
            gone, self._problem = time.monotonic() - self._since, None
            failures = self._stats.failures - self._failures_before
        if was.reachable is False:
            _log.info("%s: it answers again after %.1f s, %d requests failed meanwhile", self._name, gone, failures)
        if self._exported:
            self._exported.reachable.set(1)
            if seconds is not None:
                self._exported.seconds.observe(seconds)

    def failed(self, why: str, *, away: bool) -> None:
        """Count a request that failed. `away` is whether the server is at fault, and not the request."""
        with self._lock:
            was = self._stats
            self._stats = dataclasses.replace(was, failures=was.failures + 1)
            lost = away and was.reachable is not False
            if lost:
                self._since, self._failures_before = time.monotonic(), was.failures
            if away:
                self._problem = why
                self._stats = dataclasses.replace(self._stats, reachable=False)
        if lost and was.reachable:
            _log.warning("%s: %s", self._name, why)
        if self._exported:
            self._exported.failures.inc()
            if away:
                self._exported.reachable.set(0)

    def close(self) -> None:
        """End the health check."""
        if self._health is not None:
            self._health.forget(self._name)


class _Exported:
    """The same as Prometheus metrics."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        server = name.removeprefix("server ")
        requests = metrics.counter("seqpar_server_requests_total", "Requests sent, retries included.", "server")
        failures = metrics.counter("seqpar_server_failures_total", "Requests without a usable answer.", "server")
        retries = metrics.counter("seqpar_server_retries_total", "Requests sent again.", "server")
        reachable = metrics.gauge("seqpar_server_reachable", "1 if the latest request was answered, else 0.", "server")
        seconds = metrics.histogram("seqpar_server_seconds", "Time of one request that was answered.", "server")
        self.requests, self.failures = requests.labels(server), failures.labels(server)
        self.retries, self.reachable = retries.labels(server), reachable.labels(server)
        self.seconds = seconds.labels(server)
