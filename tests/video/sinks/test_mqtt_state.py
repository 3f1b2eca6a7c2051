"""Retained state, last will and Home Assistant discovery, with a real broker."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from video.sinks.people import event, frame, person
from video.sinks.real_servers import Mosquitto, until

from seqpar_deploy.video.sinks import Health, MqttSink, Sinks, home_assistant
from seqpar_deploy.video.sinks.mqtt_state import StreamStates
from seqpar_deploy.video.types import ZoneEvent

mqtt = pytest.importorskip("paho.mqtt.client")

DOOR = 'the "door" {{ 5 }} é\N{GRINNING FACE}'


class Reader:
    """Subscribes to everything, and notes the latest retained message and all others by topic."""

    def __init__(self, port: int, *, user: str = "", password: str = "") -> None:
        self.messages: dict[str, list[bytes]] = {}
        self._ready = threading.Event()
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        if user:
            self.client.username_pw_set(user, password)
        self.client.on_connect = lambda *_: self.client.subscribe("#", qos=1)
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_message = self._note
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self._ready.wait(20)

    def _note(self, _client: Any, _data: Any, message: Any) -> None:
        self.messages.setdefault(message.topic, []).append(message.payload)

    def latest(self, topic: str) -> Any:
        found = self.messages.get(topic, [b"null"])[-1]
        return json.loads(found or "null")

    def text(self, topic: str) -> str:
        return self.messages.get(topic, [b""])[-1].decode()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client.reinitialise()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path) as broker:
        yield broker


def crossed(direction: Any) -> ZoneEvent:
    return ZoneEvent(kind="crossed", stream="street", zone="gate", timestamp=1.0, track_id=1, direction=direction)


def at_door(kind: Any, track_id: int) -> ZoneEvent:
    return ZoneEvent(kind=kind, stream="street", zone=DOOR, timestamp=1.0, track_id=track_id, person=person(track_id))


def discovery(state: dict[str, Any], published: dict[str, bytes] | None = None) -> tuple[str, str]:
    return home_assistant.discovery(
        "street",
        state,
        discovery_prefix="homeassistant",
        prefix="seqpar",
        state_topic="seqpar/street/state",
        status_topic="seqpar/status",
        published=published,
    )


def test_the_state_of_a_stream() -> None:
    now = 0.0
    states = StreamStates(clock=lambda: now)
    states.frame("street")
    for track in (1, 2):
        states.event(event("appeared", person(track)))
        states.zone(at_door("entered", track))
    for direction in ("in", "in", "out"):
        states.zone(crossed(direction))
    states.event(event("changed", person(1)))
    (found,) = states.changes().values()
    assert found["connected"]
    assert (found["people"], found["seen"]) == (2, 2)
    assert found["zones"] == {DOOR: {"people": 2, "entered": 2, "left": 0}}
    assert found["lines"] == {"gate": {"in": 2, "out": 1}}
    assert states.changes() == {}
    states.zone(at_door("left", 1))
    states.event(event("ended", person(1)))
    states.event(event("ended", person(2)))
    (found,) = states.changes().values()
    assert (found["people"], found["seen"]) == (0, 2)
    assert found["zones"][DOOR] == {"people": 0, "entered": 2, "left": 1}
    now = 60.0
    assert not states.changes()["street"]["connected"]
    now = 7200.0
    states.changes()
    states.frame("street")
    assert states.changes()["street"]["seen"] == 0  # a stream that was silent for long was forgotten


def test_zones_begin_with_0_and_go_when_they_are_removed() -> None:
    states = StreamStates()
    states.set_zones("street", {DOOR}, {"gate"})
    assert states.changes() == {}  # the camera has not been seen
    states.frame("street")
    found = states.changes()["street"]
    assert found["zones"] == {DOOR: {"people": 0, "entered": 0, "left": 0}}
    assert found["lines"] == {"gate": {"in": 0, "out": 0}}
    states.zone(at_door("entered", 1))
    states.zone(crossed("in"))
    states.set_zones("street", {"yard", DOOR}, ())
    states.zone(crossed("in"))  # of the frame before
    found = states.changes()["street"]
    assert found["zones"][DOOR]["people"] == 1
    assert (found["zones"]["yard"]["people"], found["lines"]) == (0, {})
    states.set_zones("street", (), ())
    states.zone(at_door("left", 1))
    assert states.changes()["street"]["zones"] == {}


def test_home_assistant_is_told_to_remove_what_is_no_more() -> None:
    def components(state: dict[str, Any]) -> dict[str, Any]:
        topic, text = discovery(state, published)
        published[topic] = text.encode()
        found: dict[str, Any] = json.loads(text)["components"]
        return found

    states, published = StreamStates(), dict[str, bytes]()
    states.set_zones("street", {DOOR}, {"gate"})
    states.frame("street")
    full = components(states.changes()["street"])
    states.set_zones("street", (), {"gate"})
    for _ in range(2):
        less = components(states.changes().get("street", {"zones": [], "lines": ["gate"]}))
        gone = {key for key, component in less.items() if component == {"platform": "sensor"}}
        assert {full[key]["name"] for key in gone} == {f"{DOOR} {what}" for what in ("people", "entered", "left")}
        assert {key: less[key] for key in less.keys() - gone} == {key: full[key] for key in full.keys() - gone}
    states.set_zones("street", {DOOR}, {"gate"})
    assert components(states.changes()["street"]) == full


def test_templates_of_home_assistant_read_the_state() -> None:
    """Each sensor's template gives the value in the state, whatever the name of the zone."""
    jinja2 = pytest.importorskip("jinja2")
    states = StreamStates()
    states.event(event())
    for track in (1, 2, 3):
        states.zone(at_door("entered", track))
    states.zone(crossed("out"))
    state = states.changes()["street"]
    topic, text = discovery(state)
    found = json.loads(text)
    assert topic.startswith("homeassistant/device/seqpar_street_")
    assert topic.endswith("/config")
    assert {"device", "origin", "components", "state_topic", "availability", "qos"} == set(found)  # HA refuses others
    assert found["device"]["identifiers"]
    assert found["availability"] == [{"topic": "seqpar/status"}]
    values = {}
    for component in found["components"].values():
        assert component["platform"] in ("sensor", "binary_sensor")
        template = jinja2.Environment().from_string(component["value_template"])
        values[component["name"]] = template.render(value_json=json.loads(json.dumps(state)))
    assert values["Connection"] == "ON"
    assert (values["People"], values["People seen"]) == ("1", "1")
    assert values[f"{DOOR} people"] == values[f"{DOOR} entered"] == "3"
    assert (values["gate in"], values["gate out"]) == ("0", "1")
    ids = [component["unique_id"] for component in found["components"].values()]
    assert len(set(ids)) == len(ids) == 8


