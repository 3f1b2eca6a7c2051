"""Real servers of Debian for tests: mosquitto and redis-server, each on a free port of 127.0.0.1."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

_WITHIN = 20.0  # seconds


def program(name: str, package: str) -> str:
    """Return the path of a program, or skip the test."""
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin") or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed; apt-get install {package}")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def until(true: Callable[[], object], seconds: float = _WITHIN) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@contextlib.contextmanager
def _running(command: Sequence[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: process.poll() is not None or _listens(port))
        assert process.poll() is None, f"{command[0]} has ended"
        yield process
    finally:
        process.terminate()
        process.wait(_WITHIN)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Mosquitto:
    """A broker with a password file, if there are users. `users` may be changed, which it reads again."""

    def __init__(self, folder: Path, users: dict[str, str] | None = None, port: int = 0) -> None:
        self._program = program("mosquitto", "mosquitto")
        self._passwords = folder / "passwords"
        self.port = port or free_port()
        lines = [f"listener {self.port} 127.0.0.1", f"allow_anonymous {'false' if users else 'true'}"]
        if os.geteuid() == 0:
            lines.append("user root")  # else it becomes a user who cannot read the folder of the test
        if users:
            self._write(users)
            lines.append(f"password_file {self._passwords}")
        self._config = folder / "mosquitto.conf"
        self._config.write_text("\n".join(lines) + "\n")
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Mosquitto:
        self._process = self._stack.enter_context(_running([self._program, "-c", str(self._config)], self.port))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def change(self, users: dict[str, str]) -> None:
        self._write(users)
        self._process.send_signal(signal.SIGHUP)

    def _write(self, users: dict[str, str]) -> None:
        self._passwords.write_text("")
        for user, password in users.items():
            hashing = program("mosquitto_passwd", "mosquitto")
            subprocess.run([hashing, "-b", str(self._passwords), user, password], check=True, capture_output=True)


@contextlib.contextmanager
def redis_server(folder: Path, *, port: int = 0, password: str = "", options: Sequence[str] = ()) -> Iterator[int]:
    """Run redis-server without files, and yield its port."""
    port = port or free_port()
    command = [program("redis-server", "redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    command += ["--dir", str(folder), *(["--requirepass", password] if password else []), *options]
    with _running(command, port):
        yield port
