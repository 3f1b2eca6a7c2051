"""The clock of a stream: it follows the stream's timestamps, and continues if they stop, jump or start over."""

from __future__ import annotations

import time
from collections.abc import Callable

_LATE = 1.0  # s. A stamp that goes back by less is a frame out of order, by more a clock that was set back
_MOST_LATE = 3  # such frames in a row, after which the clock was set back by less than that
_STILL = 1.0  # s. A live stream's stamps that stay the same for longer are ignored
_AHEAD = 3.0  # s. Maximum lead of a live stream over the wall clock: buffered frames arrive at once
_FILE_GAP = 3600.0  # s. Longest gap in a recording, for example of a camera that omits scenes without motion
_TICK = 0.001  # s. Minimum time between two frames


class StreamClock:
    """Converts stamps to timestamps in seconds since a stream's first frame, strictly increasing.

    If the stamps are unusable (missing, frozen, after a jump or a new connection), a live stream advances with the wall
    clock, and a recording by one frame.
    """

    def __init__(self, *, live: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._live = live
        self._now = now
        self._timestamp: float | None = None  # of the last frame
        self._arrived = 0.0
        self._stamp: float | None = None  # of the last frame
        self._moved = 0.0  # time of its latest change
        self._offset: float | None = None  # timestamp minus stamp
        self._before: float | None = None  # stamp of the last frame that was used
        self._late = 0  # frames in a row whose stamps increase, but are behind the timestamps

    def interrupted(self) -> None:
        """Start a new connection, whose stamps are unrelated to earlier ones."""
        self._offset = None

    def at(self, stamp: float | None, period: float) -> float:
        """Return the timestamp of the frame with this stamp. `period` is the usual frame interval in seconds."""
        now = self._now()
        if stamp != self._stamp:
            self._stamp, self._moved = stamp, now
        if self._live and now - self._moved > _STILL:
            stamp = None
        if self._timestamp is None:
            timestamp = 0.0
        else:
            elapsed = now - self._arrived
            usual = self._timestamp + max(elapsed if self._live else period, _TICK)
            limit = elapsed + _AHEAD if self._live else _FILE_GAP
            timestamp = usual
            if stamp is not None and self._offset is not None:
                stamped = stamp + self._offset
                late = stamped <= self._timestamp and self._before is not None and stamp > self._before
                self._late = self._late + 1 if late else 0
                if -_LATE < stamped - self._timestamp < limit and self._late < _MOST_LATE:
                    timestamp = max(stamped, self._timestamp + _TICK)
                else:
                    self._offset = None
        if stamp is not None and self._offset is None:
            self._offset = timestamp - stamp
        self._timestamp, self._before = timestamp, stamp
        self._arrived = now
        return round(timestamp, 6)
