"""A small HTTP server for the preview, the metrics and the health of a pipeline, and for requests that change it."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

from seqpar_deploy.errors import SinkError
from seqpar_deploy.redaction import remember_value
from seqpar_deploy.video.sinks.access import Access, Refusal, is_local, read_base_url
from seqpar_deploy.video.sinks.answers import Answer as Answer
from seqpar_deploy.video.sinks.answers import Failures, answer_of, find_route, line, nothing_at
from seqpar_deploy.video.sinks.answers import Post as Post
from seqpar_deploy.video.sinks.answers import Route as Route
from seqpar_deploy.video.sinks.metrics import Health, Metrics

_PATIENCE = 5.0  # seconds without a byte sent or received until a client is dropped
_BODY_WITHIN = 30.0  # seconds for the whole body of a request
_LONGEST_BODY = 1_000_000  # bytes
_READ = 1 << 16  # bytes of a body to read at once


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
    """An HTTP server that answers requests in background threads until it is closed.

    By default it listens on this machine only, because it shows people. It then refuses requests with another host
    name than that of `base_url`, so that web pages of other sites cannot read it. The headers X-Forwarded-Host and
    Forwarded admit nobody, because such pages could send them. A client that is idle for 5 s is dropped.

    If it listens for other machines, all routes but `/metrics` and `/healthz` need the token. A POST always needs it.
    Clients send the header `Authorization: Bearer TOKEN`. A browser opens `/?token=TOKEN` once, which sets a cookie for
    the session. A POST of a browser must also come from a page of this server. Without a token, such requests are
    refused with status 403.

    Behind a proxy, the pages work under any path: their addresses are relative. The proxy may remove its path, or pass
    it on if `base_url` has the same.

    Args:
        routes: Functions that answer GET and HEAD, by path. A path that ends in `/` also matches longer paths.
        posts: Functions that answer POST, by path. They take the rest of the path and the body, at most 1 MB, and may
            run in several threads at once. Default: none.
        token: One word of visible ASCII characters, at least 16 and random. Default: none.
        address: Address to listen on. "0.0.0.0" admits other machines. Default: "127.0.0.1".
        port: Port to listen on. 0 selects a free port. Default: 8080.
        clients: Maximum number of clients at the same time. Others get status 503. Default: 32.
        base_url: Public address behind a proxy, for example "https://example.com/cameras/". Default: none.

    Attributes:
        url: Address of the server, for example "http://127.0.0.1:8080/".

    Raises:
        SinkError: The port is in use, the address is not an address of this machine, or `base_url` is invalid.
        ValueError: The token is empty.

    Example:
        metrics, health, preview = Metrics(), Health(), PreviewSink()
        server = WebServer({**preview.routes(), **metrics_routes(metrics, health)})
        watch("rtsp://camera/1", recognizer, sinks=[preview], metrics=metrics, health=health)
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        *,
        posts: Mapping[str, Post] | None = None,
        token: str | None = None,
        address: str = "127.0.0.1",
        port: int = 8080,
        clients: int = 32,
        base_url: str | None = None,
    ) -> None:
        self._stopping = threading.Event()
        if token is not None:
            if not token:
                raise ValueError("token must have a character or more, got none; pass None for a server without one")
            remember_value(token)
        base = None if base_url is None else read_base_url(base_url)
        address = address.strip("[]")
        try:
            self._server = _Server((address, port), routes, posts or {}, clients, self._stopping)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise SinkError(f"cannot serve HTTP on {address}:{port}: {why}; choose another port or address") from None
        self._server.access = Access(local=is_local(address), port=self._server.server_port, token=token, base=base)
        self._server.base_path = base.path.rstrip("/") if base else ""
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
    access: Access  # known once the port is
    base_path: str

    def __init__(
        self,
        place: tuple[str, int],
        routes: Mapping[str, Route],
        posts: Mapping[str, Post],
        clients: int,
        stopping: threading.Event,
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
        self.routes, self.posts, self.stopping = dict(routes), dict(posts), stopping
        self._free = threading.BoundedSemaphore(clients)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.failures = Failures()
        super().__init__(place, _Handler)

    def server_bind(self) -> None:
        """Bind without a lookup of this machine's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the request, or refuse it if there are too many clients or threads."""
        if self._free.acquire(blocking=False):
            with self._lock:
                self._open.add(request)
            try:
                super().process_request(request, client_address)
                return
            except Exception as error:  # no more threads, for example
                self._forget(request)
                self.failures.log("a client cannot be served", error)
        request.settimeout(0.2)
        with contextlib.suppress(OSError):  # the client may have gone
            request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def _forget(self, request: socket.socket) -> None:
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
        """Log an error that is not of the connection: clients come and go."""
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            self.failures.log("a request failed", error)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE
    server: _Server

    def version_string(self) -> str:
        """Return the Server header, without Python's version."""
        return "seqpar"

    def do_GET(self) -> None:
        try:
            self._send(self._answer())
        except _Refused as refused:
            self._send(refused.answer)

    do_HEAD = do_GET

    def do_OPTIONS(self) -> None:
        try:
            self._check_host()
        except _Refused as refused:
            self._send(refused.answer)
            return
        self._send(Answer(body=b"", status=204))

    def do_POST(self) -> None:
        try:
            self._check_host()
            found = find_route(self.server.posts, self._split().path, self.server.base_path)
            if found is None:
                self._refuse_method()
                return
            self._check(self.server.access.writer_refusal(self.headers))
            route, rest, post = found
            body = self._body()
            answer = answer_of(lambda: post(rest, body), route, self.server.failures, refused=400)
        except _Refused as refused:
            self.close_connection = True
            answer = refused.answer
            if answer.status in (401, 403):
                with contextlib.suppress(_Refused, OSError):
                    self._body()  # a connection that is closed before its body was read loses the answer
        self._send(answer)

    def _refuse_method(self) -> None:
        self.close_connection = True  # the request may have a body, which is not read
        self._send(line(f"the method must be one of {self._methods}, got {self.command}", 405))

    do_PUT = do_PATCH = do_DELETE = do_TRACE = do_CONNECT = _refuse_method

    @property
    def _methods(self) -> str:
        return "GET, HEAD, OPTIONS, POST" if self.server.posts else "GET, HEAD, OPTIONS"

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer a malformed request: one line of text like all refusals."""
        self.close_connection = True
        self._send(line(message or "the request cannot be answered", code))

    def _answer(self) -> Answer:
        """Return the answer to a GET. Raises _Refused."""
        self._check_host()
        url, access = self._split(), self.server.access
        found = find_route(self.server.routes, url.path, self.server.base_path)
        if found is not None and found[0] == "/":
            session = access.session(url.query)
            if isinstance(session, Refusal):
                self._check(session)
            elif session is not None:
                return self._without_token(*session)
        self._check(access.reader_refusal(found[0] if found else None, self.headers))
        answer = None
        if found is not None:
            route, rest, function = found
            answer = answer_of(lambda: function(rest), route, self.server.failures, refused=500)
        return nothing_at(url.path, self.server.routes, self.server.base_path) if answer is None else answer

    def _without_token(self, cookie: str, query: str) -> Answer:
        """Set the cookie, and lead to the same address without the token.

        The address is relative to the one that the browser sees. After a link of another site, a browser would send no
        such cookie to the target of a redirect, so that the page itself leads on.
        """
        foreign = self.headers.get("Sec-Fetch-Site") == "cross-site"
        lead = {"Refresh": f"0; url=?{query}"} if foreign else {"Location": f"?{query}"}
        return Answer(body=b"", status=200 if foreign else 303, headers={"Set-Cookie": cookie, **lead})

    def _split(self) -> SplitResult:
        """Return the path, with / for none, and the query of the request."""
        try:
            url = urlsplit(self.path)
        except ValueError:
            raise _Refused(line("the path must be a URL", 400)) from None
        return url._replace(path=url.path or "/")

    def _body(self) -> bytes:
        """Read the body of a request. Raises _Refused."""
        length = self.headers.get("Content-Length")
        if length is None and not self.headers.get("Transfer-Encoding"):
            return b""  # as RFC 9110 says, and curl without data sends
        length = length or ""
        if not (length.isascii() and length.isdigit()) or self.headers.get("Transfer-Encoding"):
            raise _Refused(line("the request must have a Content-Length, got none", 411))
        if len(length) > 12 or int(length) > _LONGEST_BODY:
            raise _Refused(line(f"the body must have {_LONGEST_BODY} bytes at most, got {length[:20]}", 413))
        wanted, body, end = int(length), bytearray(), time.monotonic() + _BODY_WITHIN
        while len(body) < wanted:
            piece = self.rfile.read1(min(_READ, wanted - len(body)))
            if not piece or time.monotonic() > end:
                raise _Refused(line(f"the body must have {wanted} bytes, got {len(body)}", 408))
            body += piece
        return bytes(body)

    def _check_host(self) -> None:
        needed = self.request_version >= "HTTP/1.1"
        self._check(self.server.access.host_refusal(self.headers.get("Host"), needed=needed))

    def _check(self, refusal: Refusal | None) -> None:
        if refusal is not None:
            headers = {"WWW-Authenticate": "Bearer"} if refusal.status == 401 else {}
            raise _Refused(dataclasses.replace(line(refusal.text, refusal.status), headers=headers))

    def _send(self, answer: Answer) -> None:
        stream = not isinstance(answer.body, bytes)
        self.send_response(answer.status)
        for name, value in self._headers(answer):
            self.send_header(name, value)
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

    def _headers(self, answer: Answer) -> Iterable[tuple[str, str]]:
        if answer.status in (204, 405):
            yield "Allow", self._methods
        yield "Content-Type", answer.type
        yield "Cache-Control", "no-store"
        yield "Content-Security-Policy", answer.policy
        yield "Referrer-Policy", "same-origin"
        yield "X-Content-Type-Options", "nosniff"
        yield from answer.headers.items()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a preview sends ten requests per second, and a path may hold a token."""


class _Refused(Exception):
    """Raised to end a request with an answer."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer
