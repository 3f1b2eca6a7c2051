"""A machine with the base install and ONNX Runtime opens a bundle and predicts: nothing of PyTorch is there to load.

It installs from the package index, as a user does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqpar_deploy import Bundle

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[1]
WORKSTATION = {"torch", "torchvision", "onnx", "onnxscript", "open_clip", "safetensors", "scipy", "matplotlib"}


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    words = list(map(str, command))
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session", params=os.environ.get("SEQPAR_TEST_PYTHONS", sys.executable).split(":"))
def bare_python(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel, what it depends on, and ONNX Runtime.

    SEQPAR_TEST_PYTHONS names other interpreters to try, with colons between them.
    """
    folder = tmp_path_factory.mktemp("bare")
    run(request.param, "-m", "venv", folder / "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    run(*pip, "install", "--constraint", ROOT / "constraints.txt", f"{wheel}[cpu]", cwd=folder)
    return python


def test_predicts_and_loads_nothing_of_pytorch(bare_python: Path, bundle_dir: Path, tmp_path: Path) -> None:
    where = "from seqpar_deploy.resources import data_dir; print(data_dir('samples'))"
    samples = Path(run(bare_python, "-c", where, cwd=tmp_path).stdout.strip())
    assert samples.is_relative_to(bare_python.parents[1])
    command = ["-m", "seqpar_deploy", "predict", samples / "crops", "-b", bundle_dir, "--json"]
    done = run(bare_python, "-X", "importtime", *command, cwd=tmp_path)

    people = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(people) == 20
    golden = Bundle.open(bundle_dir).golden()
    for person, wanted in zip(people, golden["tokens"][golden["kinds"] == "real"], strict=False):
        assert person["tokens"] == wanted[1 : 1 + len(person["tokens"])].tolist()

    loaded = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert {"numpy", "onnxruntime", "seqpar_deploy"} <= loaded
    assert loaded.isdisjoint(WORKSTATION)
    there = f"import importlib.util as u; print(*(n for n in {sorted(WORKSTATION)} if u.find_spec(n)))"
    assert run(bare_python, "-c", there, cwd=tmp_path).stdout.split() == []


def test_the_commands_say_what_is_missing(bare_python: Path, bundle_dir: Path, tmp_path: Path) -> None:
    for command, extra in [
        (["seqpar", "predict", "x.png", "-b", bundle_dir, "--backend", "openvino"], "openvino"),
        (["seqpar-export", "checkpoint", "x.pth", "--out", "x"], "export"),
    ]:
        program = bare_python.with_name(command[0])
        done = subprocess.run([program, *command[1:]], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert done.stderr.endswith(f"pip install 'seqpar-deploy[{extra}]'\n")
        assert done.stderr.count("\n") == 1
