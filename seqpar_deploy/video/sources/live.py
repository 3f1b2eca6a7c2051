"""The live sources of a run. They are read at the same time, and can be replaced while others go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from seqpar_deploy.video.queues import BoundedQueue, End, Merge
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.types import Frame

_FRAMES = 8  # length of the queue from each source


class LiveSources:
    """Live sources by name. One thread iterates over their frames, and any thread may replace one.

    Args:
        sources: The sources by name. Its owner may read this dict, which changes as sources do.
        started: Called with the name of each source that starts.
        open_ended: Wait for more sources when all have ended, until `stop`. Default: False.

    Attributes:
        dropped: Number of frames that replaced sources dropped, by name.
    """

    def __init__(
        self, sources: dict[str, Source], *, started: Callable[[str], object], open_ended: bool = False
    ) -> None:
        self._sources, self._started = sources, started
        self._merge: Merge[Frame] = Merge(open_ended=open_ended)
        self._next: dict[str, tuple[Source | None, Callable[[], object]]] = {}  # once the present one has ended
        self._reading: set[str] = set()  # names of sources whose end is to come
        self._lock = threading.Lock()  # held while a source is replaced
        self._stopping = False
        self.dropped: dict[str, int] = {}

    def __iter__(self) -> Iterator[tuple[str, Frame | End]]:
        """Start the sources, and yield their frames as they arrive. After each `End`, call `ended` with its name."""
        for name, source in self._sources.copy().items():
            self._start(name, source)
        yield from self._merge

    def replace(self, name: str, source: Source | None, on_start: Callable[[], object]) -> bool:
        """Add, change or remove a source. See `Pipeline.replace`."""
        with self._lock:
            if self._stopping:
                return False
            waiting = name in self._next
            self._next[name] = source, on_start
            if waiting:
                return True
            if name in self._reading:
                self._sources[name].close(within=0)
            else:  # the end of an empty queue takes the place of a source's
                nothing = BoundedQueue[Frame](1)
                nothing.finish()
                self._merge.add(name, nothing)
            return False

    def ended(self, name: str) -> bool:
        """Start the source that waits for the end of the one before, if any. Return whether it was replaced."""
        with self._lock:
            self._reading.discard(name)
            if name not in self._next:
                return False
            source, on_start = self._next.pop(name)
            if (before := self._sources.pop(name, None)) is not None:
                self.dropped[name] = self.dropped.get(name, 0) + before.stats.dropped
            if not self._stopping:
                on_start()
                if source is not None:
                    self._sources[name] = source
                    self._start(name, source)
            return True

    def stop(self) -> None:
        """Accept no more sources. The iteration ends with the present ones, which the caller closes."""
        self._stopping = True
        self._merge.close()

    def _start(self, name: str, source: Source) -> None:
        self._reading.add(name)
        self._started(name)
        self._merge.add(name, source.start(_FRAMES))
