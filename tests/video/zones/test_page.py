"""The page that draws zones: its routes, and in Chromium real drags, keys and fingers."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser

from seqpar_deploy.cli.video.config import parse_config
from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.sinks.server import WebServer
from seqpar_deploy.video.zone_page.page import ZonePage
from seqpar_deploy.video.zones.settings import SceneSettings

pytest.importorskip("tomlkit")

FILE = """\
bundle = "bundle"

[cameras.gate]
address = "1"  # on the desk

# counted for the council
[cameras.gate.lines.door]
interval = 900  # a quarter of an hour
points = [[96, 288], [672, 288]]  # in pixels

[cameras.yard]
address = "2"
"""
TOKEN = "a-token-of-the-test"
PICTURE = np.full((576, 768, 3), 110, np.uint8)
DESK, PHONE = (1280, 900), (390, 844)


class Drawing:
    """A page that is served."""

    def __init__(self, path: Path) -> None:
        self.path, self.saves = path, 0
        self.page = ZonePage(path, "gate", self.read, PICTURE, on_saved=self._saved)
        self.server = WebServer(self.page.routes(), posts=self.page.posts(), token=TOKEN, port=0)
        self.url = f"{self.server.url}?token={TOKEN}"

    def read(self, content: bytes) -> SceneSettings:
        return parse_config(content, self.path).cameras["gate"].scene

    @property
    def scene(self) -> SceneSettings:
        return self.read(self.path.read_bytes())

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.server.url}{path}", timeout=10) as answer:
            return json.loads(answer.read())

    def post(self, values: object, token: str | None = TOKEN) -> tuple[int, str]:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        request = urllib.request.Request(f"{self.server.url}save", json.dumps(values).encode(), headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def _saved(self) -> None:
        self.saves += 1


@pytest.fixture
def drawing(tmp_path: Path) -> Iterator[Drawing]:
    path = tmp_path / "cameras.toml"
    path.write_text(FILE, encoding="utf-8")
    found = Drawing(path)
    yield found
    found.server.close()


def door(**values: object) -> dict[str, object]:
    return {"kind": "lines", "name": "door", "was": "door", "points": None, **values}


def test_the_scene_is_given_in_shares(drawing: Drawing) -> None:
    scene = drawing.get("scene.json")
    assert scene["size"] == [768, 576]
    assert scene["shapes"] == [{"kind": "lines", "name": "door", "points": [[0.125, 0.5], [0.875, 0.5]]}]


def test_a_file_that_was_broken_meanwhile_is_named(drawing: Drawing) -> None:
    drawing.path.write_text(FILE.replace("points =", "points"))
    with pytest.raises(urllib.error.HTTPError) as caught:
        drawing.get("scene.json")
    with caught.value as answer:
        assert answer.code == 500
        assert b"cameras.toml" in answer.read()


def test_saving_changes_the_file_and_keeps_its_comments(drawing: Drawing) -> None:
    drawing.path.chmod(0o600)
    version = drawing.get("scene.json")["version"]
    status, text = drawing.post({"version": version, "shapes": [door(points=[[0.25, 0.5], [0.75, 0.5]])]})
    assert status == 200
    content = drawing.path.read_text()
    assert content == FILE.replace("[[96, 288], [672, 288]]", "[[0.25, 0.5], [0.75, 0.5]]")
    assert drawing.path.stat().st_mode & 0o777 == 0o600
    assert json.loads(text)["version"] != version
    assert drawing.saves == 1
    assert [one.name for one in drawing.path.parent.iterdir()] == ["cameras.toml"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "cameras.toml"
    real.write_text(FILE)
    link.symlink_to(real)
    found = Drawing(link)
    found.server.close()
    body = {"version": _version(found), "shapes": []}
    found.page.posts()["/save"]("", json.dumps(body).encode())
    assert link.is_symlink()
    assert "lines" not in real.read_text()


def _version(found: Drawing) -> str:
    answer = found.page.routes()["/scene.json"]("")
    assert answer is not None
    assert isinstance(answer.body, bytes)
    return str(json.loads(answer.body)["version"])


def test_a_file_that_has_changed_is_not_overwritten(drawing: Drawing) -> None:
    version = drawing.get("scene.json")["version"]
    drawing.path.write_text(changed := FILE.replace("900", "60"))
    status, text = drawing.post({"version": version, "shapes": []})
    assert (status, "changed" in text) == (409, True)
    assert drawing.path.read_text() == changed


@pytest.mark.parametrize("token", [None, "another-token-than-this"])
def test_nothing_is_saved_without_the_token(drawing: Drawing, token: str | None) -> None:
    status, _ = drawing.post({"version": drawing.get("scene.json")["version"], "shapes": []}, token)
    assert status in (401, 403)
    assert drawing.path.read_text() == FILE


@pytest.mark.parametrize(
    ("shapes", "word"),
    [
        ([door(points=[[0.5, 0.5], [0.5, 0.5]])], "two different"),
        ([door(points=[[0.5, 0.5]])], "two different"),
        ([door(points=[[0.5, 0.5], [-0.5, 0.5]])], "-0.5"),
        ([door(name="")], "name"),
        ([door(), door(kind="zones", was=None, points=[[0, 0], [1, 0], [1, 1]])], "differ"),
        ([door(kind="places")], "zones"),
        ("all", "shapes"),
    ],
)
def test_what_is_not_valid_is_not_saved(drawing: Drawing, shapes: object, word: str) -> None:
    status, text = drawing.post({"version": drawing.get("scene.json")["version"], "shapes": shapes})
    assert status == 400
    assert word in text
    assert len(text.splitlines()) == 1
    assert drawing.path.read_text() == FILE


def test_a_file_that_is_not_valid_has_no_page(tmp_path: Path) -> None:
    (tmp_path / "cameras.toml").write_text(FILE.replace("[672, 288]", "[96, 288]"))
    with pytest.raises(VideoError, match=r"cameras\.gate\.lines\.door"):
        Drawing(tmp_path / "cameras.toml")


def _wait(true: Callable[[], object], seconds: float = 8, said: Callable[[], str] | None = None) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"it did not come to pass: {said() if said else ''}"
        time.sleep(0.05)


def state(driver: Any) -> str:
    return str(driver.find_element("id", "state").text)


def opened(browser: Browser, drawing: Drawing, size: tuple[int, int] = DESK) -> Any:
    driver = browser.open(drawing.url, *size)
    _wait(lambda: driver.find_elements("css selector", '[data-at="0.0"]'))
    _wait(lambda: driver.execute_script("return document.getElementById('picture').complete"))
    return driver


def drag(driver: Any, at: str, dx: float, dy: float, kind: str = "mouse") -> None:
    """Press on a point, move and release. The way is in shares of the frame."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    stage = driver.find_element("id", "stage").rect
    handle = driver.find_element("css selector", f'[data-at="{at}"]')
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", handle)
    if kind == "mouse":
        right, down = round(dx * stage["width"]), round(dy * stage["height"])
        actions = ActionChains(driver, duration=50).click_and_hold(handle)
        actions.move_by_offset(right // 2, down).move_by_offset(right - right // 2, 0).release().perform()
        return
    finger = ActionBuilder(driver, mouse=PointerInput("touch", "finger"), duration=50)
    finger.pointer_action.move_to(handle).pointer_down()
    finger.pointer_action.move_by(round(dx * stage["width"]), round(dy * stage["height"])).pointer_up()
    finger.perform()


@pytest.mark.slow
@pytest.mark.parametrize(("size", "kind"), [(DESK, "mouse"), (PHONE, "touch")], ids=["desk", "phone"])
def test_a_dragged_point_is_saved(browser: Browser, drawing: Drawing, size: tuple[int, int], kind: str) -> None:
    driver = opened(browser, drawing, size)
    assert TOKEN not in driver.current_url
    assert not driver.find_element("id", "save").is_enabled()
    drag(driver, "0.0", 0.125, 0.25, kind)
    _wait(lambda: "Not saved" in state(driver))
    driver.find_element("id", "save").click()
    _wait(lambda: drawing.saves, said=lambda: state(driver))
    (left, right) = drawing.scene.lines["door"].points
    assert left == pytest.approx((0.25, 0.75), abs=0.01)
    assert right == (0.875, 0.5)
    assert "interval = 900  # a quarter of an hour" in drawing.path.read_text()
    _wait(lambda: "Saved" in state(driver))
    assert browser.complaints() == []
    assert browser.sideways() <= 0


@pytest.mark.slow
def test_a_zone_is_added_named_shaped_and_taken_away(browser: Browser, drawing: Drawing) -> None:
    driver = opened(browser, drawing)
    driver.find_element("id", "add-zones").click()
    name = driver.find_element("id", "name-1")
    name.clear()
    name.send_keys("hall")
    drag(driver, "1+1", 0.0, -0.2)  # the middle of its upper edge becomes a point
    drag(driver, "1.3", 0.1, 0.1)
    driver.find_element("id", "save").click()
    _wait(lambda: drawing.saves == 1 and "Saved." in state(driver))
    points = drawing.scene.zones["hall"].points
    assert len(points) == 5
    assert points[1] == pytest.approx((0.5, 0.2), abs=0.01)
    assert points[3] == pytest.approx((0.75, 0.8), abs=0.01)
    driver.find_element("css selector", "#shapes .zones button").click()
    driver.find_element("id", "save").click()
    _wait(lambda: drawing.saves == 2)
    assert drawing.path.read_text() == FILE


@pytest.mark.slow
def test_the_keyboard_moves_adds_and_removes_points(browser: Browser, drawing: Drawing) -> None:
    from selenium.webdriver.common.keys import Keys

    driver = opened(browser, drawing)
    driver.find_element("id", "add-masks").send_keys(Keys.ENTER)
    focused = "return document.activeElement.dataset.at"
    assert driver.execute_script(focused) == "1.0"
    for _ in range(3):
        driver.switch_to.active_element.send_keys(Keys.SHIFT, Keys.ARROW_RIGHT)
    driver.switch_to.active_element.send_keys(Keys.NULL, Keys.ARROW_UP)
    assert "Point 1 of mask-1" in state(driver)
    driver.find_element("css selector", '[data-at="1+1"]').send_keys(Keys.ENTER)
    assert driver.execute_script(focused) == "1.1"
    driver.find_element("css selector", '[data-at="1.3"]').send_keys(Keys.DELETE)
    assert driver.execute_script(focused) == "1.2"
    driver.find_element("id", "save").send_keys(Keys.ENTER)
    _wait(lambda: drawing.saves and "Saved." in state(driver))
    points = drawing.scene.masks["mask-1"].points
    assert points[0] == pytest.approx((0.35 + 30 / 768, 0.4 - 1 / 768), abs=0.0005)
    assert len(points) == 4
    driver.find_element("css selector", '[data-at="0.0"]').send_keys(Keys.DELETE)
    assert "needs 2 points" in state(driver)


@pytest.mark.slow
def test_nothing_can_be_edited_while_it_is_saved(browser: Browser, drawing: Drawing) -> None:
    driver = opened(browser, drawing)
    drag(driver, "0.0", 0.125, 0.25)
    driver.execute_script("ask = fetch; fetch = (...call) => new Promise(go => { answer = () => go(ask(...call)); })")
    driver.find_element("id", "save").click()
    for part in ("adds", "stage", "shapes"):
        assert driver.execute_script("return document.getElementById(arguments[0]).inert", part)
    assert not driver.find_element("id", "undo").is_enabled()
    driver.execute_script("answer()")
    _wait(lambda: "Saved." in state(driver))
    drag(driver, "0.1", -0.2, 0.1)
    assert driver.find_element("id", "save").is_enabled()
    driver.execute_script("shapes = JSON.parse(saved)")  # or the page asks before it is left


@pytest.mark.slow
def test_the_focus_stays_on_its_point_where_the_page_changes(browser: Browser, drawing: Drawing) -> None:
    driver = opened(browser, drawing)
    driver.execute_script("document.querySelector('[data-at=\"0.1\"]').focus()")
    driver.execute_script("before = drawing.firstChild; stage.style.width = '300px'")
    _wait(lambda: driver.execute_script("return drawing.firstChild !== before"))
    assert driver.execute_script("return document.activeElement.dataset.at") == "0.1"


@pytest.mark.slow
def test_undo_and_a_file_that_has_changed(browser: Browser, drawing: Drawing) -> None:
    driver = opened(browser, drawing)
    drag(driver, "0.1", -0.2, 0.1)
    _wait(lambda: "Not saved" in state(driver))
    driver.find_element("id", "undo").click()
    assert not driver.find_element("id", "save").is_enabled()
    drag(driver, "0.1", -0.2, 0.1)
    drawing.path.write_text(FILE + "# by another\n")
    driver.find_element("id", "save").click()
    _wait(lambda: "has changed" in state(driver))
    assert driver.find_element("id", "save").is_enabled()
    assert drawing.path.read_text() == FILE + "# by another\n"
    browser.complaints()  # the refusal
    driver.execute_script("shapes = JSON.parse(saved)")  # or the page asks before it is left


@pytest.mark.slow
def test_names_that_cannot_be_saved_are_told(browser: Browser, drawing: Drawing) -> None:
    driver = opened(browser, drawing)
    driver.find_element("id", "add-zones").click()
    name = driver.find_element("id", "name-1")
    name.clear()
    name.send_keys("door")
    assert "door" in state(driver)
    assert not driver.find_element("id", "save").is_enabled()
    name.send_keys("<b>2")
    assert driver.find_element("id", "save").is_enabled()
    driver.find_element("id", "save").click()
    _wait(lambda: drawing.saves and "Saved." in state(driver))
    assert list(drawing.scene.zones) == ["door<b>2"]
    assert "door<b>2" in driver.find_element("css selector", "#drawing .zones text").text
