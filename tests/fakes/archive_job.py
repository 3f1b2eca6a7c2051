"""`seqpar archive` as a process, whose workers, raylet and driver can be killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]


class ArchiveProcess:
    """A run of the command. `words` are its arguments after `seqpar archive`."""

    def __init__(self, *words: object, log: Path, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "seqpar_deploy", "archive", *map(str, words)]
        self._log = log.open("ab")
        given = {**os.environ, "OMP_WAIT_POLICY": "passive", "PYTHONPATH": str(ROOT), **(environment or {})}
        self.process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env=given)

    def wait(self, seconds: float) -> int:
        """The exit code."""
        try:
            return self.process.wait(seconds)
        finally:
            self._log.close()

    def is_running(self) -> bool:
        return self.process.poll() is None

    def kill(self, target: str) -> bool:
        """Kill the `driver`, the `raylet` or a `worker` with SIGKILL. Returns whether it was there."""
        if target == "driver":
            found = [self.process.pid]
        elif target == "raylet":
            found = [pid for pid in descendants(self.process.pid) if _name(pid) == "raylet"]
        else:
            found = [pid for pid in descendants(self.process.pid) if b"ray::Worker" in _command(pid)]
        if not found or not self.is_running():
            return False
        os.kill(found[0], signal.SIGKILL)
        return True

    def stop(self) -> None:
        """End it, whatever it does."""
        if self.is_running():
            self.process.kill()
        self.process.wait(60)


class Nodes:
    """Two nodes of Ray, which are two raylets on this machine with one CPU each. They end with the block."""

    environment: ClassVar[dict[str, str]] = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}

    def __init__(self, port: int, folder: Path) -> None:
        self.address = f"127.0.0.1:{port}"
        self._folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Nodes:
        port = self.address.rpartition(":")[2]
        self._start("--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={self._folder}")
        self._start(f"--address={self.address}")
        return self

    def __exit__(self, *_exception: object) -> None:
        while self._started:
            self.kill_last()

    def kill_last(self) -> int:
        """Kill the second node, or the head if it is the last one. Returns the workers of archives on it."""
        process = self._started.pop()
        below = list(descendants(process.pid))
        workers = sum(map(is_worker, below))
        for pid in [process.pid, *below]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(60)
        return workers

    def _start(self, *words: str) -> None:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [ray, "start", "--block", "--num-cpus=1", "--object-store-memory=100000000", *words]
        given = {**os.environ, **self.environment, "PYTHONPATH": str(ROOT)}
        quiet = subprocess.DEVNULL
        self._started.append(subprocess.Popen(command, env=given, stdout=quiet, stderr=quiet))
        assert wait_until(self._is_up, 120)

    def _is_up(self) -> bool:
        started = self._started[-1]
        return started.poll() is None and any(_name(pid) == "raylet" for pid in descendants(started.pid))


def descendants(root: int) -> Iterator[int]:
    """The processes below one, the newest first."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            parents[int(entry.name)] = int(fields[1])
    for pid in sorted(parents, reverse=True):
        above = pid
        while above in parents:
            above = parents[above]
            if above == root:
                yield pid
                break


def memory_of(pid: int) -> int:
    """Proportional resident memory in bytes, 0 if the process has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


def is_worker(pid: int) -> bool:
    return b"ray::Worker" in _command(pid)


def rows_of(job: Path) -> list[dict[str, Any]]:
    """All rows of a job, in order."""
    tables = [pq.read_table(file) for file in sorted((job / "shards").glob("*.parquet"))]
    return pa.concat_tables(tables).to_pylist() if tables else []


def bytes_of(job: Path) -> dict[str, bytes]:
    """The files of results by name."""
    return {file.name: file.read_bytes() for file in sorted((job / "shards").iterdir())}


def wait_until(condition: Any, seconds: float) -> bool:
    """Whether a condition holds within some seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
