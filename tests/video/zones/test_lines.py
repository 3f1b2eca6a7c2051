"""Crossings of lines, on scripted tracks. People are 100 pixels tall, so the margin is 10 pixels."""

from __future__ import annotations

import pytest
from video.zones.scripted import Played, line, standing

from seqpar_deploy.video.zones.settings import SceneSettings

# From left to right at a height of 150 pixels: "in" is down.
DOOR = SceneSettings(lines={"door": line(points=((100, 150), (300, 150)))})


def directions(*places: tuple[float, float] | None, scene: SceneSettings = DOOR) -> list[object]:
    return [kind for kind, *_ in Played(scene).path(*places).found()]


def test_a_line_is_crossed_in_and_out() -> None:
    assert directions((200, 120), (200, 140), (200, 165), (200, 180)) == ["in"]
    assert directions((200, 180), (200, 165), (200, 140), (200, 120)) == ["out"]


def test_the_other_way_round_in_is_out() -> None:
    scene = SceneSettings(lines={"door": line(points=((300, 150), (100, 150)))})
    assert directions((200, 120), (200, 180), scene=scene) == ["out"]


@pytest.mark.parametrize(("start", "to", "direction"), [(120, 180, "in"), (180, 120, "out")])
def test_shares_are_of_the_frame(start: float, to: float, direction: str) -> None:
    scene = SceneSettings(lines={"door": line(points=((0.25, 0.75), (0.75, 0.75)))})  # as DOOR
    assert directions((200, start), (200, to), scene=scene) == [direction]
    assert directions((80, start), (80, to), scene=scene) == []


def test_back_and_forth_counts_each_time() -> None:
    assert directions(*((200, y) for y in (120, 180, 120, 180, 175, 130, 125))) == ["in", "out", "in", "out"]


def test_trembling_on_the_line_counts_once() -> None:
    walk = [120, 145, 152, 147, 155, 149, 158, 151, 159, 148, 162, 156, 149, 153, 170]
    assert directions(*((200, y) for y in walk)) == ["in"]


def test_who_turns_back_on_the_line_has_not_crossed() -> None:
    assert directions(*((200, y) for y in (120, 148, 155, 159, 150, 141, 130))) == []


def test_a_leap_over_the_line_and_back_is_forgotten() -> None:
    scene = SceneSettings(lines={"door": line(points=((100, 150), (300, 150)), hold=0.3)})
    here, leap = (200, 145), (200, 165)  # here is nearer to the line than the margin
    assert directions((200, 120), leap, *[here] * 50, leap, here, scene=scene) == []


@pytest.mark.parametrize("on", [1, 2, 5])
def test_exactly_on_the_line(on: int) -> None:
    assert directions((200, 120), *[(200, 150)] * on, (200, 180)) == ["in"]
    assert directions((200, 120), *[(200, 150)] * on, (200, 120)) == []


def test_a_walk_along_the_line_and_off_it_at_the_other_side() -> None:
    assert directions((50, 120), (110, 150), (150, 150), (290, 150), (290, 180)) == ["in"]
    assert directions((50, 120), (110, 150), (150, 150), (350, 150), (350, 180)) == []  # past the end


def test_a_track_that_begins_on_the_line_was_on_neither_side() -> None:
    assert directions((200, 150), (200, 180)) == []
    assert directions((200, 155), (200, 120)) == []
    assert directions((200, 150), (200, 180), (200, 120)) == ["out"]


def test_around_an_end_is_no_crossing_but_changes_the_side() -> None:
    around = [(200, 120), (50, 120), (50, 180), (200, 180)]
    assert directions(*around) == []
    assert directions(*around, (200, 120)) == ["out"]


def test_the_path_between_two_frames_decides_at_the_end_of_a_line() -> None:
    assert directions((60, 120), (120, 180)) == []  # meets the line's height at 90
    assert directions((80, 120), (140, 180)) == ["in"]  # at 110


def test_lost_while_crossing_and_found_counts_once() -> None:
    played = Played(DOOR).path((200, 130), (200, 139), *[None] * 15, (210, 175), (210, 180))
    assert played.found() == [("in", "door", 1, 1.7)]


