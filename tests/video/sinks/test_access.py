"""Who may read the pages of the server, and who may change something."""

from __future__ import annotations

import http.client
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from seqpar_deploy.errors import SinkError
from seqpar_deploy.redaction import redacted
from seqpar_deploy.video.sinks.access import find_token
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.server import Answer, WebServer, metrics_routes

TOKEN = "0123+4567/89ab-cdef="


class Site:
    """A server with a page, and a request that keeps its body."""

    def __init__(self, *, everywhere: bool = False, token: str | None = TOKEN, base_url: str | None = None) -> None:
        self.posted: list[tuple[str, bytes]] = []
        routes = {"/": lambda _rest: Answer(body=b"people"), **metrics_routes(Metrics(), Health())}
        posts = {"/change": self._change, "/fail": self._fail, "/bad": self._bad}
        address = "0.0.0.0" if everywhere else "127.0.0.1"
        self.server = WebServer(routes, posts=posts, token=token, port=0, address=address, base_url=base_url)
        self.port = int(self.server.url.rstrip("/").rpartition(":")[2])
        self.origin = f"http://127.0.0.1:{self.port}"

    def _change(self, rest: str, body: bytes) -> Answer:
        self.posted.append((rest, body))
        return Answer(body=b"changed")

    def _fail(self, _rest: str, _body: bytes) -> Answer:
        raise RuntimeError("no")

    def _bad(self, _rest: str, _body: bytes) -> Answer:
        raise SinkError("zone must be a polygon, got a point; add corners")

    def ask(
        self, path: str, method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, str, http.client.HTTPMessage]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(method, path, body=body, headers={key.replace("_", "-"): headers[key] for key in headers})
        answer = connection.getresponse()
        try:
            return answer.status, answer.read().decode(), answer.headers
        finally:
            connection.close()

    def post(self, path: str = "/change", body: bytes = b"x", **headers: str) -> int:
        return self.ask(path, "POST", body, **headers)[0]

    def cookie(self) -> str:
        given = self.ask(f"/?token={TOKEN}")[2]["Set-Cookie"]
        return str(given).partition(";")[0]


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.server.close()


@pytest.fixture
def everywhere() -> Iterator[Site]:
    made = Site(everywhere=True)
    yield made
    made.server.close()


BEARER = f"Bearer {TOKEN}"


def test_other_machines_need_the_token_for_all_but_metrics_and_health(everywhere: Site) -> None:
    for path in ("/metrics", "/metrics/", "/healthz"):
        assert everywhere.ask(path)[0] == 200
    for path in ("/", "/nowhere"):
        status, text, headers = everywhere.ask(path)
        assert status == 401
        assert "Authorization: Bearer" in text
        assert headers["WWW-Authenticate"] == "Bearer"
        assert "people" not in text
        assert "/metrics" not in text  # a list of the routes is for readers
        assert everywhere.ask(path, Authorization=f"Bearer {TOKEN}x")[0] == 401
        assert everywhere.ask(path, Authorization=f"Basic {TOKEN}")[0] == 401
    assert everywhere.ask("/", Authorization=BEARER)[:2] == (200, "people")
    assert everywhere.ask("/", "HEAD")[0] == 401
    assert everywhere.ask("/nowhere", Authorization=BEARER)[0] == 404


def test_other_machines_are_refused_without_a_token() -> None:
    site = Site(everywhere=True, token=None)
    try:
        status, text, _ = site.ask("/")
        assert status == 403
        assert "SEQPAR_VIDEO_TOKEN" in text
        assert site.ask("/metrics")[0] == 200
    finally:
        site.server.close()


def test_a_visit_with_the_token_sets_a_cookie_and_leaves_the_address(everywhere: Site) -> None:
    status, body, headers = everywhere.ask(f"/?token={TOKEN}&zone=a%26b")
    assert (status, body, headers["Location"]) == (303, "", "?zone=a%26b")
    assert "HttpOnly" in headers["Set-Cookie"]
    assert "SameSite=Strict" in headers["Set-Cookie"]
    assert "Secure" not in headers["Set-Cookie"]
    assert TOKEN not in str(headers)
    cookie = headers["Set-Cookie"].partition(";")[0]
    assert everywhere.ask("/", Cookie=f"theme=dark; {cookie}; a=b")[:2] == (200, "people")
    assert everywhere.ask("/", Cookie=f"{cookie}0")[0] == 401
    status, text, headers = everywhere.ask(f"/?token={TOKEN}x")
    assert (status, headers["Set-Cookie"]) == (401, None)
    assert TOKEN not in text
    assert everywhere.ask(f"/metrics?token={TOKEN}")[0] == 200


def test_a_link_of_another_site_leads_on_from_the_page(everywhere: Site) -> None:
    status, _, headers = everywhere.ask(f"/?token={TOKEN}", Sec_Fetch_Site="cross-site")
    assert (status, headers["Location"], headers["Refresh"]) == (200, None, "0; url=?")
    assert headers["Set-Cookie"]


def test_a_cookie_of_another_token_or_port_is_none(everywhere: Site) -> None:
    cookie = everywhere.cookie()
    name, _, value = cookie.partition("=")
    assert str(everywhere.port) in name
    assert everywhere.ask("/", Cookie=f"seqpar-1={value}")[0] == 401
    other = Site(everywhere=True, token=TOKEN[::-1])
    try:
        assert other.ask("/", Cookie=f"seqpar-{other.port}={value}")[0] == 401
    finally:
        other.server.close()


