"""Processes of torchrun stop together, outlast a long validation, and do not wait for one that has died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seqpar_deploy.errors import TrainingError
from seqpar_deploy.training.peers import Peers, Vote, lost_peers

pytestmark = pytest.mark.slow

# Torch's time-out is shortened, and the validation is longer than it.
SLOW_VALIDATION = """
import datetime, runpy, sys, time
import torch.distributed
from seqpar_deploy.training import loop
join, validate = torch.distributed.init_process_group, loop.validate
def join_shortly(*rest):
    return join(*rest, timeout=datetime.timedelta(seconds=4))
def validate_slowly(*rest, **options):
    time.sleep(10)
    return validate(*rest, **options)
torch.distributed.init_process_group, loop.validate = join_shortly, validate_slowly
runpy.run_module("seqpar_deploy", run_name="__main__")
"""


def torchrun(program: list[str], squares: Path, recipe: Path, out: Path) -> list[str]:
    arguments = ["train", "--label-set", "pa100k", "--recipe", recipe, "--out", out, "--save-every", "1"]
    arguments += ["--data", f"{squares}@train", "--validation", f"{squares}@test", "--workers", "0"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return list(map(str, [*launcher, *program, *arguments]))


def test_a_validation_longer_than_the_time_out(squares: Path, recipe_file: Callable[..., Path], tmp_path: Path) -> None:
    script = tmp_path / "slow.py"
    script.write_text(SLOW_VALIDATION)
    command = torchrun([str(script)], squares, recipe_file(epochs=2), tmp_path / "run")
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch") == 2
    assert (tmp_path / "run" / "last.safetensors").is_file()


def processes_of(out: Path) -> dict[str, int]:
    """Return the process ID by rank."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ranks = [value[5:].decode() for value in environment if value.startswith(b"RANK=")]
        if str(out).encode() in words and ranks:
            found[ranks[0]] = int(entry.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc to find the processes")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_to_one_process_ends_all(
    squares: Path, recipe_file: Callable[..., Path], tmp_path: Path, number: int
) -> None:
    out = tmp_path / "run"
    command = torchrun(["-m", "seqpar_deploy"], squares, recipe_file(epochs=100_000), out)
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not (out / "state.safetensors").is_file() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(processes_of(out)["1"], number)
    _, errors = running.communicate(timeout=120)
    # After a kill, the signal of torchrun to the others races with their own discovery.
    assert "interrupted" in errors or (number == signal.SIGKILL and "must answer" in errors)
    assert processes_of(out) == {}


def test_one_process_agrees_with_itself() -> None:
    peers = Peers(1, lambda: False)
    assert [peers.agree(vote) for vote in Vote] == list(Vote)


@pytest.mark.parametrize("text", ["[gloo/transport] Connection closed by peer", "NCCL error: remote process exited"])
def test_only_errors_of_communication_are_translated(text: str) -> None:
    with pytest.raises(TrainingError, match="resume"), lost_peers():
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="shapes"), lost_peers():
        raise RuntimeError("shapes do not fit")
