"""A small reverse proxy that shows a server under a path, as nginx and Traefik do."""

from __future__ import annotations

import http.client
import http.server
import threading
from typing import Any


class Proxy:
    """Shows the server on `port` under `prefix`, on a free port of 127.0.0.1. A context manager.

    With `strip` it removes the prefix. With `keep_host` it passes the client's host name on.
    """

    def __init__(self, port: int, prefix: str, *, strip: bool = True, keep_host: str = "") -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if not self.path.startswith(prefix):
                    self.send_error(404)
                    return
                path = (self.path[len(prefix) :] or "/") if strip else self.path
                headers = {"X-Forwarded-Host": "cams.example.com", "X-Forwarded-Prefix": prefix}
                if keep_host:
                    headers["Host"] = keep_host
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
                connection.request(self.command, path if path.startswith("/") else f"/{path}", headers=headers)
                answer = connection.getresponse()
                body = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name not in ("Connection", "Date", "Server"):
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                connection.close()

            do_HEAD = do_GET

            def log_message(self, *_: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}{prefix}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
