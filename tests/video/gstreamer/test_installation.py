"""What is found of GStreamer, on a stand-in for gst-inspect-1.0."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli.run import run

from seqpar_deploy.video.gstreamer import installation
from seqpar_deploy.video.gstreamer.installation import PLUGINS, examine, shell_lines, variables

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
SCRIPT = """#!/bin/sh
case "$1" in
  --version) echo "gst-inspect-1.0 version 1.22.0"; echo "GStreamer 1.22.0";;
  python) {loader};;
  seqparattributes) {element};;
esac
"""


@pytest.fixture
def inspect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`inspect(python, element)`: put a gst-inspect-1.0 on the PATH, whose loader runs that Python."""

    def put(python: str | None, element: str = "echo Factory Details:") -> Path:
        loader = tmp_path / "libgstpython.so"
        loader.write_bytes(b"\0\0libpython" + (python or "").encode() + b".so.1.0\0")
        program = tmp_path / "gst-inspect-1.0"
        says = f'echo "  Filename    {loader}"' if python else 'echo "No such element or plugin"; exit 1'
        program.write_text(SCRIPT.format(loader=says, element=element))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return loader

    return put


def test_all_is_there(inspect) -> None:
    loader = inspect(HERE)
    found = examine()
    assert (found.version, found.loader, found.loader_python) == ("1.22.0", str(loader), HERE)
    assert found.element
    assert found.problem is None
    assert "seqparattributes" in run("seqpar", "gst").stdout


def test_another_python_is_one_line(inspect) -> None:
    inspect("3.5")
    assert "3.5" in (examine().problem or "")
    done = run("seqpar", "gst", code=2)
    assert f"Python {HERE}" in done.error
    assert "python3.5" in done.error


def test_no_loader_and_no_gstreamer(inspect, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    inspect(None)
    assert "gstreamer1.0-python3-plugin-loader" in (examine().problem or "")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert "gst-inspect-1.0" in (examine().problem or "")


def test_the_packages_are_those_of_the_guide() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "how-to" / "use-in-gstreamer.md").read_text(encoding="utf-8")
    command = guide.partition("apt-get install ")[2].partition("/usr/bin/python3")[0]
    assert set(installation.PACKAGES.split()) == set(command.replace("\\", "").split()) - {"python3-venv"}
    assert "gstreamer1.0-plugins-bad" in installation.PACKAGES  # has h264parse


def test_an_element_that_does_not_load_says_why(inspect) -> None:
    inspect(HERE, 'echo "seqparattributes cannot be loaded: No module named numpy" >&2; exit 1')
    found = examine()
    assert not found.element
    assert "numpy" in (found.problem or "")


def test_an_activated_environment_is_one_line(inspect) -> None:
    """The element is found only with the system's Python first on PATH."""
    inspect(HERE, 'case "$PATH" in /usr/bin:*) echo Factory Details:;; *) exit 1;; esac')
    found = examine()
    assert found.element
    assert "deactivate" in (found.problem or "")


def test_a_program_that_hangs_is_told(inspect, monkeypatch: pytest.MonkeyPatch) -> None:
    inspect(HERE, "exec sleep 60")
    monkeypatch.setattr(installation, "_WITHIN", 0.5)
    assert "answer" in run("seqpar", "gst", code=2).error


def test_the_lines_are_for_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "PLUGINS", Path("/a folder/it's"))
    script = "; ".join([*shell_lines(), 'printf "%s\\n" "$GST_PLUGIN_PATH" "$PYTHONPATH"'])
    for before, after in ((None, "/a folder/it's"), ("/mine", "/a folder/it's:/mine")):
        environment = {name: value for name, value in os.environ.items() if name != "GST_PLUGIN_PATH"}
        environment |= {"GST_PLUGIN_PATH": before} if before else {}
        done = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[0] == after


def test_the_variables_lead_to_the_plugin_and_to_the_packages() -> None:
    assert (PLUGINS / "python" / "seqparattributes.py").is_file()
    path = variables()["PYTHONPATH"].split(os.pathsep)
    assert any((Path(folder) / "seqpar_deploy" / "__init__.py").is_file() for folder in path)
    assert any((Path(folder) / "numpy").is_dir() for folder in path)
    assert "GST_PLUGIN_PATH" in run("seqpar", "gst", "--plugin-path").stdout
