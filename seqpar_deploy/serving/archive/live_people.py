"""Keeps the people of a live run as Parquet files that `seqpar search` reads."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqpar_deploy.errors import SeqparError, SinkError
from seqpar_deploy.files import check_writable, why_not_written
from seqpar_deploy.serving.archive.entries import Entry
from seqpar_deploy.serving.archive.live_folder import LiveFolder
from seqpar_deploy.serving.archive.rows import Rows
from seqpar_deploy.serving.archive.schema import ResultMetadata
from seqpar_deploy.serving.archive.sdk import import_pyarrow
from seqpar_deploy.video import Event, Frame, Person, TrackedBox
from seqpar_deploy.video.sinks.base import BaseSink
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.saved_crops import SavedCropsSink, crop_name
from seqpar_deploy.video.sinks.wall_clock import WallClock
from seqpar_deploy.vocab import LabelSet

PART_SECONDS = 300.0  # a kill loses the changes of this time at most
PLAN = "live"  # in place of the hash of an archive's plan

_ROWS = 10_000  # people after which a part is written at once
_MOST_WAITING = 50_000  # people that wait for a full disk: about 100 MB
_ENDING = 20.0  # seconds for what is being written at the end, and for the last part
_MOST_OPEN = 10_000  # people in view, over all streams
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
_NO_CROP = np.zeros((0, 0, 3), np.uint8)

_log = logging.getLogger(__name__)

Key = tuple[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Row:
    id: str
    entry: Entry
    person: Person


class LivePeopleSink(BaseSink):
    """Writes a row per person to Parquet files in a folder, in the schema of archives.

    A part is written every `part_seconds`, by a thread. It has the people whose tracks have ended. A second file has
    the people in view, so that a kill loses the changes of this time at most. Parts of past days (UTC) are compacted to
    a file per day. Files are whole or absent, also while others read them.

    If a part cannot be written, people wait, up to 50,000. Then the oldest are dropped and counted.

    Args:
        folder: Folder for the files. It is made if it is missing. One run may use it at a time.
        label_set: The attributes.
        bundle: Digest of the bundle. Default: unknown.
        clock: Times of day of the streams. Default: that of live streams.
        crops: Saved crops, whose paths become the source of the rows. Default: none.
        sources: Source of the rows by stream, without credentials. Default: the name of the stream.
        part_seconds: Seconds between two parts. Default: 300.
        metrics: Metrics that count people. Default: not published.
        health: Health checks that report a folder that cannot be written. Default: not published.

    Raises:
        SinkError: The folder cannot be written, or another run holds it. `close` raises it if people were lost.
        BackendUnavailableError: pyarrow is not installed.

    Example:
        people = LivePeopleSink("people", recognizer.label_set)
        watch("rtsp://camera/1", recognizer, sinks=[people])
    """

    def __init__(
        self,
        folder: str | Path,
        label_set: LabelSet,
        *,
        bundle: str = "",
        clock: WallClock | None = None,
        crops: SavedCropsSink | None = None,
        sources: Mapping[str, str] | None = None,
        part_seconds: float = PART_SECONDS,
        metrics: Metrics | None = None,
        health: Health | None = None,
    ) -> None:
        import_pyarrow()
        self.name = f"people in {folder}"
        self._metadata = ResultMetadata(bundle=bundle, label_set=label_set, plan=PLAN)
        self._clock, self._crops, self._sources = clock or WallClock(live=True), crops, dict(sources or {})
        self._next: dict[str, str] = {}  # sources of streams that are not yet at their present camera
        self._running: set[str] = set()
        self._folder = LiveFolder(Path(folder), self._metadata)
        self._part_seconds = part_seconds
        self._ended: collections.deque[_Row] = collections.deque()
        self._open: dict[Key, _Row] = {}
        self._change = threading.Condition()
        self._closing = False
        self._closed = False
        self._lost = 0
        self._problem: str | None = None
        self._last_error: SeqparError | None = None
        metrics = metrics or Metrics()
        self._written = metrics.counter("seqpar_kept_people_total", "People written to Parquet files.", "sink")
        self._dropped = metrics.counter("seqpar_kept_people_dropped_total", "People dropped, not written.", "sink")
        self._written.labels(self.name)
        self._dropped.labels(self.name)
        self._health = health or Health()
        self._health.watch(f"files of {self.name}", lambda: self._problem)
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        with self._change:
            self._running.add(frame.stream)
        self._clock.frame(frame)

    def set_source(self, stream: str, source: str) -> None:
        """Set the source of the rows of a stream, from its next start on. Safe in any thread.

        Args:
            stream: Name of the stream.
            source: Its source, without credentials.
        """
        with self._change:
            if stream in self._running:
                self._next[stream] = source
            else:
                self._sources[stream] = source

    def stream_ended(self, stream: str) -> None:
        with self._change:
            self._running.discard(stream)
            if (source := self._next.pop(stream, None)) is not None:
                self._sources[stream] = source

    def event(self, event: Event) -> None:
        row = self._row(event.person)
        key = event.person.stream, event.person.track_id
        with self._change:
            if event.kind != "ended":
                if key in self._open or len(self._open) < _MOST_OPEN:
                    self._open[key] = row if key not in self._open else self._again(row, self._open[key])
                return
            if (before := self._open.pop(key, None)) is not None:
                row = self._again(row, before)
            if len(self._ended) >= _MOST_WAITING:
                self._ended.popleft()
                self._lost += 1
                self._dropped.labels(self.name).inc()
            self._ended.append(row)
            if len(self._ended) >= _ROWS:
                self._change.notify_all()

    def delete_before(self, time: datetime.datetime) -> int:
        """Delete the people of before a time.

        Args:
            time: The time, with a time zone.

        Returns:
            Number of files deleted or shortened.

        Raises:
            SinkError: A file cannot be deleted or written.
        """
        with self._one_line():
            return self._folder.delete_before(time, self._clock.now())

    def close(self) -> None:
        with self._change:
            if self._closed:
                return
            self._closed = self._closing = True
            self._change.notify_all()
        self._thread.join(_ENDING)
        self._health.forget(f"files of {self.name}")
        try:
            if self._thread.is_alive():
                raise SinkError(
                    f"{self._folder.path} must take a part within {_ENDING:g} s, got no end of it; check the disk"
                )
            if self._last_error is not None:
                raise self._last_error
        finally:
            left = len(self._ended)
            self._dropped.labels(self.name).inc(left)
            self._lost += left
            self._folder.close()
        if self._lost:
            raise SinkError(f"{self._lost} {'person was' if self._lost == 1 else 'people were'} not written")

    def _row(self, person: Person) -> _Row:
        stream = person.stream.encode("utf-8", "replace").decode("utf-8")
        began = self._clock.time_of(person.stream, 0.0)
        crop = self._crops.path_of(person.stream, person.track_id) if self._crops else None
        source = self._sources.get(person.stream, stream) if crop is None else str(crop.absolute())
        captured_at = None if began is None else (began - _EPOCH) // datetime.timedelta(microseconds=1)
        return _Row(
            id=crop_name(person.stream, person.track_id, self._clock.began(person)).removesuffix(".jpg"),
            entry=Entry(
                kind="video",
                source=source.encode("utf-8", "replace").decode("utf-8"),
                camera=stream,
                captured_at=captured_at,
            ),
            person=dataclasses.replace(person, best_crop=_NO_CROP),
        )

    @staticmethod
    def _again(row: _Row, before: _Row) -> _Row:
        """Return a later row of the same person, with the ID of the first one."""
        return dataclasses.replace(row, id=before.id)

    def _run(self) -> None:
        end = time.monotonic() + self._part_seconds
        while True:
            with self._change:
                self._change.wait_for(
                    lambda: self._closing or (len(self._ended) >= _ROWS and self._problem is None),
                    max(0.0, end - time.monotonic()),
                )
                closing = self._closing
            end = time.monotonic() + self._part_seconds
            try:
                with self._one_line():
                    self._write()
                    if closing:  # here and not in `close`, which must not wait for a hung disk
                        return
                    self._folder.tidy(self._clock.now())
            except SeqparError as error:
                if closing:
                    self._last_error = error
                    return
                if self._problem is None:
                    _log.warning(
                        "%s: %s; retrying, the last %s people are kept", self.name, error, f"{_MOST_WAITING:,}"
                    )
                self._problem = str(error)
            else:
                if self._problem is not None:
                    _log.info("%s: works again; %d people dropped", self.name, self._lost)
                self._problem = None

    def _write(self) -> None:
        """Write a part and the people in view. Raises OSError. People who were not written wait for the next call."""
        with self._change:
            ended, open_ = list(self._ended), list(self._open.values())
        if ended:
            self._folder.write("part", self._table(ended), self._clock.now())
            done = set(map(id, ended))
            with self._change:
                self._ended = collections.deque(row for row in self._ended if id(row) not in done)
            self._written.labels(self.name).inc(len(ended))
        if open_:
            self._folder.write("open", self._table(open_), self._clock.now())

    def _table(self, rows: Sequence[_Row]) -> Any:
        table = Rows(self._metadata)
        for row in rows:
            table.add_person(row.entry, row.person, row_id=row.id)
        return import_pyarrow().Table.from_batches([table.to_batch()])

    def _one_line(self) -> _OneLine:
        return _OneLine(self._folder.path)


class _OneLine:
    """Turns a failure to read or write a file of the folder into one line: SinkError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, (OSError, import_pyarrow().ArrowException)):
            _log.debug("%s cannot be written", self._folder, exc_info=error)
            why = why_not_written(error, self._folder) or getattr(error, "strerror", None) or "a file in it is damaged"
            raise SinkError(f"{self._folder} cannot be written: {why}") from None


def check_live_people(folder: Path) -> None:
    """Raise an error, before any work, if people cannot be kept in a folder. Nothing is written."""
    import_pyarrow()
    check_writable(folder, folder=True)
