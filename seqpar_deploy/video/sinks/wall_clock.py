"""The time of day at which something was seen, from a stream's own time."""

from __future__ import annotations

import collections
import datetime
import time
from collections.abc import Callable

from seqpar_deploy.video.types import Frame, Person

_MOST = 4096  # streams; the one that has been silent for longest is forgotten
_MOST_PEOPLE = 20_000  # as above, by their latest event


class WallClock:
    """Turns timestamps of live streams into times of day, by the latest frame of the stream.

    Recordings have no time of day: their people get the time at which they were processed.

    Args:
        live: Whether the streams are live.
        now: Function that returns seconds since 1970. Default: `time.time`.
    """

    def __init__(self, *, live: bool, now: Callable[[], float] = time.time) -> None:
        self.live = live
        self._now = now
        self._offsets: dict[str, float] = {}
        self._began: collections.OrderedDict[tuple[str, int, int], datetime.datetime] = collections.OrderedDict()

    def frame(self, frame: Frame) -> None:
        """Learn the time of a frame."""
        self._offsets.pop(frame.stream, None)
        self._offsets[frame.stream] = self._now() - frame.timestamp
        if len(self._offsets) > _MOST:
            del self._offsets[next(iter(self._offsets))]

    def time_of(self, stream: str, timestamp: float) -> datetime.datetime | None:
        """Return the time of day (UTC) of a timestamp of a stream. None for a recording, or before its first frame."""
        if not self.live or stream not in self._offsets:
            return None
        return _utc(self._offsets[stream] + timestamp)

    def began(self, person: Person) -> datetime.datetime:
        """Return when a person was first seen, or now if that is unknown. It stays the same for later calls."""
        key = person.stream, person.track_id, person.first.frame
        if key not in self._began:
            self._began[key] = self.time_of(person.stream, person.first.timestamp) or self.now()
            if len(self._began) > _MOST_PEOPLE:
                self._began.popitem(last=False)
        self._began.move_to_end(key)
        return self._began[key]

    def now(self) -> datetime.datetime:
        """Return the present time (UTC)."""
        return _utc(self._now())


def _utc(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
