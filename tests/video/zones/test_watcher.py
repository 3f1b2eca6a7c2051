"""Scenes that come, change and go, masks, and what a stream without a scene has to do with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from video.sinks.people import frame
from video.sinks.test_events import SCHEMA, check
from video.zones.scripted import Kept, Played, event, line, person, standing, zone

from seqpar_deploy.video.sinks.events import event_line
from seqpar_deploy.video.sinks.fan_out import Sinks
from seqpar_deploy.video.types import Box, Frame, TrackedBox
from seqpar_deploy.video.zones.masked import MaskedTracker
from seqpar_deploy.video.zones.settings import MaskSettings, SceneSettings
from seqpar_deploy.video.zones.watcher import ZoneWatcher

SQUARE = ((100.0, 100.0), (300.0, 100.0), (300.0, 160.0), (100.0, 160.0))
HALL, DOOR = zone(points=SQUARE), line(points=((100, 150), (300, 150)))


def test_a_stream_without_a_scene_passes_through() -> None:
    played = Played(SceneSettings(), stream="other")
    played.at(0.0, {1: (200, 120)})
    played.zones.event(event(who=person(1, stream="other")))
    assert [type(one).__name__ for one in played.kept.all] == ["Frame", "Event"]


def test_events_come_before_their_frame() -> None:
    played = Played(SceneSettings(zones={"hall": HALL}))
    played.at(0.0, {1: (200, 130)})
    assert [type(one).__name__ for one in played.kept.all] == ["ZoneEvent", "Frame"]


def test_a_scene_replaced_keeps_what_stays() -> None:
    played = Played(SceneSettings(zones={"hall": HALL, "old": HALL}, lines={"door": DOOR}))
    played.at(0.0, {1: (200, 120)})
    played.zones.set_scene("street", SceneSettings(zones={"hall": HALL, "new": HALL}, lines={"door": DOOR}))
    played.at(1.0, {1: (200, 120)})
    assert played.found() == [
        ("entered", "hall", 1, 0.0),
        ("entered", "old", 1, 0.0),
        ("left", "old", 1, 0.0),
        ("entered", "new", 1, 1.0),
    ]
    assert played.value("seqpar_zone_occupancy", zone="old") is None
    assert played.value("seqpar_zone_occupancy", zone="hall") == 1
    played.at(1.1, {1: (200, 180)})
    assert [one[:2] for one in played.found()[4:]] == [("left", "hall"), ("left", "new"), ("in", "door")]


def test_a_zone_that_moves_begins_anew() -> None:
    played = Played(SceneSettings(zones={"hall": HALL}))
    played.at(0.0, {1: (200, 130)})
    moved = zone(points=tuple((x, y + 80) for x, y in SQUARE))
    played.zones.set_scene("street", SceneSettings(zones={"hall": moved}))
    played.at(1.0, {1: (200, 130)})
    assert [kind for kind, *_ in played.found()] == ["entered", "left"]
    assert [one.people for one in played.counts] == [{"entered": 1, "left": 1}]
    assert played.value("seqpar_zone_occupancy", zone="hall") == 0


def test_a_scene_taken_away_leaves_nothing() -> None:
    played = Played(SceneSettings(zones={"hall": HALL}, lines={"door": DOOR}))
    played.at(0.0, {1: (200, 130)})
    played.at(1.0, {1: (200, 130)})
    played.zones.set_scene("street", None)
    played.at(2.0, {1: (200, 130)})
    assert [kind for kind, *_ in played.found()] == ["entered", "left"]
    assert [one.zone for one in played.counts] == ["hall", "door"]
    assert played.zones.outlines("street") == []
    names = {sample.name for metric in played.metrics.registry.collect() for sample in metric.samples if sample.labels}
    assert not {name for name in names if name.startswith("seqpar_zone")}
    played.at(3.0, {1: (200, 180)})
    assert len(played.kept.zones) == 4


def test_a_scene_given_later_begins_with_the_next_frame() -> None:
    played = Played(SceneSettings())
    played.at(0.0, {1: (200, 130)})
    played.zones.set_scene("street", SceneSettings(zones={"hall": HALL}))
    played.at(1.0, {1: (200, 130)})
    assert played.found() == [("entered", "hall", 1, 1.0)]


def test_a_stream_that_starts_over_begins_anew() -> None:
    played = Played(SceneSettings(lines={"door": DOOR}))
    played.path((200, 120), (200, 180))
    played.zones.stream_ended("street")
    played.path((200, 120), (200, 180))
    played.zones.close()
    assert [one[:1] for one in played.found()] == [("in",), ("in",)]
    assert [one.people["in"] for one in played.counts] == [1, 1]


def test_closing_ends_every_stream() -> None:
    kept = Kept()
    scene = SceneSettings(zones={"hall": HALL})
    watcher = ZoneWatcher(Sinks([kept]), {"a": scene, "b": scene})
    for stream in "ab":
        box = TrackedBox(track_id=1, box=standing(200, 130))
        watcher.frame(frame(stream=stream, size=(200, 400)), [box], {})
    watcher.close()
    assert [(one.stream, one.kind) for one in kept.zones if one.kind != "counted"] == [
        ("a", "entered"),
        ("b", "entered"),
        ("a", "left"),
        ("b", "left"),
    ]
    watcher.close()


def test_outlines_have_the_numbers() -> None:
    played = Played(SceneSettings(zones={"hall": HALL}, lines={"door": DOOR}))
    played.at(0.0, {1: (200, 120), 2: (150, 120)})
    played.at(0.1, {1: (200, 165), 2: (150, 120)})
    assert [(one.kind, one.text) for one in played.zones.outlines("street")] == [
        ("zone", "hall: 2"),
        ("line", "door: in 1, out 0"),
    ]


def test_points_outside_the_frame_are_told(caplog: pytest.LogCaptureFixture) -> None:
    played = Played(SceneSettings(lines={"door": line(points=((100, 150), (640, 150)))}))
    played.at(0.0, {})
    assert "door" in caplog.text
    assert "400 x 200" in caplog.text


class Every:
    """A tracker that gives each box a number."""

    def update(self, frame: Frame, boxes: list[Box]) -> list[TrackedBox]:
        return [TrackedBox(track_id=number, box=box) for number, box in enumerate(boxes, 1)]


def test_a_mask_takes_those_whose_feet_are_in_it() -> None:
    screen = SceneSettings(masks={"screen": MaskSettings(points=((0, 0), (0.5, 0), (0.5, 0.5), (0, 0.5)))})
    watcher = ZoneWatcher(Sinks([]), {"street": screen})
    tracker = MaskedTracker(Every(), watcher.masks)
    in_it, before_it, beside_it = standing(100, 90, 80), standing(100, 150, 140), standing(300, 90, 80)
    picture = frame(size=(200, 400))
    assert [one.box for one in tracker.update(picture, [in_it, before_it, beside_it])] == [before_it, beside_it]
    watcher.set_scene("street", None)
    assert len(tracker.update(picture, [in_it, before_it, beside_it])) == 3
    assert len(tracker.update(frame(stream="other", size=(200, 400)), [in_it])) == 1


@pytest.mark.parametrize("bottom", [199.9, 200.0])
@pytest.mark.parametrize("rows", [199.0, 200.0])
def test_somebody_whom_the_frame_cuts_off_is_in_a_shape_that_ends_there(bottom: float, rows: float) -> None:
    corners = ((0.0, 0.0), (399.0, 0.0), (399.0, rows), (0.0, rows))
    scene = SceneSettings(masks={"all": MaskSettings(points=corners)})
    tracker = MaskedTracker(Every(), ZoneWatcher(Sinks([]), {"street": scene}).masks)
    assert tracker.update(frame(size=(200, 400)), [standing(200, bottom)]) == []
    played = Played(SceneSettings(zones={"all": zone(points=corners)}))
    played.at(0.0, {1: (200, bottom)})
    assert [kind for kind, *_ in played.found()] == ["entered"]


def test_masks_outside_the_frame_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    corners = ((900.0, 700.0), (1900.0, 700.0), (1900.0, 1000.0))
    tracker = MaskedTracker(Every(), lambda _: (MaskSettings(points=corners),))
    for _ in range(3):
        tracker.update(frame(size=(200, 400)), [])
    assert caplog.text.count("points must be in the frame of 400 x 200 pixels") == 1


@pytest.mark.parametrize(("largest", "told"), [(300.0, True), (0.9, False)])
def test_pixels_of_frames_of_another_size_are_told(
    largest: float, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    corners = ((0.0, 0.0), (largest, 0.0), (largest, largest / 2))
    scene = SceneSettings(zones={"yard": zone(points=corners)}, masks={"screen": MaskSettings(points=corners)})
    watcher = ZoneWatcher(Sinks([]), {"street": scene})
    tracker = MaskedTracker(Every(), watcher.masks)
    for size in ((200, 400), (200, 400), (400, 800), (400, 800)):
        picture = frame(size=size)
        tracker.update(picture, [])
        watcher.frame(picture, [], {})
    text = "points are pixels of a frame of 400 x 200, and frames are 800 x 400 now"
    assert [f"street: {what}: {text}" in caplog.text for what in ("yard", "screen")] == [told, told]
    assert caplog.text.count("points are pixels") == (2 if told else 0)


def test_an_output_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    class Broken(Kept):
        def zone(self, event: object) -> None:
            raise OSError("no")

    kept = Kept()
    watcher = ZoneWatcher(Sinks([Broken(), kept]), {"street": SceneSettings(zones={"hall": HALL})})
    watcher.frame(frame(size=(200, 400)), [TrackedBox(track_id=1, box=standing(200, 130))], {})
    assert [one.kind for one in kept.zones] == ["entered"]


def test_the_line_of_a_zone_event_has_what_it_needs() -> None:
    played = Played(SceneSettings(zones={"hall": HALL}))
    played.know(1, "hat")
    played.path((200, 130), (50, 130))
    played.leave(1)
    played.zones.close()
    entered, left, counted = (event_line(one) for one in played.kept.zones)
    for one in (entered, left, counted):
        check(json.loads(one), SCHEMA)
    assert '"event": "entered"' in entered
    assert '"last": {"frame": 0, "timestamp": 0.0' in entered
    assert '"dwell": 0.1' in left
    assert '"people_with": {"entered": {"hat": 1}, "left": {"hat": 1}}' in counted
    assert '"interval": 0.1' in counted
