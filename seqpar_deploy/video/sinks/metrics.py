"""Figures the stages keep, in Prometheus' text format, and whether all is well. Thread-safe; needs no library."""

from __future__ import annotations

import bisect
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
Labels = tuple[str, ...]


class Metric:
    """A figure for each combination of its labels' values. Values are given in the labels' order."""

    kind = "untyped"

    def __init__(self, name: str, help_: str, labels: Labels) -> None:
        self.name, self.help, self.labels = name, help_, labels
        self._lock = threading.Lock()
        self._values: dict[Labels, float] = {}

    def value(self, *labels: str) -> float:
        """What it stands at; 0 where nothing was said."""
        with self._lock:
            return self._values.get(labels, 0.0)

    def _key(self, labels: Labels) -> Labels:
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} got {len(labels)} labels, wanted {self.labels}")
        return labels

    def samples(self) -> Iterator[tuple[str, Sequence[tuple[str, str]], float]]:
        """(name, labels, value)"""
        with self._lock:
            values = list(self._values.items())
        for labels, value in values:
            yield self.name, list(zip(self.labels, labels, strict=True)), value


class Counter(Metric):
    """Only grows."""

    kind = "counter"

    def add(self, amount: float, *labels: str) -> None:
        key = self._key(labels)
        with self._lock:
            self._values[key] = self._values.get(key, 0.0) + amount

    def reach(self, total: float, *labels: str) -> None:
        """What somebody else counts, as it stands now."""
        key = self._key(labels)
        with self._lock:
            self._values[key] = max(self._values.get(key, 0.0), float(total))


class Gauge(Metric):
    """Goes up and down."""

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        key = self._key(labels)
        with self._lock:
            self._values[key] = float(value)

    def remove(self, *labels: str) -> None:
        """Forget it, of a stream that ended say."""
        with self._lock:
            self._values.pop(labels, None)


class Histogram(Metric):
    """How often values lay below each of some bounds, their sum and their number."""

    kind = "histogram"

    def __init__(self, name: str, help_: str, labels: Labels, bounds: Sequence[float] = _SECONDS) -> None:
        super().__init__(name, help_, labels)
        self.bounds = (*sorted(bounds), math.inf)
        self._counts: dict[Labels, list[int]] = {}

    def observe(self, value: float, *labels: str) -> None:
        key = self._key(labels)
        with self._lock:
            counts = self._counts.setdefault(key, [0] * len(self.bounds))
            counts[bisect.bisect_left(self.bounds, value)] += 1
            self._values[key] = self._values.get(key, 0.0) + value

    def samples(self) -> Iterator[tuple[str, Sequence[tuple[str, str]], float]]:
        with self._lock:
            found = [(key, list(counts), self._values[key]) for key, counts in self._counts.items()]
        for key, counts, total in found:
            labels = list(zip(self.labels, key, strict=True))
            below = 0
            for bound, count in zip(self.bounds, counts, strict=True):
                below += count
                yield f"{self.name}_bucket", [*labels, ("le", _number(bound))], below
            yield f"{self.name}_sum", labels, total
            yield f"{self.name}_count", labels, below


Some = TypeVar("Some", bound=Metric)


class Metrics:
    """The figures of a run. Asking twice for a name gives the same figure."""

    def __init__(self) -> None:
        self._metrics: dict[str, Metric] = {}
        self._lock = threading.Lock()

    def counter(self, name: str, help_: str, *labels: str) -> Counter:
        return self._one(Counter(name, help_, labels))

    def gauge(self, name: str, help_: str, *labels: str) -> Gauge:
        return self._one(Gauge(name, help_, labels))

    def histogram(self, name: str, help_: str, *labels: str, bounds: Sequence[float] = _SECONDS) -> Histogram:
        return self._one(Histogram(name, help_, labels, bounds))

    def _one(self, metric: Some) -> Some:
        with self._lock:
            known = self._metrics.setdefault(metric.name, metric)
        if type(known) is not type(metric) or known.labels != metric.labels:
            raise ValueError(f"{metric.name} is a {known.kind} of {known.labels} already, wanted a {metric.kind}")
        return known

    def text(self) -> str:
        """All of them in Prometheus' text format 0.0.4."""
        with self._lock:
            metrics = list(self._metrics.values())
        lines: list[str] = []
        for metric in metrics:
            lines += [f"# HELP {metric.name} {_escaped(metric.help)}", f"# TYPE {metric.name} {metric.kind}"]
            for name, labels, value in metric.samples():
                inside = ",".join(f'{label}="{_quoted(text)}"' for label, text in labels)
                lines.append(f"{name}{{{inside}}} {_number(value)}" if inside else f"{name} {_number(value)}")
        return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))


def _escaped(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8").replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')


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
