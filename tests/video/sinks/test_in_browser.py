"""Report and preview as a person uses them, in Chromium."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from video.sinks.people import attributes, boxes, event, frame, person
from video.sinks.proxy import Proxy

from seqpar_deploy.preprocess import Crop
from seqpar_deploy.video.sinks.annotated import AnnotatedSink
from seqpar_deploy.video.sinks.answers import Answer
from seqpar_deploy.video.sinks.metrics import Health
from seqpar_deploy.video.sinks.preview import PreviewSink
from seqpar_deploy.video.sinks.report import ReportSink
from seqpar_deploy.video.sinks.server import WebServer
from seqpar_deploy.video.types import ZoneEvent

pytestmark = pytest.mark.slow

DESK, PHONE = (1280, 900), (390, 844)
WEARS = (("female", "backpack"), ("female", "hat"), ("backpack",), ())  # by track % 4


@pytest.fixture(scope="module")
def people_report(crops: list[Crop], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 people, the odd ones in `street`, whose annotated video is there, the others in `yard`, whose is not."""
    pytest.importorskip("av")
    folder = tmp_path_factory.mktemp("report")
    video = AnnotatedSink("street", folder / "street.mp4")
    sink = ReportSink(folder / "people.html", videos={"street": folder / "street.mp4", "yard": folder / "gone.mp4"})
    for index in range(80):
        for one in (video, sink):
            one.frame(frame(index, size=(288, 384)), boxes(person()), {1: person()})
    for track in range(1, 21):
        unknown = () if track % 2 else ("hat",)
        wears = attributes(WEARS[track % 4], () if "hat" in WEARS[track % 4] else unknown)
        stream = "street" if track % 2 else "yard"
        sink.event(event(who=person(track, crop=crops[track - 1], stream=stream, at=track / 4, attributes=wears)))
    video.close()
    sink.close()
    return folder / "people.html"


def shown(driver: Any) -> list[int]:
    titles = "return [...document.querySelectorAll('.person:not([hidden]) h3')].map(title => title.textContent)"
    return [int(title.split()[0].strip("#")) for title in driver.execute_script(titles)]


def click(driver: Any, name: str, times: int = 1) -> None:
    driver.execute_script("document.getElementById('filters').open = true")
    (chip,) = [
        one for one in driver.find_elements("css selector", ".filter") if one.text.split(" \n")[0].startswith(name)
    ]
    for _ in range(times):
        chip.click()


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_filters_leave_the_right_people(browser: Browser, people_report: Path, size: tuple[int, int]) -> None:
    driver = browser.open(people_report, *size)
    assert browser.sideways() <= 0
    scene = driver.find_element("css selector", ".scene").rect
    assert scene["width"] >= (320 if size == PHONE else 220)
    assert scene["height"] == pytest.approx(scene["width"] * 288 / 384, abs=1)
    assert shown(driver) == list(range(1, 21))
    click(driver, "female")
    assert shown(driver) == [track for track in range(1, 21) if track % 4 in (0, 1)]
    click(driver, "backpack", 2)  # no
    assert shown(driver) == [track for track in range(1, 21) if track % 4 == 1]
    click(driver, "female", 3)  # any
    click(driver, "backpack", 2)  # any
    click(driver, "hat", 3)  # unknown
    assert shown(driver) == list(range(2, 21, 2))
    assert driver.find_element("id", "found").text.startswith("10 of 20 ")
    click(driver, "female")
    click(driver, "boots")
    assert shown(driver) == []
    driver.find_element("id", "again").click()
    assert shown(driver) == list(range(1, 21))
    assert browser.complaints() == []
    assert browser.sideways() <= 0


def test_search_and_sort(browser: Browser, people_report: Path) -> None:
    driver = browser.open(people_report, *DESK)
    search = driver.find_element("id", "search")
    search.send_keys("YARD backpack")
    assert shown(driver) == [track for track in range(2, 21, 2) if "backpack" in WEARS[track % 4]]
    search.clear()
    search.send_keys("#7")
    assert shown(driver) == [7]
    driver.find_element("css selector", "[type=reset]").click()
    driver.find_element("css selector", "#sort [value=last]").click()
    assert shown(driver)[0] == 20
    driver.find_element("css selector", "#sort [value=unsure]").click()
    assert all(track % 2 == 0 for track in shown(driver)[:10])  # whose hat is unknown


