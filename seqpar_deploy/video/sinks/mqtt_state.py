"""The present state of each stream, for retained messages: connected, people, zones and lines."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

from seqpar_deploy.video.types import Event, ZoneEvent

_SILENT = 10.0  # seconds without a frame after which a stream counts as disconnected
_FORGOTTEN = 3600.0  # seconds without a frame after which a stream is dropped, because it may never return


@dataclasses.dataclass
class _Zone:
    inside: set[int] = dataclasses.field(default_factory=set)
    entered: int = 0
    left: int = 0


@dataclasses.dataclass
class _Stream:
    latest: float
    people: set[int] = dataclasses.field(default_factory=set)
    seen: int = 0
    zones: dict[str, _Zone] = dataclasses.field(default_factory=dict)
    lines: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    taken: dict[str, Any] | None = None

    def keep(self, zones: Collection[str], lines: Collection[str]) -> None:
        """Keep these zones and lines, and no others."""
        self.zones = {name: self.zones.get(name) or _Zone() for name in zones}
        self.lines = {name: self.lines.get(name) or {"in": 0, "out": 0} for name in lines}

    def values(self, now: float) -> dict[str, Any]:
        zones = {
            name: {"people": len(zone.inside), "entered": zone.entered, "left": zone.left}
            for name, zone in sorted(self.zones.items())
        }
        return {
            "connected": now - self.latest <= _SILENT,
            "people": len(self.people),
            "seen": self.seen,
            "zones": zones,
            "lines": {name: dict(counts) for name, counts in sorted(self.lines.items())},
        }


class StreamStates:
    """Follows the state of streams from their frames and events. Thread-safe.

    Args:
        clock: Function that returns monotonic seconds. Default: `time.monotonic`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._streams: dict[str, _Stream] = {}
        self._named: dict[str, tuple[Collection[str], Collection[str]]] = {}  # zones and lines, by stream
        self._lock = threading.Lock()

    def set_zones(self, stream: str, zones: Collection[str], lines: Collection[str]) -> None:
        """Note the names of all zones and lines of a stream. Their counts begin with 0, others are dropped."""
        with self._lock:
            self._named[stream] = zones, lines
            if stream in self._streams:
                self._streams[stream].keep(zones, lines)

    def frame(self, stream: str) -> None:
        """Note a frame."""
        with self._lock:
            self._of(stream).latest = self._clock()

    def event(self, event: Event) -> None:
        """Note an event of a person."""
        with self._lock:
            stream, track_id = self._of(event.person.stream), event.person.track_id
            if event.kind == "ended":
                stream.people.discard(track_id)
                for zone in stream.zones.values():
                    zone.inside.discard(track_id)
            elif track_id not in stream.people:
                stream.people.add(track_id)
                stream.seen += 1

    def zone(self, event: ZoneEvent) -> None:
        """Note an event of a zone or line."""
        with self._lock:
            stream, (zones, lines) = self._of(event.stream), self._named.get(event.stream, (None, None))
            if event.kind == "crossed" and event.direction is not None and (lines is None or event.zone in lines):
                stream.lines.setdefault(event.zone, {"in": 0, "out": 0})[event.direction] += 1
            elif (
                event.kind in ("entered", "left")
                and event.track_id is not None
                and (zones is None or event.zone in zones)
            ):
                zone = stream.zones.setdefault(event.zone, _Zone())
                if event.kind == "entered":
                    zone.inside.add(event.track_id)
                    zone.entered += 1
                else:
                    zone.inside.discard(event.track_id)
                    zone.left += 1

    def changes(self) -> dict[str, dict[str, Any]]:
        """Return the state of each stream that has changed since the last call, by name."""
        now = self._clock()
        found = {}
        with self._lock:
            for name, stream in list(self._streams.items()):
                values = stream.values(now)
                if values != stream.taken:
                    found[name] = stream.taken = values
                if now - stream.latest > _FORGOTTEN:
                    del self._streams[name]
        return found

    def _of(self, stream: str) -> _Stream:
        if stream not in self._streams:
            self._streams[stream] = _Stream(latest=self._clock())
            self._streams[stream].keep(*self._named.get(stream, ((), ())))
        return self._streams[stream]
