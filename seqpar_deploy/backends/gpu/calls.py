"""Track the running calls of a backend, so that `close` can wait for them and reject later ones."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from seqpar_deploy.errors import BackendError

_LONGEST_CALL = 120.0  # seconds, many times the longest inference


class Calls:
    """Count the running calls. Threads may share it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._under_way = 0
        self._closed = False

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Count a call for the duration of the block. Raises BackendError if the backend is closed."""
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
        """Reject new calls, and wait for the running ones. Raises BackendError if they take more than two minutes."""
        deadline = time.monotonic() + _LONGEST_CALL
        with self._changed:
            self._closed = True
            while self._under_way:
                if not self._changed.wait(deadline - time.monotonic()) and time.monotonic() > deadline:
                    raise BackendError(
                        f"cannot close the backend: {self._under_way} calls still run after {_LONGEST_CALL:.0f} s; "
                        "end the process"
                    )
