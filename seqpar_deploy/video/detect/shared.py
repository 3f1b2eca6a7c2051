"""One detector for all cameras that have the same settings: a model in memory costs more than its use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable

from seqpar_deploy.video.types import Box, Detector, Frame, Readiness


class SharedDetectors:
    """Opens a detector once per key, and closes it after its last user has closed it. Safe in any thread."""

    def __init__(self) -> None:
        self._open: dict[Hashable, tuple[Detector, set[_Lease]]] = {}
        self._lock = threading.Lock()

    def open(self, key: Hashable, open_detector: Callable[[], Detector]) -> Detector:
        """Return the detector of a key, for one user.

        Args:
            key: Settings that define the detector.
            open_detector: Opens it, if nobody has it open.

        Returns:
            A detector whose `close` ends this use.
        """
        with self._lock:  # also while it opens: two users must not open it twice
            if key not in self._open:
                self._open[key] = open_detector(), set()
            detector, users = self._open[key]
            lease = _Lease(detector, lambda: self._release(key, lease))
            users.add(lease)
            return lease

    def _release(self, key: Hashable, lease: _Lease) -> None:
        with self._lock:
            detector, users = self._open.get(key, (None, set[_Lease]()))
            if detector is None or lease not in users:
                return
            users.remove(lease)
            if not users:
                del self._open[key]
                detector.close()


class _Lease:
    """One use of a shared detector."""

    def __init__(self, detector: Detector, release: Callable[[], None]) -> None:
        self._detector, self._release = detector, release

    def detect(self, frame: Frame) -> list[Box]:
        return self._detector.detect(frame)

    def ready(self, stream: str) -> bool:
        return not isinstance(self._detector, Readiness) or self._detector.ready(stream)

    def close(self) -> None:
        self._release()
