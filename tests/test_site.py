"""The documentation site: it builds without a warning, loads nothing from elsewhere, and has a page for everything."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from browser import Browser

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
# Elements that make a browser load something, by an address on another host.
LOADS = re.compile(r"<(?:script|link|img|iframe|source|video)\b[^>]*?\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
STYLE_LOADS = re.compile(r"(?:url\(\s*[\"']?|@import\s+[\"'])(?:https?:)?//")


def _reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs" / "_tools" / "reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


REFERENCE = _reference()
COMMANDS = {page.title: page for page in REFERENCE.command_pages().walk()}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    pytest.importorskip("mkdocs")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    """Address of the site on a local server."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def html(site: Path, page: str) -> str:
    return (site / page).with_suffix(".html").read_text(encoding="utf-8")


@pytest.mark.parametrize("title", COMMANDS)
def test_every_command_has_its_page(title: str, site: Path) -> None:
    page = COMMANDS[title]
    shown = html(site, page.path)
    assert f">{title}<" in shown or f"{title}<a" in shown
    assert ">Examples<" in shown
    for parameter in page.command.get_params(page.context):
        for option in getattr(parameter, "opts", []):
            if option.startswith("--"):
                assert option in shown


@pytest.mark.parametrize("package", REFERENCE.PACKAGES)
def test_every_public_name_has_its_place(package: str, site: Path) -> None:
    shown = html(site, REFERENCE.api_path(package))
    names = REFERENCE.public_names(package)
    assert names
    assert [name for name in names if f'id="{package}.{name}"' not in shown] == []


def test_every_package_with_public_names_has_a_page() -> None:
    modules = {
        ".".join(path.relative_to(ROOT).parent.parts)
        for path in (ROOT / "seqpar_deploy").rglob("__init__.py")
        if "\n__all__" in path.read_text(encoding="utf-8")
    }
    assert modules == set(REFERENCE.PACKAGES)


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(pages) > 40
    assert styles
    found = [(page.name, match.group()) for page in pages for match in LOADS.finditer(page.read_text(encoding="utf-8"))]
    assert found == []
    assert [style.name for style in styles if STYLE_LOADS.search(style.read_text(encoding="utf-8"))] == []


def test_loads_can_be_found() -> None:
    assert LOADS.search('<link rel="stylesheet" href="https://fonts.example/css">')
    assert LOADS.search("<script src=//cdn.example/x.js>")
    assert not LOADS.search('<a href="https://arxiv.org/abs/2312.01640">')


def test_llms_txt_leads_to_pages(site: Path) -> None:
    text = (site / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# seqpar-deploy\n\n> ")
    paths = re.findall(r"^- \[.+?\]\(([^)]+)\)", text, re.MULTILINE)
    assert len(paths) > 40
    assert [path for path in paths if not (site / path).is_file()] == []
    for section in ("Tutorials", "How-to guides", "Reference", "Explanation"):
        assert f"\n## {section}\n" in text


def test_the_navigation_leads_to_every_page(served: str, browser: Browser) -> None:
    driver = browser.open(served + "index.html")
    tabs = [tab.text for tab in driver.find_elements("css selector", ".md-tabs__link")]
    assert tabs[1:] == ["Tutorials", "How-to guides", "Reference", "Explanation"]
    seen: set[str] = set()
    for tab in tabs[1:]:
        driver.find_element("link text", tab).click()
        _wait(lambda tab=tab: driver.find_element("css selector", ".md-tabs__item--active").text == tab)
        assert driver.find_element("css selector", "article h1").text
        links = driver.find_elements("css selector", ".md-sidebar--primary a.md-nav__link")
        seen |= {link.get_attribute("href").partition("#")[0] for link in links}
        assert browser.complaints() == []
    for path in (*(page.path for page in COMMANDS.values()), *map(REFERENCE.api_path, REFERENCE.PACKAGES)):
        assert served + path.removesuffix(".md") + ".html" in seen
    status = "return (async () => (await fetch(arguments[0])).status)()"
    assert {driver.execute_script(status, address) for address in sorted(seen)} == {200}


def test_pages_load_only_from_the_site(served: str, browser: Browser) -> None:
    for page in ("index.html", "reference/commands/video.html", "reference/api/seqpar_deploy.video.html"):
        driver = browser.open(served + page)
        names = driver.execute_script("return performance.getEntriesByType('resource').map(each => each.name)")
        assert names
        assert [name for name in names if not name.startswith((served, "data:"))] == []
        assert browser.complaints() == []


@pytest.mark.parametrize("from_disk", [False, True], ids=["server", "disk"])
def test_a_word_is_found(served: str, site: Path, browser: Browser, from_disk: bool) -> None:
    driver = browser.open(site / "index.html" if from_disk else served + "index.html")
    field = driver.find_element("css selector", "[data-md-component=search-query]")
    driver.find_element("css selector", "label.md-search__icon, .md-search__form").click()
    field.send_keys("seqpar_sink_missed_total")
    found = "a.md-search-result__link"
    _wait(lambda: driver.find_elements("css selector", found))
    links = [link.get_attribute("href") for link in driver.find_elements("css selector", found)]
    assert any("reference/metrics.html" in link for link in links), links
    driver.get(next(link for link in links if "reference/metrics.html" in link))
    assert driver.find_element("css selector", "article h1").text.startswith("Metrics")
    assert browser.complaints() == []


@pytest.mark.parametrize(
    "page", ["index", "reference/commands/video", "reference/metrics", "reference/api/seqpar_deploy"]
)
def test_a_page_fits_a_phone(page: str, served: str, browser: Browser) -> None:
    browser.open(f"{served}{page}.html", 390, 844)
    assert browser.sideways() <= 0


def test_the_markdown_of_a_page_lies_beside_it(site: Path) -> None:
    text = (site / "reference" / "events.md").read_text(encoding="utf-8")
    assert json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0])["schema"] == 2


def _wait(done: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "the browser took too long"
        time.sleep(0.05)
