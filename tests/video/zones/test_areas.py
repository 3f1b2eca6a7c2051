"""Zones, on scripted tracks. People are 100 pixels tall, so the margin is 10 pixels."""

from __future__ import annotations

import pytest
from video.zones.scripted import Played, standing, zone

from seqpar_deploy.video.zones.settings import SceneSettings

SQUARE = ((100.0, 100.0), (300.0, 100.0), (300.0, 160.0), (100.0, 160.0))
HALL = SceneSettings(zones={"hall": zone(points=SQUARE)})


def test_entering_and_leaving_with_the_dwell_time() -> None:
    played = Played(HALL).path((50, 130), (120, 130), (200, 130), (280, 130), (350, 130), step=1.0)
    assert played.found() == [("entered", "hall", 1, 1.0), ("left", "hall", 1, 4.0)]
    assert [one.dwell for one in played.kept.zones] == [None, 3.0]


def test_trembling_on_the_boundary_counts_once() -> None:
    played = Played(HALL).path(*((x, 130) for x in (80, 99, 101, 95, 103, 92, 100, 99, 120)))
    assert played.found() == [("entered", "hall", 1, 0.2)]
    played.path(*((x, 130) for x in (101, 98, 92, 99, 89, 95, 85)), start=2.0)
    assert [kind for kind, *_ in played.found()] == ["entered", "left"]


def test_the_boundary_is_inside() -> None:
    assert [kind for kind, *_ in Played(HALL).path((80, 130), (100, 130)).found()] == ["entered"]
    assert [kind for kind, *_ in Played(HALL).path((200, 80), (200, 100)).found()] == ["entered"]


def test_a_zone_at_the_edge_of_the_frame_has_people_who_are_cut_off_there() -> None:
    scene = SceneSettings(zones={"hall": zone(points=((0, 0.5), (1, 0.5), (1, 1), (0, 1)))})
    assert [kind for kind, *_ in Played(scene).path((200, 80), (200, 200)).found()] == ["entered"]


def test_a_track_that_ends_inside_leaves_at_its_last_sighting() -> None:
    played = Played(HALL).path((200, 130), (200, 130), *[None] * 20, start=1.0)
    assert played.found() == [("entered", "hall", 1, 1.0)]
    played.at(3.2, {})
    assert played.found()[1:] == [("left", "hall", 1, 1.1)]
    assert played.kept.zones[-1].dwell == pytest.approx(0.1)
    assert played.value("seqpar_zone_occupancy", zone="hall") == 0


def test_lost_and_found_inside_stays() -> None:
    played = Played(HALL).path((50, 130), (200, 130), *[None] * 15, (210, 130), (50, 130))
    assert [kind for kind, *_ in played.found()] == ["entered", "left"]
    assert played.kept.zones[-1].dwell == pytest.approx(1.7)


def test_the_end_of_a_track_leaves_before_the_person_ends() -> None:
    played = Played(HALL)
    played.know(1, "hat")
    played.at(0.0, {1: (200, 130)})
    played.at(1.0, {1: (200, 130)})
    played.leave(1)
    kinds = [getattr(one, "kind", None) for one in played.kept.all]
    assert kinds == ["entered", None, None, "left", "ended"]
    assert played.kept.zones[-1].person.labels == ("hat",)


def test_staying_is_told_once() -> None:
    scene = SceneSettings(zones={"hall": zone(points=SQUARE, dwell=2)})
    played = Played(scene).path(*[(200, 130)] * 6, (50, 130), *[(200, 130)] * 4, step=1.0)
    assert [(kind, at) for kind, _, _, at in played.found()] == [
        ("entered", 0.0),
        ("stayed", 2.0),
        ("left", 6.0),
        ("entered", 7.0),
        ("stayed", 9.0),
    ]
    assert played.kept.zones[1].dwell == 2.0


def test_occupancy_counts_everybody_inside() -> None:
    played = Played(HALL)
    assert played.value("seqpar_zone_occupancy", zone="hall") == 0  # before the first frame
    played.at(0.0, {1: (150, 130), 2: (250, 130), 3: (50, 130)})
    assert played.value("seqpar_zone_occupancy", zone="hall") == 2
    played.at(0.1, {1: (50, 130), 2: (250, 130), 3: (50, 130)})
    assert played.value("seqpar_zone_occupancy", zone="hall") == 1


def test_the_inner_corner_of_a_polygon_is_outside() -> None:
    bent = ((100, 100), (300, 100), (300, 190), (200, 190), (200, 130), (100, 130))
    scene = SceneSettings(zones={"hall": zone(points=bent, margin=0)})
    assert [kind for kind, *_ in Played(scene).path((150, 160), (250, 160), (250, 110)).found()] == ["entered"]


def test_feet_decide_and_not_the_body() -> None:
    """The body is in the zone all the time."""
    assert Played(HALL).path((200, 175), (200, 180)).found() == []
    tall = standing(200, 150, height=140)
    played = Played(HALL)
    played.at(0.0, {1: tall})
    assert [kind for kind, *_ in played.found()] == ["entered"]


HELD = SceneSettings(zones={"hall": zone(points=SQUARE, hold=0.3)})


def test_entering_has_to_hold_and_keeps_its_time() -> None:
    played = Played(HELD).path((50, 130), (120, 130), (120, 130), (120, 130))
    assert played.found() == []
    played.at(0.4, {1: (120, 130)})
    assert played.found() == [("entered", "hall", 1, 0.1)]


def test_a_jump_into_a_zone_and_out_of_it_is_nothing() -> None:
    assert Played(HELD).path((50, 130), (200, 130), (200, 130), (50, 130), *[None] * 30).found() == []
    inside = [(200, 130)] * 5
    assert [kind for kind, *_ in Played(HELD).path(*inside, (50, 130), (50, 130), *inside).found()] == ["entered"]


def test_leaving_has_to_hold_and_the_dwell_time_ends_with_the_first_step_outside() -> None:
    played = Played(HELD).path(*[(200, 130)] * 11, *[(50, 130)] * 4)
    assert played.found() == [("entered", "hall", 1, 0.0), ("left", "hall", 1, 1.1)]
    assert played.kept.zones[1].dwell == pytest.approx(1.1)
