"""Who is emitted: people, from their first sighting in a recording, and not other changes of the picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from video.scenes import GROUND, emitted, overlap, person

from seqpar_deploy.preprocess import Crop
from seqpar_deploy.video.evidence import Evidence, moved
from seqpar_deploy.video.finding import Finder
from seqpar_deploy.video.types import Box, Frame, TrackedBox

both = pytest.mark.parametrize("live", [False, True], ids=["recorded", "live"])


def walks(image: Crop, index: int) -> Box:
    """Somebody walks to and fro along the picture, 6 pixels per frame."""
    return person(image, 40 + abs(index * 6 % 600 - 300))


def removed_object(image: Crop, index: int) -> None:
    """An object of a person's size is taken away after 4 s."""
    if index < 40:
        image[150:250, 200:240] = (30, 30, 90)


def added_object(image: Crop, index: int) -> None:
    """An object of a person's size appears after 5 s, and stays."""
    if index >= 50:
        image[150:250, 200:240] = (30, 30, 90)


def foliage(image: Crop, index: int) -> None:
    """Two bushes of a person's size flicker in place."""
    leaves = np.random.default_rng(1000 + index)
    for left in (60, 250):
        image[130:230, left : left + 40] = leaves.integers(0, 160, (100, 40, 1)) * np.array([[[0, 1, 0]]])


def swaying(image: Crop, index: int) -> None:
    """A bush sways by a few pixels."""
    left = 200 + round(4 * np.sin(index))
    image[140:230, left : left + 36] = (20, 80, 20)


def blinking(image: Crop, index: int) -> None:
    """A lit window of a person's shape goes on and off each second."""
    if index // 10 % 2:
        image[100:190, 150:190] = (250, 250, 200)


@both
@pytest.mark.parametrize("nobody", [removed_object, added_object, foliage, swaying, blinking])
def test_what_changes_in_place_is_nobody(nobody, live: bool) -> None:
    assert [index for index, boxes in enumerate(emitted(nobody, 90, live=live)) if boxes] == []


@both
def test_somebody_who_walks_beside_it_is_emitted_alone(live: bool) -> None:
    def scene(image: Crop, index: int) -> None:
        removed_object(image, index)
        walks(image, index)

    shown = emitted(scene, 100, live=live)
    twice = [index for index, boxes in enumerate(shown) if len(boxes) > 1]
    assert len(twice) <= 4, twice  # while they pass it: the two are one blob
    assert sum(len(boxes) for boxes in shown[60:]) >= 38


def test_in_a_recording_somebody_is_emitted_from_the_first_frame_on() -> None:
    shown = emitted(walks, 60, live=False)
    assert sum(len(boxes) for boxes in shown) >= 58
    assert all(len(boxes) <= 1 for boxes in shown)
    assert len(shown[0]) == 1


def test_a_live_stream_emits_nobody_while_the_background_is_unlearned() -> None:
    shown = emitted(walks, 60, live=True)
    assert sum(len(boxes) for boxes in shown[:30]) == 0
    assert sum(len(boxes) for boxes in shown[45:]) >= 14


@both
def test_somebody_who_walks_in_and_stands_still_stays(live: bool) -> None:
    def scene(image: Crop, index: int) -> Box:
        return person(image, min(200, 20 + 5 * max(0, index - 40)))

    shown = emitted(scene, 130, live=live)
    assert sum(len(boxes) == 1 for boxes in shown[90:]) >= 38
    assert len({box.track_id for boxes in shown for box in boxes}) == 1


@both
def test_somebody_who_stood_from_the_start_is_emitted_once_they_walk(live: bool) -> None:
    def scene(image: Crop, index: int) -> Box:
        return person(image, max(40, 300 - 5 * max(0, index - 50)))

    shown = emitted(scene, 110, live=live)
    there = [scene(GROUND.copy(), index) for index in range(110)]
    right = [sum(overlap(one.box, truth) > 0.5 for one in boxes) for boxes, truth in zip(shown, there, strict=True)]
    assert sum(right[70:100]) >= 24
    assert sum(len(boxes) for boxes in shown[70:]) == sum(right[70:])  # nothing where they stood


@both
def test_a_vehicle_is_no_group_of_people(live: bool) -> None:
    def scene(image: Crop, index: int) -> None:
        walks(image, index)
        left = 8 * (index - 100)
        if index >= 100:
            image[80:130, max(0, left - 120) : max(0, left)] = (40, 40, 160)

    shown = emitted(scene, 150, live=live)
    assert all(one.box.bottom > 200 for boxes in shown[60:] for one in boxes)


