"""Counts per interval, by attribute."""

from __future__ import annotations

import pytest
from video.zones.scripted import Played, line, zone

from seqpar_deploy.video.zones.settings import SceneSettings

LINE = ((100.0, 150.0), (300.0, 150.0))
SQUARE = ((100.0, 100.0), (300.0, 100.0), (300.0, 160.0), (100.0, 160.0))


def gate(interval: float) -> SceneSettings:
    return SceneSettings(lines={"gate": line(points=LINE, interval=interval)})


def cross(played: Played, track: int, at: float) -> None:
    played.at(at, {track: (200, 120)})
    played.at(at + 0.1, {track: (200, 180)})


def test_people_with_a_backpack_through_the_gate() -> None:
    played = Played(gate(10))
    played.at(0.0, {})
    for track, yes in ((1, ("backpack", "hat")), (2, ("backpack",)), (3, ())):
        played.know(track, *yes, unknown=() if yes else ("hat",), names=("hat", "backpack"))
        cross(played, track, at=track)
        played.leave(track)
    played.at(10.0, {})
    assert played.counts == []  # tracks may still end that were last seen in the interval
    played.at(12.1, {})
    (count,) = played.counts
    assert (count.zone, count.timestamp, count.interval, count.dwell) == ("gate", 10.0, 10.0, None)
    assert count.people == {"in": 3, "out": 0}
    assert count.attributes == {"in": {"backpack": 2, "hat": 1}}
    assert count.unknown == {"in": {"hat": 1}}
    assert count.unrecognized == {}


def test_attributes_are_those_of_the_end_of_the_track() -> None:
    played = Played(gate(10))
    played.at(0.0, {})
    cross(played, 1, at=5.0)  # nothing is known yet
    played.know(1, unknown=("hat",))
    for second in range(6, 15):
        played.at(float(second), {1: (200, 180)})
    assert played.counts == []  # the person is still there
    played.know(1, "hat")
    played.leave(1)
    played.at(14.5, {})
    (count,) = played.counts
    assert (count.people, count.attributes, count.unknown) == ({"in": 1, "out": 0}, {"in": {"hat": 1}}, {})
    labels = {"zone": "gate", "kind": "crossed", "direction": "in", "attribute": "hat"}
    assert played.value("seqpar_zone_people_total", **labels) == 1


def test_somebody_who_does_not_leave_is_counted_after_a_while() -> None:
    played = Played(gate(10))
    played.know(1, "hat")
    played.at(0.0, {})
    cross(played, 1, at=5.0)
    played.at(39.9, {1: (200, 180)})
    assert played.counts == []
    played.at(40.1, {1: (200, 180)})
    counts = [(one.timestamp, one.people["in"], dict(one.attributes)) for one in played.counts]
    assert counts == [(10.0, 1, {"in": {"hat": 1}})]  # 10 to 30 s had no frame


def test_somebody_without_attributes_is_counted_as_unrecognized() -> None:
    played = Played(gate(10))
    played.at(0.0, {})
    cross(played, 1, at=5.0)
    played.at(41.0, {})
    (count,) = [one for one in played.counts if one.timestamp == 10]
    assert (count.people["in"], count.attributes, count.unrecognized) == (1, {}, {"in": 1})


def test_back_and_forth_counts_passages() -> None:
    played = Played(gate(10))
    played.know(1, "hat")
    played.path(*((200, y) for y in (120, 180, 120, 180)))
    played.leave(1)
    played.zones.stream_ended("street")
    (count,) = played.counts
    assert count.people == {"in": 2, "out": 1}
    assert count.attributes == {"in": {"hat": 2}, "out": {"hat": 1}}


def test_the_end_of_the_stream_ends_the_last_interval() -> None:
    played = Played(gate(10))
    played.at(0.0, {})
    cross(played, 1, at=12.0)
    played.at(14.0, {})
    played.zones.stream_ended("street")
    assert [(one.timestamp, one.interval, one.people["in"]) for one in played.counts] == [
        (10.0, 10.0, 0),
        (14.0, pytest.approx(4.0), 1),
    ]
    assert played.kept.all[-1] == "street"


