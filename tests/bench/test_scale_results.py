"""The tables of docs/scale.md against benchmarks/results/scale.json."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
RESULT: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "scale.json").read_text(encoding="utf-8"))


def rows(start: str) -> list[list[str]]:
    """The cells of the table that begins with a line."""
    table = PAGE.partition(f"\n{start}\n")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]


def number(cell: str) -> float:
    return float(re.sub(r"[^\d.]", "", cell))


def test_rates() -> None:
    shown = {name.split(",")[0]: rate for name, rate in rows("| precision | crops per second per core |")}
    for name, rate in RESULT["sizing"]["crops_per_second_per_core"].items():
        assert number(shown[name]) == rate
    assert "not measured" in shown["NVIDIA GPU"]


def test_bytes() -> None:
    found = rows("| crops | median height | raw RGB | JPEG, quality 90 | JPEG, quality 75 | PNG |")
    for cells, counted in zip(found, RESULT["bytes"].values(), strict=True):
        values = [counted[key] for key in ("crops", "median_height", "raw", "jpeg_90", "jpeg_75", "png")]
        assert list(map(number, cells)) == values


def test_waiting() -> None:
    found = rows("| load | wait, p99 | answer, median | answer, p99 |")
    assert len(found) >= 4
    for cells in found:
        simulated = RESULT["sizing"]["one server"][cells[0]]
        for cell, key in zip(cells[1:], ("wait_p99", "latency_median", "latency_p99"), strict=True):
            assert number(cell) == pytest.approx(simulated[key], abs=0.006)


def test_the_check() -> None:
    found = rows("| load | measured: median | p99 | simulated: median | p99 |")
    for cells, run in zip(found, RESULT["check"]["runs"], strict=True):
        own = run["simulated with the run's own service times"]
        values = [run["load"], *(1000 * each[name] for each in (run["measured"], own) for name in ("median", "p99"))]
        assert list(map(number, cells)) == pytest.approx(values, abs=0.06)


def test_sizes() -> None:
    sizing = RESULT["sizing"]
    (cores,) = (cells for cells in rows("| | 500 cameras | 100,000,000 crops |") if "all of the time" in cells[0])
    rate = sizing["crops_per_second"]
    assert number(cores[1]) == pytest.approx(rate / sizing["crops_per_second_per_core"]["int8 with fallback"], rel=0.01)
    assert number(cores[2]) == sizing["archive_core_hours"]
