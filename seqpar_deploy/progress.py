"""How long-running work reports its progress to its caller."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

OnProgress = Callable[[int, int], None]  # on_progress(done, total)

# progress(stage) opens a stage of work, and yields the `OnProgress` to call while it lasts.
Progress = Callable[[str], contextlib.AbstractContextManager[OnProgress]]


@contextlib.contextmanager
def silent(_stage: str) -> Iterator[OnProgress]:
    """A `Progress` that shows nothing."""
    yield lambda _done, _total: None
