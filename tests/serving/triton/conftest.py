"""A true server, for heavy tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MadeOnce
from serving.triton_server import TritonServer, make_environment

from seqpar_deploy.bundle import Bundle
from seqpar_deploy.exporting.export import export_bundle
from seqpar_deploy.exporting.recipe import load_recipe
from seqpar_deploy.resources import data_dir
from seqpar_deploy.serving.triton.repository import write_version


@pytest.fixture(scope="session")
def triton_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with seqpar-deploy, NumPy below 2 and Triton."""
    if sys.version_info >= (3, 13) or sys.platform != "linux":
        pytest.skip("Triton's wheel and NumPy 1 need Linux and Python 3.12 or older")
    return make_environment(tmp_path_factory.mktemp("triton"))


@pytest.fixture(scope="session")
def demo_bundle(made_once: MadeOnce) -> Path:
    checkpoint = data_dir("models") / "demo" / "demo.safetensors"
    return made_once("demo", lambda out: export_bundle(checkpoint, load_recipe("fp32"), out))


@pytest.fixture
def triton(triton_python: Path, demo_bundle: Path, tmp_path: Path) -> Iterator[TritonServer]:
    """A server of the demo model, started."""
    write_version(Bundle.open(demo_bundle), tmp_path / "models")
    server = TritonServer(triton_python, tmp_path / "models", tmp_path / "log")
    server.start()
    yield server
    server.stop()
