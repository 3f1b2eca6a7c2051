"""Chooses the reader of a source: FFmpeg, a sequence of pictures, or polling of a snapshot URL."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Protocol

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.sources.connection import Connection, Picture
from seqpar_deploy.video.sources.picture_sequence import PictureSequence
from seqpar_deploy.video.sources.recording import Recording
from seqpar_deploy.video.sources.snapshots import Snapshots
from seqpar_deploy.video.sources.spec import SourceSpec
from seqpar_deploy.video.sources.state import SourceOptions, Tally


class Reader(Protocol):
    """Reads a source. Each call of `pictures` connects again."""

    def pictures(self) -> Iterator[Picture]:
        """Yield pictures until the source ends or is closed."""
        ...

    def length(self) -> int:
        """Return the number of pictures, 0 if unknown. For any thread."""
        ...

    def reason(self, error: Exception) -> str:
        """Return the cause of an error of `pictures`, in our words."""
        ...

    def is_hopeless(self, error: Exception) -> bool:
        """Return whether a retry cannot help."""
        ...


def reader_of(spec: SourceSpec, options: SourceOptions, tally: Tally, closing: threading.Event) -> Reader:
    """Return the reader of a source. Raises BackendUnavailableError if it needs PyAV, which is not installed."""
    if spec.problem:
        return _Unreadable(spec.problem)
    if spec.pictures:
        return PictureSequence(spec, tally, closing)
    if spec.polled:
        return Snapshots(spec, options, tally, closing)
    connection = Connection(spec, options, tally, closing)
    return connection if spec.live else Recording(connection, spec, closing)


class _Unreadable:
    """A place that is known to be unreadable, for example a folder without permission."""

    def __init__(self, problem: str) -> None:
        self._problem = problem

    def pictures(self) -> Iterator[Picture]:
        raise VideoError(self._problem)

    def length(self) -> int:
        return 0

    def reason(self, error: Exception) -> str:
        return str(error)

    def is_hopeless(self, error: Exception) -> bool:
        return True
