"""How long work tells how far it is, to whoever asked for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

OnProgress = Callable[[int, int], None]  # (done, total)

# progress(stage) opens a stage of work, and yields a function that takes (done, in all) while it lasts.
Progress = Callable[[str], contextlib.AbstractContextManager[Callable[[int, int], None]]]


@contextlib.contextmanager
def silent(_stage: str) -> Iterator[Callable[[int, int], None]]:
    """A `Progress` that shows nothing."""
    yield lambda _done, _total: None
