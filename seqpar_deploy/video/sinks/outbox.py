"""A bounded queue and the thread that delivers it over a network, for outputs whose other end may be away.

`MqttSink` does not use it: paho delivers asynchronously and keeps messages in flight over a reconnection.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import random
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Sequence

from seqpar_deploy.errors import SinkError
from seqpar_deploy.video.sinks.events import event_line
from seqpar_deploy.video.sinks.fan_out import one_line, unused
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.types import Event, ZoneEvent

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two attempts
LONGEST_WAIT = 300.0  # seconds that the other end may ask for, for example with Retry-After
_LONGEST_LINGER = 5.0  # seconds of `close` while events are still delivered; all outputs together have 20
_ENDING = 2.0  # seconds for the thread to end after its connection was closed

_log = logging.getLogger(__name__)

_names: weakref.WeakKeyDictionary[Metrics, set[str]] = weakref.WeakKeyDictionary()  # of the open outboxes


class UndeliveredError(Exception):
    """Raised by `deliver` if the same events may be delivered later. `wait` is the time that the other end asks for."""

    def __init__(self, why: str, *, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


class RefusedError(Exception):
    """Raised by `deliver` if the other end will never take these events."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """An event to deliver. `id` stays the same when it is sent again, so that a reader can drop the second one."""

    id: str
    line: str
    stream: str
    kind: str
    track_id: int | None


def message_of(event: Event | ZoneEvent) -> Message:
    """Return the message of an event, with an ID of its own."""
    stream, track_id = (
        (event.person.stream, event.person.track_id) if isinstance(event, Event) else (event.stream, event.track_id)
    )
    return Message(
        id=uuid.uuid4().hex,
        line=event_line(event),
        stream=stream.encode("utf-8", "replace").decode("utf-8"),
        kind=event.kind,
        track_id=track_id,
    )


class Outbox:
    """Delivers messages in order, in a thread, and keeps the latest while the other end is away.

    Args:
        name: Name of the output in messages and metrics.
        deliver: Function that delivers some messages, all or none, within a bounded time. It raises `UndeliveredError`
            or `RefusedError`.
        abort: Function that ends a call of `deliver` that is running in the thread. Any thread may call it.
        most: Maximum number of waiting messages. If there are more, the oldest is dropped.
        batch: Maximum number of messages per call of `deliver`.
        linger: Seconds that `close` waits without progress.
        metrics: Metrics that count delivered, refused and dropped messages. Default: not published.
        health: Health checks that report trouble. Default: not published.
    """

    def __init__(
        self,
        name: str,
        deliver: Callable[[Sequence[Message]], None],
        *,
        abort: Callable[[], None],
        most: int,
        batch: int,
        linger: float,
        metrics: Metrics | None,
        health: Health | None,
    ) -> None:
        metrics = metrics or Metrics()
        self._names = _names.setdefault(metrics, set())
        self.name = unused(name, self._names)
        self._names.add(self.name)
        self._deliver, self._abort = deliver, abort
        self._most, self._batch, self._linger = most, batch, linger
        self._waiting: collections.deque[Message] = collections.deque()
        self._taken: list[Message] = []
        self._change = threading.Condition()
        self._closing = self._closed = False
        self._trouble: str | None = None
        self._logged: set[str] = set()  # since the last delivery
        self._lost = self._lost_in_spell = self._done = 0
        delivered = metrics.counter("seqpar_outlet_delivered_total", "Events that the other end took.", "sink")
        refused = metrics.counter("seqpar_outlet_refused_total", "Events that the other end refused for good.", "sink")
        dropped = metrics.counter("seqpar_outlet_dropped_total", "Events dropped while the other end was away.", "sink")
        self._delivered, self._refused, self._dropped = (
            one.labels(self.name).inc for one in (delivered, refused, dropped)
        )
        self._up = metrics.gauge("seqpar_outlet_up", "1 after a delivery, 0 after a failed one.", "sink")
        self._health = health or Health()
        self._health.watch(f"connection to {self.name}", lambda: self._trouble)
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """Number of messages that were dropped or refused."""
        return self._lost

    def put(self, message: Message) -> None:
        """Queue a message. Never waits."""
        with self._change:
            if self._closed:
                return
            if len(self._waiting) >= self._most:
                self._waiting.popleft()
                self._lost_in_spell += 1
                self._count_lost(1, self._dropped)
            self._waiting.append(message)
            self._change.notify_all()

    def close(self) -> None:
        """Deliver what waits, while that makes progress, and end the thread. Raises SinkError if messages were lost."""
        with self._change:
            if self._closed:
                return
            self._closed = True
            self._wait_for_deliveries()
            left = len(self._waiting) + len(self._taken)
            self._closing = True
            self._change.notify_all()
        self._abort()
        self._thread.join(_ENDING)
        self._health.forget(f"connection to {self.name}")
        self._names.discard(self.name)
        self._count_lost(left, self._dropped)
        if self._lost:
            raise SinkError(f"{_events(self._lost)} {'was' if self._lost == 1 else 'were'} not delivered")

    def _wait_for_deliveries(self) -> None:
        end = time.monotonic() + _LONGEST_LINGER
        while self._waiting or self._taken:
            done = self._done
            within = min(self._linger, end - time.monotonic())
            if within <= 0 or not self._change.wait_for(lambda done=done: self._done > done, within):  # type: ignore[misc]
                return

    def _count_lost(self, events: int, counter: Callable[[int], None]) -> None:
        self._lost += events
        counter(events)

    def _run(self) -> None:
        while self._take():
            pause = FIRST_PAUSE
            while (wait := self._attempt()) is not None:
                # Jitter, so that many devices do not return to a restarted server at the same moment.
                pause, delay = min(LONGEST_PAUSE, 2 * pause), pause * (0.5 + random.random() / 2)
                with self._change:
                    if self._change.wait_for(lambda: self._closing, max(delay, min(wait, LONGEST_WAIT))):
                        return
            with self._change:
                self._taken = []
                self._done += 1
                self._change.notify_all()

    def _take(self) -> bool:
        """Take the next messages. Returns False at the end."""
        with self._change:
            self._change.wait_for(lambda: self._closing or self._waiting)
            if self._closing:
                return False
            self._taken = [self._waiting.popleft() for _ in range(min(self._batch, len(self._waiting)))]
            return True

    def _attempt(self) -> float | None:
        """Deliver what was taken. Returns None if it is done, else the seconds to wait at least before another try."""
        try:
            self._deliver(self._taken)
        except RefusedError as error:
            self._in_trouble(f"refuses events: {error}", "dropped")
            with self._change:
                self._count_lost(len(self._taken), self._refused)
            return None
        except UndeliveredError as error:
            self._in_trouble(str(error), f"retrying, the last {self._most:,} events are kept")
            return error.wait
        except Exception as error:  # of a library: the thread must live on
            self._in_trouble(f"fails: {one_line(error)}", f"retrying, the last {self._most:,} events are kept")
            return 0.0
        self._delivered(len(self._taken))
        self._up.labels(self.name).set(1)
        with self._change:
            trouble, dropped = self._trouble, self._lost_in_spell
            self._trouble, self._lost_in_spell = None, 0
            self._logged.clear()
        if trouble:
            _log.info("%s: works again; %s dropped", self.name, _events(dropped))
        return None

    def _in_trouble(self, what: str, then: str) -> None:
        """Log a problem, each one once until the next delivery."""
        self._up.labels(self.name).set(0)
        with self._change:
            tell = what not in self._logged and not self._closing
            if len(self._logged) < 100:  # of texts that the other end may make up
                self._logged.add(what)
            self._trouble = f"it {what}"
        if tell:
            _log.warning("%s: it %s; %s", self.name, what, then)


def _events(number: int) -> str:
    return f"{number} {'event' if number == 1 else 'events'}"
