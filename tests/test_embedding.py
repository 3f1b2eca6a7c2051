"""Every example of docs/embedding.md: run as it stands but for the bundle and the video behind the names, and typed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from seqpar_deploy.resources import data_dir

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[1] / "docs" / "embedding.md"
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S))
PRINTED = {
    "Five lines": r"appeared 1: .*\n(.*\n)*ended 1: (.*\n?)*",
    "A callback, and your own frames": r"(\d+ \(.*\)\n){8,}",
    "A GStreamer appsink": r"appeared 1\n(.*\n)*ended 1\n(.*\n)*",
    "asyncio": r"appeared 1\n(.*\n)*ended 1\n(.*\n)*",
    "Your own detector": r"appeared \d.*\n(.*\n)*ended 9\.9\n[1-9]\d* crops recognised\n",
    "Your own tracker": r"appeared 1\n(.*\n)*ended 1\n(.*\n)*",
    "Your own sink": r"(ding .*\n|crowded at .*\n){8,}\d+ people\n",
    "Logging": "",
    "Errors": r"no video: nothing\.mp4 does not exist\n",
}
# Debian's GObject bindings, for the interpreter they were built for, which may be this one.
SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"


def test_every_example_is_run() -> None:
    assert set(EXAMPLES) == set(PRINTED)


@pytest.mark.parametrize("title", PRINTED)
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
    assert re.fullmatch(PRINTED[title], done.stdout), done.stdout


@pytest.mark.heavy
def test_the_examples_pass_mypy_strict(tmp_path: Path) -> None:
    """As a user of the installed package would check them; GStreamer's bindings have no types."""
    pytest.importorskip("mypy")
    files = []
    for number, (title, code) in enumerate(EXAMPLES.items()):
        if "import gi" not in code:
            files.append(tmp_path / f"example{number}.py")
            files[-1].write_text(f"# {title}\n{code}")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-incremental", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
