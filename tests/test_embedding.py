"""Python examples of the pages: run as they stand but for the bundle and the files behind the names, and typed."""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from serving.kserve import FakeServer

from seqpar_deploy.resources import data_dir

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *(path for path in sorted(ROOT.glob("docs/**/*.md")) if "reference" not in path.parts)]
SECTION = re.compile(r"^## ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```$", re.M | re.S)
EXAMPLES = {title: code for page in PAGES for title, code in SECTION.findall(page.read_text(encoding="utf-8"))}
ATTRIBUTES = r"(\S+ [01]\.\d\d\n)+"
NOT_RUN = {"Read a dataset in Python", "Zero-shot splits", "MSP60K without its JSON"}  # datasets that are not here
NOT_RUN |= {"Send requests"}  # a true server: serving/triton has the same requests
PRINTED = {
    "Three things to do": r"appeared 1: .*\n(.*\n)*ended 1: (.*\n?)*",
    "6. Use it in Python": ATTRIBUTES,
    "Use it": r"(\w+\n){2}",
    "What a prediction holds": "",
    "Read the states in Python": r"(\S+: (yes|no|unknown) \([01]\.\d\d\)\n)+",
    "Five lines": r"appeared 1: .*\n(.*\n)*ended 1: (.*\n?)*",
    "A callback, and your own frames": r"(\d+ \(.*\)\n){8,}",
    "A GStreamer appsink": r"appeared \d+\n(.*\n)*ended \d+\n(.*\n)*",
    "asyncio": r"appeared \d+\n(.*\n)*ended \d+\n(.*\n)*",
    "Your own detector": r"appeared \d.*\n(.*\n)*ended 9\.9\n[1-9]\d* crops recognised\n",
    "Your own tracker": r"appeared \d+\n(.*\n)*ended \d+\n(.*\n)*",
    "Your own sink": r"(ding .*\n|crowded at .*\n){8,}\d+ people\n",
    "Logging": "",
    "In Python": r"appeared \d+\n(.*\n)*ended \d+\n(.*\n)*",
    "An ONNX file": "",
    "Webhook": "",
    "Keep attributes out": r"22 attributes are left\n",
    "A server in Python": r"appeared 1 .*\n(.*\n)*ended \d+ .*\n(.*\n)*",
    "A server and a bundle in Python": r"pa100k False\n",
    "Errors": r"no video: nothing\.mp4 .*\n",
}
SERVER = "http://gpu-server:8000"
# Debian's GObject bindings, for the interpreter they were built for, which may be this one.
SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"


def test_every_example_is_run() -> None:
    """Each section has one example at most: a second one would not be found."""
    written = sum(page.read_text(encoding="utf-8").count("```python\n") for page in PAGES)
    assert len(EXAMPLES) == written
    assert set(EXAMPLES) == set(PRINTED) | NOT_RUN


@pytest.mark.parametrize("title", PRINTED)
def test_an_example_runs(title: str, bundle_dir: Path, tmp_path: Path) -> None:
    for name in ("bundles/peta", "bundles/demo", "playground/bundle"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(bundle_dir)
    for name in ("samples", "playground/samples"):
        (tmp_path / name).symlink_to(data_dir("samples"))
    (tmp_path / "street.mp4").symlink_to(data_dir("samples") / "vtest" / "street.mp4")
    code = EXAMPLES[title]
    if "import gi" in code:
        code = f"import sys; sys.path.append({SYSTEM_PACKAGES!r})\n{code}"
        probe = code.partition("Gst.init")[0]
        if subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode:
            pytest.skip("GStreamer's bindings for this Python are not installed")
    with FakeServer() as server:
        code = code.replace(SERVER, server.url)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(PRINTED[title], done.stdout), done.stdout


@pytest.mark.heavy
def test_the_examples_pass_mypy_strict_with_the_installed_wheel(tmp_path: Path) -> None:
    """As a user would check them; GStreamer's bindings and tritonclient have no types."""
    pytest.importorskip("mypy")
    files = []
    for number, (title, code) in enumerate(EXAMPLES.items()):
        if "import gi" not in code and "import tritonclient" not in code:
            files.append(tmp_path / f"example{number}.py")
            files[-1].write_text(f"# {title}\n{code}")
    environment = tmp_path / "environment"
    venv.create(environment)
    (packages,) = environment.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip"]
    run([*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)])
    (wheel,) = tmp_path.glob("*.whl")
    run([*pip, "install", "--quiet", "--no-deps", "--target", str(packages), str(wheel)])
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))  # behind the wheel
    python = environment / "bin" / "python"
    found = run([str(python), "-c", "import seqpar_deploy; print(seqpar_deploy.__file__)"], tmp_path)
    assert Path(found.strip()).is_relative_to(packages)
    run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--config-file=",
            "--no-incremental",
            "--python-executable",
            str(python),
            *map(str, files),
        ],
        tmp_path,
    )


def run(command: list[str], folder: Path | None = None) -> str:
    """Its output. A checkout on PYTHONPATH does not count."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
