from __future__ import annotations

import pytest

from seqpar_deploy.video.sources.clock import StreamClock


class _Wall:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def _times(stamps: list[float | None], *, live: bool = False, real: float = 0.1) -> list[float]:
    """The times of pictures that arrive every `real` seconds."""
    wall = _Wall()
    clock = StreamClock(live=live, now=wall)
    times = []
    for stamp in stamps:
        times.append(clock.at(stamp, 0.1))
        wall.now += real
    return times


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    ("stamps", "expected"),
    [
        ([7.0, 7.1, 7.2, 7.4], [0, 0.1, 0.2, 0.4]),
        ([None, None, None], [0, 0.1, 0.2]),
        ([7.0, None, 7.2], [0, 0.1, 0.2]),
        ([None, 7.0, 7.1], [0, 0.1, 0.2]),
        ([95443.7, 95443.8, 0.1, 0.2], [0, 0.1, 0.2, 0.3]),  # 33 bits at 90 kHz are full
        ([7.0, 90000.0, 90000.1], [0, 0.1, 0.2]),
        ([7.0, 7.1, 7.05, 7.2], [0, 0.1, 0.101, 0.2]),  # out of order
        ([7.0, 7.0, 7.0, 7.3], [0, 0.001, 0.002, 0.3]),
    ],
)
def test_time_goes_on_whatever_the_stamps_do(live, stamps, expected):
    assert _times(stamps, live=live) == pytest.approx(expected)


def test_a_recording_may_leave_minutes_out():
    assert _times([0.0, 0.1, 600.0]) == pytest.approx([0, 0.1, 600])


def test_a_live_stream_cannot_outrun_the_wall_clock():
    assert _times([0.0, 0.1, 600.0, 600.1], live=True) == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_live_stream_whose_stamps_stand_still_goes_by_the_wall_clock():
    times = _times([7.0] * 40 + [7.1, 7.2], live=True)
    assert times[10] < 0.1
    assert times[-3:] == pytest.approx([times[-4] + step for step in (0.1, 0.2, 0.3)])


def test_after_an_interruption_the_wall_clock_tells_how_long_it_was():
    wall = _Wall()
    clock = StreamClock(live=True, now=wall)
    clock.at(7.0, 0.1)
    clock.interrupted()
    wall.now += 42
    assert clock.at(7.1, 0.1) == pytest.approx(42)
    wall.now += 0.1
    assert clock.at(7.2, 0.1) == pytest.approx(42.1)


@pytest.mark.parametrize("live", [False, True])
def test_a_clock_that_is_set_back_by_less_than_a_second_goes_on(live: bool) -> None:
    """As of short recordings, one after the other in one file: each begins with the same time stamps."""
    stamps: list[float | None] = [0.1 * number for _ in range(4) for number in range(9)]
    times = _times(stamps, live=live)
    assert times == sorted(set(times))
    assert times[-1] == pytest.approx(3.5, abs=1.0)  # the first frames of each are closer together


def test_frames_out_of_order_stay_together() -> None:
    assert _times([0.0, 0.1, 0.4, 0.2, 0.3, 0.5, 0.6])[-1] == pytest.approx(0.6)
