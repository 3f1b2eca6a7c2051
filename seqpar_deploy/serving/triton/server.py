"""Start a Triton server that is installed here, wait until its models are ready, and end it cleanly."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import importlib.util
import ipaddress
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from seqpar_deploy.errors import TritonError
from seqpar_deploy.serving.protocol import REFUSAL

SAFE_SINCE = (2, 59)  # release 25.07, which fixes published holes that a request can use
_POLL_SECONDS = 5  # between looks at the repository
_EXIT_SECONDS = 30  # for requests in flight when the server is stopped
_START_SECONDS = 600.0  # a full-size model opens in seconds, but engines may be built first
_GET_IT = (
    "run this in NVIDIA's container nvcr.io/nvidia/tritonserver, or for tests pip install --no-deps nvidia-pytriton, "
    "see docs/how-to/serve-with-triton.md"
)

_IS_OURS = re.compile(rf'[IWE]\d{{4}} [^]]*\] "?{REFUSAL}')
_IS_ERROR = re.compile(r"E\d{4} |error: ")

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Addresses:
    """Configure where a server listens.

    Attributes:
        address: IP address or host name. Default: 127.0.0.1, this machine only.
        http_port: Port for HTTP. Default: 8000.
        grpc_port: Port for gRPC. Default: 8001.
        metrics_port: Port for Prometheus metrics. Default: 8002.
    """

    address: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002

    @property
    def is_loopback(self) -> bool:
        """Whether other machines cannot reach it."""
        try:
            return ipaddress.ip_address(self.address).is_loopback
        except ValueError:
            return self.address == "localhost"


def find_server() -> Path:
    """Return the path of `tritonserver`, from PATH or from the wheel nvidia-pytriton. Raises TritonError."""
    if found := shutil.which("tritonserver"):
        return Path(found)
    if (wheel := importlib.util.find_spec("pytriton")) and wheel.origin:
        in_wheel = Path(wheel.origin).parent / "tritonserver" / "bin" / "tritonserver"
        if in_wheel.is_file():
            return in_wheel
    raise TritonError(f"tritonserver must be on PATH or in the wheel nvidia-pytriton, got neither; {_GET_IT}")


class Server:
    """A running server. Open one with `running_server`.

    Attributes:
        process: The process.
    """

    def __init__(self, process: subprocess.Popen[str], addresses: Addresses) -> None:
        self.process = process
        self._addresses = addresses
        self._last = deque[str](maxlen=200)
        self._ready = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Log the lines of the server, those of the model and errors of a ready server in view, and keep the last."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._last.append(line.rstrip())
            shown = _IS_OURS.match(line) or (self._ready and _IS_ERROR.match(line))
            _log.log(logging.INFO if shown else logging.DEBUG, "triton: %s", line.rstrip())

    @property
    def why_ended(self) -> str:
        """One line from the log of a server that has ended, on the reason."""
        self._end_models()
        self._reader.join(timeout=5)
        lines = list(self._last)
        failed = [line.partition("Internal: ")[2].partition("\\n")[0] for line in lines if "failed to load" in line]
        wrong = [line for line in lines if line.startswith("error: ")]
        reason = next(filter(None, [*failed, *wrong[-1:], *lines[-1:]]), "it printed nothing").strip(' "')
        return reason.rpartition(REFUSAL)[2]

    def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a GET request. Raises OSError."""
        host = "127.0.0.1" if self._addresses.address in ("0.0.0.0", "") else self._addresses.address
        connection = http.client.HTTPConnection(host, self._addresses.http_port, timeout=5)
        with contextlib.closing(connection):
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read()
            except http.client.HTTPException as error:
                raise OSError(str(error)) from None

    def wait_until_ready(self, models: Sequence[str], *, stopped: Callable[[], bool]) -> bool:
        """Wait until the models are ready.

        Args:
            models: Names of the models.
            stopped: Returns whether to wait no longer.

        Returns:
            True, or False if `stopped` ended the wait.

        Raises:
            TritonError: The server ended, or is not ready after 600 seconds.
        """
        deadline = time.monotonic() + _START_SECONDS
        paths = ["/v2/health/ready", *(f"/v2/models/{name}/ready" for name in models)]
        while time.monotonic() < deadline:
            if stopped():
                return False
            if self.process.poll() is not None:
                raise TritonError(f"tritonserver ended before it was ready: {self.why_ended}")
            with contextlib.suppress(OSError):
                if all(self.get(path)[0] == 200 for path in paths):
                    self._ready = True
                    return True
            time.sleep(0.1)
        raise TritonError(f"tritonserver must be ready within {_START_SECONDS:.0f} s, got no answer; see --verbose")

    def wait(self, *, stopped: Callable[[], bool]) -> None:
        """Wait until `stopped` returns True. Raises TritonError if the server ends before."""
        while not stopped():
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self.process.wait(timeout=0.2)
                if stopped():
                    return
                if code < 0:
                    raise TritonError(f"tritonserver was ended by {signal.Signals(-code).name}; see --verbose")
                raise TritonError(f"tritonserver ended with code {code}: {self.why_ended}")

    def _end_models(self) -> None:
        """End the processes of the model, which outlive a server that was killed, and hold on to its log."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """End the server: requests in flight are answered, for 30 seconds at most."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=_EXIT_SECONDS + 10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._end_models()
        self._reader.join(timeout=5)
        if self.process.stderr and not self._reader.is_alive():
            self.process.stderr.close()


