"""Starting and ending a server, with a stand-in for tritonserver."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from cli.run import run

from seqpar_deploy import TritonError
from seqpar_deploy.serving.triton.server import Addresses, check_address, find_server, running_server

FAILED = (
    "E1129 20:17:48.6 1 model_lifecycle.cc:642] \"failed to load 'seqpar' version 1: Internal: TritonModelException: "
    'seqpar: NumPy must be below 2\\n\\nAt:\\n  model.py(129)"'
)
FAKE = """
import http.server, json, re, signal, sys, threading
options = dict(re.match(r"--([a-z-]+)=(.*)", word).groups() for word in sys.argv[1:] if "=" in word)
mode = {mode!r}
if mode == "dies":
    print({line!r}, file=sys.stderr)
    sys.exit(1)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({{"name": "triton", "version": {version!r}}}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer((options["http-address"], int(options["http-port"])), Handler)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
if mode == "dies later":
    threading.Timer(1.0, lambda: (print("error: out of luck", file=sys.stderr), __import__("os")._exit(3))).start()
server.serve_forever()
open({ended!r}, "w").write("cleanly")
"""


def fake_server(folder: Path, *, mode: str = "serves", version: str = "2.59.0") -> Path:
    """A program `tritonserver` that answers GET requests, and notes that it ended cleanly in the file `ended`."""
    program = folder / "bin" / "tritonserver"
    program.parent.mkdir(parents=True)
    code = FAKE.format(mode=mode, line=FAILED, version=version, ended=str(folder / "ended"))
    program.write_text(f"#!{sys.executable}\n{textwrap.dedent(code)}")
    program.chmod(0o755)
    return program


def free_ports() -> Addresses:
    with socket.socket() as a, socket.socket() as b, socket.socket() as c:
        for probe in (a, b, c):
            probe.bind(("127.0.0.1", 0))
        http, grpc, metrics = (probe.getsockname()[1] for probe in (a, b, c))
    return Addresses(http_port=http, grpc_port=grpc, metrics_port=metrics)


def never() -> bool:
    return False


def test_it_starts_is_ready_and_ends(tmp_path: Path) -> None:
    program = fake_server(tmp_path)
    with running_server(program, tmp_path, free_ports(), folder=tmp_path / "temporary") as server:
        assert server.wait_until_ready(["seqpar"], stopped=never)
        assert server.process.poll() is None
    assert (tmp_path / "ended").read_text() == "cleanly"


def test_a_server_that_ends_before_it_is_ready_gives_its_reason(tmp_path: Path) -> None:
    program = fake_server(tmp_path, mode="dies")
    with (
        running_server(program, tmp_path, free_ports(), folder=tmp_path / "temporary") as server,
        pytest.raises(TritonError, match=r"NumPy must be below 2$"),
    ):
        server.wait_until_ready([], stopped=never)


def test_a_server_that_ends_later_gives_its_code(tmp_path: Path) -> None:
    program = fake_server(tmp_path, mode="dies later")
    with running_server(program, tmp_path, free_ports(), folder=tmp_path / "temporary") as server:
        assert server.wait_until_ready([], stopped=never)
        with pytest.raises(TritonError, match=r"code 3.*out of luck"):
            server.wait(stopped=never)


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    program, addresses = fake_server(tmp_path), free_ports()
    for port in (addresses.http_port, addresses.metrics_port):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", port))
            taken.listen()
            started = running_server(program, tmp_path, addresses, folder=tmp_path / "temporary")
            with pytest.raises(TritonError, match=f"port {port} .*in use"):
                started.__enter__()


@pytest.mark.parametrize(("version", "refused"), [("2.51.0", True), ("2.58.9", True), ("2.59.0", False)])
def test_old_servers_stay_on_loopback(version: str, refused: bool, tmp_path: Path) -> None:
    program = fake_server(tmp_path, version=version)
    for address in ("127.0.0.1", "::1", "localhost"):
        check_address(program, Addresses(address=address), folder=tmp_path / "unused")
    (tmp_path / "temporary").mkdir()
    everywhere = Addresses(address="0.0.0.0")
    if refused:
        with pytest.raises(TritonError, match=rf"2\.59 .*got {version}"):
            check_address(program, everywhere, folder=tmp_path / "temporary")
    else:
        check_address(program, everywhere, folder=tmp_path / "temporary")


def test_the_server_on_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fake_server(tmp_path)
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_server() == program
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(TritonError, match=r"PATH.*nvidia-pytriton.*serve-with-triton"):
        find_server()


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python and NumPy of the tests count as fit for Triton."""
    monkeypatch.setattr("seqpar_deploy.cli.serve.check_environment", lambda: None)


def port_options(addresses: Addresses) -> list[object]:
    names = ("http", "grpc", "metrics")
    return [word for name in names for word in (f"--{name}-port", getattr(addresses, f"{name}_port"))]


@pytest.mark.parametrize("mode", ["dies", "dies later"])
def test_the_command_fails_with_the_server(
    mode: str, bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared: None
) -> None:
    monkeypatch.setenv("PATH", str(fake_server(tmp_path, mode=mode).parent))
    error = run("seqpar", "serve", bundle_dir, *port_options(free_ports()), code=2).error
    assert "tritonserver" in error


def test_the_command_needs_a_bundle_or_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared: None
) -> None:
    monkeypatch.setenv("PATH", str(fake_server(tmp_path).parent))
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "missing", tmp_path / "empty"):
        assert "seqpar export triton" in run("seqpar", "serve", wrong, code=2).error


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_it_cleanly(number: int, bundle_dir: Path, tmp_path: Path) -> None:
    program, addresses = fake_server(tmp_path), free_ports()
    code = (
        "import seqpar_deploy.cli.serve as serve; serve.check_environment = lambda: None\n"
        "from seqpar_deploy.cli.main import run; run()"
    )
    command = [sys.executable, "-c", code, "serve", bundle_dir, *port_options(addresses)]
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert any(f"http://127.0.0.1:{addresses.http_port}" in line for line in lines)
    process.send_signal(number)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert (tmp_path / "ended").read_text() == "cleanly"
    assert list(tmp_path.glob("seqpar-*")) == []
