"""The state of one stream for the live page: its latest frame, its rate and latency, its people, zones and lines."""

from __future__ import annotations

import collections
import dataclasses
import io
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from seqpar_deploy.video.sinks.draw import draw_people
from seqpar_deploy.video.sinks.draw_zones import Outline
from seqpar_deploy.video.sinks.placing import Place
from seqpar_deploy.video.types import Event, Frame, Person, TrackedBox, ZoneEvent

BOUNDARY = "frame"
_REPEAT = 2.0  # seconds after which an image is sent again, which also detects clients that left
_RECENT = 5.0  # seconds of the rate, the latency and the dropped frames that are shown
_WAITS = 20  # people whose time until their first attributes is shown
_MOST_ZONES = 200  # zones and lines of a stream; configurations that change for days may name more


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Arrival:
    at: float
    index: int
    latency: float | None
    dropped: int


class _Zone:
    """Counts of a zone or a line since the start."""

    def __init__(self) -> None:
        self.inside: set[int] = set()
        self.counts: collections.Counter[str] = collections.Counter()
        self.latest: ZoneEvent | None = None  # the count of the latest interval

    def add(self, event: ZoneEvent) -> None:
        if event.kind == "counted":
            self.latest = event
            return
        self.counts[event.direction or event.kind] += 1
        if event.track_id is not None and event.kind == "entered":
            self.inside.add(event.track_id)
        elif event.track_id is not None and event.kind == "left":
            self.inside.discard(event.track_id)

    def values(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = {"zone": text(name), "inside": len(self.inside), "counts": dict(self.counts)}
        if self.latest is not None:
            people_with = self.latest.attributes
            found["latest"] = {
                "interval": self.latest.interval,
                "people": dict(self.latest.people),
                "people_with": {what: {text(key): n for key, n in by.items()} for what, by in people_with.items()},
            }
        return found


class LiveStream:
    """The latest frame of a stream, compressed once for all clients, and its figures. For any thread."""

    def __init__(self, number: int, quality: int, outlines: Callable[[], Sequence[Outline]] | None = None) -> None:
        self.number = number
        self._quality = quality
        self._outlines = outlines  # None if zones are known from their events only
        self._change = threading.Condition()
        self._drawing = threading.Lock()
        self._shown: tuple[Frame, tuple[TrackedBox, ...], dict[int, Person]] | None = None
        self._places: dict[int, Place] = {}  # of the labels in the image drawn last
        self._count = 0
        self._arrivals: collections.deque[_Arrival] = collections.deque()  # recent ones
        self._waits: collections.deque[float] = collections.deque(maxlen=_WAITS)
        self._zones: dict[str, _Zone] = {}
        self._drawn: tuple[int, bytes] = (0, b"")
        self._ended = False

    def show(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        """Take the next frame."""
        now = time.monotonic()
        latency = None if frame.received is None else max(0.0, now - frame.received)
        with self._change:
            self._arrivals.append(_Arrival(at=now, index=frame.index, latency=latency, dropped=frame.dropped))
            self._forget(now)
            self._shown = frame, tuple(boxes), dict(people)
            self._count += 1
            self._change.notify_all()

    def appeared(self, event: Event) -> None:
        """Note how long the attributes of a person took."""
        with self._change:
            if self._shown is not None:
                self._waits.append(max(0.0, self._shown[0].timestamp - event.person.first.timestamp))

    def zone(self, event: ZoneEvent) -> None:
        """Count an event of a zone or line."""
        with self._change:
            zone = self._zones.get(event.zone)
            if zone is None:
                if len(self._zones) >= _MOST_ZONES:
                    del self._zones[next(iter(self._zones))]
                zone = self._zones[event.zone] = _Zone()
            zone.add(event)

    def end(self) -> None:
        """End the answers that wait for a frame."""
        with self._change:
            self._ended = True
            self._change.notify_all()

    def picture(self) -> tuple[int, bytes]:
        """Return the latest frame's number and JPEG."""
        with self._drawing:
            with self._change:
                count, shown = self._count, self._shown
            if shown and count != self._drawn[0]:
                frame, boxes, people = shown
                buffer = io.BytesIO()
                sheet = draw_people(
                    frame.image, boxes, people, self._places, self._outlines() if self._outlines else ()
                )
                sheet.save(buffer, format="JPEG", quality=self._quality)
                self._drawn = count, buffer.getvalue()
            return self._drawn

    def pictures(self) -> Iterator[bytes]:
        """Yield parts of a Motion JPEG answer; a slow client skips frames."""
        sent = 0
        while self._wait_for_other_than(sent):
            sent, data = self.picture()
            head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            yield head.encode("ascii") + data + b"\r\n"

    def values(self, name: str) -> dict[str, Any]:
        """Return the stream's figures for the page, an empty dict before the first frame."""
        with self._change:
            shown, ended = self._shown, self._ended
            self._forget(time.monotonic())
            arrivals = list(self._arrivals)
            waits = list(self._waits)
            zones = {key: zone.values(key) for key, zone in self._zones.items()}
        if not shown:
            return {}
        if self._outlines is not None:  # also those without an event yet, and not those that the settings left out
            latest = {key: zone["latest"] for key, zone in zones.items() if "latest" in zone}
            zones = {one.name: _values(one, latest.get(one.name)) for one in self._outlines()}
        frame, boxes, people = shown
        here = {tracked.track_id for tracked in boxes}
        return {
            "number": self.number,
            "stream": text(name),
            "timestamp": round(frame.timestamp, 1),
            "size": [frame.image.shape[1], frame.image.shape[0]],
            "ended": ended,
            **_figures(arrivals),
            "dropped": frame.dropped,
            "attributes_after": round(statistics.median(waits), 2) if waits else None,
            "people": [
                {"track_id": track_id, "since": round(person.first.timestamp, 1), **attributes(person)}
                for track_id, person in people.items()
                if track_id in here
            ],
            "waiting": sorted(here - set(people)),
            "zones": list(zones.values()),
        }

    def _wait_for_other_than(self, count: int) -> bool:
        """Return False if there will be no other."""
        with self._change:
            self._change.wait_for(lambda: self._ended or self._count != count, _REPEAT)
            return not self._ended

    def _forget(self, now: float) -> None:
        while self._arrivals and self._arrivals[0].at < now - _RECENT:
            self._arrivals.popleft()


def _values(one: Outline, latest: dict[str, Any] | None) -> dict[str, Any]:
    """Return a zone or line as `_Zone.values` does."""
    found = {"zone": text(one.name), "inside": one.inside, "line": one.kind == "line", "counts": dict(one.passages)}
    return found if latest is None else {**found, "latest": latest}


def _figures(arrivals: Sequence[_Arrival]) -> dict[str, Any]:
    """Return rates in frames per second and the latency in seconds, None if there are too few frames to tell."""
    seconds = arrivals[-1].at - arrivals[0].at if arrivals else 0.0
    latencies = [one.latency for one in arrivals if one.latency is not None]
    return {
        "rate": round((len(arrivals) - 1) / seconds, 1) if seconds else None,
        "source_rate": round((arrivals[-1].index - arrivals[0].index) / seconds, 1) if seconds else None,
        "latency": round(statistics.median(latencies), 3) if latencies else None,
        "dropped_recently": arrivals[-1].dropped - arrivals[0].dropped if arrivals else 0,
    }


def attributes(person: Person) -> dict[str, Any]:
    """Return the attributes that a person has, with probabilities, and those that are unknown."""
    return {
        "yes": [
            [text(key), round(attribute.probability, 2)]
            for key, attribute in person.attributes.items()
            if attribute.state == "yes"
        ],
        "unknown": [text(key) for key, attribute in person.attributes.items() if attribute.state == "unknown"],
    }


def text(value: str) -> str:
    """Return a name as valid UTF-8: file names may contain other bytes."""
    return value.encode("utf-8", "replace").decode("utf-8")
