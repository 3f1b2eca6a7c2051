"""HTTP of cameras and file servers in a thread, each misfortune by the path or the query."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from PIL import Image


def jpeg(grey: int, size: tuple[int, int] = (64, 48)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (grey,) * 3).save(out, "JPEG")
    return out.getvalue()


class WebServer(http.server.ThreadingHTTPServer):
    """Serves a folder, and counts requests. Query of a file: `file`, `type`, `cut` (a share), `unsized`, `whole`.

    /snapshot.jpg and /cgi-bin/snapshot.cgi return another picture each time. Query: `same`, `damaged`, `auth`, `down`
    (an error at each second request), `huge`, `slow`.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.requests = 0
        self.answered = 0
        self.stopped = threading.Event()
        self.pictures = 0
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_arguments: object) -> None:
        """Clients may leave."""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[WebServer]:
    with WebServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.server.requests += 1
        self.close_connection = True
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        if "snapshot" in url.path:
            self._snapshot(query)
            return
        try:
            content = (self.server.folder / query.get("file", url.path.strip("/"))).read_bytes()
        except OSError:
            self._answer(b"<html>gone", "text/html", 404)
            return
        wanted = self.headers.get("Range", "")
        first = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted and "whole" not in query else 0
        end = int(len(content) * float(query.get("cut", 1)))
        self.send_response(206 if wanted and "whole" not in query else 200)
        if wanted and "whole" not in query:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if "type" in query:
            self.send_header("Content-Type", query["type"])
        if "unsized" not in query:
            self.send_header("Content-Length", str(len(content) - first))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content[first : max(first, end)])

    def _snapshot(self, query: dict[str, str]) -> None:
        if query.get("auth") and not self._knows_password(query["auth"]):
            return
        number = self.server.pictures = self.server.pictures + 1
        if "down" in query and number % 2 == 0:
            self._answer(b"busy", "text/plain", 503)
            return
        if "slow" in query:
            self.server.stopped.wait(30)  # a test that closes before `stopped` is set did not wait for the answer
        content = jpeg(100 if "same" in query else number % 250)
        if "damaged" in query and number % 2 == 0:
            content = content[: len(content) // 2]
        self._answer(content + bytes(40_000_000 if "huge" in query else 0), query.get("type", "image/jpeg"))
        self.server.answered += 1

    def _knows_password(self, kind: str) -> bool:
        given = self.headers.get("Authorization", "")
        if kind == "basic" and given == "Basic " + base64.b64encode(b"me:p@ss").decode():
            return True
        if kind != "basic" and given.startswith("Digest ") and 'username="me"' in given:
            return True
        asked = 'Basic realm="camera"' if kind == "basic" else 'Digest realm="camera", nonce="1", qop="auth"'
        self._answer(b"", "text/html", 401, asked + ", algorithm=SHA-256" * (kind == "digest-sha"))
        return False

    def _answer(self, content: bytes, kind: str, status: int = 200, asked: str = "") -> None:
        self.send_response(status)
        if asked:
            self.send_header("WWW-Authenticate", asked)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
