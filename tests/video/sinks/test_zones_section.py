"""Zones and lines in the report and in pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser
from video.sinks.people import boxes, event, frame, person

from seqpar_deploy.video.sinks.draw import draw_people
from seqpar_deploy.video.sinks.draw_zones import Outline
from seqpar_deploy.video.sinks.preview import PreviewSink
from seqpar_deploy.video.sinks.report import ReportSink
from seqpar_deploy.video.sinks.zones_section import ZoneTotals
from seqpar_deploy.video.types import ZoneEvent


def count(zone: str = "gate", at: float = 3600, stream: str = "street", **values: Any) -> ZoneEvent:
    found: dict[str, Any] = {
        "people": {"in": 3, "out": 1},
        "attributes": {"in": {"backpack": 2}},
        "unknown": {"in": {"backpack": 1, "hat": 1}},
        "unrecognized": {"out": 1},
    }
    return ZoneEvent(kind="counted", stream=stream, zone=zone, timestamp=at, interval=3600.0, **found | values)


def rows(html: str) -> list[list[str]]:
    """The cells of all rows, without markup."""
    found = []
    for row in re.findall(r"<tr.*?</tr>", html):
        found.append([re.sub(r"<[^>]*>", " ", cell).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)])
    return found


def test_counts_are_summed_by_attribute() -> None:
    totals = ZoneTotals()
    for hour in (1, 2):
        totals.add(count(at=3600.0 * hour))
    totals.add(ZoneEvent(kind="crossed", stream="street", zone="gate", timestamp=1.0, track_id=1, direction="in"))
    html = totals.section(["hat", "backpack", "boots"])
    assert html is not None
    head, people, hat, backpack, unrecognized, *intervals = rows(html)
    assert head[1:] == ["gate in", "gate out"]
    assert people == ["people", "6", "2"]
    assert hat == ["hat", "0 (2)", ""]
    assert backpack == ["backpack", "4 (2)", ""]
    assert unrecognized == ["not recognised", "", "2"]
    assert intervals[1] == ["gate", "1:00:00 \N{EN DASH} 2:00:00", "in 3, out 1"]
    assert intervals[2] == ["gate", "0:00 \N{EN DASH} 1:00:00", "in 3, out 1"]


def test_zones_have_their_mean_dwell_time_and_streams_their_name() -> None:
    totals = ZoneTotals()
    zone = {"people": {"entered": 4, "left": 2}, "attributes": {}, "unknown": {}, "unrecognized": {}}
    totals.add(count("hall", dwell=10.0, **zone))
    totals.add(count("hall", dwell=40.0, **zone | {"people": {"entered": 0, "left": 1}}))
    totals.add(count("<b>", stream="yard"))
    html = totals.section([])
    assert html is not None
    head, people, dwell, *_ = rows(html)
    assert head[1:3] == ["street: hall entered", "street: hall left"]
    assert "yard: &lt;b&gt; in" in head
    assert people[1:3] == ["4", "3"]
    assert dwell[1:3] == ["", "20.0 s"]


def test_the_report_has_the_section_once_there_are_counts(tmp_path: Path) -> None:
    sink = ReportSink(tmp_path / "people.html")
    sink.frame(frame(), boxes(person()), {})
    sink.event(event(who=person()))
    sink.zone(ZoneEvent(kind="entered", stream="street", zone="hall", timestamp=1.0, track_id=1))
    sink._write()
    assert 'id="zones"' not in (tmp_path / "people.html").read_text()
    sink.zone(count())
    sink.close()
    assert sink.wrote
    text = (tmp_path / "people.html").read_text()
    assert 'id="zones"' in text
    assert "4 passages" in text


def test_its_memory_is_bounded() -> None:
    totals = ZoneTotals()
    for number in range(1000):
        totals.add(count(f"zone {number % 300}"))
    assert len(totals._places) == 100
    for number in range(1000):
        totals.add(count("zone 1", at=number))
    assert len(totals._places["street", "zone 1"].latest) <= 48


LINE = Outline(kind="line", name="door", points=((100, 300), (500, 300)), inside=0, passages={"in": 2})
ZONE = Outline(kind="zone", name="hall", points=((600, 100), (700, 100), (700, 200)), inside=3, passages={})


def test_zones_and_lines_are_drawn() -> None:
    image = np.full((576, 768, 3), 120, np.uint8)
    drawn = np.asarray(draw_people(image, [], {}, None, [LINE, ZONE])).astype(int)
    changed = np.abs(drawn - 120).sum(axis=2) > 60
    assert changed[300, 110:490].all()
    assert not changed[350:, :].any()  # the arrow is short
    assert changed[305:325, 290:310].any()  # it points down, which is in
    assert not changed[275:297, 290:310].any()
    assert changed[100, 610:690].all()
    assert changed[80:98, 600:640].any()  # the label
    assert (np.asarray(draw_people(image, [], {}, None, [])) == image).all()


def test_a_label_stays_inside_the_picture() -> None:
    image = np.full((100, 200, 3), 120, np.uint8)
    edge = Outline(
        kind="zone", name="a very long name" * 9, points=((195, 2), (199, 2), (199, 99)), inside=0, passages={}
    )
    drawn = np.asarray(draw_people(image, [], {}, None, [edge]))
    assert (drawn[:20, :60] != 120).any()


def test_the_preview_draws_those_of_its_stream() -> None:
    preview = PreviewSink(outlines=lambda stream: [LINE] if stream == "street" else [])
    bare = PreviewSink()
    for sink in (preview, bare):
        sink.frame(frame(), [], {})
        sink.frame(frame(stream="yard"), [], {})
    pictures = [[sink.routes()["/streams/"](f"{n}.jpg") for n in (0, 1)] for sink in (preview, bare)]
    bodies = [[answer.body for answer in some if answer is not None] for some in pictures]
    assert bodies[0][0] != bodies[1][0]
    assert bodies[0][1] == bodies[1][1]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_section_fits_its_page(browser: Browser, tmp_path: Path, width: int) -> None:
    sink = ReportSink(tmp_path / "people.html")
    sink.frame(frame(), boxes(person()), {})
    sink.event(event(who=person()))
    for number in range(6):
        sink.zone(count(f"gate {number}"))
    sink.close()
    driver = browser.open(tmp_path / "people.html", width, 900)
    assert browser.sideways() <= 0
    assert driver.find_element("css selector", "#zones table").is_displayed()
    assert browser.complaints() == []


def test_what_the_report_has_no_room_for_is_told() -> None:
    totals = ZoneTotals()
    for _ in range(2):
        for number in range(103):
            totals.add(count(zone=f"gate {number}"))
    html = str(totals.section(["hat"]))
    assert "gate 99" in html
    assert "gate 100" not in html
    assert "The events have 3 zones and lines more" in html
