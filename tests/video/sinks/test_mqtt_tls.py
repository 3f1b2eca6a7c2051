"""MQTT over TLS, with real handshakes: the files that it takes, and the reason if it cannot connect."""

from __future__ import annotations

import http.server
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("paho.mqtt")
pytest.importorskip("cryptography")
from video.sinks.broker import Broker
from video.sinks.certificates import Authority, der, key_pem
from video.sinks.people import event

from seqpar_deploy.errors import SinkError
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.mqtt import MqttSink
from seqpar_deploy.video.sinks.mqtt_broker import read_broker


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def server(authority: Authority, own: tuple[Path, Path], *, clients_of: Authority | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*own)
    if clients_of:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients_of.file)
    return context


def trouble(address: str, **options: Any) -> str:
    """Return the problem of a sink that cannot connect."""
    health = Health()
    sink = MqttSink(address, linger=0, health=health, **options)
    end = time.monotonic() + 30
    while not (problems := health.problems()):
        assert time.monotonic() < end
        time.sleep(0.02)
    sink.close()
    assert "\n" not in problems[0]
    return problems[0]


def test_events_arrive_over_tls_with_a_client_certificate(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("camera")
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    context = server(authority, authority.issue("broker"), clients_of=authority)
    for files in ({"certificate": certificate, "key": key}, {"certificate": both}):
        with Broker(tls=context) as broker:
            sink = MqttSink(f"mqtts://me:p%40ss@127.0.0.1:{broker.port}", ca=authority.file, **files)
            sink.event(event())
            assert broker.wait(1)
            sink.close()
            assert b"\x00\x02me\x00\x04p@ss" in broker.connects[0]


def test_an_insecure_sink_accepts_any_certificate(authority: Authority, tmp_path: Path) -> None:
    with Broker(tls=server(authority, Authority(tmp_path, "other").issue("broker", expired=True))) as broker:
        sink = MqttSink(f"mqtts://127.0.0.1:{broker.port}", insecure=True)
        sink.event(event())
        assert broker.wait(1)
        sink.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("issued", "ca", "says"),
    [
        ({"expired": True}, True, ("certificate has expired",)),
        ({"host": "10.9.8.7"}, True, ("another IP address",)),
        ({}, False, ("CA", "not trusted", "--mqtt-ca")),
    ],
)
def test_a_certificate_that_is_refused(
    authority: Authority, issued: dict[str, Any], ca: bool, says: tuple[str, ...]
) -> None:
    with Broker(tls=server(authority, authority.issue("wrong", **issued))) as broker:
        problem = trouble(f"mqtts://127.0.0.1:{broker.port}", ca=authority.file if ca else None)
    for word in says:
        assert word in problem


@pytest.mark.slow
def test_the_broker_refuses_the_client(authority: Authority, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger").issue("thief")
    context = server(authority, authority.issue("broker"), clients_of=authority)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context.maximum_version = version
        with Broker(tls=context) as broker:
            address = f"mqtts://127.0.0.1:{broker.port}"
            assert "--mqtt-cert" in trouble(address, ca=authority.file)
            refused = trouble(address, ca=authority.file, certificate=stranger[0], key=stranger[1])
            assert "refuses the client certificate" in refused
            assert "CA is unknown" in refused


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "says"),
    [(1, "3.1.1"), (2, "client ID"), (3, "unavailable"), (4, "Bad user name or password"), (5, "Not authorized")],
)
def test_the_reason_of_a_refusal(code: int, says: str) -> None:
    with Broker(refuse=code) as broker:
        problem = trouble(f"mqtt://me:hunter2@127.0.0.1:{broker.port}")
    assert "refuses" in problem
    assert says in problem
    assert "hunter2" not in problem


@pytest.mark.slow
def test_the_wrong_kind_of_port(authority: Authority) -> None:
    with Broker(tls=server(authority, authority.issue("broker"))) as broker:
        assert "mqtts://" in trouble(f"mqtt://127.0.0.1:{broker.port}")
    with Broker() as broker:
        assert "must be one for TLS" in trouble(f"mqtts://127.0.0.1:{broker.port}")  # it waits for more bytes
    web = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        assert "does not speak TLS" in trouble(f"mqtts://127.0.0.1:{web.server_port}")
    finally:
        web.shutdown()
        web.server_close()
    assert "cannot be resolved" in trouble("mqtt://no-such-host.invalid")


