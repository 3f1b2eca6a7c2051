"""The benchmark of streams per core: its search for the number, and a short run."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PATH = Path(__file__).parents[2] / "benchmarks" / "streams_per_core.py"


@pytest.fixture(scope="module")
def benchmark() -> Any:
    spec = importlib.util.spec_from_file_location("streams_per_core", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["streams_per_core"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("capacity", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("load", [0.08, 0.2, 0.9, 2.0])  # by which the estimate may be too high or too low
def test_the_search_finds_the_number_that_is_carried(benchmark: Any, capacity: int, load: float) -> None:
    tried: list[int] = []

    def trial(streams: int) -> dict[str, Any]:
        tried.append(streams)
        return {"carried": streams <= capacity, "cores_used": load * streams}

    found = benchmark.search(trial, 8)
    assert found["streams"] == min(capacity, 8)
    assert len(tried) == len(set(tried)) == len(found["trials"])
    assert max(tried) <= 8


@pytest.mark.parametrize(
    ("change", "carried"),
    [({}, True), ({"dropped": 1}, False), ({"decoded_share": 0.9}, False), ({"latency": {"p95": 0.6}}, False)],
)
def test_what_is_carried(benchmark: Any, change: dict[str, Any], carried: bool) -> None:
    values = {"dropped": 0, "decoded_share": 1.0, "latency": {"p95": 0.1}} | change
    assert benchmark.is_carried(values, 0.5) is carried


@pytest.mark.heavy
def test_a_short_run(bundle_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "streams.json"
    words = ["--rates", "5", "--most", "1", "--warm", "4", "--seconds", "4", "--size", "384x288", "--bundle"]
    done = subprocess.run([sys.executable, PATH, *words, bundle_dir, "--out", out], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    values = json.loads(out.read_text())
    assert values["stream"]["size"] == [384, 288]
    trial = values["rates"]["5"]["trials"]["1"]
    assert 3 < trial["analysed_per_second_and_stream"] < 6
    assert trial["people_per_frame"] > 1
    assert set(trial["ms_per_call"]) >= {"decode", "detect", "track", "recognize"}
