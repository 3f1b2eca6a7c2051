"""Commands of the tutorials and of the README: run as a reader types them, and their output compared with the page."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[1]
PAGES = ("docs/tutorials/first-bundle.md", "docs/tutorials/first-camera.md", "docs/tutorials/train-on-your-data.md")
CONSOLE = re.compile(r"^```console\n\$ (seqpar .*?[^\\])\n(.*?)^```$", re.M | re.S)
FILES = re.compile(r"save this as `([^`]+)`:\n```toml\n(.*?)^```$", re.M | re.S)
SHARED = 0.6  # of the words in the page's output that the command must print: wording may change, staleness shows


def words(output: str) -> set[str]:
    """The words of an output, without figures, which differ from run to run."""
    return {word for word in re.split(r"[^A-Za-z&]+", output) if len(word) > 2}


def console(page: str) -> list[tuple[list[str], str]]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(shlex.split(command.replace("\\\n", " ")), output) for command, output in CONSOLE.findall(text)]


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout as the tutorials find it, with the demo bundle where `seqpar demo --export` puts it."""
    folder = tmp_path_factory.mktemp("tutorials")
    for name in ("models", "samples"):
        (folder / name).symlink_to(ROOT / name)
    (folder / "playground").mkdir()
    (folder / "playground" / "samples").symlink_to(ROOT / "samples")
    (folder / "playground" / "bundle").symlink_to(folder / "bundles" / "demo")  # the first tutorial exports it
    for page in PAGES:
        for name, content in FILES.findall((ROOT / page).read_text(encoding="utf-8")):
            (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize("page", [*PAGES, "README.md"])
def test_the_commands_of_a_page_run(page: str, playground: Path) -> None:
    commands = console(page)
    assert len(commands) >= 1
    for command, shown in commands:
        line = [sys.executable, "-m", "seqpar_deploy", *command[1:]]
        done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=playground)
        assert done.returncode == 0, (command, done.stderr)
        expected = words(shown)
        missing = expected - words(done.stdout + done.stderr)
        assert len(missing) <= (1 - SHARED) * len(expected), (command, missing)


def test_words_leave_out_figures() -> None:
    assert words("16 people, 57 crops; Skirt&Dress 0.93") == {"people", "crops", "Skirt&Dress"}
