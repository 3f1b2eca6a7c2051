"""Ctrl-C and SIGTERM in the middle of an export: one line, exit code 130, and nothing left behind.

The state after `kill -9` is tested in tests/test_bundle.py.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("number", "stage"),
    [
        (signal.SIGINT, "loading the checkpoint"),
        (signal.SIGINT, "exporting the encoder"),
        (signal.SIGTERM, "exporting the decoder step"),
    ],
)
def test_an_interrupted_export_leaves_nothing(
    tmp_path: Path, checkpoint_file: Path, number: signal.Signals, stage: str
) -> None:
    program = Path(sys.executable).with_name("seqpar-export")
    command = [program, "checkpoint", checkpoint_file, "--out", tmp_path / "bundle"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as export:
        assert export.stderr is not None
        before = next(line for line in export.stderr if line.startswith(stage))
        export.send_signal(number)
        after = export.stderr.read().splitlines()
    assert before == f"{stage} ...\n"
    assert export.returncode == 130
    (line,) = (line for line in after if " ... " not in line)
    assert "interrupted" in line
    assert list(tmp_path.iterdir()) == []
