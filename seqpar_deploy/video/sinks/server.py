"""A small HTTP server for the preview, the metrics and the health of a pipeline."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import ipaddress
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from seqpar_deploy.errors import SinkError
from seqpar_deploy.redaction import redacted
from seqpar_deploy.video.sinks.metrics import Health, Metrics

_PATIENCE = 5.0  # seconds without a byte sent or received until a client is dropped
_METHODS = "GET, HEAD, OPTIONS"
_PATH = re.compile(r"(/[\w.~%-]+)*/?")


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


def read_base_url(text: str) -> SplitResult:
    """Parse the public address of a server behind a proxy. Raises SinkError."""
    try:
        url = urlsplit(text)
        valid = url.scheme in ("http", "https") and url.hostname and url.port != 0
    except ValueError:
        valid = False
    if not valid or url.username is not None or url.query or url.fragment or not _PATH.fullmatch(url.path):
        raise SinkError(
            "the base URL must be http://HOST[:PORT][/PATH] or https://, without user and query, got "
            f"{redacted(text)}; correct it, for example https://example.com/cameras/"
        )
    return url


class WebServer:
    """An HTTP server that answers GET and HEAD requests in background threads until it is closed.

    By default it listens on this machine only, because it shows people. It then refuses requests with another host
    name than that of `base_url`, so that web pages of other sites cannot read it. The headers X-Forwarded-Host and
    Forwarded admit nobody, because such pages could send them. A client that is idle for 5 s is dropped.

    Behind a proxy, the pages work under any path: their addresses are relative. The proxy may remove its path, or pass
    it on if `base_url` has the same.

    Args:
        routes: Functions that answer, by path. A path that ends in `/` also matches longer paths.
        address: Address to listen on. "0.0.0.0" admits other machines. Default: "127.0.0.1".
        port: Port to listen on. 0 selects a free port. Default: 8080.
        clients: Maximum number of clients at the same time. Others get status 503. Default: 32.
        base_url: Public address behind a proxy, for example "https://example.com/cameras/". Default: none.

    Attributes:
        url: Address of the server, for example "http://127.0.0.1:8080/".

    Raises:
        SinkError: The port is in use, the address is not an address of this machine, or `base_url` is invalid.

    Example:
        metrics, health, preview = Metrics(), Health(), PreviewSink()
        server = WebServer({**preview.routes(), **metrics_routes(metrics, health)})
        watch("rtsp://camera/1", recognizer, sinks=[preview], metrics=metrics, health=health)
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        *,
        address: str = "127.0.0.1",
        port: int = 8080,
        clients: int = 32,
        base_url: str | None = None,
    ) -> None:
        self._stopping = threading.Event()
        base = None if base_url is None else read_base_url(base_url)
        address = address.strip("[]")
        try:
            self._server = _Server((address, port), dict(routes), clients, self._stopping, base)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise SinkError(f"cannot serve HTTP on {address}:{port}: {why}; choose another port or address") from None
        host = f"[{address.replace('%', '%25')}]" if ":" in address else address
        self.url = f"http://{host}:{self._server.server_port}/"
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
        self,
        place: tuple[str, int],
        routes: dict[str, Route],
        clients: int,
        stopping: threading.Event,
        base: SplitResult | None,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        self.routes, self.stopping = routes, stopping
        self._free = threading.BoundedSemaphore(clients)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        super().__init__(place, _Handler)
        self.local = _is_local(place[0])
        self.public_host = (base.hostname or "") if base else ""
        self.base_path = base.path.rstrip("/") if base else ""

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

    def version_string(self) -> str:
        """Return the Server header, without Python's version."""
        return "seqpar"

    def do_GET(self) -> None:
        if (refusal := self._refusal()) is not None:
            self._send(refusal)
            return
        try:
            path = urlsplit(self.path).path or "/"
        except ValueError:
            self._send(Answer(body=b"the path must be a URL\n", status=400))
            return
        self._send(self._answer(path) or self._nothing_at(path))

    do_HEAD = do_GET

    def do_OPTIONS(self) -> None:
        self._send(self._refusal() or Answer(body=b"", status=204))

    def _refuse_method(self) -> None:
        self.close_connection = True  # the request may have a body, which is not read
        self._send(Answer(body=f"the method must be one of {_METHODS}, got {self.command}\n".encode(), status=405))

    do_POST = do_PUT = do_PATCH = do_DELETE = do_TRACE = do_CONNECT = _refuse_method

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a malformed request: one line of text like all refusals."""
        self.close_connection = True
        self._send(
            Answer(body=f"{message or 'the request cannot be answered'}\n".encode("utf-8", "replace"), status=code)
        )

    def _answer(self, path: str) -> Answer | None:
        """Return the answer of a route. The public path may be in front, and exact routes may end in a slash."""
        base = self.server.base_path
        inside = path[len(base) :] or "/" if base and f"{path}/".startswith(f"{base}/") else path
        for one in dict.fromkeys((inside, path)):
            for route, answer in self.server.routes.items():
                if one == route or (one == f"{route}/" and not route.endswith("/")):
                    return answer("")
                if route != "/" and route.endswith("/") and one.startswith(route):
                    return answer(one[len(route) :])
        return None

    def _nothing_at(self, path: str) -> Answer:
        end = next((route for route in sorted(self.server.routes, key=len, reverse=True) if path.endswith(route)), "/")
        prefix = path[: -len(end)] if path.endswith(end) else ""
        lines = ["not found; this server has:", *(f"  {self.server.base_path}{route}" for route in self.server.routes)]
        if prefix and not self.server.base_path:
            lines.append(
                f"If a proxy passes {prefix}/ on, remove it there, or start with --base-url http://HOST{prefix}/"
            )
        return Answer(body="\n".join([*lines, ""]).encode("utf-8", "replace"), status=404)

    def _refusal(self) -> Answer | None:
        """Return the refusal of a request for another host. Only pages of other sites and proxies send one."""
        given = self.headers.get("Host")
        if not self.server.local or (given is None and self.request_version < "HTTP/1.1"):
            return None
        try:
            name = urlsplit(f"//{given or ''}").hostname or ""
        except ValueError:
            name = ""
        name = name.rstrip(".")
        if _is_local(name) or (name and name == self.server.public_host):
            return None
        shown = name if re.fullmatch(r"[\w.:%-]{1,100}", name) else "HOST"
        text = (
            f"the host must be localhost or an address of this machine, got {shown}; behind a proxy, start with "
            f"--base-url https://{shown}/; to admit other machines, start with --address 0.0.0.0\n"
        )
        return Answer(body=text.encode("utf-8", "replace"), status=403 if given else 400)

    def _send(self, answer: Answer) -> None:
        stream = not isinstance(answer.body, bytes)
        self.send_response(answer.status)
        if answer.status in (204, 405):
            self.send_header("Allow", _METHODS)
        self.send_header("Content-Type", answer.type)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", answer.policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        if isinstance(answer.body, bytes) and answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        self.close_connection = self.close_connection or stream
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(answer.body, bytes):
            self.wfile.write(answer.body)
            return
        for piece in answer.body:
            if self.server.stopping.is_set():
                return
            self.wfile.write(piece)

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a preview sends ten requests per second."""


def _is_local(address: str) -> bool:
    if address.lower() == "localhost":
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback
