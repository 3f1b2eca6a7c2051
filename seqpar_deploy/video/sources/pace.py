"""Chooses the frames of a source to analyse, evenly in time: at most `max_fps`, and fewer while the machine is slow."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_WINDOW = 1.0  # seconds between two looks at the dropped frames
_SHARE = 0.9  # of the frames that were analysed while some were dropped: the rest empties the queue
_CALM = 5  # windows without a dropped frame, after which the rate rises
_RISE = 1.1
_LEAST = 1.0  # frames per second
_LOG_EVERY = 60.0  # seconds between two lines on one source

_log = logging.getLogger(__name__)


class Pace:
    """Decides which frames of one source are analysed.

    The others are decoded, since later ones depend on them, but not converted to RGB, detected and tracked. With
    `adaptive`, a rate follows what the rest of the pipeline takes: frames that a full queue would drop at random are
    left out evenly instead. For one thread.

    Args:
        name: Name of the source, for the log.
        max_fps: Frames per second of the stream's time, or None for all.
        adaptive: Whether to lower the rate while frames are dropped.
        now: Function that returns monotonic seconds.
    """

    def __init__(
        self, name: str, max_fps: float | None, *, adaptive: bool = False, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._most = max_fps
        self._adaptive = adaptive
        self._now = now
        self.rate = max_fps  # at present, None for all frames
        self._due: float | None = None  # timestamp from which the next frame is taken
        self._began: float | None = None  # of the present window
        self._offered = self._taken = self._dropped = self._calm = 0
        self._logged: float | None = None

    def takes(self, timestamp: float, dropped: int = 0) -> bool:
        """Return whether to analyse the frame at this timestamp. `dropped` is the number of dropped frames so far."""
        if self._adaptive:
            self._look(dropped)
            self._offered += 1
        if self.rate is None:
            taken = True
        else:
            interval = 1 / self.rate
            # The clock of a stream may start over, and a live stream may pause.
            if self._due is None or not self._due - interval <= timestamp < self._due + interval:
                self._due = timestamp
            taken = timestamp >= self._due - 1e-6
            if taken:
                self._due += interval
        self._taken += taken
        return taken

    def _look(self, dropped: int) -> None:
        """Lower the rate after dropped frames, and raise it after some time without."""
        now = self._now()
        if self._began is None:
            self._began, self._dropped = now, dropped
            return
        seconds = now - self._began
        if seconds < _WINDOW:
            return
        lost, offered, taken = dropped - self._dropped, self._offered / seconds, self._taken / seconds
        self._began, self._dropped, self._offered, self._taken = now, dropped, 0, 0
        if lost:
            self._calm = 0
            rate = max(_LEAST, _SHARE * (taken - lost / seconds))
            if self.rate is None or rate < self.rate:  # else it was a burst, for example after an interruption
                self.rate = rate
                self._tell(offered)
            return
        self._calm += 1
        if self.rate is not None and self._calm > _CALM:
            higher = _RISE * self.rate
            if self._most is not None:
                self.rate = min(self._most, higher)
            else:
                self.rate = None if higher >= offered else higher

    def _tell(self, offered: float) -> None:
        now = self._now()
        if self._logged is None or now - self._logged >= _LOG_EVERY:
            self._logged = now
            _log.info(
                "%s: about %.1f of %.1f frames per second are analysed, since more would be dropped at random",
                *(self._name, self.rate, offered),
            )
