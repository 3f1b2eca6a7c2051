from __future__ import annotations

import numpy as np
import pytest

from seqpar_deploy.video.track import ByteTracker, TrackOptions
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


def meeting(tracker: ByteTracker, *, colours: bool) -> list[set[int]]:
    """Return the track IDs of a red and a blue person who meet and go back. Their boxes could have passed."""
    shown: list[set[int]] = [set(), set()]
    for index in range(60):
        seconds = index / 10
        far = 120 - 40 * seconds if seconds < 3 else 40 * (seconds - 3)
        image = np.full((240, 400, 3), 90, np.uint8)
        boxes = []
        for side, colour in ((-1, (200, 30, 30)), (1, (30, 30, 200))):
            left = round(180 + side * far)
            image[60:200, left : left + 40] = colour if colours else (60, 60, 60)
            boxes.append(Box(left=left, top=60, right=left + 40, bottom=200, score=0.9))
        people = list(boxes)
        if 2.6 < seconds < 3.4:
            boxes = boxes[1:]  # the one behind is hidden
        frame = Frame(stream="s", index=index, timestamp=seconds, image=image)
        for tracked in tracker.update(frame, boxes):
            shown[0 if tracked.box is people[0] else 1].add(tracked.track_id)
    return shown


def test_colours_keep_two_people_apart_whose_boxes_met() -> None:
    red, blue = meeting(ByteTracker(), colours=True)
    assert (len(red), len(blue)) == (1, 1)
    assert red != blue
    mistaken = meeting(ByteTracker(TrackOptions(colours=0)), colours=True)
    assert max(map(len, mistaken)) == 2
    assert mistaken == meeting(ByteTracker(), colours=False)  # people of one colour are tracked by their boxes


def test_a_change_of_everybodys_colours_parts_no_track() -> None:
    """As of a camera that turns to black and white at night, or of the light."""
    tracker, shown = ByteTracker(), set[int]()
    for index in range(30):
        left = 50 + 4 * index
        image = np.full((240, 400, 3), 90 if index < 15 else 220, np.uint8)
        image[60:200, left : left + 40] = (200, 30, 30) if index < 15 else (20, 20, 20)
        box = Box(left=left, top=60, right=left + 40, bottom=200, score=0.9)
        frame = Frame(stream="s", index=index, timestamp=index / 10, image=image)
        shown |= {tracked.track_id for tracked in tracker.update(frame, [box])}
    assert len(shown) == 1


def test_what_is_known_of_a_track_ends_with_it() -> None:
    tracker = ByteTracker()
    meeting(tracker, colours=True)
    for index in range(60):
        tracker.update(at(100 + index, index), [walker(0)] if index > 50 else [])
    assert tracker._similarity is not None
    assert len(tracker._similarity.appearance._known) <= 1


def test_boxes_outside_the_picture_have_no_colours_and_are_tracked() -> None:
    tracker = ByteTracker()
    boxes = [Box(left=-50, top=-90, right=-10, bottom=-5), Box(left=2, top=2, right=4, bottom=4)]
    for index in range(5):
        tracked = tracker.update(at(index / 10, index), boxes)
    assert sorted(one.track_id for one in tracked) == [1, 2]
