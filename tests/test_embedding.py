"""Every example of docs/embedding.md, run as it stands but for the names of the bundle and the video."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from seqpar_deploy.resources import data_dir

PAGE = Path(__file__).parents[1] / "docs" / "embedding.md"
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S))
SAID = {
    "Five lines": r"appeared 1: .*\n(.*\n)*ended 1: (.*\n?)*",
    "A callback, and frames of your own": r"(\d+ \(.*\)\n){8,}",
    "A GStreamer appsink": r"appeared 1\n(.*\n)*ended 1\n(.*\n)*",
    "asyncio": r"appeared 1\n(.*\n)*ended 1\n(.*\n)*",
    "Parts of your own": r"ding .*\n\d+ crops recognised\n",
}
# Debian's GObject bindings; for the interpreter that they were built for, which this one may be too.
SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"


def test_every_example_is_run() -> None:
    assert set(EXAMPLES) == set(SAID)


@pytest.mark.parametrize("title", SAID)
def test_an_example_runs(title: str, bundle_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "street.mp4").symlink_to(data_dir("samples") / "vtest" / "street.mp4")
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "peta").symlink_to(bundle_dir)
    code = EXAMPLES[title]
    if "import gi" in code:
        code = f"import sys; sys.path.append({SYSTEM_PACKAGES!r})\n{code}"
        probe = code.partition("Gst.init")[0]
        if subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode:
            pytest.skip("GStreamer's bindings for this Python are not installed")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(SAID[title], done.stdout), done.stdout