@pytest.mark.slow
def test_a_port_that_says_nothing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from seqpar_deploy.video.sinks import mqtt

    monkeypatch.setattr(mqtt, "_PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "does not answer" in trouble(f"mqtt://127.0.0.1:{silent.getsockname()[1]}")


def test_files_are_checked_before_anything_is_connected(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.issue("camera")
    other = authority.issue("other")[1]
    locked, empty, text, binary = (tmp_path / name for name in ("locked.key", "empty", "text", "ca.der"))
    locked.write_bytes(key_pem(passphrase=b"x"))
    empty.touch()
    text.write_text("no certificate\n")
    binary.write_bytes(der(authority.file))
    cut = tmp_path / "cut.pem"
    cut.write_bytes(certificate.read_bytes()[:200] + b"\n-----END CERTIFICATE-----\n")
    cases: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"ca": tmp_path / "none"}, ("none", "No such file")),
        ({"ca": tmp_path}, ("directory",)),
        ({"ca": empty}, ("CA certificate", "empty")),
        ({"ca": text}, ("text", "PEM")),
        ({"ca": binary}, ("ca.der", "DER")),
        ({"ca": key}, ("private key only",)),
        ({"ca": cut}, ("cut.pem", "damaged")),
        ({"ca": authority.file, "insecure": True}, ("--mqtt-insecure",)),
        ({"key": key}, ("--mqtt-key needs --mqtt-cert",)),
        ({"certificate": certificate}, ("camera.pem", "--mqtt-key")),
        ({"certificate": certificate, "key": other}, ("other.key", "belong")),
        ({"certificate": certificate, "key": locked}, ("locked.key", "encrypted")),
        ({"certificate": key, "key": key}, ("camera.key", "CERTIFICATE")),
        ({"certificate": cut, "key": key}, ("cut.pem", "cannot be read")),
    ]
    for options, says in cases:
        with pytest.raises(SinkError) as refused:
            read_broker("mqtts://broker", **options)
        assert "\n" not in str(refused.value)
        for word in says:
            assert word in str(refused.value), (options, str(refused.value))


@pytest.mark.parametrize("options", [{"ca": Path("ca.pem")}, {"certificate": Path("c")}, {"insecure": True}])
def test_tls_options_need_tls(options: dict[str, Any]) -> None:
    with pytest.raises(SinkError, match=r"--mqtt-(ca|cert|insecure) needs an mqtts://"):
        read_broker("mqtt://broker", **options)


@pytest.mark.parametrize(
    ("address", "host", "port", "prefix", "user", "password"),
    [
        ("mqtt://broker", "broker", 1883, "seqpar", None, None),
        ("MQTTS://Broker.example/a/b/", "Broker.example", 8883, "a/b", None, None),
        ("mqtt://me@broker:1884", "broker", 1884, "seqpar", "me", None),
        ("mqtt://me:p%40s%2Fs@[::1]:1883/x", "::1", 1883, "x", "me", "p@s/s"),
        ("mqtt://me:pa/s#s@w?rd@broker:1883/x", "broker", 1883, "x", "me", "pa/s#s@w?rd"),
        ("mqtt://me:1/2@10.0.0.5", "10.0.0.5", 1883, "seqpar", "me", "1/2"),
    ],
)
def test_addresses(address: str, host: str, port: int, prefix: str, user: str | None, password: str | None) -> None:
    broker = read_broker(address)
    assert (broker.host, broker.port, broker.prefix) == (host, port, prefix)
    assert (broker.user, broker.password) == (user, password)
    assert not password or password not in repr(broker) + broker.shown


@pytest.mark.parametrize(
    "address",
    ["mqtt://broker:0", "mqtt://broker:99999", "mqtt://broker/x?password=y", "mqtt://a..b", "mqtt://broker:12/3@x:y"],
)
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(SinkError, match="must be mqtt://"):
        read_broker(address)


def test_two_sinks_of_one_broker_and_prefix_have_names_of_their_own() -> None:
    metrics, health = Metrics(), Health()
    with Broker() as broker:
        made: Callable[[], MqttSink] = lambda: MqttSink(  # noqa: E731
            f"mqtt://127.0.0.1:{broker.port}/a", metrics=metrics, health=health
        )
        first, second = made(), made()
        assert first.name != second.name
        second.close()
        third = made()
        assert third.name == second.name  # a closed one gives its name back
        first.close()
        third.close()
