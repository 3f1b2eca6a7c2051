"""Pages as documents: well-formed, self-contained, and safe for every name."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from reports.examples import bench_result, parity_bundle, parity_report

from seqpar_deploy.preprocess import Crop
from seqpar_deploy.reports.bench_page import bench_page
from seqpar_deploy.reports.page import page, table
from seqpar_deploy.reports.parity_page import parity_page

HOSTILE = "<script>alert('x')</script>\"'&<img src=x onerror=alert(1)>\udcff"


class Checked(HTMLParser):
    """Reads a page, and fails at an element closed out of order. What it holds: texts, tags, addresses."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(document)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def crops() -> dict[int, Crop]:
    return {3: np.full((91, 46, 3), 90, np.uint8), 8: np.full((2000, 900, 3), 200, np.uint8)}  # 41 has none


@pytest.fixture(params=["speed", "parity", "passed"])
def document(request: pytest.FixtureRequest) -> str:
    if request.param == "speed":
        return bench_page(bench_result())
    return parity_page(parity_report(passed=request.param == "passed"), crops(), parity_bundle())


def test_is_one_well_formed_file_that_fetches_nothing(document: str) -> None:
    read = Checked(document)
    assert all(address.startswith("data:image/png;base64,") for address in read.addresses)
    assert not {"script", "link", "iframe"} & set(read.tags)
    assert not re.search(r"url\(|@import|https?:", document)
    for svg in re.findall(r"<svg.*?</svg>", document, flags=re.DOTALL):
        drawn = ElementTree.fromstring(svg)
        assert drawn.get("role") == "img"
        assert drawn.get("aria-label")
        assert "nan" not in svg


def test_speed_comes_first() -> None:
    text = Checked(bench_page(bench_result())).text
    first, best = 7084, 528  # ms, of variants 1 and 10; variant 12 is faster but returns other tokens
    assert re.match(rf"Benchmark {first / best:.1f} times .*published", text)
    assert re.search(r"other tokens on variant 12\b", text)
    assert "variants 2, 12" in Checked(bench_page(other_tokens(bench_result(), 2, 12))).text
    assert "528 ms bundle, OpenVINO, bf16, speculative" in text
    assert re.search(r"decoder step .*memory bandwidth", text)
    assert "no NVIDIA GPU was found" in text


def other_tokens(result: dict[str, Any], *variants: int) -> dict[str, Any]:
    for number in variants:
        result["variants"][number - 1]["identical"] = False
    return result


def accented(document: str) -> list[str]:
    """The first cells of the rows in the accent colour, and the names in the charts."""
    rows = re.findall(r'<tr class="best"><td>(\d+)</td>', document)
    return rows + re.findall(r'<g class="best"><text[^>]*>(\d+) ', document)


def test_the_accent_is_the_fastest_variants() -> None:
    result = bench_result()
    assert set(accented(bench_page(result))) == {"10"}  # 12 is faster but returns other tokens
    assert len(accented(bench_page(result))) == 5  # two tables, three charts
    result["variants"][11]["identical"] = True
    assert set(accented(bench_page(result))) == {"12"}
    assert accented(bench_page(other_tokens(result, *range(1, 13)))) == []


def test_numbers_agree_with_their_nouns() -> None:
    result = bench_result()
    result["machine"] = result["machine"] | {"cores": 1}
    result["settings"] = {"crops": 1, "runs": 1, "threads": 1}
    assert "1 core, 1 crop, 1 run, 1 thread," in Checked(bench_page(result)).text
    report = parity_report(passed=True) | {"crops": 1, "kinds": {"real": 1}}
    assert re.search(r"\b1 crop\b", Checked(parity_page(report, {}, {})).text)


def test_the_verdict_comes_first() -> None:
    failed = Checked(parity_page(parity_report(), crops(), parity_bundle()))
    assert re.match(r"Parity peta-fp16 .*not reproduce.* ✗ failed", failed.text)
    assert all(breach in failed.text for breach in parity_report()["breaches"])
    assert failed.text.index("not a tie") < failed.text.index("all black, 1 x 400")
    assert failed.tags.count("img") == 2
    passed = Checked(parity_page(parity_report(passed=True), {}, parity_bundle()))
    assert re.match(r"Parity peta-fp16 reproduces .*✓ passed", passed.text)
    assert "✗" not in passed.text


def test_checks_are_counted_by_their_status() -> None:
    report = parity_report(passed=True)
    report["checks"][3] |= {"status": "skipped", "detail": "one row at a time"}
    text = Checked(parity_page(report, {}, {})).text
    assert "Checks: all 7 passed, 1 skipped" in text
    assert text.index("skipped one row at a time") < text.index("the same bytes")
    report["checks"][0]["status"] = "failed"
    assert "Checks: 1 of 8 failed, 1 skipped" in Checked(parity_page(report, {}, {})).text


def test_a_difference_that_is_not_a_number_exceeds() -> None:
    text = Checked(parity_page(parity_report(passed=True) | {"log_prob_max": math.nan}, {}, {})).text
    assert "largest ✗ exceeded nan 0.5" in text


def hostile(value: Any) -> Any:
    """The same with every text made dangerous, and a key more in every dictionary."""
    if isinstance(value, str):
        return value + HOSTILE
    if isinstance(value, dict):
        return {key: hostile(part) for key, part in value.items()} | {HOSTILE: 0.5}
    return [hostile(part) for part in value] if isinstance(value, list) else value


def test_names_never_become_markup() -> None:
    for document in (
        bench_page(hostile(bench_result())),
        parity_page(hostile(parity_report()), crops(), hostile(parity_bundle())),
        page(HOSTILE, table((HOSTILE,), [(HOSTILE,)], label=HOSTILE)),
    ):
        read = Checked(document)
        document.encode("utf-8")
        assert "script" not in read.tags
        assert all(address.startswith("data:") for address in read.addresses)
        assert "<script>alert('x')</script>" in read.text


def without(value: Any) -> Any:
    """Every document that lacks one part, or has None for it, down to the parts of a list's first entry."""
    for key in list(value):
        yield {name: part for name, part in value.items() if name != key}
        yield value | {key: None}
        part = value[key]
        if isinstance(part, dict) and part:
            yield from (value | {key: less} for less in without(part))
        if isinstance(part, list) and part and isinstance(part[0], dict):
            yield value | {key: []}
            yield from (value | {key: [less, *part[1:2]]} for less in without(part[0]))


def test_parts_may_be_missing() -> None:
    result = bench_result()
    result["variants"] = result["variants"][:2]
    for less in (
        *without(result),
        {},
        {"variants": [{}]},
        {"variants": [{"identical": True, "seconds": [0.5], "p50": 0.5}]},
    ):
        Checked(bench_page(less))
    for less in (*without(parity_report()), {}):
        Checked(parity_page(less, {}, {}))


def test_times_far_apart_are_drawn_on_a_logarithmic_scale() -> None:
    result = bench_result()
    assert "logarithmic" not in bench_page(result).split("Every run", 1)[0]
    result["variants"][0]["p50"] = 1000.0
    assert "logarithmic" in bench_page(result).split("Every run", 1)[0]


def test_the_difference_of_probabilities_is_shown_where_a_report_has_it() -> None:
    words = "in an attribute's probability"
    assert words not in Checked(parity_page(parity_report(passed=True), {}, {})).text  # of an older version
    text = Checked(parity_page(parity_report(passed=True) | {"probability_max": 0.0125}, {}, {})).text
    assert "largest difference 0.0125 " + words in text
