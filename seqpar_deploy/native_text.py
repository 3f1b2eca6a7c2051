"""Lines that native libraries print to standard error by themselves, for example libtiff about damage."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterator

_log = logging.getLogger(__name__)
_lock = threading.Lock()  # the file descriptor is the process's, so that only one thread may redirect it


@contextlib.contextmanager
def native_text_logged() -> Iterator[None]:
    """Within the block, log what is printed to file descriptor 2, at debug level, in place of showing it.

    Keep the block short: lines of other threads are logged too.
    """
    with _lock, tempfile.TemporaryFile() as printed:
        try:
            shown = os.dup(2)
        except OSError:  # closed: nobody sees such lines
            yield
            return
        try:
            os.dup2(printed.fileno(), 2)
            yield
        finally:
            os.dup2(shown, 2)
            os.close(shown)
            printed.seek(0)
            for line in printed.read(10_000).decode("utf-8", "replace").splitlines():
                _log.debug("%s", line)
