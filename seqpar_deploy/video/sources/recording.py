"""Checks that a recording is read to its end: FFmpeg takes the end of the data for it."""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.sources.connection import Connection, Picture
from seqpar_deploy.video.sources.playlist import is_playlist
from seqpar_deploy.video.sources.spec import SourceSpec
from seqpar_deploy.video.sources.url_kind import has_declared_length

_SHORTER = 0.05  # of the declared duration: sound may be longer than the pictures, and averages of rates are rounded
_SLACK = 1.0  # s, for the same reasons in short recordings
_SEGMENT = 1.0  # s. A longer step in a playlist is a missing file, or a cut, whose time is not in the playlist either


class Recording:
    """Reads a file or a URL with an end. A recording that breaks off is an error."""

    def __init__(self, connection: Connection, spec: SourceSpec, closing: threading.Event) -> None:
        self._connection = connection
        self._url = spec.place if spec.is_url else None
        self._closing = closing
        self._longest_step = _SEGMENT if is_playlist(urlsplit(spec.place).path) else math.inf
        self.length, self.reason, self.is_hopeless = connection.length, connection.reason, connection.is_hopeless

    def pictures(self) -> Iterator[Picture]:
        """Yield the pictures. Raises VideoError at the end if the recording is longer."""
        last: float | None = None
        pictures, seconds, period, cut = 0, 0.0, 0.0, False
        try:
            for picture in self._connection.pictures():
                pictures, period = pictures + 1, picture.period
                step = period if picture.stamp is None or last is None else picture.stamp - last
                seconds += step if 0 <= step <= self._longest_step else period
                last = picture.stamp
                yield picture
        except OSError as error:  # FFmpeg also raises it at the end of an answer without a length
            if error.errno != errno.EIO or not pictures or self._url is None:
                raise
            cut = has_declared_length(self._url)
        if self._closing.is_set():
            return
        read, declared = max(pictures * period, seconds), self._connection.declared * period
        if cut or read + _SLACK < (1 - _SHORTER) * declared:
            of = f" of {declared:.1f} s" if declared > read + _SLACK else ""
            again = "copy" if self._url is None else "download"
            raise VideoError(f"it is incomplete: {read:.1f} s{of} could be read; {again} it again")
