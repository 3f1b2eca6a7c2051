"""Pages in Chromium, on a wide and on a narrow screen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from browser import Browser
from reports.examples import bench_result, parity_bundle, parity_report

from seqpar_deploy.preprocess import Crop
from seqpar_deploy.reports.bench_page import bench_page
from seqpar_deploy.reports.parity_page import parity_page

pytestmark = pytest.mark.slow

MEASURED = Path(__file__).parents[2] / "benchmarks" / "results" / "comparison-x86_64-cpu.json"
DESK, PHONE = (1280, 900), (390, 844)
# Finds texts of charts that leave the page or overlap.
_CLASHES = """
const found = [];
for (const svg of document.querySelectorAll("svg")) {
  const boxes = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
  for (const [words, a] of boxes) {
    if (a.left < 0 || a.right > document.documentElement.clientWidth) found.push(words + " leaves the page");
    for (const [others, b] of boxes)
      if (a !== b && a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 5 && b.top < a.bottom - 5)
        found.push(words + " over " + others);
  }
}
return found;
"""
# Finds numbers in the roofline that cover a point of it.
_COVERED_POINTS = """
const found = [], chart = document.querySelector("svg[aria-label^=Roofline]");
for (const text of chart?.querySelectorAll("text") ?? [])
  for (const point of chart.querySelectorAll("circle, rect")) {
    const a = text.getBoundingClientRect(), b = point.getBoundingClientRect();
    if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 4 && b.top < a.bottom - 4)
      found.push(text.textContent + " over " + point.textContent);
  }
return found;
"""
# Finds tables wider than the box around them that cannot be scrolled.
_TABLES_CUT_OFF = """
return [...document.querySelectorAll(".scroll")].filter(box => {
  box.scrollLeft = 9999;
  const rest = box.scrollWidth - box.clientWidth - box.scrollLeft;
  box.scrollLeft = 0;
  return rest > 1;
}).map(box => box.ariaLabel);
"""


@pytest.fixture(scope="module")
def pages(crops: list[Crop], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("reports")
    documents = {
        "speed": bench_page(bench_result()),
        "measured": bench_page(json.loads(MEASURED.read_text(encoding="utf-8"))),
        "parity": parity_page(parity_report(), dict(enumerate(crops)), parity_bundle()),
    }
    for name, document in documents.items():
        (folder / f"{name}.html").write_text(document, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in documents}


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("name", ["speed", "measured", "parity"])
def test_reads_well(browser: Browser, pages: dict[str, Path], name: str, size: tuple[int, int]) -> None:
    driver = browser.open(pages[name], *size)
    assert browser.sideways() <= 0
    assert browser.complaints() == []
    assert driver.execute_script(_CLASHES) == []
    assert driver.execute_script(_COVERED_POINTS) == []
    assert driver.execute_script(_TABLES_CUT_OFF) == []
    # The answer is on the first screen.
    for selector in ("h1", ".badge", ".tiles"):
        box = driver.find_element("css selector", selector).rect
        assert box["height"] > 0
        assert box["y"] + box["height"] <= size[1]
    words = driver.find_element("tag name", "body").text
    assert ("person-09-f0478.png" if name == "parity" else "PyTorch, as published") in words
    broken = "return [...document.images].filter(image => !image.naturalWidth).length"
    assert driver.execute_script(broken) == 0


def test_long_names_stay_on_the_page(browser: Browser, tmp_path: Path) -> None:
    result, report = bench_result(), parity_report()
    long = "x" * 400
    result["variants"][0]["description"] = result["bundle"]["label_set"] = result["skipped"][0]["why"] = long
    report["divergences"][0]["name"] = report["divergences"][0]["got_attributes"][0] = report["breaches"][0] = long
    for document in (bench_page(result), parity_page(report, {}, {"name": long})):
        (tmp_path / "page.html").write_text(document, encoding="utf-8")
        browser.open(tmp_path / "page.html", *PHONE)
        assert browser.sideways() <= 0


def test_is_dark_where_the_system_is(browser: Browser, pages: dict[str, Path]) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = browser.open(pages["speed"], *DESK).execute_script(paper)
    dark = browser.open(pages["speed"], *DESK, dark=True).execute_script(paper)
    assert light == "rgb(255, 255, 255)"
    assert dark == "rgb(20, 24, 28)"
