"""Runs GStreamer with the element and the test's own ones, in processes of the system's Python and gst-launch-1.0."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from seqpar_deploy.video.gstreamer.installation import examine, variables

PYTHON, ELEMENTS, TESTS = "/usr/bin/python3", Path(__file__).parent / "elements", Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "pipelines.py"
_DECODE = ("qtdemux", "h264parse", "avdec_h264")


@functools.cache
def lacking() -> str:
    """What keeps the element from running here, in one line. Empty if nothing does."""
    if not Path(PYTHON).exists() or not shutil.which("gst-launch-1.0"):
        return "GStreamer's programs are not installed; .ci/system installs them"
    if not (found := examine()).element:
        return found.problem or "GStreamer does not find the element"
    return _run([PYTHON, str(SCRIPT), "has", *_DECODE], {}).stderr.strip()


def launch(pipeline: str, registry: Path) -> subprocess.CompletedProcess[str]:
    """Run gst-launch-1.0 to its end."""
    return _run(["gst-launch-1.0", "--no-fault", *pipeline.split()], environment(registry))


def run(registry: Path, job: str, *arguments: object) -> list[dict[str, Any]]:
    """Run a job of pipelines.py, and return the lines of JSON that it prints."""
    done = _run([PYTHON, str(SCRIPT), job, *map(str, arguments)], environment(registry))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def environment(registry: Path) -> dict[str, str]:
    """The variables as `seqpar gst --plugin-path` prints them, with the test's elements and a registry of its own."""
    set_here = variables()
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("GST_")},
        "GST_REGISTRY": str(registry),
        "PATH": f"/usr/bin:{os.environ['PATH']}",  # an activated environment would give the loader its own paths
        "GST_PLUGIN_PATH": os.pathsep.join([set_here["GST_PLUGIN_PATH"], str(ELEMENTS)]),
        "PYTHONPATH": os.pathsep.join([set_here["PYTHONPATH"], str(TESTS)]),
        "OMP_WAIT_POLICY": "passive",
        "MALLOC_ARENA_MAX": "2",  # otherwise memory grows with the threads that come and go
    }


def _run(command: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    within = 300 if sys.gettrace() is None else 3000
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", check=False, timeout=within, env=variables or None
    )
