"""The figures, zones and people that the live page shows."""

from __future__ import annotations

import dataclasses
import io
import json
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image
from video.sinks.people import attributes, boxes, event, frame, person

from seqpar_deploy.video.sinks.answers import Answer
from seqpar_deploy.video.sinks.draw_zones import Outline
from seqpar_deploy.video.sinks.metrics import Health
from seqpar_deploy.video.sinks.preview import PreviewSink
from seqpar_deploy.video.types import ZoneEvent


def asked(preview: PreviewSink, path: str) -> Answer | None:
    for route, answer in preview.routes().items():
        if path == route or (route != "/" and route.endswith("/") and path.startswith(route)):
            return answer(path[len(route) :])
    raise AssertionError(path)


def values(preview: PreviewSink) -> Any:
    answer = asked(preview, "/live.json")
    assert answer is not None
    assert isinstance(answer.body, bytes)
    return json.loads(answer.body)


def crop_of(preview: PreviewSink, number: int) -> bytes | None:
    answer = asked(preview, f"/crops/{number}.jpg")
    if answer is None:
        return None
    assert isinstance(answer.body, bytes)
    return answer.body


def test_rate_and_latency_are_those_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    preview = PreviewSink()
    preview.frame(frame(0), [], {})
    (stream,) = values(preview)["streams"]
    assert (stream["rate"], stream["latency"]) == (None, None)
    for index in range(2, 100, 2):  # every second frame, 10 per second
        now[0] += 0.1
        preview.frame(dataclasses.replace(frame(index), received=now[0] - 0.25), [], {})
    (stream,) = values(preview)["streams"]
    assert (stream["rate"], stream["source_rate"], stream["latency"]) == (10.0, 20.0, 0.25)
    now[0] += 60
    (stream,) = values(preview)["streams"]
    assert (stream["rate"], stream["latency"], stream["dropped_recently"]) == (None, None, 0)


def test_the_time_until_the_first_attributes() -> None:
    preview = PreviewSink()
    for track, at in ((1, 2.0), (2, 2.5), (3, 3.0)):
        preview.frame(frame(track, timestamp=at + 0.5 * track), [], {})
        preview.event(event(who=person(track, at=at)))
    assert values(preview)["streams"][0]["attributes_after"] == 1.0


def test_zones_and_lines_are_counted() -> None:
    preview = PreviewSink()
    preview.frame(frame(), [], {})

    def zone(kind: Any, track: int | None = None, **other: Any) -> None:
        values = {"stream": "street", "zone": "square", "timestamp": 1.0, "track_id": track}
        preview.zone(ZoneEvent(kind=kind, **(values | other)))

    zone("entered", 1)
    zone("entered", 2)
    zone("left", 1, dwell=2.0)
    zone("left", 7, dwell=2.0)  # it was inside before the page began to count
    for direction in ("in", "out", "in"):
        zone("crossed", 3, zone="gate", direction=direction)
    zone("counted", zone="gate", interval=60.0, people={"in": 2, "out": 1}, attributes={"in": {"backpack": 1}})
    square, gate = values(preview)["streams"][0]["zones"]
    assert square == {"zone": "square", "inside": 1, "counts": {"entered": 2, "left": 2}}
    assert (gate["inside"], gate["counts"]) == (0, {"in": 2, "out": 1})
    assert gate["latest"] == {
        "interval": 60.0,
        "people": {"in": 2, "out": 1},
        "people_with": {"in": {"backpack": 1}},
    }
    for number in range(300):
        zone("entered", 1, zone=f"zone {number}")
    assert len(values(preview)["streams"][0]["zones"]) == 200


