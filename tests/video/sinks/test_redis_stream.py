"""Events in a real Redis: in order, bounded, and once it is back."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from video.sinks.people import event, person
from video.sinks.real_servers import free_port, redis_server, until

from seqpar_deploy.errors import SinkError
from seqpar_deploy.video.sinks import BaseSink, Health, Metrics, RedisSink, Sinks, outbox, redis_stream
from seqpar_deploy.video.types import Event, ZoneEvent

redis = pytest.importorskip("redis")

PASSWORD = "s3cret/with@signs"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 0.05)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with redis_server(tmp_path_factory.mktemp("redis")) as port:
        yield port


def entries(port: int, stream: str, password: str | None = None) -> list[dict[str, str]]:
    with redis.Redis(port=port, password=password, decode_responses=True) as client:
        return [fields for _, fields in client.xrange(stream)]


@pytest.mark.heavy
def test_events_arrive_in_order_with_their_fields(port: int) -> None:
    metrics = Metrics()
    sink = RedisSink(f"redis://127.0.0.1:{port}/0/people%201", metrics=metrics)
    for track in range(1, 251):
        sink.event(event(who=person(track, stream="yard")))
    counts = {"in": 2, "out": 1}
    sink.zone(ZoneEvent(kind="counted", stream="yard", zone="gate", timestamp=60.0, interval=60.0, people=counts))
    sink.close()
    sink.close()
    found = entries(port, "people 1")
    assert [one["track_id"] for one in found] == [str(track) for track in range(1, 251)] + [""]
    assert {one["stream"] for one in found} == {"yard"}
    assert [one["kind"] for one in found[-2:]] == ["appeared", "counted"]
    assert json.loads(found[0]["event"])["track_id"] == 1
    assert len({one["id"] for one in found}) == 251
    assert metrics.registry.get_sample_value("seqpar_outlet_delivered_total", {"sink": sink.name}) == 251


@pytest.mark.heavy
def test_the_stream_is_bounded_and_deleted_by_age(port: int) -> None:
    sink = RedisSink(f"redis://127.0.0.1:{port}/0/bounded", most=200)
    for track in range(1, 2001):
        sink.event(event(who=person(track)))
    until(lambda: [one["track_id"] for one in entries(port, "bounded")][-1:] == ["2000"])
    assert 200 <= len(entries(port, "bounded")) <= 400  # `MAXLEN ~` removes whole nodes of 100 entries
    now = datetime.datetime.now(datetime.timezone.utc)
    assert sink.delete_before(now - datetime.timedelta(hours=1)) == 0
    assert sink.delete_before(now + datetime.timedelta(minutes=1)) >= 200
    assert entries(port, "bounded") == []
    sink.close()


@pytest.mark.heavy
def test_a_dead_redis_costs_only_itself_and_recovers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="seqpar_deploy")

    class Other(BaseSink):
        def __init__(self) -> None:
            self.events: list[Event] = []

        def event(self, event: Event) -> None:
            self.events.append(event)

    port, health, other = free_port(), Health(), Other()
    sink = RedisSink(f"redis://127.0.0.1:{port}", health=health)
    sinks = Sinks([sink, other], health=health)
    for track in range(1, 11):
        sinks.event(event(who=person(track)))
    until(health.problems)
    (problem,) = health.problems()
    assert "connection refused" in problem
    assert str(port) in problem
    assert len(other.events) == 10
    with redis_server(tmp_path, port=port):
        until(lambda: not health.problems())
        until(lambda: len(entries(port, "seqpar")) == 10)
    with redis_server(tmp_path, port=port):  # restarted, and empty
        for track in range(11, 21):
            sinks.event(event(who=person(track)))
        until(lambda: len(entries(port, "seqpar")) == 10)
        sinks.close()
        assert [one["track_id"] for one in entries(port, "seqpar")] == [str(track) for track in range(11, 21)]
    assert sinks.incomplete == []
    assert "connection refused" in caplog.messages[0]
    assert "works again" in caplog.messages[1]


@pytest.mark.heavy
def test_a_wrong_password_is_told_and_recovers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    health = Health()
    with redis_server(tmp_path, password="another") as port:
        sink = RedisSink(f"redis://:s3cret%2Fwith%40signs@127.0.0.1:{port}", health=health)
        sink.event(event())
        until(lambda: caplog.messages)
        assert "password" in health.problems()[0]
        with redis.Redis(port=port, password="another") as client:
            client.config_set("requirepass", PASSWORD)
        until(lambda: not health.problems())
        sink.close()
        assert len(entries(port, "seqpar", PASSWORD)) == 1
    for line in caplog.messages:
        assert "s3cret" not in line


@pytest.mark.heavy
def test_a_name_of_another_type_is_told(port: int) -> None:
    with redis.Redis(port=port) as client:
        client.set("taken", "text")
        health = Health()
        sink = RedisSink(f"redis://127.0.0.1:{port}/0/taken", health=health, linger=0.1)
        sink.event(event())
        until(health.problems)
        assert "another type" in health.problems()[0]
        client.delete("taken")
        until(lambda: not health.problems())
        sink.close()
        client.set("string", "text")
    with pytest.raises(SinkError, match="another type"):
        redis_stream.RedisServer(f"redis://127.0.0.1:{port}/0/string").check()
    redis_stream.RedisServer(f"redis://127.0.0.1:{port}/0/free").check()


@pytest.mark.heavy
def test_tls(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from video.sinks.certificates import Authority

    authority = Authority(tmp_path)
    certificate, key = authority.issue("redis")
    port = free_port()
    options = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    options += ["--tls-ca-cert-file", str(authority.file), "--tls-auth-clients", "no"]
    with redis_server(tmp_path, options=options):
        redis_stream.RedisServer(f"rediss://127.0.0.1:{port}", ca=authority.file).check()
        with pytest.raises(SinkError, match="--redis-ca"):
            redis_stream.RedisServer(f"rediss://127.0.0.1:{port}").check()


@pytest.mark.parametrize(
    "address", ["host", "http://host", "redis://", "redis://host:port", "redis://host/db", "redis://host/0/a/b"]
)
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(SinkError, match="must be redis://"):
        RedisSink(address)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://host", "host:6379"),
        ("redis://host:1/0/seqpar", "host:1"),
        ("redis://me:hunter2-2@host/2/people", "host:6379/2/people"),
        ("redis://[::1]:7/3", "[::1]:7/3/seqpar"),
    ],
)
def test_names_without_credentials(address: str, shown: str) -> None:
    server: Any = redis_stream.RedisServer(address)
    assert server.shown == shown
    assert "hunter2" not in repr(vars(server))
    server.close()


def test_certificates_that_are_none_are_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("junk")
    with pytest.raises(SinkError, match=r"--redis-ca .*ca\.pem must hold certificates \(PEM\), got"):
        redis_stream.RedisServer("rediss://127.0.0.1:6379", ca=tmp_path / "ca.pem")


@pytest.mark.heavy
def test_a_full_redis_is_told_without_the_event_and_recovers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    health = Health()
    with redis_server(tmp_path, options=["--maxmemory", "1", "--maxmemory-policy", "noeviction"]) as port:
        sink = RedisSink(f"redis://127.0.0.1:{port}/0/seqpar", health=health, linger=0.1)
        sink.event(event())
        until(health.problems)
        assert health.problems()[0].endswith("has no memory left; raise its maxmemory, or lower --redis-most")
        with redis.Redis(port=port) as client:
            client.config_set("maxmemory", 0)
        until(lambda: not health.problems())
        sink.close()
        assert len(entries(port, "seqpar")) == 1
    assert "XADD" not in caplog.text
