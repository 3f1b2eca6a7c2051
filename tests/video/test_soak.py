"""The soak, for seconds instead of an hour: it runs, and nothing piles up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seqpar_deploy.video.gstreamer.installation import examine

pytestmark = pytest.mark.heavy

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


def test_a_short_soak(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    command = [sys.executable, SOAK, "--minutes", "0.5", "--every", "1", "--streams", "2", "--out", out]
    done = subprocess.run([str(word) for word in command], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    values = json.loads(out.read_text())
    assert values["webhook_posts"] > 4
    for name in ("video", "element") if examine().element else ("video",):
        process = values["processes"][name]
        assert process["frames"] > 50
        assert abs(process["threads"]["last"] - process["threads"]["first"]) <= 12  # of a camera that came
        assert abs(process["files"]["last"] - process["files"]["first"]) <= 8
        late = [look[name]["resident_mb"] for look in values["looks"][len(values["looks"]) // 2 :]]
        assert late[-1] - late[0] < 60