@both
@pytest.mark.parametrize("change", [-50, 60])
def test_a_change_of_light_emits_nobody_new(live: bool, change: int) -> None:
    def scene(image: Crop, index: int) -> None:
        if index >= 60:
            image[:] = np.clip(image.astype(np.int16) + change, 0, 255)
        if index >= 100:
            walks(image, index)

    shown = emitted(scene, 140, live=live)
    assert sum(len(boxes) for boxes in shown[:100]) == 0
    assert sum(len(boxes) for boxes in shown[120:]) >= 18


@both
@pytest.mark.parametrize("count", [1, 2, 12])
def test_a_very_short_video_ends_without_an_error(live: bool, count: int) -> None:
    assert len(emitted(walks, count, live=live)) == count


@both
def test_a_moving_camera_ends_without_an_error(live: bool) -> None:
    def pan(image: Crop, index: int) -> None:
        image[:] = np.roll(image, 9 * index, axis=1)

    assert len(emitted(pan, 60, live=live)) == 60


class Finds:
    """Finds a box at the same place in each frame."""

    def __init__(self, evidence: float) -> None:
        self.box = Box(left=50, top=20, right=110, bottom=180, evidence=evidence)

    def detect(self, frame: Frame) -> list[Box]:
        return [self.box]

    def close(self) -> None:
        """Nothing is held."""

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        return [TrackedBox(track_id=1, box=box) for box in boxes]


def look(finder: Finder, count: int) -> list[int]:
    """The number of frames that come out after each frame."""
    out = []
    for index in range(count):
        frame = Frame(stream="s", index=index, timestamp=index / 10, image=GROUND)
        finder.track(frame, finder.detect(frame))
        out.append(sum(1 for _ in finder.decided(wait=True)))
    return out


def test_somebody_who_stands_still_is_emitted_at_once_if_the_detector_is_sure() -> None:
    assert look(Finder(Finds(1.0), Finds(1.0)), 5) == [1] * 5


def test_a_frame_waits_for_two_seconds_at_most() -> None:
    out = look(Finder(Finds(0.9), Finds(0.9)), 40)
    assert (sum(out[:20]), sum(out[20:])) == (0, 20)


def test_waiting_frames_are_bounded_by_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqpar_deploy.video.finding.MOST_HELD", 5 * GROUND.nbytes)
    assert look(Finder(Finds(0.9), Finds(0.9)), 20)[5:] == [1] * 15


def box(left: float, top: float, width: float = 40, height: float = 100) -> Box:
    return Box(left=left, top=top, right=left + width, bottom=top + height, evidence=0.9)


@pytest.mark.parametrize(
    ("last", "moves"),
    [
        (box(30, 0), 0.3),
        (box(-30, 0), 0.3),
        (box(0, 25), 0.25),
        (box(-20, 0, width=80), 0),  # it grows to both sides
        (box(0, 0, width=80), 0),  # it grows to one side
        (box(0, -20, height=140), 0),
    ],
)
def test_a_body_moves_as_a_whole(last: Box, moves: float) -> None:
    assert moved(box(0, 0), last) == pytest.approx(moves)


def test_a_person_who_is_lost_and_found_again_at_the_same_place_stays_a_person() -> None:
    evidence = Evidence()

    def shows(seconds: float, number: int, where: Box) -> bool:
        boxes = [TrackedBox(track_id=number, box=where)]
        frame = Frame(stream="s", index=0, timestamp=seconds, image=GROUND)
        return bool(evidence.people(frame, evidence.observe(frame, boxes)))

    assert [shows(tick / 10, 1, box(10 * tick, 0)) for tick in range(6)] == [False, False, True, True, True, True]
    assert shows(1.5, 2, box(52, 0))
    assert not shows(1.6, 3, box(200, 0))
    assert not shows(9.0, 4, box(52, 0))


class Misses(Finds):
    """Finds somebody who walks, but not in some frames."""

    def __init__(self, missed: range) -> None:
        super().__init__(0.9)
        self.missed = missed

    def detect(self, frame: Frame) -> list[Box]:
        return [] if frame.index in self.missed else [box(5 * frame.index, 0)]


@pytest.mark.parametrize(("missed", "filled"), [(range(12, 16), True), (range(12, 32), False)])
def test_somebody_who_is_missed_for_a_moment_is_emitted_in_between(missed: range, filled: bool) -> None:
    finder = Finder(Misses(missed), Misses(missed))
    shown: list[tuple[Frame, list[TrackedBox]]] = []
    for index in range(45):
        frame = Frame(stream="s", index=index, timestamp=index / 10, image=GROUND)
        finder.track(frame, finder.detect(frame))
        shown += list(finder.decided(wait=True))
    shown += list(finder.decided(wait=False))
    lefts = {frame.index: [one.box.left for one in boxes] for frame, boxes in shown}
    assert [index for index, there in lefts.items() if not there] == ([] if filled else list(missed))
    if filled:
        assert lefts[14] == [pytest.approx(70)]
