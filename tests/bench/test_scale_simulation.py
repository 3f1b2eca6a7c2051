"""The simulation of `benchmarks/scale.py` against queues whose waiting times are known, and what it does at faults."""

from __future__ import annotations

import importlib.util
import math
import random
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "scale_simulation.py"


@pytest.fixture(scope="module")
def simulation() -> Any:
    spec = importlib.util.spec_from_file_location("scale_simulation", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scale_simulation"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def exponential(rate: float) -> Any:
    return lambda _size, draw: draw.expovariate(rate)


def erlang_c(servers: int, offered: float) -> float:
    """Share of the requests that wait."""
    top = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return top / (sum(offered**k / math.factorial(k) for k in range(servers)) + top)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (1, 0.8), (4, 0.8), (8, 0.7)])
def test_waiting_times_are_those_of_theory(simulation: Any, servers: int, load: float) -> None:
    rate = 10.0 * servers * load
    fleet = simulation.Fleet(recognizers=servers, service=exponential(10), max_batch=1)
    means = []
    for seed in range(4):
        arrivals = simulation.poisson_arrivals(lambda _time: rate, 20_000 / rate, random.Random(seed))
        means.append(statistics.fmean(simulation.simulate(fleet, arrivals, seed).waits))
    assert statistics.fmean(means) == pytest.approx(erlang_c(servers, servers * load) / (10 * servers - rate), rel=0.12)


def test_batches_form_as_the_delay_says(simulation: Any) -> None:
    arrivals = [0.0, 0.01, 0.02, 0.5, 0.9, 0.91, 0.92, 0.93]
    options = {"recognizers": 2, "service": lambda _size, _draw: 0.05}
    at_once = simulation.simulate(simulation.Fleet(max_batch=4, **options), arrivals, 0)
    assert at_once.batches == [1, 1, 1, 1, 1, 1, 2]  # the third waits for nobody, two wait for the first two
    delayed = simulation.simulate(simulation.Fleet(max_batch=4, delay=0.1, **options), arrivals, 0)
    assert delayed.batches == [3, 1, 4]
    assert delayed.waits == pytest.approx([0.1, 0.09, 0.08, 0.1, 0.03, 0.02, 0.01, 0.0])
    assert delayed.latencies == pytest.approx([wait + 0.05 for wait in delayed.waits])
    small = simulation.simulate(simulation.Fleet(max_batch=2, delay=0.1, **options), arrivals, 0)
    assert small.batches == [2, 1, 1, 2, 2]


def test_requests_of_a_lost_recognizer_are_answered_later(simulation: Any) -> None:
    fleet = simulation.Fleet(
        recognizers=2, service=lambda _size, _draw: 1.0, max_batch=1, outages=((0.5, 10.0, 2), (20.0, 5.0, 1))
    )
    outcome = simulation.simulate(fleet, [0.0, 0.1, 0.6, 20.5, 20.6], 0)
    assert outcome.retried == 2
    assert outcome.latencies == pytest.approx([11.5, 11.4, 11.9, 1.0, 1.9])
    assert outcome.last_slow == pytest.approx(12.5)
    assert outcome.longest_queue == 3


def test_failures_lose_no_request_and_cost_time(simulation: Any) -> None:
    arrivals = simulation.poisson_arrivals(lambda _time: 30.0, 300, random.Random(0))
    options = {"recognizers": 4, "service": exponential(10), "max_batch": 1}
    steady = simulation.simulate(simulation.Fleet(**options), arrivals, 0)
    failing = simulation.simulate(simulation.Fleet(**options, mean_uptime=60.0, repair=20.0), arrivals, 0)
    assert min(failing.latencies) > 0
    assert len(failing.latencies) == len(arrivals)
    assert failing.retried > 0
    assert steady.retried == 0
    assert failing.summary()["wait_p99"] > 2 * steady.summary()["wait_p99"]


def test_a_seed_gives_the_same_run(simulation: Any) -> None:
    arrivals = simulation.poisson_arrivals(lambda time: 20.0 + 10 * (time > 5), 10, random.Random(3))
    assert arrivals == simulation.poisson_arrivals(lambda time: 20.0 + 10 * (time > 5), 10, random.Random(3))
    fleet = simulation.Fleet(
        recognizers=2, service=exponential(12), max_batch=2, delay=0.01, mean_uptime=5.0, repair=1.0
    )
    first, again, other = (simulation.simulate(fleet, arrivals, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert sum(time > 5 for time in arrivals) > sum(time <= 5 for time in arrivals)
