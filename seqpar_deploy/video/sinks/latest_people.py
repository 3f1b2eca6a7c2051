"""The people who were recognised last, each with a small crop, for the live page."""

from __future__ import annotations

import collections
import io
import threading
from typing import Any

from PIL import Image

from seqpar_deploy.preprocess import Crop
from seqpar_deploy.video.sinks.live_stream import attributes, text
from seqpar_deploy.video.types import Event, Person

_MOST = 60  # people; with their crops about 300 kB
_LARGEST = (128, 256)  # pixels of a crop: twice the size on the page, for screens with a high resolution


class _Entry:
    def __init__(self, number: int, person: Person) -> None:
        self.number = number
        self.version = 0  # counts the crops
        self._of: Crop | None = None
        self.ended = False
        self.put(person)

    def put(self, person: Person) -> None:
        if person.best_crop is not self._of:
            self.crop = _jpeg(person.best_crop)
            self._of = person.best_crop
            self.version += 1
        self.person = person

    def values(self) -> dict[str, Any]:
        person = self.person
        return {
            "number": self.number,
            "version": self.version,
            "stream": text(person.stream),
            "track_id": person.track_id,
            "first": round(person.first.timestamp, 1),
            "last": round(person.last.timestamp, 1),
            "ended": self.ended,
            **attributes(person),
        }


class LatestPeople:
    """A bounded list of people, the latest first. For any thread."""

    def __init__(self) -> None:
        self._entries: collections.OrderedDict[int, _Entry] = collections.OrderedDict()  # by number
        self._present: dict[tuple[str, int], int] = {}  # numbers of people whose track has not ended
        self._next = 0
        self._lock = threading.Lock()

    def event(self, event: Event) -> None:
        """Add a person, or update one."""
        person = event.person
        key = person.stream, person.track_id
        with self._lock:
            entry = self._entries.get(self._present.get(key, -1))
            if entry is None or event.kind == "appeared":
                if entry is None and event.kind == "ended":
                    return  # of somebody who is not among the latest
                entry = self._entries[self._next] = _Entry(self._next, person)
                self._present[key] = self._next
                self._next += 1
                self._shorten()
            else:
                entry.put(person)
            if event.kind == "ended":
                entry.ended = True
                del self._present[key]

    def forget(self, stream: str) -> None:
        """Remove the people of a stream."""
        with self._lock:
            for number, entry in list(self._entries.items()):
                if entry.person.stream == stream:
                    self._remove(number)

    def values(self) -> list[dict[str, Any]]:
        """Return the people for the page."""
        with self._lock:
            return [entry.values() for entry in reversed(self._entries.values())]

    def crop(self, number: int) -> bytes | None:
        """Return somebody's crop as JPEG, None if the number is not of one of the latest people."""
        with self._lock:
            entry = self._entries.get(number)
            return None if entry is None else entry.crop

    def _shorten(self) -> None:
        while len(self._entries) > _MOST:
            self._remove(next(iter(self._entries)))

    def _remove(self, number: int) -> None:
        person = self._entries.pop(number).person
        key = person.stream, person.track_id
        if self._present.get(key) == number:
            del self._present[key]


def _jpeg(crop: Crop) -> bytes:
    image = Image.fromarray(crop)
    image.thumbnail(_LARGEST)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return buffer.getvalue()