@pytest.mark.heavy
def test_state_and_status_are_retained(broker: Mosquitto) -> None:
    sink = MqttSink(f"mqtt://127.0.0.1:{broker.port}/site", retain=True)
    sink.frame(frame(), [], {})
    sink.event(event("appeared", person(1)))
    with Reader(broker.port) as reader:
        sink.zone(at_door("entered", 1))
        until(lambda: (reader.latest("site/street/state") or {}).get("people") == 1)
        until(lambda: reader.text("site/status") == "online")
        assert reader.latest("site/street/state")["connected"]
        assert not any(topic.startswith("homeassistant") for topic in reader.messages)
        sink.event(event("ended", person(1)))
        sink.close()
        until(lambda: reader.text("site/status") == "offline")
        until(lambda: reader.latest("site/street/state")["people"] == 0)
        assert any(topic.startswith("site/street/zones/the ") for topic in reader.messages)
    with Reader(broker.port) as late:
        until(lambda: late.text("site/status") == "offline")
        until(lambda: late.latest("site/street/state"))
        assert "site/street/1" not in late.messages  # events are not retained


@pytest.mark.heavy
def test_the_last_will_of_a_run_that_is_killed(broker: Mosquitto) -> None:
    code = (
        "import os, sys, time; from seqpar_deploy.video.sinks import MqttSink, Metrics; metrics = Metrics();"
        "sink = MqttSink(sys.argv[1], metrics=metrics)\n"
        "sys.stdin.read(1); os._exit(9)"
    )
    address = f"mqtt://127.0.0.1:{broker.port}"
    with (
        Reader(broker.port) as reader,
        subprocess.Popen([sys.executable, "-c", code, address], stdin=subprocess.PIPE) as process,
    ):
        until(lambda: reader.text("seqpar/status") == "online", 60)
        process.kill()
        until(lambda: reader.text("seqpar/status") == "offline")


