"""The HTTP server: what it answers, to whom, and that no client can hold it up."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from video.sinks.people import boxes, frame, person

from seqpar_deploy.errors import SinkError
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.preview import PreviewSink
from seqpar_deploy.video.sinks.server import WebServer, metrics_routes


class Site:
    """A server with all its routes."""

    def __init__(self, **options: Any) -> None:
        self.metrics, self.preview, self.now = Metrics(), PreviewSink(), 0.0
        self.health = Health(clock=lambda: self.now)
        routes = self.preview.routes() | metrics_routes(self.metrics, self.health)
        self.server = WebServer(routes, port=0, **options)
        self.port = int(self.server.url.rstrip("/").rpartition(":")[2])

    def get(self, path: str, **headers: str) -> tuple[int, bytes, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        try:
            return answer.status, answer.read(), answer.headers["Content-Type"]
        finally:
            connection.close()


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.preview.close()
    made.server.close()


def test_metrics_and_health(site: Site) -> None:
    site.metrics.counter("seqpar_frames_total", "Frames.", "stream").labels("street").inc(3)
    status, body, kind = site.get("/metrics")
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert b'seqpar_frames_total{stream="street"} 3.0\n' in body
    beat = site.health.heartbeat("source street", within=5)
    assert site.get("/healthz")[:2] == (200, b"ok\n")
    site.now = 60
    status, text = site.get("/healthz")[:2]
    assert status == 503
    assert text.startswith(b"source street: ")
    assert b"60 s" in text
    assert text.endswith(b" 5 s\n")
    beat()
    assert site.get("/healthz?probe=1")[0] == 200
    assert site.get("/other")[0] == 404


def test_the_picture_is_the_last_frame_with_what_was_found(site: Site) -> None:
    assert site.get("/streams/0.jpg")[0] == 404
    site.preview.frame(frame(), boxes(person(1), person(2)), {1: person(1)})
    status, body, kind = site.get("/streams/0.jpg")
    assert (status, kind) == (200, "image/jpeg")
    assert Image.open(io.BytesIO(body)).size == (768, 576)
    (stream,) = json.loads(site.get("/people.json")[1])
    assert stream["stream"] == "street"
    assert [one["track_id"] for one in stream["people"]] == [1]
    assert stream["people"][0]["yes"] == [["female", 0.93], ["backpack", 0.93]]
    assert stream["waiting"] == [2]
    assert (stream["timestamp"], stream["dropped"], stream["dropped_recently"]) == (0.0, 0, 0)
    for bad in ("1.jpg", "0.png", "-1.jpg", "%C2%B2.jpg", "0/../x.jpg", "99999999999.jpg"):
        assert site.get(f"/streams/{bad}")[0] == 404


def test_dropped_frames_are_shown_while_they_are_recent(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    preview = PreviewSink()

    def status() -> tuple[int, int]:
        answer = preview.routes()["/people.json"]("")
        assert answer is not None
        assert isinstance(answer.body, bytes)
        (stream,) = json.loads(answer.body)
        return stream["dropped"], stream["dropped_recently"]

    for index in (0, 1, 5, 6):
        preview.frame(frame(index), [], {})
    assert status() == (3, 3)
    now[0] += 4
    preview.frame(frame(9), [], {})
    assert status() == (5, 5)
    now[0] += 2
    assert status() == (5, 2)
    now[0] += 9
    assert status() == (5, 0)


def test_motion_jpeg_ends_with_the_pipeline(site: Site) -> None:
    site.preview.frame(frame(), [], {})
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    connection.request("GET", "/streams/0.mjpg")
    answer = connection.getresponse()
    assert answer.headers["Content-Type"] == "multipart/x-mixed-replace; boundary=frame"

    def part() -> bytes:
        assert answer.readline() == b"--frame\r\n"
        assert answer.readline() == b"Content-Type: image/jpeg\r\n"
        size = int(answer.readline().split(b":")[1])
        assert answer.readline() == b"\r\n"
        body = answer.read(size)
        assert answer.readline() == b"\r\n"
        return body

    first = part()
    site.preview.frame(frame(50), [], {})
    assert part() != first
    site.preview.close()
    assert answer.read() == b""
    connection.close()


def test_other_hosts_names_are_refused(site: Site) -> None:
    assert site.get("/metrics", Host="evil.example")[0] == 403
    assert site.get("/metrics", Host=f"localhost:{site.port}")[0] == 200


def test_clients_are_bounded_and_idle_ones_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    from seqpar_deploy.video.sinks import server

    monkeypatch.setattr(server._Handler, "timeout", 0.5)
    site = Site(clients=2)
    idle = [socket.create_connection(("127.0.0.1", site.port)) for _ in range(2)]
    time.sleep(0.1)
    with contextlib.suppress(ConnectionError):  # it may hang up before it is asked
        assert site.get("/healthz")[:2] == (503, b"")
    time.sleep(0.8)
    assert site.get("/healthz")[:2] == (200, b"ok\n")
    for one in idle:
        one.close()
    site.server.close()


def test_a_slow_viewer_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from seqpar_deploy.video.sinks import server

    monkeypatch.setattr(server._Handler, "timeout", 1.0)
    site = Site()
    noise = frame()
    noise.image[:] = np.random.default_rng(0).integers(0, 255, noise.image.shape)
    site.preview.frame(noise, [], {})
    with socket.create_connection(("127.0.0.1", site.port)) as slow:
        slow.sendall(b"GET /streams/0.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")  # and reads nothing
        while not (being_served := set(site.server._server._open)):
            time.sleep(0.01)
        (served,) = being_served
        end, waits = time.monotonic() + 20, []
        while served in site.server._server._open and time.monotonic() < end:
            before = time.perf_counter()
            site.preview.frame(noise, [], {})
            waits.append(time.perf_counter() - before)
            assert site.get("/healthz")[0] == 200
            time.sleep(0.01)
        assert served not in site.server._server._open, "the slow viewer is served still"
        assert max(waits) < 0.8  # nobody waited for it to be dropped
    site.server.close()
    site.server.close()


def test_closing_ends_what_is_being_served(site: Site) -> None:
    site.preview.frame(frame(), [], {})
    viewer = socket.create_connection(("127.0.0.1", site.port))
    viewer.sendall(b"GET /streams/0.mjpg HTTP/1.1\r\nHost: localhost\r\n\r\n")
    viewer.recv(100)
    start = time.monotonic()
    site.server.close()
    assert time.monotonic() - start < 2
    viewer.settimeout(5)
    while viewer.recv(1 << 16):
        pass
    viewer.close()


def test_a_port_that_is_taken_is_told_in_one_line(site: Site) -> None:
    with pytest.raises(SinkError, match=r"Address already in use; choose another port"):
        WebServer({}, port=site.port)
