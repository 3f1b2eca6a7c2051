"""The demo from the wheel, in an environment of its own without PyTorch, outside the checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]


def test_the_demo_runs_from_the_wheel_without_pytorch(tmp_path: Path) -> None:
    for words in (
        ["tools/build_wheel.py", "--out", tmp_path],
        ["benchmarks/first_minutes.py", "--constraint", "constraints.txt", "--out", tmp_path / "result.json"],
    ):
        wheel = list(tmp_path.glob("*.whl"))
        words += ["--wheel", *wheel] if wheel else []
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, *map(str, words)], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "result.json").read_text())  # the time is not checked: the machine may be busy
    assert found["people_printed"] == 20
    assert "torch" in found["absent"]
    assert "torch" not in found["packages"]
    assert found["wheel"]["bytes"] <= 40_000_000
