"""The systemd unit and the Containerfile: their commands exist, and systemd accepts the unit."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from seqpar_deploy.cli.video.config import parse_config
from seqpar_deploy.video.cameras.settings import example

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = (DEPLOY / "seqpar-video.service").read_text()
CONTAINER = (DEPLOY / "Containerfile").read_text()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    command = re.search(r"(?m)^ExecStart=(\S+)", UNIT)
    assert command is not None
    unit = tmp_path / "seqpar-video.service"
    unit.write_text(UNIT.replace(command[1], "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_unit_and_image_run_the_same_command() -> None:
    (unit,) = re.findall(r"(?m)^ExecStart=\S+/seqpar (.+)$", UNIT)
    entry, command = (re.findall(rf"(?m)^{word} \[(.+)\]$", CONTAINER)[-1] for word in ("ENTRYPOINT", "CMD"))
    words = re.findall(r'"([^"]+)"', f"{entry} {command}")
    assert words[0].endswith("/seqpar")
    assert [word for word in words[1:] if not word.startswith("/")] == [
        word for word in unit.split() if not word.startswith("/")
    ]


def test_the_example_fits_the_folder_of_the_image() -> None:
    config = parse_config(example().encode(), Path("/site/cameras.toml"))
    assert config.options["bundle"] == Path("/site/bundle")
    assert config.options["events"] == "/site/events.jsonl"


def test_the_port_of_the_health_check_is_the_exposed_one() -> None:
    exposed = re.findall(r"(?m)^EXPOSE (\d+)", CONTAINER)
    assert re.findall(r"127\.0\.0\.1:(\d+)/healthz", CONTAINER) == exposed
