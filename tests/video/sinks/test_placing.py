"""Labels of people in a frame: they cover neither people nor each other."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from video.sinks.people import attributes, boxes, frame, person

from seqpar_deploy.video.sinks.draw import draw_people
from seqpar_deploy.video.sinks.placing import Edges, Place, place_labels
from seqpar_deploy.video.types import Box, Person

WIDE, HIGH = 768, 576
VERSIONS = ((90, 110), (70, 62), (26, 16))  # all attributes, the most certain ones, the track ID


def overlap(a: Edges, b: Edges) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def crowd(people: int, seed: int) -> dict[int, Edges]:
    """People who stand anywhere in the frame, in front of each other too."""
    rng = np.random.default_rng(seed)
    found = {}
    for track in range(1, people + 1):
        height = int(rng.integers(60, 130))
        width = int(height * rng.uniform(0.35, 0.5))
        left, top = int(rng.integers(-10, WIDE - width + 10)), int(rng.integers(-10, HIGH - height + 10))
        found[track] = left, top, left + width, top + height
    return found


def check(people: dict[int, Edges], places: dict[int, Place]) -> None:
    for one, other in itertools.combinations(places.values(), 2):
        assert overlap(one.edges, other.edges) == 0
    for place in places.values():
        left, top, right, bottom = place.edges
        assert left >= 0
        assert top >= 0
        assert right <= WIDE
        assert bottom <= HIGH
        if not place.inside:
            assert not any(overlap(place.edges, box) for box in people.values())


@pytest.mark.parametrize("count", [1, 8, 25, 60])
@pytest.mark.parametrize("seed", range(3))
def test_labels_cover_no_one(count: int, seed: int) -> None:
    people = crowd(count, seed)
    places = place_labels((WIDE, HIGH), people, dict.fromkeys(people, VERSIONS))
    check(people, places)
    if count <= 25:
        assert places.keys() == people.keys()
        assert not any(place.inside for place in places.values())
    if count <= 8:
        assert all(place.version < 2 for place in places.values())


def test_a_lone_label_is_long_and_beside_its_person() -> None:
    people = {7: (300, 200, 340, 300)}
    assert place_labels((WIDE, HIGH), people, {7: VERSIONS})[7].edges == (341, 200, 431, 310)


def test_without_room_the_shortest_label_lies_on_its_own_person() -> None:
    people = {1: (-50, -50, 900, 700)}
    place = place_labels((WIDE, HIGH), people, {1: VERSIONS})[1]
    assert place.inside
    assert place.version == 2
    check(people, {1: place})
    assert place_labels((10, 10), {1: (0, 0, 9, 9), 2: (0, 0, 9, 9)}, {1: VERSIONS, 2: VERSIONS}).keys() == {1}
    assert place_labels((WIDE, HIGH), {}, {}) == {}


def test_a_label_keeps_its_position() -> None:
    """A person who walks past does not move it for longer than necessary, and a free place alone is no reason."""
    people = {1: (300, 200, 340, 300)}
    alone = place_labels((WIDE, HIGH), people, {1: VERSIONS})
    passed = place_labels((WIDE, HIGH), people | {2: (350, 220, 390, 320)}, dict.fromkeys((1, 2), VERSIONS), alone)
    assert passed[1].slot != alone[1].slot
    after = place_labels((WIDE, HIGH), people, {1: VERSIONS}, passed)
    assert after[1].slot == passed[1].slot
    check(people, after)


def test_drawn_panels_cover_no_one_in_a_crowd() -> None:
    names = [f"attribute {number}" for number in range(9)]
    who: list[Person] = []
    for track, (left, top, right, bottom) in crowd(16, 0).items():
        one = person(track, attributes=attributes(names[: track % 10], (), names))
        box = Box(left=left, top=top, right=right, bottom=bottom)
        who.append(dataclasses.replace(one, last=dataclasses.replace(one.last, box=box)))
    places: dict[int, Place] = {}
    image = frame(size=(HIGH, WIDE)).image
    sheet = draw_people(image, boxes(*who), {one.track_id: one for one in who}, places)
    check(crowd(16, 0), places)
    assert places.keys() == {one.track_id for one in who}
    changed = np.asarray(sheet) != image
    for place in places.values():
        left, top, right, bottom = place.edges
        assert changed[top:bottom, left:right].any(axis=2).mean() > 0.9
