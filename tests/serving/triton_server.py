"""A true Triton server on loopback: the environment it needs, starting and killing it, and clients.

SEQPAR_TRITON_ENV names an environment made before, to be used again.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqpar_deploy.preprocess import Crop

ROOT = Path(__file__).parents[2]
WHEEL = "nvidia-pytriton==0.7.0"  # tritonserver 2.51
_READY_SECONDS = 90


def make_environment(folder: Path) -> Path:
    """Make an environment as docs/how-to/serve-with-triton.md does, with this checkout, and return its Python."""
    if given := os.environ.get("SEQPAR_TRITON_ENV"):
        return Path(given) / "bin" / "python"
    python = folder / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", folder / "venv"],
        [*pip, "--editable", f"{ROOT}[openvino]", "numpy<2"],
        [*pip, "--no-deps", WHEEL],
    ):
        subprocess.run(list(map(str, command)), check=True, cwd=folder, env=_environment())
    return python


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


@dataclasses.dataclass
class TritonServer:
    """`seqpar serve` in a process of its own. Start it, kill it, start it again on the same ports."""

    python: Path
    model: Path  # bundle or repository
    log: Path
    ports: tuple[int, int, int] = dataclasses.field(default_factory=lambda: _free_ports(3))
    process: subprocess.Popen[bytes] | None = None

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self.ports[0]}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self.ports[1]}"

    def start(self) -> None:
        words = [self.python, "-m", "seqpar_deploy", "serve", self.model, "--verbose"]
        for name, port in zip(("http", "grpc", "metrics"), self.ports, strict=True):
            words += [f"--{name}-port", port]
        with self.log.open("ab") as log:
            # The stub imports from the current folder, so that this checkout runs in an environment made elsewhere.
            self.process = subprocess.Popen(
                list(map(str, words)), cwd=ROOT, env=_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.is_ready():
                return
            time.sleep(0.1)
        self.stop()
        raise AssertionError(self.log.read_text(errors="replace")[-4000:])

    def is_ready(self) -> bool:
        try:
            return bool(self.get("/v2/models/seqpar/ready") is not None)
        except OSError:
            return False

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://{self.http}{path}", timeout=5) as response:
            content = response.read()
        return json.loads(content) if content else {}

    def stop(self) -> int | None:
        """End it as Ctrl-C does, and return the exit code."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(timeout=60)
        return self.process.returncode

    def kill(self) -> None:
        """Kill Triton itself, and wait until `seqpar serve` has ended for it."""
        assert self.process is not None
        os.kill(self.child, signal.SIGKILL)
        self.process.wait(timeout=60)

    @property
    def child(self) -> int:
        """The process of Triton."""
        assert self.process is not None
        return _children(self.process.pid)[0]

    def models(self) -> list[int]:
        """The processes of the model."""
        return _children(self.child)


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _free_ports(count: int) -> Any:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = tuple(probe.getsockname()[1] for probe in probes)
    for probe in probes:
        probe.close()
    return ports


def crop_input(client: Any, crops: Sequence[Crop]) -> list[Any]:
    """The input `crop` of crops of one size, for a module of tritonclient."""
    stack = np.stack(crops)
    tensor = client.InferInput("crop", stack.shape, "UINT8")
    tensor.set_data_from_numpy(stack)
    return [tensor]


def image_input(client: Any, files: Sequence[bytes]) -> list[Any]:
    """The input `image` of files."""
    tensor = client.InferInput("image", [len(files), 1], "BYTES")
    tensor.set_data_from_numpy(np.array(files, dtype=np.object_).reshape(-1, 1))
    return [tensor]


def outputs(client: Any, *names: str) -> list[Any]:
    return [client.InferRequestedOutput(name) for name in names]
