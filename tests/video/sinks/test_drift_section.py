"""The section on drift in the people report."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from fakes.calibrations import calibrated_on
from reports.test_pages import HOSTILE
from video.sinks.people import event, frame, person

from seqpar_deploy.calibration.drift import FIRST_LOOK, AttributeDrift, DriftMonitor, DriftReport
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.video.sinks.drift_section import drift_section
from seqpar_deploy.video.sinks.report import ReportSink

LABELS = load_label_set("pa100k")


def one(name: str, p_value: float, since: int | None) -> AttributeDrift:
    return AttributeDrift(name=name, edge=0.35, share=0.7, expected=0.1, p_value=p_value, since=since)


def report(*attributes: AttributeDrift, people: int = 128) -> DriftReport:
    looks = len(attributes) and 4
    return DriftReport(
        people=people, looks=looks, looked_at=people, reference=135, false_alarm_rate=0.01, attributes=attributes
    )


def test_attributes_that_have_drifted_come_first_and_are_named() -> None:
    text = drift_section(report(one("Boots", 0.9, None), one("Hat", 0.04, None), one("Side", 0.3, 64)))
    summary = re.sub("<[^>]*>", "", text[text.index("<summary>") : text.index("</summary>")])
    assert "Side" in summary
    assert "Hat" not in summary
    assert text.rindex("Side") < text.index("Hat") < text.index("Boots")
    for fact in ("128", "135", "64 people", "70", "0.35", "0.0400", "1.0"):
        assert fact in text


def test_many_are_counted() -> None:
    text = drift_section(report(*(one(f"A{number}", 0.6, 16) for number in range(9))))
    assert "4 more" in text[: text.index("</summary>")]


def test_no_drift_and_too_few_people() -> None:
    text = drift_section(report(one("Hat", 0.4, None)))
    assert "no drift" in text
    few = drift_section(report(people=5))
    assert "5 people" in few
    assert str(FIRST_LOOK) in few
    assert "<table" not in few


def test_names_never_become_markup() -> None:
    assert HOSTILE not in drift_section(report(one(HOSTILE, 0.6, 16)))


def test_the_last_look_is_in_the_page(tmp_path: Path) -> None:
    monitor = DriftMonitor(calibrated_on(np.full((100, len(LABELS)), 0.1), LABELS), LABELS)
    sink = ReportSink(tmp_path / "people.html", drift=monitor.report, interval=0)
    sink.event(event())
    sink.frame(frame(), [], {})
    assert "no drift" not in (text := (tmp_path / "people.html").read_text())
    assert 'id="drift"' in text
    for _ in range(FIRST_LOOK):
        monitor.add(np.full(len(LABELS), 0.12))
    assert not sink.wrote
    sink.close()
    assert "no drift" in (tmp_path / "people.html").read_text()
    assert sink.wrote


@pytest.mark.slow
def test_it_opens_and_fits_a_phone(browser: Browser, tmp_path: Path) -> None:
    sink = ReportSink(tmp_path / "people.html", drift=lambda: report(one("HoldObjectsInFront", 0.6, 16)))
    sink.event(event(who=person(1)))
    sink.close()
    driver = browser.open(tmp_path / "people.html", 390, 844)
    table = driver.find_element("css selector", "#drift table")
    assert not table.is_displayed()
    driver.find_element("css selector", "#drift summary").click()
    assert table.is_displayed()
    assert browser.sideways() <= 0
    assert browser.complaints() == []
