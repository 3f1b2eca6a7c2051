"""A started source, its frames and the lines that it logs."""

from __future__ import annotations

import itertools
import logging
import queue
import time
from collections.abc import Callable

from seqpar_deploy.video.queues import BoundedQueue
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import expand_sources
from seqpar_deploy.video.sources.state import SourceOptions
from seqpar_deploy.video.types import Frame

PATIENCE = 60.0  # s. Only a test that fails waits this long
IMPATIENT = SourceOptions(connect_timeout=1.0, silence_timeout=0.5)
LOGGER = logging.getLogger("seqpar_deploy.video")


class Watched:
    """A started source, and what it logs."""

    def __init__(self, url: str, options: SourceOptions | None = None, size: int = 8) -> None:
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        (spec,) = expand_sources([url])
        self.handler = logging.Handler()
        self.handler.emit = lambda record: self.lines.put(record.getMessage())  # type: ignore[method-assign]
        LOGGER.addHandler(self.handler)
        self.source = Source(spec, options=options or SourceOptions())
        self.frames: BoundedQueue[Frame] = self.source.start(size)

    def take(self, count: int) -> list[Frame]:
        return [self.frames.take()[0] for _ in range(count)]

    def said(self) -> str:
        return self.lines.get(timeout=PATIENCE)

    def hear(self, words: str) -> None:
        """Wait until it is logged."""
        while words not in self.said():
            pass

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that is not logged."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.005)


def grows(frames: list[Frame]) -> bool:
    """Return whether time and number go on."""
    return all(a.timestamp < b.timestamp and a.index < b.index for a, b in itertools.pairwise(frames))
