"""Regions as a detector, and their track IDs as a tracker."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest

from seqpar_deploy.video.gstreamer.regions import ContinuedNumbers, GivenRegions, Region, UpstreamTracks, of_people
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Box, Frame, TrackedBox


def frame(index: int = 0) -> Frame:
    return Frame(stream="s", index=index, timestamp=index / 10, image=np.zeros((100, 200, 3), np.uint8))


def region(left: float = 10, **options: object) -> Region:
    return Region(left=left, top=5, width=20, height=50, **options)  # type: ignore[arg-type]


class Numbered:
    """A tracker that numbers boxes from 1."""

    def update(self, _frame: Frame, boxes: list[Box]) -> list[TrackedBox]:
        return [TrackedBox(track_id=1 + place, box=box) for place, box in enumerate(boxes)]


def test_labels_are_compared_without_case() -> None:
    regions = [region(label=label) for label in ("Person", "car", "pedestrian", "")]
    assert [one.label for one in of_people(regions)] == ["Person", "pedestrian"]
    assert of_people(regions, ("*",)) == regions
    assert [one.label for one in of_people(regions, (" CAR ",))] == ["car"]


def test_boxes_are_clipped_and_lead_back_to_their_regions() -> None:
    given = GivenRegions()
    regions = [region(-5, key="a"), region(190, key="b"), region(500), region(50, score=math.nan), region(60, score=7)]
    given.give(regions)
    boxes = given.detect(frame())
    assert [(box.left, box.right) for box in boxes] == [(0, 15), (190, 200), (50, 70), (60, 80)]
    assert [box.score for box in boxes] == [1, 1, 1, 1]
    assert [given.region_of(box).key for box in boxes[:2]] == ["a", "b"]
    assert given.region_of(Box(left=1, top=2, right=3, bottom=4)) is None


def test_equal_boxes_lead_to_their_own_regions() -> None:
    given = GivenRegions()
    given.give([region(key="a"), region(key="b")])
    first, second = given.detect(frame())
    assert first == second
    assert (given.region_of(first).key, given.region_of(second).key) == ("a", "b")


def test_upstream_ids_are_used_if_there_are_any() -> None:
    given = GivenRegions()
    tracks = UpstreamTracks(given, Numbered)
    given.give([])
    assert tracks.update(frame(), given.detect(frame())) == []
    for index, numbers in enumerate([(7, 9), (None, 7), (0, 9)]):
        given.give([region(10 + 40 * place, track_id=number) for place, number in enumerate(numbers)])
        found = tracks.update(frame(index), given.detect(frame(index)))
        assert sorted(one.track_id for one in found) == [number for number in numbers if number]


def test_regions_without_ids_are_tracked_until_the_end() -> None:
    given = GivenRegions()
    tracks = UpstreamTracks(given, Numbered)
    for numbers in [(None, None), (70, 90)]:
        given.give([region(10 + 40 * place, track_id=number) for place, number in enumerate(numbers)])
        assert [one.track_id for one in tracks.update(frame(), given.detect(frame()))] == [1, 2]


def test_an_id_on_two_regions_counts_once(caplog: pytest.LogCaptureFixture) -> None:
    given = GivenRegions()
    tracks = UpstreamTracks(given, Numbered)
    given.give([region(10, track_id=3, score=0.5), region(60, track_id=3, score=0.9)])
    with caplog.at_level(logging.WARNING, logger="seqpar_deploy"):
        for _ in range(2):
            (one,) = tracks.update(frame(), given.detect(frame()))
            assert (one.track_id, one.box.left) == (3, 60)
    assert len(caplog.records) == 1


def test_numbers_continue_over_trackers() -> None:
    taken = [0]
    box = Box(left=1, top=2, right=3, bottom=4)
    for expected in ([1, 2], [3, 4], [5, 6]):
        tracker = ContinuedNumbers(Numbered(), taken)
        for _ in range(2):
            assert [one.track_id for one in tracker.update(frame(), [box, box])] == expected


def test_bytetrack_keeps_the_boxes_that_it_was_given() -> None:
    """`region_of` depends on it: a copy of a box would lead to the first of two equal regions."""
    tracker, given = ByteTracker(), GivenRegions()
    given.give([region(10, key="a"), region(120, key="b")])
    for index in range(5):
        boxes = given.detect(frame(index))
        found = tracker.update(frame(index), boxes)
    assert {id(one.box) for one in found} == {id(box) for box in boxes}
