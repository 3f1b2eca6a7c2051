"""A live page in the browser: each stream with boxes and attributes, its figures and zones, and the latest people."""

from __future__ import annotations

import functools
import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.page import page, policy
from seqpar_deploy.video.sinks.answers import Answer, Route
from seqpar_deploy.video.sinks.base import BaseSink
from seqpar_deploy.video.sinks.draw_zones import Outlines, no_outlines
from seqpar_deploy.video.sinks.latest_people import LatestPeople
from seqpar_deploy.video.sinks.live_stream import BOUNDARY, LiveStream
from seqpar_deploy.video.sinks.metrics import Health
from seqpar_deploy.video.types import Event, Frame, Person, TrackedBox, ZoneEvent

_SOURCES = "img-src 'self'; connect-src 'self'"


class PreviewSink(BaseSink):
    """Keeps the latest frame of each stream. It draws and compresses a frame only on request.

    Pass `routes()` to a `WebServer`. The routes are `/` (the page), `/streams/N.jpg` (an image), `/streams/N.mjpg`
    (Motion JPEG), `/crops/N.jpg` (the crop of a person), `/people.json` (the status of each stream) and `/live.json`
    (the same with the latest people and the problems). N is the number of the stream from 0, in the order of first
    frames.

    Args:
        quality: JPEG quality, 1 to 95. Default: 75.
        health: Health checks whose problems the page shows. Default: none.
        outlines: Function that returns the zones and lines of a stream to draw, as `ZoneWatcher.outlines`. Default:
            none.

    Example:
        preview = PreviewSink()
        server = WebServer(preview.routes())
        watch("rtsp://camera/1", recognizer, sinks=[preview])
    """

    def __init__(self, *, quality: int = 75, health: Health | None = None, outlines: Outlines = no_outlines) -> None:
        self.name = "preview"
        self._quality, self._outlines = quality, outlines
        self._health = health
        self._lock = threading.Lock()
        self._streams: dict[str, LiveStream] = {}
        self._next = 0  # number of the next stream
        self._forgotten: dict[str, float] = {}  # when
        self._latest = LatestPeople()

    def routes(self) -> dict[str, Route]:
        """Return the routes of the preview for a `WebServer`, by path."""
        return {
            "/": self._page,
            "/live.json": lambda _rest: _json(
                {
                    "streams": self._values(),
                    "latest": self._latest.values(),
                    "problems": self._health.problems() if self._health is not None else [],
                }
            ),
            "/people.json": lambda _rest: _json(self._values()),
            "/streams/": self._picture,
            "/crops/": self._crop,
            "/favicon.ico": lambda _rest: Answer(body=b"", type="image/x-icon"),  # browsers request it and log an error
        }

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        if frame.received is not None and frame.received < self._forgotten.get(frame.stream, -math.inf):
            return
        self._live(frame.stream).show(frame, boxes, people)

    def event(self, event: Event) -> None:
        if (live := self._streams.get(event.person.stream)) is not None:
            self._latest.event(event)
            if event.kind == "appeared":
                live.appeared(event)

    def zone(self, event: ZoneEvent) -> None:
        if (live := self._streams.get(event.stream)) is not None:
            live.zone(event)

    def forget(self, stream: str) -> None:
        """Remove a stream from the page, for example of a camera that was removed. For any thread.

        Args:
            stream: Name of the stream. An unknown name is ignored. Frames that were received before are ignored too. A
                later one of that name adds it again.
        """
        with self._lock:
            live = self._streams.pop(stream, None)
            self._forgotten[stream] = time.monotonic()
        if live is not None:
            live.end()
        self._latest.forget(stream)

    def close(self) -> None:
        with self._lock:
            streams = list(self._streams.values())
        for live in streams:
            live.end()

    def _live(self, stream: str) -> LiveStream:
        with self._lock:
            live = self._streams.get(stream)
            if live is None:
                outlines = None if self._outlines is no_outlines else functools.partial(self._outlines, stream)
                live = self._streams[stream] = LiveStream(self._next, self._quality, outlines)
                self._next += 1
            return live

    def _values(self) -> list[dict[str, Any]]:
        with self._lock:
            streams = list(self._streams.items())
        return [live.values(name) for name, live in streams]

    def _page(self, _rest: str) -> Answer:
        script = _read("preview.js")
        document = page("Live", _BODY, style=_read("preview.css"), script=script, sources=_SOURCES)
        return Answer(
            body=document.encode("utf-8"),
            type="text/html; charset=utf-8",
            policy=policy(script=script, sources=_SOURCES),
        )

    def _picture(self, rest: str) -> Answer | None:
        number, _, kind = rest.partition(".")
        with self._lock:
            live = next((one for one in self._streams.values() if str(one.number) == number), None)
        if live is None:
            return None
        if kind == "mjpg":
            return Answer(body=live.pictures(), type=f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        if kind != "jpg" or not (picture := live.picture()[1]):
            return None
        return Answer(body=picture, type="image/jpeg")

    def _crop(self, rest: str) -> Answer | None:
        number, _, kind = rest.partition(".")
        if kind != "jpg" or not (number.isascii() and number.isdigit() and len(number) < 12):
            return None
        crop = self._latest.crop(int(number))
        return None if crop is None else Answer(body=crop, type="image/jpeg")


def _json(values: object) -> Answer:
    return Answer(body=json.dumps(values).encode("ascii"), type="application/json")


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


_BODY: Html = join(
    tag("h1", "Live"),
    tag("p", "", id="state", class_="note", role="status"),
    tag("ul", id="problems", class_="breaches", aria_label="Problems", hidden=""),
    tag(
        "div",
        tag("div", id="streams"),
        tag(
            "aside",
            tag("h2", "Latest people", id="latest-title"),
            tag("ol", id="latest", tabindex="0", aria_labelledby="latest-title"),
            id="aside",
            hidden="",
        ),
        id="columns",
    ),
    tag(
        "noscript",
        tag("p", "This page needs JavaScript. Without it: ", tag("a", "the first stream", href="streams/0.mjpg"), "."),
    ),
)