def test_lost_on_the_line_and_found_on_it() -> None:
    lost = [None] * 10
    assert directions((200, 130), (200, 152), *lost, (200, 148), *lost, (200, 165)) == ["in"]
    assert directions((200, 130), (200, 152), *lost, (200, 148), *lost, (200, 135)) == []


def test_a_track_that_was_lost_for_longer_begins_anew() -> None:
    assert directions((200, 130), *[None] * 25, (200, 175)) == []


def test_a_track_id_that_is_used_again_after_its_end_begins_anew() -> None:
    played = Played(DOOR)
    played.at(0.0, {1: (200, 120)})
    played.know(1)
    played.leave(1)
    played.at(0.5, {1: (200, 180)})
    assert played.found() == []


def test_two_people_who_cross_at_once_are_two() -> None:
    played = Played(DOOR)
    played.at(0.0, {1: (150, 120), 2: (250, 180)})
    played.at(0.1, {1: (150, 170), 2: (250, 130)})
    assert played.found() == [("in", "door", 1, 0.1), ("out", "door", 2, 0.1)]


def test_the_margin_grows_with_the_person() -> None:
    """The feet of somebody of 20 pixels are certain 2 pixels from the line."""
    played = Played(DOOR)
    for timestamp, y in enumerate((145, 153)):
        played.at(float(timestamp), {1: standing(200, y, height=20), 2: standing(220, y, height=100)})
    assert played.found() == [("in", "door", 1, 1.0)]


def test_without_a_margin_the_line_decides() -> None:
    scene = SceneSettings(lines={"door": line(points=((100, 150), (300, 150)), margin=0)})
    assert directions((200, 149), (200, 151), (200, 149), scene=scene) == ["in", "out"]
    assert directions((200, 149), (200, 150), (200, 151), scene=scene) == ["in"]


def test_frames_of_another_size_scale_shares() -> None:
    scene = SceneSettings(lines={"door": line(points=((0.25, 0.75), (0.75, 0.75)))})
    played = Played(scene)
    played.at(0.0, {1: (200, 120)})
    played.at(0.1, {1: (400, 280)}, size=(400, 800))  # the line is at 300
    played.at(0.2, {1: (400, 320)}, size=(400, 800))
    assert played.found() == [("in", "door", 1, 0.2)]


def test_the_event_has_the_sighting_and_the_person() -> None:
    played = Played(DOOR)
    played.at(0.0, {1: (200, 120)})
    played.know(1, "hat")
    played.at(0.1, {1: (200, 180)})
    (crossed,) = played.kept.zones
    assert crossed.person is not None
    assert crossed.person.labels == ("hat",)
    assert crossed.sighting is not None
    assert (crossed.sighting.frame, crossed.sighting.box) == (1, standing(200, 180))
    labels = {"zone": "door", "kind": "crossed"}
    assert played.value("seqpar_zone_events_total", direction="in", **labels) == 1
    assert played.value("seqpar_zone_events_total", direction="out", **labels) == 0


HELD = SceneSettings(lines={"door": line(points=((100, 150), (300, 150)), hold=0.3)})


def test_a_jump_to_the_other_side_does_not_cross() -> None:
    """Where two people hide each other, a box holds both for some frames."""
    walk = [120, 125, 180, 182, 130, 135, 120, 110, 115, 120]
    assert directions(*((200, y) for y in walk), scene=HELD) == []


def test_a_crossing_has_to_hold_and_keeps_its_time() -> None:
    played = Played(HELD)
    played.path(*((200, y) for y in (120, 140, 165, 170, 175)))
    assert played.found() == []
    played.at(0.5, {1: (200, 180)})
    assert played.found() == [("in", "door", 1, 0.2)]


def test_a_track_that_ends_on_the_other_side_has_crossed() -> None:
    played = Played(HELD).path((200, 120), (200, 180), *[None] * 30)
    assert played.found() == [("in", "door", 1, 0.1)]
    assert played.kept.zones[0].sighting.frame == 1


def test_found_on_the_other_side_counts_once() -> None:
    played = Played(HELD).path((200, 130), *[None] * 10, *[(200, 180)] * 10)
    assert played.found() == [("in", "door", 1, 1.1)]
