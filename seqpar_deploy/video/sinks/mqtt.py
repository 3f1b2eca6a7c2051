"""Publishes events to an MQTT broker, which need not be available all the time.

Retained messages are kept by topic: only the latest state of a stream is worth sending. They are published again after
each connection, because a broker without persistence forgets them when it restarts.

paho's own queue is not used, for three reasons that were measured with paho-mqtt 2.2:

- If it is full, it refuses new messages, so consumers would keep tracks that have ended.
- A message that is published between the connection and the broker's CONNACK overtakes the waiting ones.
- After a reconnection it sends all 10,000 messages at once and ignores the limit of messages in flight.
"""

from __future__ import annotations

import collections
import json
import logging
import sys
import threading
import time
import uuid
import weakref
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqpar_deploy.errors import SinkError
from seqpar_deploy.video.sinks import home_assistant
from seqpar_deploy.video.sinks.events import event_line
from seqpar_deploy.video.sinks.fan_out import unused
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.mqtt_broker import PREFIX, Broker, read_broker, topic_level, why_refused
from seqpar_deploy.video.sinks.mqtt_state import StreamStates
from seqpar_deploy.video.types import Event, Frame, Person, TrackedBox, ZoneEvent

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_IN_FLIGHT = 20  # maximum number of unacknowledged messages
_PATIENCE = 10.0  # seconds for the first answer of a broker, after which its silence is logged
_STATES_EVERY = 1.0  # seconds between two looks for changed states
_GOODBYE = 1.0  # seconds for the last retained messages
_ONLINE, _OFFLINE = b"online", b"offline"

_log = logging.getLogger(__name__)

_names: weakref.WeakKeyDictionary[Metrics, set[str]] = weakref.WeakKeyDictionary()  # of the open sinks