@pytest.mark.heavy
def test_home_assistant_discovers_streams_and_forgets_them(broker: Mosquitto) -> None:
    sink = MqttSink(f"mqtt://127.0.0.1:{broker.port}", home_assistant="homeassistant", forget=True)
    sink.frame(frame(), [], {})
    sink.event(event("appeared", person(1)))
    with Reader(broker.port) as reader:

        def config() -> str:
            return next((topic for topic in reader.messages if topic.endswith("/config")), "")

        until(config)
        until(lambda: reader.latest("seqpar/street/state"))
        topic = config()
        assert "gate in" not in json.dumps(reader.latest(topic))
        sink.zone(crossed("in"))
        until(lambda: "gate in" in json.dumps(reader.latest(topic)))  # sensors come with the first event
        before = len(reader.messages[topic])
        reader.client.publish("homeassistant/status", "online", qos=1)
        until(lambda: len(reader.messages[topic]) > before)
        sink.event(event("ended", person(1)))
        sink.close()
        until(lambda: reader.text("seqpar/status") == "offline")
    with Reader(broker.port) as late:
        until(lambda: late.text("seqpar/status") == "offline")
        assert set(late.messages) == {"seqpar/status"}


@pytest.mark.heavy
def test_a_wrong_password_costs_only_the_broker_and_recovers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    health, other = Health(), []

    class Other:
        name = "other"

        def frame(self, *_: object) -> None: ...

        def event(self, one: object) -> None:
            other.append(one)

        def close(self) -> None: ...

    with Mosquitto(tmp_path, {"me": "right-right"}) as broker:
        sink = MqttSink(f"mqtt://me:wrong-wrong@127.0.0.1:{broker.port}", retain=True, health=health)
        sinks = Sinks([sink, Other()], health=health)
        for track in (1, 2, 3):
            sinks.event(event("appeared", person(track)))
        until(health.problems)
        assert "Not authorized" in health.problems()[0]
        assert len(other) == 3
        broker.change({"me": "wrong-wrong"})
        until(lambda: not health.problems(), 60)
        with Reader(broker.port, user="me", password="wrong-wrong") as reader:
            until(lambda: (reader.latest("seqpar/street/state") or {}).get("people") == 3)
            sinks.event(event("ended", person(3)))
            until(lambda: "seqpar/street/3" in reader.messages)
            sinks.close()
    assert sinks.incomplete == []
    assert sum("Not authorized" in line for line in caplog.messages) == 1
    assert any("reconnected" in line for line in caplog.messages)
    assert "wrong-wrong" not in " ".join(caplog.messages)


@pytest.mark.heavy
def test_a_restarted_broker_gets_the_retained_messages_again(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as first:
        sink = MqttSink(f"mqtt://127.0.0.1:{first.port}", home_assistant="homeassistant")
        sink.frame(frame(), [], {})
        with Reader(first.port) as reader:
            until(lambda: reader.latest("seqpar/street/state"))
    with Mosquitto(tmp_path, port=first.port) as second:
        with Reader(second.port) as reader:
            until(lambda: reader.latest("seqpar/street/state"), 60)
            until(lambda: any(topic.endswith("/config") for topic in reader.messages))
            until(lambda: reader.text("seqpar/status") == "online")
        sink.close()
