"""Prometheus metrics of a pipeline, and whether all is well. Thread-safe."""

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
    """Prometheus metrics in a registry of their own, so that several pipelines fit into one process.

    `counter`, `gauge` and `histogram` return prometheus_client's classes; the same name and labels return the same
    object. Add metrics of your own to `registry`; `text` includes them. A `Metrics` is a prometheus_client collector:
    `prometheus_client.REGISTRY.register(metrics)` exports it from an application's own endpoint.

    Raises:
        SinkError: prometheus_client is not installed.
        ValueError: a name is already used by another kind of metric, or with other labels.
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
        from prometheus_client import Counter

        return self._once(("counter", name, *labels), lambda: Counter(name, help_, labels, registry=self.registry))

    def gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        from prometheus_client import Gauge

        return self._once(("gauge", name, *labels), lambda: Gauge(name, help_, labels, registry=self.registry))

    def histogram(self, name: str, help_: str, *labels: str) -> Histogram:
        """A histogram of seconds, 1 ms to 5 s."""
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
        """All metrics, without the `_created` series, which double their number. Label values are valid UTF-8: one
        file name that is not would otherwise fail the whole scrape."""
        for metric in self.registry.collect():
            metric.samples = [
                sample._replace(labels={name: _utf8(value) for name, value in sample.labels.items()})
                for sample in metric.samples
                if sample.name != f"{metric.name}_created"
            ]
            yield metric

    def text(self) -> str:
        """All metrics in Prometheus' text format 0.0.4."""
        from prometheus_client import generate_latest

        return generate_latest(self).decode("utf-8")


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


class Health:
    """Whether everything that should be going on is. A check returns what is wrong, None if nothing is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._checks: dict[str, Callable[[], str | None]] = {}
        self._lock = threading.Lock()

    def watch(self, name: str, check: Callable[[], str | None]) -> None:
        """Ask `check` from now on."""
        with self._lock:
            self._checks[name] = check

    def forget(self, name: str) -> None:
        """Ask no more: it ended as it should."""
        with self._lock:
            self._checks.pop(name, None)

    def heartbeat(self, name: str, *, within: float) -> Callable[[], None]:
        """A function to call at least every `within` seconds, from any thread; the first time is now."""
        last = [self._clock()]

        def stale() -> str | None:
            silent = self._clock() - last[0]
            return f"nothing for {silent:.0f} s, wanted within {within:g} s" if silent > within else None

        def beat() -> None:
            last[0] = self._clock()

        self.watch(name, stale)
        return beat

    def thread(self, thread: threading.Thread) -> None:
        """The stage is dead where its thread is, until `forget(thread.name)`."""
        self.watch(thread.name, lambda: None if thread.is_alive() else "the thread has died")

    def problems(self) -> list[str]:
        """One line each."""
        with self._lock:
            checks = list(self._checks.items())
        return [f"{name}: {problem}" for name, check in checks if (problem := check())]