class MqttSink:
    """Publishes each event, as in docs/reference/events.md, to the topic PREFIX/STREAM/TRACK_ID with QoS 1.

    Events of zones and lines go to PREFIX/STREAM/zones/NAME. The retained topic PREFIX/status is `online` while the
    sink is connected. At the end, or when the connection is lost (last will), it is `offline`.

    The pipeline never waits for the broker. Without a connection, events are queued. If the queue is full, the oldest
    event is dropped and counted. The sink reconnects without limit, with pauses of 1 s to 30 s.

    Args:
        address: `mqtt://[USER:PASSWORD@]HOST[:PORT][/PREFIX]`, or `mqtts://` for TLS. The default port is 1883, or 8883
            with TLS. The default prefix is `seqpar`. In user, password and prefix, %XX stands for a special character.
        ca: File of CA certificates (PEM) to check the broker's certificate against. Default: those of the system.
        certificate: File of a client certificate (PEM) to present to the broker. Default: none.
        key: File of the private key (PEM, not encrypted) of `certificate`. Default: it is in the same file.
        insecure: Accept any certificate of the broker. For tests only. Default: False.
        status: Publish PREFIX/status. Default: True.
        retain: Publish the state of each stream, retained, to PREFIX/STREAM/state when it changes, at most once per
            second. Default: False.
        home_assistant: Prefix of Home Assistant's discovery topics, usually `homeassistant`. Each stream becomes a
            device, and `retain` is implied. Default: none.
        forget: On `close`, remove the retained states and the devices of Home Assistant. Default: False.
        outbox: Maximum number of queued events. Default: 10,000.
        linger: Seconds that `close` waits for the queue at most. Default: 3.
        metrics: Metrics that count published and dropped events. Default: not published.
        health: Health checks that report a lost connection. Default: not published.

    Raises:
        SinkError: The address or a file is invalid, or paho-mqtt is not installed. `close` raises it if events were
            lost.

    Example:
        watch("rtsp://camera/1", recognizer, sinks=[MqttSink("mqtt://broker/entrance")])
    """

    def __init__(
        self,
        address: str,
        *,
        ca: Path | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
        insecure: bool = False,
        status: bool = True,
        retain: bool = False,
        home_assistant: str | None = None,
        forget: bool = False,
        outbox: int = 10_000,
        linger: float = 3.0,
        metrics: Metrics | None = None,
        health: Health | None = None,
    ) -> None:
        self._broker = broker = read_broker(address, ca=ca, certificate=certificate, key=key, insecure=insecure)
        self._client = client = _client(broker)
        self._linger = linger
        self._status_topic = f"{broker.prefix}/status" if status else None
        self._states = StreamStates() if retain or home_assistant else None
        self._home_assistant, self._forget = home_assistant, forget
        metrics = metrics or Metrics()
        self._names = _names.setdefault(metrics, set())
        self.name = unused(f"mqtt broker {broker.shown}", self._names)
        self._names.add(self.name)
        self._most = outbox
        self._waiting: collections.deque[tuple[str, str]] = collections.deque()
        self._change = threading.Condition()
        self._connected = self._closing = self._closed = False
        self._resending = False  # paho repeats the messages that were unacknowledged before a reconnection
        self._trouble: str | None = None  # present problem of the connection
        self._logged: set[str] = set()  # problems since the last connection
        self._answered = False  # whether the broker has answered in this connection
        self._why_lost = ""  # from paho's last error in this connection
        self._in_flight = self._events_in_flight = self._lost_events = self._dropped_in_spell = 0
        self._kinds: dict[int, bool] = {}  # by the ID of a message in flight: whether it is an event
        self._early: set[int] = set()  # acknowledged before `publish` returned their ID
        self._retained: dict[str, bytes] = {}  # the latest by topic
        self._unsent: dict[str, None] = {}  # topics of retained messages to publish, in order
        dropped = metrics.counter("seqpar_mqtt_dropped_total", "Events dropped while the broker was away.", "sink")
        published = metrics.counter("seqpar_mqtt_published_total", "Events the broker acknowledged.", "sink")
        up = metrics.gauge("seqpar_mqtt_connected", "1 while connected to the broker.", "sink")
        self._dropped, self._published = dropped.labels(self.name), published.labels(self.name)
        self._up = up.labels(self.name)
        self._health = health or Health()
        self._health.watch(f"connection to {self.name}", lambda: self._trouble)
        client.on_connect = self._on_connect
        client.on_pre_connect = self._on_pre_connect
        client.on_connect_fail = lambda *_: self._lost(broker.why_lost(sys.exc_info()[1]))
        client.on_disconnect = self._on_disconnect
        client.on_log = self._on_log
        client.on_publish = self._on_publish
        if self._status_topic:
            client.will_set(self._status_topic, _OFFLINE, qos=1, retain=True)
        if home_assistant:
            client.on_message = self._on_message
        client.reconnect_delay_set(1, 30)
        client.connect_async(broker.host, broker.port)
        client.loop_start()
        self._publisher = threading.Thread(target=self._publish, name="mqtt", daemon=True)
        self._publisher.start()

    @property
    def dropped(self) -> int:
        """Number of events dropped so far."""
        return self._lost_events

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        """Note that the stream is connected. Frames are not published."""
        if self._states:
            self._states.frame(frame.stream)

    def event(self, event: Event) -> None:
        if self._states:
            self._states.event(event)
        topic = f"{self._broker.prefix}/{topic_level(event.person.stream)}/{event.person.track_id}"
        self._queue(topic, event_line(event))

    def zone(self, event: ZoneEvent) -> None:
        if self._states:
            self._states.zone(event)
        topic = f"{self._broker.prefix}/{topic_level(event.stream)}/zones/{topic_level(event.zone)}"
        self._queue(topic, event_line(event))

    def set_zones(self, stream: str, zones: Collection[str], lines: Collection[str]) -> None:
        """Note all zones and lines of a stream: their states begin with 0, and those of others are removed.

        Args:
            stream: Name of the stream.
            zones: Names of its zones. Default before the first call: those that have an event.
            lines: Names of its lines. Default before the first call: as of zones.
        """
        if self._states:
            self._states.set_zones(stream, zones, lines)

    def close(self) -> None:
        end = time.monotonic() + self._linger
        with self._change:
            if self._closed:
                return
            self._closed = True
            self._change.wait_for(self._is_done, max(0.0, end - time.monotonic()))
            if self._connected:
                if self._states:
                    self._keep_states(self._states)
                self._take_leave()
                self._change.wait_for(lambda: not self._unsent and not self._in_flight, _GOODBYE)
            left = len(self._waiting) + self._events_in_flight
            self._closing = True
            self._change.notify_all()
        self._health.forget(f"connection to {self.name}")
        self._publisher.join()
        self._client.disconnect()
        self._client.loop_stop()
        self._client.reinitialise()  # closes the sockets that `loop_stop` leaves to the garbage collector
        self._names.discard(self.name)
        self._count_lost(left)
        if self.dropped:
            raise SinkError(f"{self.dropped} {'event was' if self.dropped == 1 else 'events were'} not delivered")

    def _queue(self, topic: str, line: str) -> None:
        with self._change:
            if self._closed:
                return
            if len(self._waiting) >= self._most:
                self._waiting.popleft()
                self._count_lost(1)
                self._dropped_in_spell += 1
            self._waiting.append((topic, line))
            self._change.notify_all()

    def _count_lost(self, events: int) -> None:
        self._lost_events += events
        self._dropped.inc(events)

    def _is_done(self) -> bool:
        return not self._waiting and not self._events_in_flight

    def _publish(self) -> None:
        """Publish in one thread, so that the events of a person stay in order."""
        with self._change:
            heard = self._change.wait_for(lambda: self._closing or self._connected or self._trouble, _PATIENCE)
        if not heard:
            self._lost("accepts connections but does not answer; check that the port is one of an MQTT broker")
        look = 0.0
        while True:
            if self._states and (now := time.monotonic()) >= look:
                look = now + _STATES_EVERY
                self._keep_states(self._states)
            with self._change:
                self._change.wait_for(
                    lambda: self._closing or self._may_publish(), _STATES_EVERY if self._states else None
                )
                if self._closing:
                    return
                if not self._may_publish():
                    continue
                is_event = not self._unsent
                if is_event:
                    topic, line = self._waiting.popleft()
                    content = line.encode("utf-8")
                else:
                    topic = next(iter(self._unsent))
                    del self._unsent[topic]
                    content = self._retained[topic]
                self._in_flight += 1
                self._events_in_flight += is_event
            number = self._client.publish(topic, content, qos=1, retain=not is_event).mid
            with self._change:
                self._kinds[number] = is_event
                if number in self._early:
                    self._early.discard(number)
                    self._acknowledged(number)

    def _may_publish(self) -> bool:
        """Return False while paho repeats older messages, because a new one would overtake them."""
        ready = self._connected and not self._resending
        return ready and bool(self._waiting or self._unsent) and self._in_flight < _IN_FLIGHT

    def _on_publish(self, _client: Any, _data: Any, number: int, *_: Any) -> None:
        with self._change:  # not held while publishing: paho calls this under a lock that `publish` takes
            if number in self._kinds:
                self._acknowledged(number)
            else:
                self._early.add(number)

    def _acknowledged(self, number: int) -> None:
        is_event = self._kinds.pop(number)
        self._in_flight -= 1
        self._events_in_flight -= is_event
        self._published.inc(is_event)
        self._resending = self._resending and self._in_flight > 0
        self._change.notify_all()

    def _keep_states(self, states: StreamStates) -> None:
        """Keep the states that have changed as retained messages, and the devices whose sensors have."""
        prefix = self._broker.prefix
        for stream, values in states.changes().items():
            topic = f"{prefix}/{topic_level(stream)}/state"
            content = {topic: json.dumps(values, ensure_ascii=False).encode("utf-8", "replace")}
            if self._home_assistant and self._status_topic:
                name, text = home_assistant.discovery(
                    topic_level(stream),
                    values,
                    discovery_prefix=self._home_assistant,
                    prefix=prefix,
                    state_topic=topic,
                    status_topic=self._status_topic,
                    published=self._retained,
                )
                content = {name: text.encode("utf-8", "replace"), **content}  # the device before its state
            with self._change:
                for name, value in content.items():
                    if self._retained.get(name) != value:
                        self._retained[name] = value
                        self._unsent[name] = None

    def _take_leave(self) -> None:
        """Publish the last retained messages: nothing in the topics to forget, and the end."""
        for topic in [topic for topic in self._retained if topic != self._status_topic] if self._forget else ():
            self._retained[topic] = b""  # removes the retained message from the broker
            self._unsent[topic] = None
        if self._status_topic:
            self._retained[self._status_topic] = _OFFLINE
            self._unsent[self._status_topic] = None
        self._change.notify_all()

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        """Describe the devices again when Home Assistant has started."""
        if message.payload == home_assistant.ONLINE:
            with self._change:
                if not self._closed:
                    self._unsent.update(dict.fromkeys(self._retained))
                    self._change.notify_all()

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, reason: Any, *_: Any) -> None:
        self._answered = True
        if reason.is_failure:
            self._lost(why_refused(str(reason)))
            return
        self._up.set(1)
        if self._home_assistant:
            self._client.subscribe(home_assistant.birth_topic(self._home_assistant), qos=1)
        with self._change:
            self._connected, self._resending = True, self._in_flight > 0
            if self._status_topic and not self._closed:
                self._retained[self._status_topic] = _ONLINE
            self._unsent = dict.fromkeys(self._retained)
            trouble, dropped = self._trouble, self._dropped_in_spell
            self._trouble, self._dropped_in_spell = None, 0
            self._logged.clear()
            self._change.notify_all()
        if trouble:
            _log.info("%s: reconnected; %d %s dropped", self.name, dropped, "event" if dropped == 1 else "events")

    def _on_pre_connect(self, *_: Any) -> None:
        self._answered, self._why_lost = False, ""

    def _on_log(self, *_: Any) -> None:
        """Keep the reason of the error that paho is handling: paho logs it, but passes it to no other callback."""
        if isinstance(error := sys.exc_info()[1], OSError) and not isinstance(error, BlockingIOError):
            self._why_lost = self._broker.why_lost(error)

    def _on_disconnect(self, *_: Any) -> None:
        if self._connected:
            self._lost("is gone")
        elif not self._answered:
            self._lost(self._why_lost or self._broker.why_lost(None))

    def _lost(self, what: str) -> None:
        """Log the problem of the connection, each one once until the next connection."""
        self._up.set(0)
        with self._change:
            self._connected = False
            tell = what not in self._logged and not self._closing
            self._logged.add(what)
            self._trouble = f"it {what}"
            self._change.notify_all()
        if tell:
            _log.warning("%s: it %s; retrying, the last %s events are kept", self.name, what, f"{self._most:,}")


def _client(broker: Broker) -> Client:
    try:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion
    except ImportError:
        raise SinkError("paho-mqtt is not installed; pip install 'seqpar-deploy[video]'") from None
    # A unique ID, because brokers may refuse an empty ID, and drop a client if another connects with its ID.
    client = Client(CallbackAPIVersion.VERSION2, client_id=f"{PREFIX}{uuid.uuid4().hex[:16]}")
    if broker.user:
        client.username_pw_set(broker.user, broker.password)
    if broker.tls:
        client.tls_set_context(broker.tls)
    return client
