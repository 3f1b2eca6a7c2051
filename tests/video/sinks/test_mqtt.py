"""Events reach a broker in order, once it is there; while it is not, nothing waits and little is kept."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from video.sinks.broker import Broker
from video.sinks.people import event, person

from seqpar_deploy.errors import SinkError
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.mqtt import MqttSink

pytestmark = pytest.mark.slow

pytest.importorskip("paho.mqtt")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def until(true: object, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def test_every_event_arrives_in_order(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    with Broker() as broker:
        sink = MqttSink(f"mqtt://127.0.0.1:{broker.port}/site/a+b", metrics=metrics)
        for track in range(1, 101):
            sink.event(event(who=person(track, stream="yard/2#")))
        sink.close()
        sink.close()
        assert broker.wait(100)
    assert [topic for topic, _ in broker.messages] == [f"site/a_b/yard_2_/{track}" for track in range(1, 101)]
    assert [json.loads(body)["track_id"] for _, body in broker.messages] == list(range(1, 101))
    assert metrics.registry.get_sample_value("seqpar_mqtt_published_total", {"sink": sink.name}) == 100
    assert caplog.messages == []
    assert sink.dropped == 0


def waits_of_this_thread(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every wait, sleep and connection that this thread makes from now on."""
    waits: list[str] = []
    this = threading.current_thread()

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if threading.current_thread() is this:
                waits.append(name)
            return original(*arguments, **options)

        return call

    for owner, name in ((threading.Condition, "wait"), (time, "sleep"), (socket, "create_connection")):
        monkeypatch.setattr(owner, name, watched(name, getattr(owner, name)))
    return waits


def test_a_dead_broker_costs_the_oldest_events_and_no_wait(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    port, health = free_port(), Health()
    sink = MqttSink(f"mqtt://127.0.0.1:{port}", outbox=30, health=health)
    until(lambda: caplog.messages)
    (problem,) = health.problems()
    assert problem.startswith(f"connection to mqtt broker 127.0.0.1:{port}: it does not answer: connection refused")
    with pytest.MonkeyPatch.context() as monkeypatch:
        waits = waits_of_this_thread(monkeypatch)
        for track in range(1, 101):
            sink.event(event(who=person(track)))
    assert waits == []
    assert sink.dropped == 70
    with Broker(port) as broker:
        assert broker.wait(30)
        assert health.problems() == []
        with pytest.raises(SinkError, match="70 events were not delivered"):
            sink.close()
    assert [topic for topic, _ in broker.messages] == [f"seqpar/street/{track}" for track in range(71, 101)]
    lost, back = caplog.messages
    assert lost.startswith(f"mqtt broker 127.0.0.1:{port}: it does not answer: ")
    assert "the last 30 events are kept" in lost
    assert back.startswith(f"mqtt broker 127.0.0.1:{port}: reconnected")
    assert "70 events" in back


def test_two_sinks_of_one_broker_do_not_share_their_metrics() -> None:
    metrics = Metrics()
    with Broker() as broker:
        up, lost = (
            MqttSink(f"mqtt://127.0.0.1:{port}/{prefix}", linger=0, metrics=metrics)
            for prefix, port in (("a", broker.port), ("b", free_port()))
        )
        lost.event(event())
        with pytest.raises(SinkError, match="1 event"):
            lost.close()
        until(lambda: metrics.registry.get_sample_value("seqpar_mqtt_connected", {"sink": up.name}))
        up.close()
    assert metrics.registry.get_sample_value("seqpar_mqtt_connected", {"sink": lost.name}) == 0
    assert metrics.registry.get_sample_value("seqpar_mqtt_dropped_total", {"sink": lost.name}) == 1
    assert metrics.registry.get_sample_value("seqpar_mqtt_dropped_total", {"sink": up.name}) == 0
    assert (up.dropped, lost.dropped) == (0, 1)


def test_after_a_reconnection_unacknowledged_events_come_before_new_ones() -> None:
    health = Health()
    with Broker(acknowledge=False) as deaf:
        sink = MqttSink(f"mqtt://127.0.0.1:{deaf.port}", health=health)
        connected = sink._client.on_connect
        assert connected is not None

        def slowly(*details: object) -> None:
            """paho sends unacknowledged messages again only after this."""
            connected(*details)  # type: ignore[arg-type]
            time.sleep(0.2)

        sink._client.on_connect = slowly
        for track in (1, 2, 3):
            sink.event(event(who=person(track)))
        assert deaf.wait(3)
    until(health.problems)
    for track in (4, 5):
        sink.event(event(who=person(track)))
    with Broker(deaf.port) as broker:
        assert broker.wait(5)
        sink.close()
    assert [topic for topic, _ in broker.messages] == [f"seqpar/street/{track}" for track in range(1, 6)]


def test_it_outlives_a_broker_that_is_restarted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    with Broker() as first:
        sink = MqttSink(f"mqtt://127.0.0.1:{first.port}")
        sink.event(event(who=person(1)))
        assert first.wait(1)
    until(lambda: caplog.messages)
    sink.event(event(who=person(2)))
    with Broker(first.port) as second:
        assert second.wait(1)
        sink.close()
    assert [topic for topic, _ in second.messages] == ["seqpar/street/2"]
    assert len(caplog.messages) == 2


def test_closing_does_not_wait_for_a_dead_broker() -> None:
    sink = MqttSink(f"mqtt://127.0.0.1:{free_port()}", linger=0.1)
    sink.event(event())
    start = time.monotonic()
    with pytest.raises(SinkError, match="1 event was not delivered"):
        sink.close()
    sink.close()
    assert time.monotonic() - start < 3


def test_a_refusal_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    health = Health()
    with Broker(refuse=5) as broker:
        sink = MqttSink(f"mqtt://me:secret@127.0.0.1:{broker.port}", linger=0.1, health=health)
        until(lambda: caplog.messages)
        assert "Not authorized" in health.problems()[0]
        sink.close()
    assert health.problems() == []
    assert "Not authorized" in caplog.messages[0]
    assert "secret" not in caplog.messages[0]


def test_two_of_one_broker_have_names_of_their_own() -> None:
    health, port = Health(), free_port()
    sinks = [MqttSink(f"mqtt://127.0.0.1:{port}{prefix}", linger=0, health=health) for prefix in ("", "/site/gates")]
    assert [sink.name for sink in sinks] == [f"mqtt broker 127.0.0.1:{port}{shown}" for shown in ("", "/site/gates")]
    until(lambda: len(health.problems()) == 2)
    with Broker(port) as broker:
        until(lambda: len(broker.client_ids) == 2)
        assert len(set(broker.client_ids) - {""}) == 2
        for sink in sinks:
            sink.close()
    assert health.problems() == []


@pytest.mark.parametrize("address", ["127.0.0.1", "http://host/x", "mqtt://", "mqtt://host:port", "mqtt://[::1"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(SinkError, match="must be mqtt://"):
        MqttSink(address)