def test_a_change_needs_the_token_on_this_machine_too(site: Site) -> None:
    assert site.ask("/")[0] == 200
    assert site.post() == 401
    assert site.post(Authorization="Bearer guess") == 401
    assert site.posted == []
    assert site.post(body=b"a=1", Authorization=BEARER) == 200
    assert site.post("/change/", Authorization=f"bearer {TOKEN}") == 200
    assert site.posted == [("", b"a=1"), ("", b"x")]


def test_without_a_token_nothing_can_be_changed() -> None:
    site = Site(token=None)
    try:
        status, text, _ = site.ask("/change", "POST", b"x", Authorization="Bearer ")
        assert status == 403
        assert "--serve-token" in text
        assert site.ask("/?token=x")[0] == 200
        assert site.posted == []
    finally:
        site.server.close()


def test_a_change_of_a_browser_comes_from_a_page_of_this_server(site: Site) -> None:
    cookie = site.cookie()
    assert site.post(Cookie=cookie, Origin=site.origin) == 200
    for origin in ("null", "https://evil.example", "http://127.0.0.1:1", f"http://localhost:{site.port}", "http://"):
        assert site.post(Cookie=cookie, Origin=origin) == 403
        assert site.post(Authorization=BEARER, Origin=origin) == 403
    assert site.post(Cookie=cookie) == 403  # every browser names the origin of a POST
    assert site.post(Host="evil.example", Origin="http://evil.example", Authorization=BEARER) == 403
    assert len(site.posted) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "cams.example.com"])
def test_behind_a_proxy_the_origin_is_the_public_address(host: str) -> None:
    site = Site(base_url="https://cams.example.com/video/")
    try:
        headers = site.ask(f"/video/?token={TOKEN}", Host=host)[2]
        assert "Secure" in headers["Set-Cookie"]
        cookie = headers["Set-Cookie"].partition(";")[0]
        for path in ("/change", "/video/change"):
            assert site.post(path, Host=host, Cookie=cookie, Origin="https://cams.example.com") == 200
        assert site.post(Host=host, Cookie=cookie, Origin="https://evil.example.com") == 403
        assert site.post(Host=host, Cookie=cookie, Origin="http://cams.example.com:444") == 403
    finally:
        site.server.close()


def test_a_request_without_a_body_needs_no_length(site: Site) -> None:
    """As of curl without data."""
    lines = ["POST /change HTTP/1.1", f"Host: 127.0.0.1:{site.port}", f"Authorization: {BEARER}", "Connection: close"]
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert [body for _, body in site.posted] == [b""]


def test_a_body_is_bounded(site: Site) -> None:
    assert site.post(body=b"x" * 1_000_000, Authorization=BEARER) == 200
    assert site.post(body=b"", Authorization=BEARER) == 200
    assert site.post(body=b"x", Content_Length="1000001", Authorization=BEARER) == 413
    assert site.post(body=b"x", Content_Length="9" * 5000, Authorization=BEARER) == 413
    assert site.post(body=b"x", Content_Length="-1", Authorization=BEARER) == 411
    assert site.post(body=b"1\r\nx\r\n0\r\n\r\n", Transfer_Encoding="chunked", Authorization=BEARER) == 411
    assert [len(body) for _, body in site.posted] == [1_000_000, 0]
    assert site.post(body=b"x" * 900_000) == 401  # the answer arrives, though the body is not wanted


def test_a_change_that_fails_is_one_line(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    status, text, _ = site.ask("/bad", "POST", b"", Authorization=BEARER)
    assert status == 400
    assert text.startswith("zone must be")
    with caplog.at_level(logging.ERROR):
        status, text, _ = site.ask("/fail", "POST", b"", Authorization=BEARER)
    assert (status, text.count("\n")) == (500, 1)
    assert "RuntimeError" in caplog.text
    assert site.ask("/other", "POST", b"", Authorization=BEARER)[0] == 405
    assert site.ask("/change", "OPTIONS")[2]["Allow"] == "GET, HEAD, OPTIONS, POST"


def test_the_token_of_a_file_or_of_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"\n {TOKEN}\n")
    assert find_token(file, {"SEQPAR_VIDEO_TOKEN": "another-token-of-16"}) == TOKEN
    assert find_token(None, {"SEQPAR_VIDEO_TOKEN": "another-token-of-16"}) == "another-token-of-16"
    assert find_token(None, {"SEQPAR_VIDEO_TOKEN": ""}) is None
    assert find_token(None, {}) is None
    assert TOKEN not in redacted(f"GET /?token={TOKEN}")
    for bad in ("", "short", "two words in one file", "x\N{LATIN SMALL LETTER E WITH ACUTE}" * 16):
        file.write_text(bad)
        with pytest.raises(SinkError, match="must") as refused:
            find_token(file, {})
        assert not bad or bad not in str(refused.value)
    with pytest.raises(SinkError, match="cannot be read"):
        find_token(tmp_path / "nowhere", {})
    with pytest.raises(ValueError, match="token"):
        WebServer({}, port=0, token="")