def test_a_click_jumps_to_the_moment(browser: Browser, people_report: Path) -> None:
    driver = browser.open(people_report, *DESK)
    link = driver.find_elements("css selector", ".jump")[6]
    link.click()
    state = "return [video.readyState, video.currentTime, trouble.textContent]"
    _wait(lambda: driver.execute_script(state)[0] >= 2)
    assert 2.7 <= driver.execute_script(state)[1] < 5  # track 7 is best at 2.75 s
    assert driver.find_element("id", "what").text == "#7 in street at 0:02.8"
    driver.find_element("id", "close").click()
    driver.find_elements("css selector", ".crop")[1].click()  # of the yard
    _wait(lambda: driver.execute_script(state)[2])
    assert driver.execute_script(state)[2].startswith("gone.mp4 cannot be played")


def test_a_thousand_people_stay_usable(browser: Browser, crops: list[Crop], tmp_path: Path) -> None:
    sink = ReportSink(tmp_path / "people.html")
    for track in range(1, 1001):
        sink.event(event(who=person(track, crop=crops[track % 20], at=track)))
    sink.close()
    assert (tmp_path / "people.html").stat().st_size < 12_000_000
    driver = browser.open(tmp_path / "people.html", *DESK)
    took = driver.execute_script(
        "const start = performance.now(); document.querySelector('.filter').click(); document.body.offsetHeight;"
        "return performance.now() - start"
    )
    assert took < 1000
    assert driver.find_element("id", "found").text.startswith("1000 ")


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_preview_shows_streams_and_people(browser: Browser, size: tuple[int, int]) -> None:
    preview = PreviewSink()
    server = WebServer(preview.routes(), port=0)
    hostile = "<img src=x onerror=alert(1)>"
    try:
        driver = browser.open(server.url, *size)
        _wait(lambda: "first frame" in driver.find_element("id", "state").text)
        preview.frame(frame(), boxes(person(1), person(2)), {1: person(1)})
        preview.frame(frame(stream=hostile, size=(100, 300)), [], {})
        _wait(lambda: "2 streams, 2 people" in driver.find_element("id", "state").text)
        words = driver.find_element("id", "streams").text
        assert hostile in words
        assert "backpack 93 %" in words
        assert "not known yet" in words
        loaded = "return [...document.images].map(image => [image.naturalWidth, image.naturalHeight])"
        _wait(lambda: driver.execute_script(loaded) == [[768, 576], [300, 100]])
        preview.frame(frame(3, timestamp=7.5), [], {})
        _wait(lambda: "0:07.5" in driver.find_element("id", "streams").text)
        assert browser.sideways() <= 0
        assert browser.complaints() == []
        server.close()
        _wait(lambda: "No answer" in driver.find_element("id", "state").text)
        assert len(driver.find_elements("css selector", ".stream.still")) == 2
    finally:
        preview.close()
        server.close()
        browser.open("about:blank")


