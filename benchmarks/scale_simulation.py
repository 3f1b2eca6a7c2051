"""A discrete-event simulation of recognizers behind one queue. Standard library only; `scale.py` uses and checks it.

Requests arrive at given times. An idle recognizer takes a batch once the queue holds a whole one, or once the oldest
request has waited for the batching delay, as Triton's dynamic batcher does. A recognizer may fail: its requests return
to the head of the queue, as clients send them again, and it is back after its repair.
"""

from __future__ import annotations

import collections
import dataclasses
import heapq
import itertools
import math
import random
import statistics
from collections.abc import Callable, Sequence

ServiceTime = Callable[[int, random.Random], float]
"""Draws the seconds that a batch of a size takes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fleet:
    """Recognizers that share a queue.

    Attributes:
        recognizers: How many there are.
        service: Draws the seconds of a batch.
        max_batch: Requests per batch, at most.
        delay: Seconds that a request may wait for others to form a batch. Default: 0, an idle one takes all at once.
        mean_uptime: Mean seconds until a recognizer fails, exponential. Default: never.
        repair: Seconds until a failed one is back. Default: 30.
        outages: (start, seconds, recognizers) of planned losses, for example of a machine. Default: none.
    """

    recognizers: int
    service: ServiceTime
    max_batch: int
    delay: float = 0.0
    mean_uptime: float = math.inf
    repair: float = 30.0
    outages: tuple[tuple[float, float, int], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of the requests.

    Attributes:
        waits: Seconds from arrival to the start of the batch that answered, per request.
        latencies: Seconds from arrival to the answer, per request.
        batches: Sizes of the batches.
        longest_queue: Most requests that waited at a time.
        retried: Requests that were in a batch of a recognizer that failed.
        busy: Share of the recognizers' time that was spent on batches, until the last answer.
        last_slow: Time of the last answer that took over `SLOW` seconds. None if no answer did.
    """

    waits: Sequence[float]
    latencies: Sequence[float]
    batches: Sequence[int]
    longest_queue: int
    retried: int
    busy: float
    last_slow: float | None

    def summary(self) -> dict[str, float | int | None]:
        """Figures for a table: seconds, rounded to 0.1 ms."""
        figures = {
            "wait_median": statistics.median(self.waits),
            "wait_p99": percentile(self.waits, 99),
            "latency_median": statistics.median(self.latencies),
            "latency_p99": percentile(self.latencies, 99),
            "mean_batch": statistics.fmean(self.batches),
            "busy": self.busy,
        }
        share = sum(latency > SLOW for latency in self.latencies) / len(self.latencies)
        return {
            **{name: round(value, 4) for name, value in figures.items()},
            "share_over_2_s": round(share, 5),
            "longest_queue": self.longest_queue,
            "retried": self.retried,
            "last_over_2_s": None if self.last_slow is None else round(self.last_slow, 1),
        }


SLOW = 2.0  # seconds: an answer that is later is of little use to a camera


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` per cent of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.floor(share / 100 * len(ordered)))]


def poisson_arrivals(rate: Callable[[float], float], seconds: float, draw: random.Random) -> list[float]:
    """Return times of independent requests. `rate` is the mean number per second at a time."""
    highest = max(rate(second / 10) for second in range(int(10 * seconds) + 1))
    times, now = [], 0.0
    while (now := now + draw.expovariate(highest)) < seconds:
        if draw.random() * highest <= rate(now):
            times.append(now)
    return times


def simulate(fleet: Fleet, arrivals: Sequence[float], seed: int) -> Outcome:
    """Run the requests through the fleet until all are answered."""
    return _Run(fleet, arrivals, seed).outcome()


class _Run:
    """The state of one simulation. Events are (time, number, action), in order of time."""

    def __init__(self, fleet: Fleet, arrivals: Sequence[float], seed: int) -> None:
        self._fleet, self._arrivals = fleet, arrivals
        self._draw = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self._queue: collections.deque[int] = collections.deque()
        self._idle = fleet.recognizers
        self._running: dict[int, list[int]] = {}  # requests by batch
        self._waits, self._latencies = [0.0] * len(arrivals), [-1.0] * len(arrivals)
        self._left = len(arrivals)
        self._batches: list[int] = []
        self._longest = self._retried = 0
        self._busy = self._end = 0.0
        self._last_slow: float | None = None
        self._timer = -1.0  # time of the last wake-up for the batching delay

    def outcome(self) -> Outcome:
        if self._arrivals:
            self._arrive_at(0)
        if math.isfinite(self._fleet.mean_uptime):
            self._at(self._next_failure(0.0), self._fail_one)
        for start, seconds, count in self._fleet.outages:
            self._at(start, lambda now, seconds=seconds, count=count: self._lose(now, seconds, count))
        while self._left:
            now, _, action = heapq.heappop(self._events)
            action(now)
            self._start_batches(now)
        return Outcome(
            waits=self._waits,
            latencies=self._latencies,
            batches=self._batches,
            longest_queue=self._longest,
            retried=self._retried,
            busy=self._busy / (self._fleet.recognizers * self._end),
            last_slow=self._last_slow,
        )

    def _at(self, time: float, action: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, next(self._numbers), action))

    def _arrive_at(self, request: int) -> None:
        def arrive(_now: float) -> None:
            self._queue.append(request)
            self._longest = max(self._longest, len(self._queue))
            if request + 1 < len(self._arrivals):
                self._arrive_at(request + 1)

        self._at(self._arrivals[request], arrive)

    def _start_batches(self, now: float) -> None:
        while self._idle > 0 and self._queue:
            due = self._arrivals[self._queue[0]] + self._fleet.delay
            if len(self._queue) < self._fleet.max_batch and now < due:
                if due != self._timer:
                    self._timer = due
                    self._at(due, lambda _now: None)
                return
            requests = [self._queue.popleft() for _ in range(min(self._fleet.max_batch, len(self._queue)))]
            self._start(now, requests)

    def _start(self, now: float, requests: list[int]) -> None:
        self._idle -= 1
        number, seconds = next(self._numbers), self._fleet.service(len(requests), self._draw)
        self._running[number] = requests
        self._batches.append(len(requests))
        for request in requests:
            self._waits[request] = now - self._arrivals[request]

        def finish(end: float) -> None:
            if self._running.pop(number, None) is None:  # its recognizer failed meanwhile
                return
            self._idle += 1
            self._busy += seconds
            self._end = end
            self._left -= len(requests)
            for request in requests:
                self._latencies[request] = end - self._arrivals[request]
                if self._latencies[request] > SLOW:
                    self._last_slow = end

        self._at(now + seconds, finish)

    def _next_failure(self, now: float) -> float:
        return now + self._draw.expovariate(self._fleet.recognizers / self._fleet.mean_uptime)

    def _fail_one(self, now: float) -> None:
        self._lose(now, self._fleet.repair, 1)
        self._at(self._next_failure(now), self._fail_one)

    def _lose(self, now: float, seconds: float, count: int) -> None:
        """Take recognizers away, busy ones in proportion, and return them after their repair."""
        working = self._idle + len(self._running)
        count = min(count, working)
        busy = min(len(self._running), round(count * len(self._running) / working)) if working else 0
        busy = max(busy, count - self._idle)
        for number in self._draw.sample(sorted(self._running), busy):
            requests = self._running.pop(number)
            self._retried += len(requests)
            self._queue.extendleft(reversed(requests))
        self._idle -= count - busy

        def repaired(_now: float) -> None:
            self._idle += count

        self._at(now + seconds, repaired)
