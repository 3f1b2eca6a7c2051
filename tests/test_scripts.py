"""Every script in benchmarks/ and examples/ answers --help, and does nothing then."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SCRIPTS = [
    path.relative_to(ROOT).as_posix()
    for folder in ("benchmarks", "examples")
    for path in sorted((ROOT / folder).glob("*.py"))
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
]

# One process for all scripts, which share the imports. Its arguments are the scripts.
RUN_ALL = """
import contextlib, io, json, os, runpy, subprocess, sys

def refuse(*arguments, **options):
    raise RuntimeError("a process was started")

scripts, found, subprocess.Popen = sys.argv[1:], {}, refuse
for script in scripts:
    sys.argv, sys.path[0], printed, error, code = [script, "--help"], os.path.dirname(script), io.StringIO(), None, None
    with contextlib.redirect_stdout(printed):
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as stopped:
            code = stopped.code
        except Exception as failure:
            error = repr(failure)
    found[script] = {"code": code, "error": error, "help": printed.getvalue(), "torch": "torch" in sys.modules}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers() -> Any:
    command = [sys.executable, "-c", RUN_ALL, *(str(ROOT / script) for script in SCRIPTS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_all_scripts_are_found() -> None:
    assert {"benchmarks/comparison.py", "benchmarks/gpu_check.py", "examples/demo.py"} <= set(SCRIPTS)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_does_nothing_else(script: str, answers: Any) -> None:
    answer = answers[str(ROOT / script)]
    assert (answer["error"], answer["code"]) == (None, 0)
    assert f"usage: {Path(script).name}" in answer["help"]
    assert len(answer["help"].split("\n\n")[1]) > 40  # what the script does
    assert not answer["torch"], "--help waits for torch; import it in the function that needs it"