def test_dwell_times_are_averaged_over_those_who_left() -> None:
    scene = SceneSettings(zones={"hall": zone(points=SQUARE, interval=10)})
    played = Played(scene)
    played.path((200, 130), (200, 130), (200, 130), (50, 130), track=1, step=1.0)  # 3 s
    played.path((200, 130), (50, 130), track=2, start=4.0, step=1.0)  # 1 s
    played.path((200, 130), (200, 130), track=3, start=9.0, step=0.5)  # inside at the end
    played.zones.stream_ended("street")
    (count,) = played.counts
    assert count.people == {"entered": 3, "left": 3}
    assert count.dwell == pytest.approx((3 + 1 + 0.5) / 3)


def test_who_was_last_seen_before_the_end_of_an_interval_leaves_in_it() -> None:
    scene = SceneSettings(zones={"hall": zone(points=SQUARE, interval=2)})
    played = Played(scene)
    played.path(*[(200, 130)] * 2, *[None] * 60, step=1.0)
    counts = {one.timestamp: one.people for one in played.counts}
    assert counts[2.0] == {"entered": 1, "left": 1}
    assert counts[4.0] == {"entered": 0, "left": 0}


def test_live_intervals_begin_with_the_clock() -> None:
    now = [3590.0]  # ten seconds before the hour
    played = Played(gate(3600), clock=lambda: now[0])
    for second in (0, 5, 11, 1800, 3609, 3611):
        now[0] = 3590.0 + second
        played.at(float(second), {})
    assert [(one.timestamp, one.interval) for one in played.counts] == [(10.0, 10.0)]
    now[0] = 3590.0 + 7300
    played.at(7300.0, {})
    assert [(one.timestamp, one.interval) for one in played.counts[1:]] == [(3610.0, 3600.0), (7210.0, 3600.0)]


def test_a_clock_that_runs_a_little_fast_makes_no_tiny_interval() -> None:
    now = [0.0]
    played = Played(gate(10), clock=lambda: now[0])
    for tenth in range(1000):
        now[0] = tenth / 10 * 0.999  # the stream's time is faster
        played.at(tenth / 10, {})
    assert all(9 < one.interval < 11 for one in played.counts)
    assert len(played.counts) >= 8


def test_nothing_grows_with_the_stream() -> None:
    played = Played(gate(1))
    for track in range(300):
        played.know(track, "hat")
        cross(played, track, at=track * 0.5)
        played.leave(track)
    assert sum(one.people["in"] for one in played.counts) >= 290
    (scene,) = played.zones._scenes.values()
    (shape,) = scene._shapes.values()
    assert len(shape.counts._open) <= 4
    assert len(scene._sightings) <= 1
    assert not shape.tracks._walks


@pytest.mark.parametrize("hold", [0.0, 0.3, 5.0])
def test_an_event_lies_in_the_interval_that_counts_it(hold: float) -> None:
    """Somebody lingers beyond the line by less than the margin, or in a zone that must be held for long."""
    beyond = [(200, 130)] * 5 + [(200, 161)] * 2 + [(200, 155)] * 320 + [(200, 170)] * 80
    scene = SceneSettings(
        lines={"gate": line(points=LINE, interval=10, hold=hold)},
        zones={"hall": zone(points=((100.0, 152.0), (300.0, 152.0), (300.0, 190.0)), interval=10, hold=hold)},
    )
    played = Played(scene)
    played.path(*beyond, start=9.0)
    played.zones.close()
    events = [one for one in played.kept.zones if one.kind != "counted"]
    assert {one.zone for one in events} == {"gate", "hall"}
    for one in events:
        kind = one.direction or one.kind
        (interval,) = [
            count
            for count in played.counts
            if count.zone == one.zone and count.timestamp - (count.interval or 0) <= one.timestamp <= count.timestamp
        ]
        assert interval.people[kind] == 1, (one, played.counts)
