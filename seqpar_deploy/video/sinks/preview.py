"""A live preview in the browser: each stream with boxes and attributes, and a list of its people."""

from __future__ import annotations

import collections
import io
import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from seqpar_deploy.reports.markup import Html, join, tag
from seqpar_deploy.reports.page import page, policy
from seqpar_deploy.video.sinks.base import BaseSink
from seqpar_deploy.video.sinks.draw import draw_people
from seqpar_deploy.video.sinks.placing import Place
from seqpar_deploy.video.sinks.server import Answer, Route
from seqpar_deploy.video.types import Frame, Person, TrackedBox

_BOUNDARY = "frame"
_REPEAT = 2.0  # seconds after which an image is sent again, which also detects clients that left
_RECENT = 5.0  # seconds over which dropped frames are shown
_SOURCES = "img-src 'self'; connect-src 'self'"


class PreviewSink(BaseSink):
    """Keeps the latest frame of each stream. It draws and compresses a frame only on request.

    Pass `routes()` to a `WebServer`. The routes are `/` (the page), `/streams/N.jpg` (an image), `/streams/N.mjpg`
    (Motion JPEG) and `/people.json` (the status of each stream). N is the number of the stream from 0, in the order of
    first frames.

    Args:
        quality: JPEG quality, 1 to 95. Default: 75.

    Example:
        preview = PreviewSink()
        server = WebServer(preview.routes())
        watch("rtsp://camera/1", recognizer, sinks=[preview])
    """

    def __init__(self, *, quality: int = 75) -> None:
        self.name = "preview"
        self._quality = quality
        self._streams: dict[str, _Live] = {}

    def routes(self) -> dict[str, Route]:
        """Return the routes of the preview for a `WebServer`, by path."""
        return {
            "/": self._page,
            "/people.json": self._people,
            "/streams/": self._picture,
            "/favicon.ico": lambda _rest: Answer(body=b"", type="image/x-icon"),  # browsers request it and log an error
        }

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        live = self._streams.get(frame.stream)
        if live is None:
            live = self._streams[frame.stream] = _Live(self._quality)
        live.show(frame, boxes, people)

    def close(self) -> None:
        for live in list(self._streams.values()):
            live.end()

    def _page(self, _rest: str) -> Answer:
        document = page("Live", _BODY, style=_read("preview.css"), script=_read("preview.js"), sources=_SOURCES)
        return Answer(
            body=document.encode("utf-8"),
            type="text/html; charset=utf-8",
            policy=policy(script=_read("preview.js"), sources=_SOURCES),
        )

    def _people(self, _rest: str) -> Answer:
        text = json.dumps([live.values(name) for name, live in list(self._streams.items())])
        return Answer(body=text.encode("ascii"), type="application/json")

    def _picture(self, rest: str) -> Answer | None:
        number, _, kind = rest.partition(".")
        streams = list(self._streams.values())
        if not (number.isascii() and number.isdigit() and len(number) < 6 and int(number) < len(streams)):
            return None
        live = streams[int(number)]
        if kind == "mjpg":
            return Answer(body=live.pictures(), type=f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
        return Answer(body=live.picture()[1], type="image/jpeg") if kind == "jpg" else None


class _Live:
    """The latest frame of a stream, compressed once for all clients."""

    def __init__(self, quality: int) -> None:
        self._quality = quality
        self._change = threading.Condition()
        self._drawing = threading.Lock()
        self._shown: tuple[Frame, tuple[TrackedBox, ...], dict[int, Person]] | None = None
        self._places: dict[int, Place] = {}  # of the labels in the image drawn last
        self._number = 0
        self._dropped = 0  # frames missing between those shown: dropped, or damaged
        self._drops: collections.deque[tuple[float, int]] = collections.deque()  # recent: when, how many
        self._drawn: tuple[int, bytes] = (0, b"")
        self._ended = False

    def show(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        with self._change:
            before = self._shown[0].index if self._shown else -1
            if (missing := frame.index - before - 1) > 0:
                self._dropped += missing
                self._drops.append((time.monotonic(), missing))
            self._forget_drops()
            self._shown = frame, tuple(boxes), dict(people)
            self._number += 1
            self._change.notify_all()

    def end(self) -> None:
        with self._change:
            self._ended = True
            self._change.notify_all()

    def _forget_drops(self) -> None:
        while self._drops and self._drops[0][0] < time.monotonic() - _RECENT:
            self._drops.popleft()

    def picture(self) -> tuple[int, bytes]:
        """Return the latest frame's number and JPEG."""
        with self._drawing:
            with self._change:
                number, shown = self._number, self._shown
            if shown and number != self._drawn[0]:
                frame, boxes, people = shown
                buffer = io.BytesIO()
                sheet = draw_people(frame.image, boxes, people, self._places)
                sheet.save(buffer, format="JPEG", quality=self._quality)
                self._drawn = number, buffer.getvalue()
            return self._drawn

    def pictures(self) -> Iterator[bytes]:
        """Yield parts of a Motion JPEG answer; a slow client skips frames."""
        sent = 0
        while self._wait_for_other_than(sent):
            sent, data = self.picture()
            head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            yield head.encode("ascii") + data + b"\r\n"

    def _wait_for_other_than(self, number: int) -> bool:
        """Return False if there will be no other."""
        with self._change:
            self._change.wait_for(lambda: self._ended or self._number != number, _REPEAT)
            return not self._ended

    def values(self, name: str) -> dict[str, object]:
        """Return what the page shows of the stream."""
        with self._change:
            shown, dropped = self._shown, self._dropped
            self._forget_drops()
            dropping = sum(missing for _, missing in self._drops)
        if not shown:
            return {}
        frame, boxes, people = shown
        here = {tracked.track_id for tracked in boxes}
        return {
            "stream": name.encode("utf-8", "replace").decode("utf-8"),
            "timestamp": round(frame.timestamp, 1),
            "dropped": dropped,
            "dropped_recently": dropping,
            "size": [frame.image.shape[1], frame.image.shape[0]],
            "ended": self._ended,
            "people": [
                {
                    "track_id": track_id,
                    "since": round(person.first.timestamp, 1),
                    "yes": [
                        [key, round(attribute.probability, 2)]
                        for key, attribute in person.attributes.items()
                        if attribute.state == "yes"
                    ],
                    "unknown": [key for key, attribute in person.attributes.items() if attribute.state == "unknown"],
                }
                for track_id, person in people.items()
                if track_id in here
            ],
            "waiting": sorted(here - set(people)),
        }


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


_BODY: Html = join(
    tag("h1", "Live"),
    tag("p", "", id="state", class_="note", role="status"),
    tag("div", id="streams"),
    tag(
        "noscript",
        tag("p", "This page needs JavaScript. Without it: ", tag("a", "the first stream", href="streams/0.mjpg"), "."),
    ),
)
