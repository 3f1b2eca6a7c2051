"""All people of a run as one searchable HTML file."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from seqpar_deploy.calibration.drift import DriftReport
from seqpar_deploy.errors import SinkError
from seqpar_deploy.files import replacing
from seqpar_deploy.video.sinks.base import BaseSink
from seqpar_deploy.video.sinks.report_page import Scene, card, people_page
from seqpar_deploy.video.sinks.zones_section import ZoneTotals
from seqpar_deploy.video.types import Event, Frame, Person, TrackedBox, ZoneEvent

Key = tuple[str, int]
_PAUSES = 50  # minimum pause between two writes, in durations of a write, because all sinks wait for it


class ReportSink(BaseSink):
    """Writes an HTML page of all people, every `interval` seconds and on `close`. Each write replaces the whole file.

    It writes less often if writing would take more than 2 % of the time. A person takes 3 to 8 kB, 20 kB at most, in
    memory and in the file. If a later write fails, the previous file stays.

    Args:
        path: The HTML file.
        videos: Video file of each stream, source or annotated, that the page links to. Links are relative, so page and
            videos can be moved together. Default: no links.
        interval: Minimum seconds between two writes. Default: 30.
        most: Maximum number of people to keep, the latest to appear. Default: 2000.
        drift: Function that returns the report of a `DriftMonitor`, for a section of the page. Default: none.
        clock: Function that returns monotonic seconds. Default: `time.monotonic`.

    Raises:
        SinkError: The file cannot be written.

    Example:
        watch("street.mp4", recognizer, sinks=[ReportSink(Path("people.html"), videos={"street": Path("street.mp4")})])
    """

    def __init__(
        self,
        path: Path,
        *,
        videos: Mapping[str, Path] | None = None,
        interval: float = 30.0,
        most: int = 2000,
        drift: Callable[[], DriftReport] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = f"report {path}"
        self.path = path
        self._most, self._interval, self._clock = most, interval, clock
        self._videos = {stream: _address(video, path.parent) for stream, video in (videos or {}).items()}
        self._drift = drift
        self._zones = ZoneTotals()
        self._scenes: dict[str, Scene] = {}
        self._cards: dict[Key, bytes] = {}  # UTF-8, in order of first appearance
        self._attributes: dict[str, None] = {}  # an ordered set, in the label set's order
        self._people = 0
        self._written: tuple[int, int, int] | None = None  # as `_state`
        self._version = 0
        self._next = clock() + interval
        self._closed = False
        try:
            if path.exists():  # an earlier run's report stays until this run has people
                path.open("ab").close()
                tempfile.TemporaryFile(dir=path.parent).close()
            else:
                self._write()
        except OSError as error:
            raise SinkError(f"the report {path} cannot be written: {error.strerror}; name another file") from None

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        if frame.stream not in self._scenes:
            self._scenes[frame.stream] = Scene.of(frame.image, number=len(self._scenes))
        start = self._clock()
        if start >= self._next:
            try:
                self._write()
            finally:
                self._next = start + max(self._interval, _PAUSES * (self._clock() - start))

    def event(self, event: Event) -> None:
        person = event.person
        key = person.stream, person.track_id
        if key not in self._cards:
            if event.kind != "appeared":  # the card was dropped for a newer one
                return
            self._people += 1
            if len(self._cards) >= self._most:
                del self._cards[next(iter(self._cards))]
        self._attributes.update(dict.fromkeys(person.attributes))
        numbers = {name: number for number, name in enumerate(self._attributes)}
        scene, video = self._scenes.get(person.stream), self._videos.get(person.stream)
        self._cards[key] = card(person, numbers, scene, video).encode("utf-8")
        self._version += 1

    def zone(self, event: ZoneEvent) -> None:
        self._zones.add(event)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._scenes or self._version or self._zones.version:
                self._write()

    @property
    def wrote(self) -> bool:
        """Whether this sink wrote the file, with all events in it."""
        return self._written == self._state(self._drift and self._drift())

    def _state(self, drift: DriftReport | None) -> tuple[int, int, int]:
        return self._version, drift.looks if drift else 0, self._zones.version

    def _write(self) -> None:
        drift = self._drift and self._drift()
        if self._written == self._state(drift):
            return
        before, after = people_page(
            len(self._cards),
            list(self._attributes),
            list(self._scenes.values()),
            streams=len({stream for stream, _ in self._cards}),
            seen=self._people,
            drift=drift,
            zones=self._zones.section(list(self._attributes)),
        )
        with replacing(self.path) as staging, staging.open("wb") as file:
            file.write(before.encode("utf-8"))
            file.writelines(self._cards.values())
            file.write(after.encode("utf-8"))
        self._written = self._state(drift)


def _address(video: Path, folder: Path) -> str:
    return quote(os.path.relpath(video, folder).encode("utf-8", "surrogateescape"))