@contextlib.contextmanager
def running_server(
    program: Path, repository: Path, addresses: Addresses = Addresses(), *, folder: Path
) -> Iterator[Server]:
    """Start a server, and stop it at the end of the block.

    It looks at the repository every 5 seconds, and has no API to load models: with one, whoever reaches the port could
    load code.

    Args:
        program: The path of `tritonserver`, see `find_server`.
        repository: The model repository.
        addresses: Where the server listens. Default: this machine only.
        folder: A temporary folder.

    Raises:
        TritonError: A port is in use, or the server's Python backend lacks this Python.
    """
    for port in (addresses.http_port, addresses.grpc_port, addresses.metrics_port):
        _check_free(addresses.address, port)
    command = [str(program), f"--model-repository={repository}", *_backend_options(program, folder)]
    for service in ("http", "grpc", "metrics"):
        command += [f"--{service}-address={addresses.address}"]
        command += [f"--{service}-port={getattr(addresses, f'{service}_port')}"]
    command += [
        "--model-control-mode=poll",
        f"--repository-poll-secs={_POLL_SECONDS}",
        "--disable-auto-complete-config",
    ]
    command += [f"--exit-timeout-secs={_EXIT_SECONDS}"]
    _log.debug("starting %s", " ".join(command))
    process = subprocess.Popen(
        command,
        env=_environment(program),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches this process, which stops the server once
    )
    server = Server(process, addresses)
    try:
        yield server
    finally:
        server.stop()


def _check_free(address: str, port: int) -> None:
    try:
        family = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as error:
        raise TritonError(
            f"port {port} of {address} cannot be used: {error.strerror}; stop the program there or pass another port"
        ) from None


def _in_wheel(program: Path) -> bool:
    return (program.parents[1] / "python_backend_stubs").is_dir()


def _backend_options(program: Path, folder: Path) -> list[str]:
    """Return the options for the Python backend. The one of the wheel gets the stub of this Python."""
    if not _in_wheel(program):
        return []
    version = "{}.{}".format(*sys.version_info[:2])
    stub = program.parents[1] / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise TritonError(f"{program} must have a stub for Python {version}, got none; use another Python")
    python = folder / "backends" / "python"
    python.mkdir(parents=True)
    for file in (program.parents[1] / "backends" / "python").iterdir():
        (python / file.name).symlink_to(file)
    (python / stub.name).unlink(missing_ok=True)
    shutil.copy(stub, python / stub.name)
    return [f"--backend-directory={folder / 'backends'}"]


def _environment(program: Path) -> dict[str, str]:
    """Return the environment in which the server's stub finds this Python, its packages and its library.

    The stub of the wheel ignores PYTHONPATH. Like any embedded Python, it is that of the first `python3` on PATH.
    """
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", os.defpath)])
    if _in_wheel(program):  # the stub is a copy outside the wheel, which finds its libraries relative to itself
        libraries = [sysconfig.get_config_var("LIBDIR"), str(program.parents[3] / "nvidia_pytriton.libs")]
        before = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, [*libraries, before]))
    return environment


def check_address(program: Path, addresses: Addresses, *, folder: Path) -> None:
    """Raise TritonError if a server would listen beyond this machine and is older than 25.07.

    The version is that of a server without models, which is started for a second on loopback.

    Args:
        program: The path of `tritonserver`.
        addresses: Where the server is to listen.
        folder: A temporary folder.
    """
    if addresses.is_loopback:
        return
    version = server_version(program, folder=folder)
    if version < SAFE_SINCE:
        raise TritonError(
            f"tritonserver must be 2.59 (25.07) or newer to listen on {addresses.address}, because earlier ones have "
            f"known holes, got {'.'.join(map(str, version))}; update it, or omit --address"
        )


def server_version(program: Path, *, folder: Path) -> tuple[int, ...]:
    """Return the version of a server, for example (2, 59, 0). Raises TritonError."""
    empty = folder / "empty"
    empty.mkdir()
    local = Addresses(http_port=_free_port(), grpc_port=_free_port(), metrics_port=_free_port())
    probe = folder / "probe"
    with running_server(program, empty, local, folder=probe) as server:
        server.wait_until_ready([], stopped=lambda: False)
        text = str(json.loads(server.get("/v2")[1]).get("version", ""))
    if not re.fullmatch(r"\d+(\.\d+)+", text):
        raise TritonError(f"tritonserver must report its version, got {text!r}; use another server")
    return tuple(map(int, text.split(".")))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
