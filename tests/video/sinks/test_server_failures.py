"""Errors of the HTTP server's routes and threads are answered, logged without a flood, and leave nothing behind."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from video.sinks.real_servers import until

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.sinks.server import Answer, WebServer


class Faulty:
    """A server with routes that fail."""

    def __init__(self, **options: Any) -> None:
        routes = {"/refused": self._refused, "/broken": self._broken, "/stream": self._stream, "/fine": self._fine}
        self.server = WebServer(routes, port=0, **options)
        self.port = int(self.server.url.rstrip("/").rpartition(":")[2])

    def get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()

    @staticmethod
    def _refused(_rest: str) -> Answer:
        raise VideoError("cameras.toml must be TOML, got a tear")

    @staticmethod
    def _broken(_rest: str) -> Answer:
        raise KeyError("a-secret-of-the-inside")

    @staticmethod
    def _stream(_rest: str) -> Answer:
        return Answer(body=(bytes([1 // number]) for number in (1, 0)))

    @staticmethod
    def _fine(_rest: str) -> Answer:
        return Answer(body=b"fine")


@pytest.fixture
def faulty() -> Iterator[Faulty]:
    made = Faulty(clients=2)
    yield made
    made.server.close()


def test_a_route_that_fails_is_answered_and_logged_once(faulty: Faulty, caplog: pytest.LogCaptureFixture) -> None:
    assert faulty.get("/refused") == (500, b"cameras.toml must be TOML, got a tear\n")
    assert caplog.records == []
    for _ in range(5):
        status, body = faulty.get("/broken")
        assert status == 500
        assert b"log" in body
        assert b"secret" not in body
        assert b"KeyError" not in body
    (record,) = caplog.records
    assert "/broken" in record.getMessage()
    assert "a-secret-of-the-inside" in caplog.text  # with the traceback
    assert faulty.get("/fine") == (200, b"fine")


def test_a_stream_that_fails_is_logged_once(faulty: Faulty, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        assert faulty.get("/stream") == (200, b"\x01")
    until(lambda: caplog.records)
    assert "ZeroDivisionError" in caplog.text
    assert len(caplog.records) == 1


def test_clients_that_come_and_go_are_not_logged(faulty: Faulty, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_connection(("127.0.0.1", faulty.port)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        client.sendall(b"GET /fine HTTP/1.1\r\nHost")
    assert faulty.get("/fine") == (200, b"fine")
    assert caplog.records == []


def test_clients_are_served_again_once_threads_start(
    faulty: Faulty, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        for _ in range(3):  # more than there may be clients
            with contextlib.suppress(ConnectionError):  # it may hang up before it is asked
                assert faulty.get("/fine")[0] == 503
    assert faulty.get("/fine") == (200, b"fine")
    until(lambda: not faulty.server._server._open)
    assert len(caplog.records) == 1
    assert "new thread" in caplog.text
