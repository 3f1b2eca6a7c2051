"""Saves the best crop of each person as a JPEG, and keeps a bounded number of them."""

from __future__ import annotations

import collections
import contextlib
import datetime
import heapq
import io
import logging
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from seqpar_deploy.errors import SeqparError, SinkError
from seqpar_deploy.files import check_writable, write_whole
from seqpar_deploy.video.sinks.base import BaseSink
from seqpar_deploy.video.sinks.wall_clock import WallClock
from seqpar_deploy.video.types import Event, Frame, Person, TrackedBox

MOST = 10_000  # default number of crops: about 100 MB

_TIME = "%Y%m%dT%H%M%S"
_OURS = re.compile(r"(.+)-(\d+)-(\d{8}T\d{6})(\d{3})Z\.jpg")
_LEFTOVER = re.compile(r"\.(.+)\.\w{8}")  # of a killed process, as `files.replacing` names them
_QUALITY = 90
_REMEMBERED = 1000  # paths by track, for other sinks
_TRIES = 16  # crops per new crop that cannot be removed, so that a new crop never waits for long

_log = logging.getLogger(__name__)


class SavedCropsSink(BaseSink):
    """Saves the best crop of each person when their track ends, as `STREAM-TRACK-TIME.jpg`.

    TIME is when the person was first seen (UTC, milliseconds), for a recording when the crop was saved. A file is whole
    or absent. If there are more than `most`, the oldest are removed, those of earlier runs included. Files with other
    names are never touched. A crop that cannot be removed is tried again with the next one, and in `delete_before`.

    Args:
        folder: Folder for the crops. It is made if it is missing.
        most: Maximum number of crops in the folder. Default: 10,000.
        clock: Times of day of the streams. Default: that of live streams.

    Raises:
        SinkError: The folder cannot be written.

    Example:
        watch("rtsp://camera/1", recognizer, sinks=[SavedCropsSink("crops", most=1000)])
    """

    def __init__(self, folder: str | Path, *, most: int = MOST, clock: WallClock | None = None) -> None:
        if most < 1:
            raise SinkError(f"the number of saved crops must be 1 or more, got {most}; pass another number")
        self.folder = Path(folder)
        self.name = f"saved crops {self.folder}"
        self._most, self._clock = most, clock or WallClock(live=True)
        self._paths: collections.OrderedDict[tuple[str, int], Path] = collections.OrderedDict()
        self._lock = threading.Lock()
        self._warned = False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._saved = self._found()
        except OSError as error:
            raise SinkError(f"{folder} cannot be written: {error.strerror}; choose another folder") from None
        check_writable(self.folder, folder=True)
        self._remove_surplus(tries=len(self._saved))

    def __len__(self) -> int:
        return len(self._saved)

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        self._clock.frame(frame)

    def event(self, event: Event) -> None:
        person = event.person
        time = self._clock.began(person)
        if event.kind != "ended" or not person.best_crop.size:
            return
        path = self.folder / crop_name(person.stream, person.track_id, time)
        try:
            write_whole(path, _encoded(person))
        except SeqparError as error:
            raise OSError(str(error)) from None  # the disk may have space later: only this crop is missed
        with self._lock:
            heapq.heappush(self._saved, (_key(time), path.name))
            self._paths[person.stream, person.track_id] = path
            while len(self._paths) > _REMEMBERED:
                self._paths.popitem(last=False)
            self._remove_surplus(tries=_TRIES)

    def path_of(self, stream: str, track_id: int) -> Path | None:
        """Return the crop of a person whose track has ended lately, or None if there is none.

        Args:
            stream: Name of the stream.
            track_id: Number of the person.
        """
        with self._lock:
            return self._paths.get((stream, track_id))

    def delete_before(self, time: datetime.datetime) -> int:
        """Remove crops of people who were first seen before a time.

        Args:
            time: The time, with a time zone.

        Returns:
            Number of crops removed.

        Raises:
            OSError: A crop cannot be removed. The others are, and the next call tries it again.
        """
        removed, bar = 0, _key(time)
        stuck: list[tuple[str, str]] = []
        problem: OSError | None = None
        try:
            while True:
                with self._lock:  # one at a time, so that a new crop never waits for long
                    if not self._saved or self._saved[0][0] >= bar:
                        break
                    try:
                        self._remove_oldest()
                        removed += 1
                    except OSError as error:
                        problem = problem or error
                        stuck.append(heapq.heappop(self._saved))
        finally:
            with self._lock:
                for one in stuck:
                    heapq.heappush(self._saved, one)
        if problem is not None:
            raise problem
        return removed

    def _remove_oldest(self) -> None:
        """Remove the oldest crop. Raises OSError if it cannot be removed; then it stays the oldest."""
        with contextlib.suppress(FileNotFoundError):
            (self.folder / self._saved[0][1]).unlink()
        heapq.heappop(self._saved)

    def _remove_surplus(self, tries: int) -> None:
        """Remove the oldest crops if there are too many. Those that cannot be removed stay in addition."""
        stuck: list[tuple[str, str]] = []
        while len(self._saved) > self._most and len(stuck) < tries:
            try:
                self._remove_oldest()
            except OSError as error:
                stuck.append(heapq.heappop(self._saved))
                if not self._warned:
                    _log.warning("%s: old crops cannot be removed: %s; retrying", self.name, error.strerror)
                self._warned = True
        for one in stuck:
            heapq.heappush(self._saved, one)
        if not stuck:
            self._warned = False

    def _found(self) -> list[tuple[str, str]]:
        """Return the crops in the folder, as a heap by time, and remove what killed processes left."""
        saved = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if (found := _OURS.fullmatch(entry.name)) and entry.is_file(follow_symlinks=False):
                    saved.append((found[3] + found[4], entry.name))
                elif (part := _LEFTOVER.fullmatch(entry.name)) and _OURS.fullmatch(part[1]):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.path)
        heapq.heapify(saved)
        return saved


def crop_name(stream: str, track_id: int, time: datetime.datetime) -> str:
    """Return the file name of a person's crop."""
    clean = re.sub(r"[^\w.-]", "_", stream.encode("utf-8", "replace").decode("utf-8"))[:80].lstrip(".") or "_"
    key = _key(time)
    return f"{clean}-{track_id}-{key}Z.jpg"


def _key(time: datetime.datetime) -> str:
    """Return a time as it is in a name. Later times are greater."""
    utc = time.astimezone(datetime.timezone.utc)
    return f"{utc.strftime(_TIME)}{utc.microsecond // 1000:03d}"


def _encoded(person: Person) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(person.best_crop).save(buffer, format="JPEG", quality=_QUALITY)
    return buffer.getvalue()