@pytest.mark.parametrize(("strip", "end"), [(True, "/"), (True, ""), (False, "/"), (False, "")])
def test_the_preview_works_under_a_path_of_a_proxy(browser: Browser, strip: bool, end: str) -> None:
    preview = PreviewSink()
    base = "https://cams.example.com/site/video"
    server = WebServer(preview.routes(), port=0, base_url=base)
    preview.frame(frame(), boxes(person(1)), {1: person(1)})
    port = int(server.url.rstrip("/").rpartition(":")[2])
    try:
        with Proxy(port, "/site/video", strip=strip, keep_host="" if strip else "cams.example.com") as proxy:
            driver = browser.open(f"{proxy.url}{end}", *DESK)
            _wait(lambda: "1 stream, 1 person" in driver.find_element("id", "state").text)
            loaded = "return [...document.images].map(image => [image.naturalWidth, image.naturalHeight])"
            _wait(lambda: driver.execute_script(loaded) == [[768, 576]])
            browser.open("about:blank")
    finally:
        preview.close()
        server.close()


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_live_page_shows_figures_zones_problems_and_the_latest_people(
    browser: Browser, crops: list[Crop], size: tuple[int, int]
) -> None:
    health = Health()
    preview = PreviewSink(health=health)
    server = WebServer(preview.routes(), port=0)
    health.watch("broker", lambda: "connection refused; retrying")
    try:
        driver = browser.open(server.url, *size, dark=size == PHONE)
        for track in range(1, 31):
            preview.frame(dataclasses.replace(frame(track), received=time.monotonic(), dropped=track), [], {})
            preview.event(event(who=person(track, crop=crops[track % 20])))
        many = [person(track) for track in range(1, 31)]
        preview.frame(frame(31), boxes(*many), {one.track_id: one for one in many})
        for what, direction in (("entered", None), ("crossed", "in")):
            preview.zone(
                ZoneEvent(
                    kind=what,  # type: ignore[arg-type]
                    stream="street",
                    zone=f"<b>{what}</b>",
                    timestamp=1.0,
                    track_id=1,
                    direction=direction,  # type: ignore[arg-type]
                )
            )
        _wait(lambda: "<b>crossed</b>" in driver.find_element("id", "streams").text)
        rows = [row.text.split() for row in driver.find_elements("css selector", ".stream tbody tr")]
        assert [row[1:4] for row in rows] == [["1", "1", "0"], ["\u2013", "1", "0"]]
        figures = driver.find_element("css selector", ".figures").text.splitlines()
        assert figures[figures.index("In view") + 1] == "30"
        assert "broker" in driver.find_element("id", "problems").text
        loaded = "return [...document.querySelectorAll('#latest img')].filter(one => one.naturalWidth).length"
        driver.execute_script("document.getElementById('latest').scrollIntoView()")
        _wait(lambda: driver.execute_script(loaded) == 30)
        for name in ("#latest", ".people"):  # they scroll by themselves, and stay where they are while people change
            reach = "const list = document.querySelector(arguments[0]); return list.scrollHeight - list.clientHeight"
            assert driver.execute_script(reach, name) > 50
            driver.execute_script("document.querySelector(arguments[0]).scrollTop = 50", name)
        preview.event(event(who=person(31, crop=crops[0])))
        preview.frame(frame(32), boxes(*many[:-1]), {one.track_id: one for one in many})
        _wait(lambda: driver.execute_script(loaded) == 31)
        for name in ("#latest", ".people"):
            assert driver.execute_script("return document.querySelector(arguments[0]).scrollTop", name) > 0
        assert browser.sideways() <= 0
        assert browser.complaints() == []
    finally:
        preview.close()
        server.close()
        browser.open("about:blank")


def test_a_browser_reads_and_changes_with_the_token(browser: Browser) -> None:
    posted: list[bytes] = []

    def change(_rest: str, body: bytes) -> Answer:
        posted.append(body)
        return Answer(body=b"changed")

    preview, token = PreviewSink(), "correct+horse/battery"
    server = WebServer(preview.routes(), posts={"/change": change}, token=token, address="0.0.0.0", port=0)
    url = f"http://127.0.0.1:{server.url.rstrip('/').rpartition(':')[2]}/"
    try:
        driver = browser.open(url)
        assert "token" in driver.find_element("tag name", "body").text
        driver = browser.open(f"{url}?token={token}")
        _wait(lambda: "first frame" in driver.find_element("id", "state").text)
        assert driver.current_url == url
        assert driver.execute_script("return document.cookie") == ""
        driver.get("data:text/html,<title>another site</title>")
        driver.get(url)
        _wait(lambda: "first frame" in driver.find_element("id", "state").text)
        post = "return (await fetch('change', {method: 'POST', body: 'x=1'})).status"
        assert driver.execute_async_script(f"(async () => {{ {post} }})().then(arguments[0])") == 200
        assert posted == [b"x=1"]
    finally:
        preview.close()
        server.close()
        browser.open("about:blank")


def _wait(true: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.05)
