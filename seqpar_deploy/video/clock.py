"""The time of a stream: its own stamps, made to go on where they stop, jump or start over."""

from __future__ import annotations

import time
from collections.abc import Callable

_LATE = 1.0  # s. A stamp up to this much too early is a picture out of order, not a clock that was set back
_STILL = 1.0  # s. A live stream's stamps that are the same for longer tell nothing
_AHEAD = 3.0  # s. How much faster than the wall clock a live stream may run: what lay in buffers arrives at once
_FILE_GAP = 3600.0  # s. A recording may leave out what nobody moved in, for as long as this
_TICK = 0.001  # s. The least there is between two pictures


class StreamClock:
    """Seconds since a stream's first picture, growing with each.

    Where the stamps do not tell (none, one that stands still, a jump, a new connection), a live stream has gone on as
    long as the wall clock has, and a recording by one picture.
    """

    def __init__(self, *, live: bool, now: Callable[[], float] = time.monotonic) -> None:
        self._live = live
        self._now = now
        self._seconds: float | None = None  # of the last picture
        self._arrived = 0.0
        self._stamp: float | None = None  # of the last picture
        self._moved = 0.0  # when it was last another
        self._offset: float | None = None  # from stamps to seconds

    def interrupted(self) -> None:
        """The next stamp has nothing to do with those before."""
        self._offset = None

    def at(self, stamp: float | None, period: float) -> float:
        """When the picture with this stamp is, in seconds. `period` is usual from one picture to the next."""
        now = self._now()
        if stamp != self._stamp:
            self._stamp, self._moved = stamp, now
        if self._live and now - self._moved > _STILL:
            stamp = None
        if self._seconds is None:
            seconds = 0.0
        else:
            elapsed = now - self._arrived
            usual = self._seconds + max(elapsed if self._live else period, _TICK)
            limit = elapsed + _AHEAD if self._live else _FILE_GAP
            seconds = usual
            if stamp is not None and self._offset is not None:
                stamped = stamp + self._offset
                if -_LATE < stamped - self._seconds < limit:
                    seconds = max(stamped, self._seconds + _TICK)
                else:
                    self._offset = None
        if stamp is not None and self._offset is None:
            self._offset = seconds - stamp
        self._seconds = seconds
        self._arrived = now
        return round(seconds, 6)
