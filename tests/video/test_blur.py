"""Blurred pictures: how strong, where, when, and that only the recognizer sees the pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from fakes.predictions import predicted

from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video import Box, Follower, Frame, SelectionOptions, TrackedBox, VideoOptions
from seqpar_deploy.video.detect.motion import MotionDetector
from seqpar_deploy.video.detect.per_stream import StreamDetectors
from seqpar_deploy.video.privacy.blur import CELLS, HEAD, LEVELS, Hidden, blurred, place_of, wholly_blurred
from seqpar_deploy.video.privacy.veil import MISSED_FOR, Veil

SIZE = (240, 320)
PERSON = Box(left=140, top=60, right=180, bottom=160)


def noise(rng: np.random.Generator, size: tuple[int, int] = SIZE) -> RgbImage:
    return rng.integers(0, 256, (*size, 3), dtype=np.uint8)


def frame(index: int, image: RgbImage, *, rate: float = 10.0) -> Frame:
    return Frame(stream="gate", index=index, timestamp=index / rate, image=image)


def same(one: RgbImage, other: RgbImage, box: Box) -> bool:
    """Whether nothing of a box was changed."""
    at = np.s_[round(box.top) : round(box.bottom), round(box.left) : round(box.right)]
    return bool((one[at] == other[at]).all())


@pytest.mark.parametrize("height", [40, 100, 1000])
def test_a_head_keeps_two_cells_at_most_at_any_resolution(rng: np.random.Generator, height: int) -> None:
    image = noise(rng, (2 * height, height))
    person = Box(left=0.3 * height, top=0.5 * height, right=0.7 * height, bottom=1.5 * height)
    place = place_of(Hidden(box=person), "heads", image.shape[:2])
    assert 0.13 * height / place.cell <= 2
    shown = blurred(image, [Hidden(box=person)], "heads")
    inside = shown[place.top : place.bottom, place.left : place.right]
    steps = np.abs(np.diff(inside.astype(int), axis=0)).max()  # drawn smoothly: no pixel differs much from the next
    assert steps <= 256 / LEVELS * max(2, 256 / height)


def test_nothing_within_a_cell_is_left(rng: np.random.Generator) -> None:
    box = Box(left=100, top=50, right=160, bottom=150)
    place = place_of(Hidden(box=box), "people", SIZE)
    one = noise(rng)
    other = one.copy()
    side = round(place.cell)
    assert place.cell == side, "the cells of this test must be whole pixels"
    for top in range(place.top, place.bottom, side):
        for left in range(place.left, place.right, side):
            cell = other[top : top + side, left : left + side]
            cell[:] = cell[::-1, ::-1].copy()
    assert (one != other).mean() > 0.1
    hidden = [Hidden(box=box)]
    at = np.s_[place.top : place.bottom, place.left : place.right]
    assert (blurred(one, hidden, "people")[at] == blurred(other, hidden, "people")[at]).all()


def test_the_smallest_people_are_blurred_too(rng: np.random.Generator) -> None:
    image = noise(rng)
    box = Box(left=100, top=100, right=103, bottom=108)
    shown = blurred(image, [Hidden(box=box)], "people")
    assert not (shown[100:108, 100:103] == image[100:108, 100:103]).all(axis=2).any()
    assert shown[100:108, 100:103].std() < image[100:108, 100:103].std() / 2


def test_only_the_place_is_changed_and_only_in_the_copy(rng: np.random.Generator) -> None:
    image = noise(rng)
    before = image.copy()
    place = place_of(Hidden(box=PERSON), "people", SIZE)
    changed = (blurred(image, [Hidden(box=PERSON)], "people") != image).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (
        place.top,
        place.bottom,
        place.left,
        place.right,
    )
    assert place.top < PERSON.top
    assert place.right > PERSON.right
    assert (image == before).all()
    assert blurred(image, [], "people") is image


@pytest.mark.parametrize(
    ("box", "whole"),
    [
        (PERSON, False),
        (Box(left=140, top=0, right=180, bottom=100), True),  # cut above: the head may be at the top of the frame
        (Box(left=140, top=140, right=180, bottom=240), True),  # cut below: the head is a larger share
        (Box(left=100, top=60, right=190, bottom=160), True),  # sits, lies, or is not alone
    ],
)
def test_heads_are_the_upper_part_of_who_stands(box: Box, whole: bool) -> None:
    place = place_of(Hidden(box=box), "heads", SIZE)
    assert (place.bottom >= box.bottom) == whole
    assert place.bottom >= box.top + HEAD * (box.bottom - box.top)
    assert place.left < box.left
    if whole:
        assert place.cell > (box.bottom - box.top) / CELLS  # since a head may fill it


def test_boxes_of_every_shape_and_place_are_blurred(rng: np.random.Generator) -> None:
    image = noise(rng)
    for _ in range(200):
        left, top = rng.uniform(0, 319), rng.uniform(0, 239)
        box = Box(left=left, top=top, right=rng.uniform(left, 320), bottom=rng.uniform(top, 240))
        for blur in ("heads", "people"):
            place = place_of(Hidden(box=box, room=rng.uniform(0, 50)), blur, SIZE)
            assert 0 <= place.left < place.right <= 320
            assert 0 <= place.top < place.bottom <= 240
            blurred(image, [Hidden(box=box)], blur)


def test_a_wholly_blurred_frame_has_only_a_few_cells(rng: np.random.Generator) -> None:
    shown = wholly_blurred(noise(rng, (600, 800)))
    assert shown.std() < 15  # of noise, all cells are alike; that of the picture is 74


class TestVeil:
    def shown(self, veil: Veil, at: Frame, found: Sequence[Box], *, ready: bool = True) -> RgbImage:
        veil.see(at, found, ready=ready)
        return veil.shown(at, [])

    def test_a_person_who_is_missed_stays_blurred_with_room_to_walk(self, rng: np.random.Generator) -> None:
        image, veil = noise(rng), Veil("people")
        self.shown(veil, frame(0, image), [PERSON])
        for index in range(1, 6):
            shown = self.shown(veil, frame(index, image), [])
            assert not same(image, shown, PERSON)
        at = np.s_[60:160, 170:210]  # where somebody who walks is by then
        assert not (shown[at] == image[at]).all(axis=2).any()
        assert self.shown(veil, frame(round(10 * MISSED_FOR) + 3, image), []) is image

    def test_a_neighbour_does_not_stand_in_for_who_is_missed(self, rng: np.random.Generator) -> None:
        image, veil = noise(rng), Veil("people")
        other = Box(left=150, top=60, right=190, bottom=160)  # overlaps more than half of PERSON
        self.shown(veil, frame(0, image), [PERSON, other])
        shown = self.shown(veil, frame(1, image), [other])
        assert not (shown[60:160, 138:148] == image[60:160, 138:148]).all(axis=2).any()

    def test_a_person_who_is_found_again_leaves_no_trail(self, rng: np.random.Generator) -> None:
        image, veil = noise(rng), Veil("people")
        for index in range(4):
            moved = Box(left=40 + 10 * index, top=60, right=80 + 10 * index, bottom=160)
            shown = self.shown(veil, frame(index, image), [moved])
        assert same(image, shown, Box(left=40, top=60, right=58, bottom=160))

    def test_at_one_frame_per_second_the_next_two_frames_are_covered(self, rng: np.random.Generator) -> None:
        image, veil = noise(rng), Veil("people")
        self.shown(veil, frame(0, image, rate=1), [PERSON])
        shown = [self.shown(veil, frame(index, image, rate=1), []) for index in (1, 2, 3)]
        assert [same(image, one, PERSON) for one in shown] == [False, False, True]

    def test_until_the_detector_is_ready_nothing_is_shown(self, rng: np.random.Generator) -> None:
        image, veil = noise(rng), Veil("heads")
        shown = self.shown(veil, frame(0, image), [], ready=False)
        assert shown.std() < image.std() / 5
        assert self.shown(veil, frame(1, image), []) is image

    def test_frames_that_wait_keep_their_own_boxes(self, rng: np.random.Generator) -> None:
        image, veil = noise(rng), Veil("people")
        far = Box(left=20, top=60, right=60, bottom=160)
        veil.see(frame(0, image), [PERSON], ready=True)
        veil.see(frame(9, image), [], ready=True)
        veil.see(frame(10, image), [], ready=True)
        assert not same(image, veil.shown(frame(0, image), []), PERSON)
        veil.shown(frame(9, image), [])
        filled = veil.shown(frame(10, image), [far])
        assert not same(image, filled, far)


class Finds:
    """Finds one person who does not move, once it is ready. It misses the third frame."""

    def __init__(self, ready_from: int = 0) -> None:
        self._ready_from, self._index = ready_from, -1

    def detect(self, frame: Frame) -> list[Box]:
        self._index = frame.index
        return [PERSON] if frame.index != 2 and self._index >= self._ready_from else []

    def ready(self, _stream: str) -> bool:
        return self._index >= self._ready_from

    def close(self) -> None:
        """Nothing is held."""


class Follows:
    def update(self, _frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        return [TrackedBox(track_id=1, box=box) for box in boxes]


class Sees:
    """A recognizer that keeps the crops."""

    thresholds = None

    def __init__(self, label_set: Any) -> None:
        self.label_set, self.crops = label_set, list[RgbImage]()

    def predict(self, crops: Sequence[RgbImage], *, drafts: Any = None) -> Any:
        self.crops += crops
        return [predicted({}, self.label_set) for _ in crops]


def follow(label_set: Any, image: RgbImage, blur: Any, *, ready_from: int = 0, wait: bool = False) -> Any:
    recognizer, kept, shown = Sees(label_set), [], []
    options = VideoOptions(blur=blur, selection=SelectionOptions(max_latency=0, min_interval=0.1))
    with Follower(
        recognizer,
        lambda event: kept.append(event.person.best_crop),
        options=options,
        detector=Finds(ready_from),
        tracker=Follows,
        on_prediction=[lambda candidate, _prediction, _first: kept.append(candidate.crop)],
    ) as follower:
        for index in range(5):
            for seen, _, people in follower.follow(frame(index, image), wait=wait):
                shown.append(seen)
                kept += [person.best_crop for person in people.values()]
            follower.recognize()
        shown += [seen for seen, _, _ in follower.rest("gate")]
    return recognizer, kept, shown


@pytest.mark.parametrize("wait", [False, True])
def test_only_the_recognizer_sees_the_pixels(label_set: Any, rng: np.random.Generator, wait: bool) -> None:
    image = noise(rng)
    recognizer, kept, shown = follow(label_set, image, "people", wait=wait)
    assert [one.index for one in shown] == list(range(5))
    assert recognizer.crops
    assert kept
    own = image[60:160, 140:180]
    for crop in recognizer.crops:
        assert (crop[8:-8, 3:-3] == own).all()
    for crop in kept:
        assert crop.shape == recognizer.crops[0].shape
        assert not (crop == recognizer.crops[0]).all(axis=2).any()
    for one in shown:  # the third too, in which the detector finds nobody
        assert not (one.image[60:160, 140:180] == own).all(axis=2).any()


def test_a_detector_that_is_not_ready_hides_the_frame(label_set: Any, rng: np.random.Generator) -> None:
    image = noise(rng)
    _, _, shown = follow(label_set, image, "heads", ready_from=3)
    corner = np.s_[200:, 280:]
    assert [(one.image[corner] == image[corner]).all() for one in shown] == [False, False, False, True, True]


def test_without_blur_nothing_is_copied(label_set: Any, rng: np.random.Generator) -> None:
    image = noise(rng)
    recognizer, kept, shown = follow(label_set, image, None)
    assert all(one.image is image for one in shown)
    assert any(crop is recognizer.crops[0] for crop in kept)


def test_a_stream_that_starts_over_is_hidden_until_its_new_place_is_known(label_set: Any) -> None:
    """The second place looks much like the first one, as two doors in one wall do."""

    def shown(follower: Follower, door: int, stream: str) -> list[bool]:
        found = []
        for index in range(8):
            image = np.full((*SIZE, 3), 150, dtype=np.uint8)
            image[40:, door : door + 60] = (20, 40, 60)
            image[::2, door : door + 60 : 2] = 250  # not plain, so that blurring changes it
            one = Frame(stream=stream, index=index, timestamp=index / 10, image=image)
            found += [bool((seen.image != image).any()) for seen, *_ in follower.follow(one, wait=False)]
        return found

    detector = StreamDetectors(MotionDetector())
    options = VideoOptions(blur="heads")
    with Follower(Sees(label_set), lambda _: None, options=options, detector=detector) as follower:
        first = shown(follower, 40, "gate")
        follower.finish("gate")
        assert first[0]
        assert shown(follower, 200, "gate") == shown(follower, 200, "fresh") == first
