"""The soak, for seconds instead of an hour: it runs, and nothing piles up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_a_short_soak(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    command = [sys.executable, SOAK, "--minutes", "0.3", "--every", "1", "--streams", "2", "--out", out]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    values = json.loads(out.read_text())
    assert values["frames"] > 100
    assert values["events"] > 4
    assert abs(values["threads"]["last"] - values["threads"]["first"]) <= 2
    assert abs(values["files"]["last"] - values["files"]["first"]) <= 4
    late = values["looks"][len(values["looks"]) // 2 :]
    assert late[-1]["resident_mb"] - late[0]["resident_mb"] < 60
    assert values["after"]["threads"] < late[-1]["threads"]  # a runtime keeps its own
