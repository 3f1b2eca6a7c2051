"""Types for progress callbacks of long-running work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

OnProgress = Callable[[int, int], None]  # on_progress(done, total)

# progress(stage) opens a stage of work and yields its `OnProgress` callback.
Progress = Callable[[str], contextlib.AbstractContextManager[OnProgress]]


@contextlib.contextmanager
def silent(_stage: str) -> Iterator[OnProgress]:
    """Report no progress. This is the default `Progress`."""
    yield lambda _done, _total: None
