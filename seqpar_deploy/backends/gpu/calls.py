"""Calls into a backend, and its end: the end waits for the calls under way, and later calls are refused."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from seqpar_deploy.errors import BackendError

_LONGEST_CALL = 120.0  # seconds; many times the longest inference


class Calls:
    """Counts the calls under way. Threads may share it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way = 0
        self._closed = False

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Raises BackendError if the backend is closed."""
        with self._changed:
            if self._closed:
                raise BackendError("this backend is closed; open the bundle again")
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def end(self) -> None:
        """Refuse calls from here on, and wait for those under way.

        Raises BackendError if they do not come to an end within two minutes.
        """
        deadline = time.monotonic() + _LONGEST_CALL
        with self._changed:
            self._closed = True
            while self._under_way:
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() > deadline:
                    raise BackendError(f"cannot close: {self._under_way} calls are still running")
