"""Events reach a receiver in order, once it takes them; while it does not, only this output waits."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from video.sinks.people import event, person
from video.sinks.real_servers import free_port, until
from video.sinks.receiver import Receiver

from seqpar_deploy.errors import SinkError
from seqpar_deploy.video.sinks import BaseSink, Health, Metrics, Sinks, WebhookSink, outbox, webhook
from seqpar_deploy.video.sinks.outbox import RefusedError, UndeliveredError
from seqpar_deploy.video.types import Event, ZoneEvent

pytestmark = pytest.mark.slow

SECRET = "correct-horse-battery-staple"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 0.05)


def post(address: str, **options: Any) -> None:
    with contextlib.closing(webhook.Receiver(address, **options)) as sender:
        sender.post(b"{}", {})


def value(metrics: Metrics, name: str, sink: WebhookSink) -> float | None:
    return metrics.registry.get_sample_value(f"seqpar_outlet_{name}", {"sink": sink.name})


def test_events_arrive_in_order_signed_on_one_connection(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    with Receiver() as receiver:
        sink = WebhookSink(f"{receiver.url}/people?site=north", secret=SECRET, metrics=metrics)
        for track in range(1, 51):
            sink.event(event(who=person(track)))
        sink.zone(ZoneEvent(kind="crossed", stream="street", zone="gate", timestamp=1.0, track_id=50, direction="in"))
        sink.close()
        sink.close()
    bodies = [json.loads(body) for _, _, body in receiver.requests]
    assert [body["track_id"] for body in bodies[:-1]] == list(range(1, 51))
    assert bodies[-1]["event"] == "crossed"
    assert receiver.connections == 1
    assert len({headers[webhook.EVENT_ID] for _, headers, _ in receiver.requests}) == 51
    for path, headers, body in receiver.requests:
        assert path == "/people?site=north"
        time, signed = (part.partition("=")[2] for part in headers[webhook.SIGNATURE].split(","))
        expected = hmac.new(SECRET.encode(), time.encode() + b"." + body, hashlib.sha256).hexdigest()
        assert signed == expected
    assert value(metrics, "delivered_total", sink) == 51
    assert value(metrics, "up", sink) == 1
    assert caplog.messages == []


def test_one_that_answers_500_costs_only_itself_and_recovers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="seqpar_deploy")

    class Other(BaseSink):
        name = "other"

        def __init__(self) -> None:
            self.events: list[Event] = []

        def event(self, event: Event) -> None:
            self.events.append(event)

    health, other, failing = Health(), Other(), threading.Event()
    failing.set()
    with Receiver(lambda _number: (500, {}) if failing.is_set() else (200, {})) as receiver:
        sink = WebhookSink(receiver.url, health=health, outbox=10)
        sinks = Sinks([sink, other], health=health)
        for track in range(1, 31):
            sinks.event(event(who=person(track)))
        until(lambda: len(receiver.requests) >= 3)
        assert len(other.events) == 30
        (problem,) = health.problems()
        assert "HTTP 500" in problem
        failing.clear()
        until(lambda: not health.problems())
        until(lambda: json.loads(receiver.requests[-1][2])["track_id"] == 30)
        sinks.close()
    assert sinks.incomplete == [sink.name]  # the oldest events were dropped
    tracks = [json.loads(body)["track_id"] for body in receiver.taken]
    assert tracks[-10:] == list(range(21, 31))
    assert tracks == sorted(tracks)
    first = [headers[webhook.EVENT_ID] for _, headers, body in receiver.requests if body == receiver.requests[0][2]]
    assert len(first) >= 3
    assert len(set(first)) == 1  # the same event, again
    lost, back, *_ = caplog.messages
    assert "HTTP 500" in lost
    assert "works again" in back
    assert sum("HTTP 500" in line for line in caplog.messages) == 1


def test_a_dead_receiver_is_told_once_and_gets_what_was_kept(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    sink = WebhookSink(f"http://127.0.0.1:{port}/in")
    for track in (1, 2, 3):
        sink.event(event(who=person(track)))
    until(lambda: caplog.messages)
    assert "connection refused" in caplog.messages[0]
    assert str(port) in caplog.messages[0]
    with Receiver(port=port) as receiver:
        until(lambda: len(receiver.taken) == 3)
        sink.close()
    assert [json.loads(body)["track_id"] for body in receiver.taken] == [1, 2, 3]
    assert len([line for line in caplog.messages if "refused" in line]) == 1


def test_a_refused_event_is_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    with Receiver(lambda number: (422, {}) if number in (1, 2) else (200, {})) as receiver:
        sink = WebhookSink(receiver.url, metrics=metrics)
        for track in range(1, 6):
            sink.event(event(who=person(track)))
        until(lambda: len(receiver.requests) == 5)
        with pytest.raises(SinkError, match="2 events were not delivered"):
            sink.close()
    assert [json.loads(body)["track_id"] for body in receiver.taken] == [1, 4, 5]
    assert value(metrics, "refused_total", sink) == 2
    assert [line for line in caplog.messages if "HTTP 422" in line][1:] == []


def test_a_redirect_is_not_followed() -> None:
    with Receiver() as other, Receiver(lambda _number: (307, {"Location": f"{other.url}/"})) as receiver:
        with pytest.raises(RefusedError, match="307"):
            post(receiver.url)
        assert other.requests == []


@pytest.mark.parametrize(
    ("given", "wait"), [("7", 7.0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("soon", 0.0), ("", 0.0)]
)
def test_retry_after_is_honoured(given: str, wait: float) -> None:
    headers = {"Retry-After": given} if given else {}
    with Receiver(lambda _number: (429, headers)) as receiver, pytest.raises(UndeliveredError, match="429") as caught:
        post(receiver.url)
    assert caught.value.wait == wait


def test_an_idle_connection_that_was_closed_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    with Receiver(lambda _number: (200, {"Connection": "keep-alive"})) as receiver:
        sender = webhook.Receiver(receiver.url)
        sender.post(b"1", {})
    with Receiver(port=receiver.port) as again:
        sender.post(b"2", {})
        sender.close()
    assert again.taken == [b"2"]


def test_a_silent_receiver_is_given_up_and_does_not_delay_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(UndeliveredError, match="answer within"):
            post(address, within=0.2)
        sink = WebhookSink(address, linger=0.1)
        sink.event(event())
        with pytest.raises(SinkError, match="1 event was"):
            sink.close()
        assert not any(thread.name == sink.name for thread in threading.enumerate())


@contextlib.contextmanager
def dripping(start: bytes, again: bytes, tls: ssl.SSLContext | None = None) -> Iterator[int]:
    """Yield the port of a receiver that sends some bytes, and then others again and again."""
    end = threading.Event()

    def drip() -> None:
        with contextlib.suppress(OSError):
            client, _ = listener.accept()
            with tls.wrap_socket(client, server_side=True) if tls else client as sender:
                sender.sendall(start)
                while not end.wait(0.05):
                    sender.sendall(again)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        end.set()
        thread.join(10)
        assert not thread.is_alive()


def test_a_receiver_that_drips_is_given_up() -> None:
    with dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b".") as port:
        post(f"http://127.0.0.1:{port}", within=0.5)  # taken: it has said 200


DRIPS = [(b"HTTP/1.1 200 OK\r\nX-Slow: ", b"."), (b"", b"HTTP/1.1 100 Continue\r\n\r\n"), (b"H", b"T")]


def assert_given_up(address: str, **options: Any) -> None:
    """Assert that a receiver that never ends is given up. A watchdog ends the connection if it is not."""
    sender, endless = webhook.Receiver(address, within=0.5, **options), threading.Event()

    def end() -> None:
        endless.set()
        sender.close()

    watchdog = threading.Timer(30, end)
    watchdog.start()
    with contextlib.closing(sender), pytest.raises(UndeliveredError, match=r"answer within 0\.5 s"):
        sender.post(b"{}", {})
    watchdog.cancel()
    assert not endless.is_set()


@pytest.mark.parametrize(("start", "again"), DRIPS)
def test_one_deadline_for_the_whole_answer(start: bytes, again: bytes) -> None:
    with dripping(start, again) as port:
        assert_given_up(f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(("start", "again"), DRIPS)
def test_one_deadline_for_the_whole_answer_with_tls(tmp_path: Path, start: bytes, again: bytes) -> None:
    pytest.importorskip("cryptography")
    from video.sinks.certificates import Authority

    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("receiver"))
    with dripping(start, again, context) as port:
        assert_given_up(f"https://127.0.0.1:{port}", ca=authority.file)


def test_one_deadline_for_all_addresses_and_the_tls_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as stack:
        mute = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        where = mute.getsockname()
        full = [stack.enter_context(socket.socket()) for _ in range(3)]  # of its backlog: others wait to be connected
        for one in full:
            one.setblocking(False)
            one.connect_ex(where)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_named: found * 10)
        assert_given_up("http://receiver.example")
        live = stack.enter_context(Receiver())
        found.append((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", live.port)))
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_named: found)
        post("http://receiver.example", within=2)
        assert live.taken == [b"{}"]
        monkeypatch.undo()
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        assert_given_up(f"https://127.0.0.1:{silent.getsockname()[1]}")


def test_a_kept_connection_has_a_new_deadline_for_each_request() -> None:
    with Receiver() as receiver, contextlib.closing(webhook.Receiver(receiver.url, within=0.5)) as sender:
        sender.post(b"1", {})
        time.sleep(0.6)
        sender.post(b"2", {})
        assert receiver.taken == [b"1", b"2"]
        assert receiver.connections == 1


def test_tls(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from video.sinks.certificates import Authority

    authority = Authority(tmp_path)
    certificate, key = authority.issue("receiver")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Receiver(tls=context) as receiver:
        post(receiver.url, ca=authority.file)
        assert receiver.taken == [b"{}"]
        with pytest.raises(UndeliveredError, match="--webhook-ca"):
            post(receiver.url)


def test_no_credential_is_shown(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")  # not used
    health = Health()
    with Receiver(lambda _number: (500, {})) as receiver:
        address = f"http://me:hunter2-hunter2@127.0.0.1:{receiver.port}/hooks/xoxb0123456789abcdef0123?key=k3y-k3y-k3y"
        sink = WebhookSink(address, secret=SECRET, health=health, linger=0.1)
        sink.event(event())
        until(lambda: caplog.messages)
        text = " ".join([*caplog.messages, *health.problems(), sink.name, repr(vars(sink._receiver))])
        with pytest.raises(SinkError):
            sink.close()
    assert receiver.requests[0][0].endswith("?key=k3y-k3y-k3y")
    assert receiver.requests[0][1]["Authorization"].startswith("Basic ")
    for secret in ("hunter2", "xoxb0123456789abcdef0123", "k3y-k3y-k3y", SECRET):
        assert secret not in text


@pytest.mark.parametrize("address", ["host/path", "ftp://host/", "https://", "http://host:port/", "http://host/a b"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(SinkError, match="must be https://"):
        WebhookSink(address)


def test_the_page_shows_how_to_check_a_signature() -> None:
    text = (Path(__file__).parents[3] / "docs/how-to/send-events.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    page: dict[str, Any] = {}
    exec(code, page)
    is_genuine, secret, now = page["is_genuine"], SECRET.encode(), int(time.time())
    signed = webhook.signature(b'{"a": 1}', secret, now)
    assert is_genuine(b'{"a": 1}', signed, secret)
    assert not is_genuine(b'{"a": 2}', signed, secret)
    assert not is_genuine(b'{"a": 1}', signed, b"another secret..")
    assert not is_genuine(b'{"a": 1}', webhook.signature(b'{"a": 1}', secret, now - 3600), secret)
    for wrong in ("", "t=1", "v1=é", "t=x,v1=0"):
        assert not is_genuine(b"{}", wrong, secret)


def test_secrets_of_files(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    assert webhook.read_secret(file) == SECRET
    file.write_text("short")
    with pytest.raises(SinkError, match="16 characters") as caught:
        webhook.read_secret(file)
    assert "short" not in str(caught.value).replace(str(file), "")
    with pytest.raises(SinkError, match="cannot be read"):
        webhook.read_secret(tmp_path / "none")
