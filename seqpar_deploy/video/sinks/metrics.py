"""Prometheus metrics and health checks of a pipeline. Thread-safe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from seqpar_deploy.errors import SinkError

if TYPE_CHECKING:
    from prometheus_client import Counter, Gauge, Histogram
    from prometheus_client.metrics_core import Metric

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
Some = TypeVar("Some")


class Metrics:
    """Prometheus metrics in a separate registry, so that one process can run several pipelines.

    `counter`, `gauge` and `histogram` return objects of prometheus_client. A second call with the same name and labels
    returns the same object. You can add your own metrics to `registry`, and `text` includes them. A `Metrics` is a
    prometheus_client collector, so your application's endpoint can export it.

    Attributes:
        registry: The `prometheus_client.CollectorRegistry`.

    Raises:
        SinkError: prometheus_client is not installed.

    Example:
        metrics = Metrics()
        prometheus_client.REGISTRY.register(metrics)
        watch("rtsp://camera/1", recognizer, metrics=metrics)
    """

    def __init__(self) -> None:
        try:
            from prometheus_client import CollectorRegistry
        except ImportError:
            raise SinkError("prometheus_client is not installed; pip install 'seqpar-deploy[video]'") from None
        self.registry = CollectorRegistry()
        self._made: dict[tuple[str, ...], Any] = {}
        self._lock = threading.Lock()

    def counter(self, name: str, help_: str, *labels: str) -> Counter:
        """Return a counter.

        Args:
            name: Name of the metric. By convention it ends in `_total`.
            help_: Description.
            labels: Names of its labels.

        Raises:
            ValueError: The name is in use by another kind of metric, or with other labels.
        """
        from prometheus_client import Counter

        return self._once(("counter", name, *labels), lambda: Counter(name, help_, labels, registry=self.registry))

    def gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        """Return a gauge.

        Args:
            name: Name of the metric.
            help_: Description.
            labels: Names of its labels.

        Raises:
            ValueError: The name is in use by another kind of metric, or with other labels.
        """
        from prometheus_client import Gauge

        return self._once(("gauge", name, *labels), lambda: Gauge(name, help_, labels, registry=self.registry))

    def histogram(self, name: str, help_: str, *labels: str) -> Histogram:
        """Return a histogram of seconds, with buckets from 1 ms to 5 s.

        Args:
            name: Name of the metric. By convention it ends in `_seconds`.
            help_: Description.
            labels: Names of its labels.

        Raises:
            ValueError: The name is in use by another kind of metric, or with other labels.
        """
        from prometheus_client import Histogram

        return self._once(
            ("histogram", name, *labels),
            lambda: Histogram(name, help_, labels, registry=self.registry, buckets=_SECONDS),
        )

    def _once(self, key: tuple[str, ...], make: Callable[[], Some]) -> Some:
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            made: Some = self._made[key]
            return made

    def collect(self) -> Iterable[Metric]:
        """Yield all metrics, without the `_created` series, which would double their number.

        Label values are converted to valid UTF-8, because one invalid file name would fail the whole scrape.
        """
        for metric in self.registry.collect():
            metric.samples = [
                sample._replace(labels={name: _utf8(value) for name, value in sample.labels.items()})
                for sample in metric.samples
                if sample.name != f"{metric.name}_created"
            ]
            yield metric

    def text(self) -> str:
        """Return all metrics in Prometheus' text format 0.0.4."""
        from prometheus_client import generate_latest

        return generate_latest(self).decode("utf-8")


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


class Health:
    """Health checks of a pipeline. A check returns a description of the problem, or None.

    Args:
        clock: Function that returns monotonic seconds. Default: `time.monotonic`.

    Example:
        health = Health()
        health.watch("disk", lambda: None if shutil.disk_usage("/").free > 1e9 else "less than 1 GB free")
        print(health.problems())  # [] if all is well
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._checks: dict[str, Callable[[], str | None]] = {}
        self._lock = threading.Lock()

    def watch(self, name: str, check: Callable[[], str | None]) -> None:
        """Add a check.

        Args:
            name: Name of the check. An earlier check of that name is replaced.
            check: Function that returns a description of the problem, or None. Any thread may call it.
        """
        with self._lock:
            self._checks[name] = check

    def forget(self, name: str) -> None:
        """Remove a check.

        Args:
            name: Name of the check. An unknown name is ignored.
        """
        with self._lock:
            self._checks.pop(name, None)

    def heartbeat(self, name: str, *, within: float) -> Callable[[], None]:
        """Add a check that reports a problem if a function is not called often enough.

        Args:
            name: Name of the check.
            within: Longest time between two calls, in seconds. The first interval starts now.

        Returns:
            The function to call, from any thread.
        """
        last = [self._clock()]

        def stale() -> str | None:
            silent = self._clock() - last[0]
            return f"no activity for {silent:.0f} s, expected within {within:g} s" if silent > within else None

        def beat() -> None:
            last[0] = self._clock()

        self.watch(name, stale)
        return beat

    def thread(self, thread: threading.Thread) -> None:
        """Add a check, with the thread's name, that the thread is alive. Remove it with `forget`.

        Args:
            thread: A started thread.
        """
        self.watch(thread.name, lambda: None if thread.is_alive() else "the thread has died")

    def problems(self) -> list[str]:
        """Return the problems of all checks as lines `name: problem`, an empty list if all is well."""
        with self._lock:
            checks = list(self._checks.items())
        return [f"{name}: {problem}" for name, check in checks if (problem := check())]
