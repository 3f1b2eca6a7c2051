from __future__ import annotations

import numpy as np
import pytest

from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Box, Frame

IMAGE = np.zeros((10, 10, 3), dtype=np.uint8)


def at(seconds: float, index: int = 0) -> Frame:
    return Frame(stream="s", index=index, timestamp=seconds, image=IMAGE)


def walker(seconds: float, *, start: float = 0.0, speed: float = 40.0, score: float = 0.9) -> Box:
    left = start + speed * seconds
    return Box(left=left, top=100, right=left + 40, bottom=200, score=score)


@pytest.mark.parametrize("rate", [5, 25])
def test_two_people_who_pass_each_other_keep_their_numbers(rate: int) -> None:
    tracker, numbers = ByteTracker(), {"right": set(), "left": set()}
    for index in range(6 * rate):
        seconds = index / rate
        boxes = {
            "right": walker(seconds),
            "left": Box(left=300 - 40 * seconds, top=150, right=340 - 40 * seconds, bottom=260, score=0.9),
        }
        for tracked in tracker.update(at(seconds), list(boxes.values())):
            name = next(name for name, box in boxes.items() if box is tracked.box)
            numbers[name].add(tracked.track_id)
    assert sorted([*numbers["right"], *numbers["left"]]) == [1, 2]


def test_time_decides_whether_somebody_is_the_same_not_frames() -> None:
    """After 1.2 s unseen they are where their speed took them, whether frames were empty or never came."""
    for rate_while_hidden in (0, 10):
        tracker = ByteTracker()
        for index in range(20):
            tracker.update(at(index / 10), [walker(index / 10)])
        for index in range(rate_while_hidden):
            tracker.update(at(2.0 + 1.2 * index / 10), [])
        (tracked,) = tracker.update(at(3.2), [walker(3.2)])
        assert tracked.track_id == 1


def test_a_long_interruption_ends_tracks_and_nothing_is_remembered() -> None:
    tracker = ByteTracker()
    for index in range(20):
        tracker.update(at(index / 10), [walker(index / 10, speed=0)])
    for index in range(3):
        tracked = tracker.update(at(60 + index / 10), [walker(0, speed=0)])
    assert [one.track_id for one in tracked] == [2]
    for index in range(200):  # a new person every second, far from the last
        tracker.update(at(100 + index / 2), [Box(left=200 * index, top=0, right=200 * index + 40, bottom=100)])
    assert len(tracker._tracker.tracks) <= 5


def test_doubtful_boxes_go_on_with_a_track_but_begin_none() -> None:
    tracker = ByteTracker()
    for index in range(5):
        assert tracker.update(at(index / 10), [walker(index / 10, score=0.3)]) == []
    for index in range(5, 10):
        tracker.update(at(index / 10), [walker(index / 10)])
    assert len(tracker.update(at(1.0), [walker(1.0, score=0.3)])) == 1


def test_frames_without_people_and_time_that_stands_still_are_no_trouble() -> None:
    tracker = ByteTracker()
    assert tracker.update(at(0.0), []) == []
    for _ in range(3):
        tracked = tracker.update(at(1.0), [walker(1.0)])
    assert [one.track_id for one in tracked] == [1]
