"""Which frames are analysed: evenly, at most so many per second, and fewer while the machine is too slow."""

from __future__ import annotations

import itertools
import logging

import pytest

from seqpar_deploy.video.sources.pace import Pace


def taken(pace: Pace, stamps: list[float]) -> list[float]:
    return [stamp for stamp in stamps if pace.takes(stamp)]


def at(fps: float, seconds: float, start: float = 0.0) -> list[float]:
    return [start + number / fps for number in range(round(fps * seconds))]


@pytest.mark.parametrize(("fps", "most", "steps"), [(25, 10, {2, 3}), (25, 5, {5}), (30, 10, {3}), (25, 24, {1, 2})])
def test_frames_are_taken_evenly(fps: float, most: float, steps: set[int]) -> None:
    chosen = taken(Pace("street", most), at(fps, 10))
    assert len(chosen) == pytest.approx(most * 10, abs=1)
    assert {round(fps * (after - before)) for before, after in itertools.pairwise(chosen)} == steps


def test_all_frames_are_taken_without_a_limit_or_below_it() -> None:
    assert taken(Pace("street", None), at(25, 2)) == at(25, 2)
    assert taken(Pace("street", 25), at(25, 2)) == at(25, 2)
    assert taken(Pace("street", 40), at(25, 2)) == at(25, 2)


def test_a_pause_and_a_clock_that_starts_over_change_no_rate() -> None:
    pace = Pace("street", 5)
    assert len(taken(pace, at(25, 2))) == 10
    assert len(taken(pace, at(25, 2, start=100))) == 10
    assert len(taken(pace, at(25, 2))) == 10


class Pipeline:
    """A queue of 8 frames, and a consumer that takes some per second of a clock that the test turns."""

    def __init__(self, pace: Pace, now: list[float], speed: float) -> None:
        self.pace, self.now, self.speed = pace, now, speed
        self.queue = self.done = 0.0
        self.dropped = 0

    def run(self, seconds: int, fps: int = 25) -> tuple[float, int]:
        """Return frames analysed per second, and frames dropped."""
        done, dropped = self.done, self.dropped
        for _ in range(seconds * fps):
            self.now[0] += 1 / fps
            work = min(self.queue, self.speed / fps)
            self.queue, self.done = self.queue - work, self.done + work
            if self.pace.takes(self.now[0], self.dropped):
                self.queue += 1
                if self.queue > 8:
                    self.queue, self.dropped = self.queue - 1, self.dropped + 1
        return (self.done - done) / seconds, self.dropped - dropped


def test_the_rate_follows_a_slow_pipeline_and_returns(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    pipeline = Pipeline(Pace("street", None, adaptive=True, now=lambda: now[0]), now, speed=8)
    with caplog.at_level(logging.INFO):
        pipeline.run(10)
        rate, dropped = pipeline.run(60)
    assert rate > 6.5
    assert dropped < 60  # without it, 17 per second
    assert 1 <= sum("street" in line for line in caplog.messages) <= 2
    pipeline.speed = 100
    pipeline.run(60)
    assert pipeline.run(10) == (pytest.approx(25, abs=1), 0)


def test_a_limit_holds_also_for_a_rate_that_rises() -> None:
    now = [0.0]
    pipeline = Pipeline(Pace("street", 10, adaptive=True, now=lambda: now[0]), now, speed=3)
    pipeline.run(20)
    pipeline.speed = 100
    pipeline.run(60)
    assert pipeline.run(10) == (pytest.approx(10, abs=0.5), 0)


def test_a_burst_of_frames_does_not_raise_the_rate() -> None:
    now = [0.0]
    pipeline = Pipeline(Pace("street", 5, adaptive=True, now=lambda: now[0]), now, speed=2)
    pipeline.run(5)
    assert pipeline.pace.rate is not None
    lowest = pipeline.pace.rate
    assert lowest <= 5
    pipeline.dropped += 3
    assert pipeline.pace.takes(now[0] + 100, pipeline.dropped) is True
    now[0] += 1.5
    for number in range(40):  # of the time in which nothing arrived
        pipeline.pace.takes(now[0] + 100 + number / 25, pipeline.dropped + 1)
    assert pipeline.pace.rate <= lowest


def test_a_pipeline_that_stands_still_gets_a_frame_per_second() -> None:
    now = [0.0]
    pipeline = Pipeline(Pace("street", None, adaptive=True, now=lambda: now[0]), now, speed=0)
    pipeline.run(20)
    assert 9 <= pipeline.run(10)[1] <= 12
