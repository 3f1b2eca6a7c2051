"""A small HTTP server for the preview, the metrics and the health of a pipeline."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import ipaddress
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from seqpar_deploy.errors import SinkError
from seqpar_deploy.video.sinks.metrics import Health, Metrics

_PATIENCE = 5.0  # seconds without a byte sent or received until a client is dropped
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """An HTTP response. `body` is sent at once, or in pieces until the iterator or the connection ends."""

    body: bytes | Iterator[bytes]
    type: str = "text/plain; charset=utf-8"
    status: int = 200
    policy: str = "default-src 'none'"


# Takes the rest of the path after the route, for example a number, which may be empty. Returns None for "not found".
Route = Callable[[str], "Answer | None"]


def metrics_routes(metrics: Metrics, health: Health) -> dict[str, Route]:
    """Return routes for a `WebServer`: `/metrics` for Prometheus, and `/healthz`.

    Args:
        metrics: Metrics to serve.
        health: Health checks to serve. `/healthz` has status 200, or 503 with one line per problem.

    Returns:
        The functions that answer, by path.
    """

    def scrape(_rest: str) -> Answer:
        return Answer(body=metrics.text().encode("utf-8"), type="text/plain; version=0.0.4; charset=utf-8")

    def healthz(_rest: str) -> Answer:
        problems = health.problems()
        text = "\n".join(problems or ["ok"]) + "\n"
        return Answer(body=text.encode("utf-8", "replace"), status=503 if problems else 200)

    return {"/metrics": scrape, "/healthz": healthz}


class WebServer:
    """An HTTP server that answers GET requests in background threads until it is closed.

    By default it listens on this machine only, because it shows people. It then refuses requests with another host
    name, so that web pages of other sites cannot read it. A client that is idle for 5 s is dropped.

    Args:
        routes: Functions that answer, by path. A path that ends in `/` also matches longer paths.
        address: Address to listen on. "0.0.0.0" admits other machines. Default: "127.0.0.1".
        port: Port to listen on. 0 selects a free port. Default: 8080.
        clients: Maximum number of clients at the same time. Others get status 503. Default: 32.

    Attributes:
        url: Address of the server, for example "http://127.0.0.1:8080/".

    Raises:
        SinkError: The port is in use, or the address is not an address of this machine.

    Example:
        metrics, health, preview = Metrics(), Health(), PreviewSink()
        server = WebServer({**preview.routes(), **metrics_routes(metrics, health)})
        watch("rtsp://camera/1", recognizer, sinks=[preview], metrics=metrics, health=health)
    """

    def __init__(
        self, routes: Mapping[str, Route], *, address: str = "127.0.0.1", port: int = 8080, clients: int = 32
    ) -> None:
        self._stopping = threading.Event()
        try:
            self._server = _Server((address, port), dict(routes), clients, self._stopping)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise SinkError(f"cannot serve HTTP on {address}:{port}: {why}; choose another port or address") from None
        self.url = f"http://{f'[{address}]' if ':' in address else address}:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="http", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and end every response. Safe to call twice."""
        if not self._stopping.is_set():
            self._stopping.set()
            self._server.shutdown()
            self._server.server_close()
            self._server.hang_up()
            self._thread.join()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(
        self, place: tuple[str, int], routes: dict[str, Route], clients: int, stopping: threading.Event
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        self.routes, self.stopping = routes, stopping
        self._free = threading.BoundedSemaphore(clients)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(place, _Handler)
        self.local = _is_local(place[0])

    def server_bind(self) -> None:
        """Bind without a lookup of this machine's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the request, or refuse it if there are too many clients."""
        if self._free.acquire(blocking=False):
            with self._lock:
                self._open.add(request)
            super().process_request(request, client_address)
            return
        request.settimeout(0.2)
        with contextlib.suppress(OSError):  # the client may have gone
            request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self._lock:
                self._open.discard(request)
            self._free.release()

    def hang_up(self) -> None:
        """Close all connections, to wake the threads that wait for clients."""
        with self._lock:
            for request in self._open:
                with contextlib.suppress(OSError):  # the client may have gone
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: clients come and go."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE
    server: _Server

    def do_GET(self) -> None:
        if self.server.local and not self._asks_for_this_machine():
            self._send(Answer(body=b"the host name must be localhost or an address of this machine\n", status=403))
            return
        answer = self._answer(urlsplit(self.path).path)
        self._send(answer or Answer(body=b"not found\n", status=404))

    def _answer(self, path: str) -> Answer | None:
        for route, answer in self.server.routes.items():
            if path == route or (route != "/" and route.endswith("/") and path.startswith(route)):
                return answer(path[len(route) :])
        return None

    def _asks_for_this_machine(self) -> bool:
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        return name in _LOCAL_NAMES or _is_local(name)

    def _send(self, answer: Answer) -> None:
        stream = not isinstance(answer.body, bytes)
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.type)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", answer.policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        if isinstance(answer.body, bytes):
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)
            return
        self.close_connection = stream
        self.send_header("Connection", "close")
        self.end_headers()
        for piece in answer.body:
            if self.server.stopping.is_set():
                return
            self.wfile.write(piece)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a preview sends ten requests per second."""


def _is_local(address: str) -> bool:
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
