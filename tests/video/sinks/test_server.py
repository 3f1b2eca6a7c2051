"""The HTTP server: what it answers, to whom, and that no client can hold it up."""

from __future__ import annotations

import contextlib
import dataclasses
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

    for index, dropped in ((0, 0), (1, 0), (5, 3), (9, 3)):  # three frames of 6 to 8 were not meant to be shown
        preview.frame(dataclasses.replace(frame(index), dropped=dropped), [], {})
    assert status() == (3, 3)
    now[0] += 4
    preview.frame(dataclasses.replace(frame(12), dropped=5), [], {})
    assert status() == (5, 5)
    now[0] += 2
    preview.frame(dataclasses.replace(frame(13), dropped=5), [], {})
    assert status() == (5, 0)
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


@pytest.mark.parametrize("path", ["/", "/metrics", "/healthz", "/people.json", "/streams/0.jpg", "/favicon.ico", "/no"])
def test_head_has_the_headers_of_get_and_no_body(site: Site, path: str) -> None:
    site.preview.frame(frame(), [], {})
    site.metrics.counter("seqpar_frames_total", "Frames.", "stream").labels("street").inc(3)
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    answers = []
    for method in ("GET", "HEAD", "GET"):  # on one connection, which a body after HEAD would break
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        answers.append((answer.status, {key: value for key, value in answer.getheaders() if key != "Date"}))
        assert bool(body) == (method == "GET" and path != "/favicon.ico")
    connection.close()
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][0] == (404 if path == "/no" else 200)


def test_head_of_a_stream_ends(site: Site) -> None:
    site.preview.frame(frame(), [], {})
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    connection.request("HEAD", "/streams/0.mjpg")
    answer = connection.getresponse()
    assert (answer.status, answer.read()) == (200, b"")
    assert answer.headers["Content-Type"].startswith("multipart/x-mixed-replace")
    connection.close()


@pytest.mark.parametrize(("method", "status"), [("OPTIONS", 204), ("POST", 405), ("DELETE", 405), ("BREW", 501)])
def test_other_methods(site: Site, method: str, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    connection.request(method, "/metrics", body=b"x=1" if method == "POST" else None)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == status
    if status != 501:
        assert answer.headers["Allow"] == "GET, HEAD, OPTIONS"
    connection.close()


def raw(port: int, request: bytes) -> bytes:
    """Send bytes and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(1 << 16), b""))


def test_old_and_malformed_requests(site: Site) -> None:
    assert raw(site.port, b"OPTIONS / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 204 ")  # HAProxy's check, without a host
    assert raw(site.port, b"GET /healthz HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nok\n")
    assert raw(site.port, b"GET /healthz HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    assert raw(site.port, b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n").startswith(b"HTTP/1.1 403 ")
    assert raw(site.port, b"GET http://[::1 HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    for request in (b"GET\r\n\r\n", b"GET / HTTP/9\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n"):
        assert b"<" not in raw(site.port, request)  # no page of Python's, with its version


def test_addresses_may_end_in_a_slash_and_a_missing_page_says_what_there_is(site: Site) -> None:
    assert site.get("/healthz/")[:2] == (200, b"ok\n")
    assert site.get("/metrics/?x")[0] == 200
    status, body, _ = site.get("/cameras/people.json")
    assert status == 404
    for word in (b"/healthz", b"--base-url", b"/cameras/"):
        assert word in body


@pytest.mark.parametrize("forwarded", [{}, {"X-Forwarded-Host": "localhost"}, {"Forwarded": "host=localhost"}])
def test_a_refused_host_is_told_what_to_do(site: Site, forwarded: dict[str, str]) -> None:
    status, body, _ = site.get("/", Host="cams.example.com", **forwarded)
    assert status == 403
    for word in (b"cams.example.com", b"--base-url", b"--address"):
        assert word in body
    assert b"<" not in site.get("/", Host="<script>")[1]


@pytest.mark.parametrize(
    "host", ["cams.example.com", "CAMS.example.com:443", "cams.example.com.", "[::1]:80", "127.1.2.3"]
)
def test_the_host_of_the_base_url_is_admitted(host: str) -> None:
    site = Site(base_url="https://cams.example.com/video/")
    try:
        assert site.get("/healthz", Host=host)[0] == 200
        assert site.get("/healthz", Host="evil.example")[0] == 403
        for path in ("/", "/video", "/video/", "/video/metrics", "/metrics", "/video/people.json"):
            assert site.get(path, Host=host)[0] == 200
        assert site.get("/videos/metrics", Host=host)[0] == 404
    finally:
        site.server.close()


@pytest.mark.parametrize(
    "url",
    ["example.com", "ftp://example.com", "https://", "https://u:hunter2@h/", "https://h/?x=1", "https://h:x/"],
)
def test_a_base_url_that_is_none(url: str) -> None:
    with pytest.raises(SinkError, match="base URL must be") as refused:
        WebServer({}, port=0, base_url=url)
    assert "hunter2" not in str(refused.value)


def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 on this machine")
    try:
        server = WebServer({"/x": lambda _rest: None}, address="[::1]", port=0)
    except SinkError:
        pytest.skip("no IPv6 on this machine")
    assert server.url.startswith("http://[::1]:")
    server.close()