def test_zones_are_those_of_the_settings_if_they_are_known() -> None:
    scene = {
        "street": [
            Outline(name="gate", kind="line", points=[(0, 0), (9, 9)], inside=0, passages={"in": 2}),
            Outline(name="square", kind="zone", points=[(0, 0), (9, 0), (9, 9)], inside=3, passages={}),
        ]
    }
    preview = PreviewSink(outlines=lambda stream: scene.get(stream, []))
    preview.frame(frame(), [], {})
    for name in ("gate", "old"):
        preview.zone(
            ZoneEvent(kind="counted", stream="street", zone=name, timestamp=60.0, interval=60.0, people={"in": 2})
        )
    gate, square = values(preview)["streams"][0]["zones"]
    assert (gate["zone"], gate["line"], gate["counts"]) == ("gate", True, {"in": 2})
    assert gate["latest"]["people"] == {"in": 2}
    assert (square["zone"], square["inside"], square["counts"]) == ("square", 3, {})
    assert "latest" not in square
    scene.clear()
    assert values(preview)["streams"][0]["zones"] == []


def test_the_latest_people_are_bounded_and_updated() -> None:
    preview = PreviewSink()
    assert values(preview)["latest"] == []
    preview.frame(frame(), [], {})
    for track in range(1, 101):
        preview.event(event(who=person(track)))
    latest = values(preview)["latest"]
    assert [one["track_id"] for one in latest] == list(range(100, 40, -1))
    newest, oldest = latest[0], latest[-1]
    assert crop_of(preview, oldest["number"]) is not None
    assert crop_of(preview, oldest["number"] - 1) is None
    preview.event(event("changed", who=dataclasses.replace(person(41), attributes=attributes(("hat",)))))
    preview.event(event("ended", who=person(3)))  # of somebody who is not shown any more
    changed = values(preview)["latest"]
    assert len(changed) == 60
    assert changed[-1]["yes"] == [["hat", 0.93]]
    assert not changed[-1]["ended"]
    before = crop_of(preview, newest["number"])
    preview.event(event("ended", who=person(100, crop=np.full((400, 800, 3), 200, np.uint8))))
    latest = values(preview)["latest"]
    assert latest[0]["ended"]
    assert latest[0]["version"] == newest["version"] + 1
    crop = crop_of(preview, newest["number"])
    assert crop is not None
    assert crop != before
    assert Image.open(io.BytesIO(crop)).size == (128, 64)
    preview.event(event(who=person(100)))  # another person, of a stream that began again
    assert [one["track_id"] for one in values(preview)["latest"][:2]] == [100, 100]
    for bad in ("", "x.jpg", "-1.jpg", "1.png", "9" * 5000 + ".jpg", "\u00b2.jpg"):
        assert asked(preview, f"/crops/{bad}") is None


def test_a_stream_is_forgotten_and_others_keep_their_numbers() -> None:
    preview = PreviewSink()
    for name in ("gate", "yard"):
        preview.frame(frame(stream=name), boxes(person()), {1: person()})
        preview.event(event(who=person(stream=name)))
    waiting = asked(preview, "/streams/0.mjpg")
    assert waiting is not None
    preview.forget("gate")
    preview.forget("gate")
    assert list(waiting.body) == []
    found = values(preview)
    assert [(one["stream"], one["number"]) for one in found["streams"]] == [("yard", 1)]
    assert [one["stream"] for one in found["latest"]] == ["yard"]
    assert asked(preview, "/streams/0.jpg") is None
    assert asked(preview, "/streams/1.jpg") is not None
    preview.event(event("ended", who=person(stream="gate")))  # its track ends after the camera was removed
    preview.event(event(who=person(2, stream="gate")))
    preview.zone(ZoneEvent(kind="left", stream="gate", zone="square", timestamp=1.0, track_id=1))
    preview.frame(dataclasses.replace(frame(stream="gate"), received=0.0), [], {})  # it was on its way
    assert values(preview)["streams"] == found["streams"]
    assert values(preview)["latest"] == found["latest"]
    preview.frame(dataclasses.replace(frame(stream="gate"), received=time.monotonic()), [], {})
    assert [one["number"] for one in values(preview)["streams"]] == [1, 2]


def test_problems_are_those_of_the_health_checks() -> None:
    health = Health()
    preview = PreviewSink(health=health)
    assert values(preview)["problems"] == []
    health.watch("mqtt://broker", lambda: "connection refused; retrying")
    assert values(preview)["problems"] == ["mqtt://broker: connection refused; retrying"]
    assert values(PreviewSink())["problems"] == []
