"""Writes events as JSON Lines, to a file or standard output."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from seqpar_deploy.errors import ReaderGoneError, SinkError
from seqpar_deploy.video.sinks.base import BaseSink
from seqpar_deploy.video.sinks.events import event_line
from seqpar_deploy.video.types import Event, ZoneEvent

STDOUT = "-"
_CANNOT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # the file system does not support fsync


class JsonlSink(BaseSink):
    """Appends one line of JSON per event, as in docs/reference/events.md.

    Each line is written in one call, so a kill leaves no partial line. If a line cannot be written, `event` raises
    OSError and removes the part that was written, so the next line can succeed. If the reader of the pipe has gone, it
    raises ReaderGoneError.

    Args:
        path: A file, or "-" for standard output.

    Raises:
        SinkError: The file cannot be opened.

    Example:
        watch("street.mp4", recognizer, sinks=[JsonlSink("people.jsonl")])
    """

    def __init__(self, path: str | Path) -> None:
        self.name = f"events in {path}" if str(path) != STDOUT else "events on standard output"
        try:
            self._descriptor: int | None = _open(path)
        except OSError as error:
            raise SinkError(f"{path} cannot be written: {error.strerror}; name another file for the events") from None
        self._is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)

    def event(self, event: Event | ZoneEvent) -> None:
        if self._descriptor is None:
            return
        line = event_line(event).encode("utf-8") + b"\n"
        start = os.lseek(self._descriptor, 0, os.SEEK_END) if self._is_file else 0
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except BrokenPipeError:
            raise ReaderGoneError("the reader of its output has gone") from None
        except OSError:
            if self._is_file:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._descriptor, start)
            raise

    zone = event

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            try:
                if self._is_file:
                    os.fsync(descriptor)
            except OSError as error:
                if error.errno not in _CANNOT_SYNC:
                    raise
            finally:
                os.close(descriptor)


def _open(path: str | Path) -> int:
    if str(path) == STDOUT:
        return os.dup(1)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    mode = os.O_WRONLY if Path(path).is_fifo() else os.O_RDWR  # with O_RDWR our own end would keep the pipe open
    descriptor = os.open(path, mode | os.O_CREAT | os.O_APPEND, 0o644)
    with contextlib.suppress(OSError):  # a device cannot be read at an offset
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a power cut left a partial line
            os.write(descriptor, b"\n")
    return descriptor
