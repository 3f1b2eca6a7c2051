"""Reads a sequence of pictures as a video."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

from seqpar_deploy.errors import ImageError, VideoError
from seqpar_deploy.images import read_image
from seqpar_deploy.video.sources.connection import Picture, ready
from seqpar_deploy.video.sources.spec import SourceSpec
from seqpar_deploy.video.sources.state import Tally


class PictureSequence:
    """Reads the pictures of a source in order, `fps` per second. Gaps in their numbers take no time."""

    def __init__(self, spec: SourceSpec, tally: Tally, closing: threading.Event) -> None:
        self._spec = spec
        self._tally = tally
        self._closing = closing

    def pictures(self) -> Iterator[Picture]:
        """Yield the pictures until the end or until it is closed. Raises VideoError after the last if some failed."""
        files, failed = self._spec.pictures, 0
        self._tally.note(length=len(files), rate=self._spec.fps, codec="pictures")
        for number, file in enumerate(files):
            if self._closing.is_set():
                return
            image = None
            try:
                with self._tally.timed():
                    image = read_image(file)
            except ImageError as error:
                failed += 1
                self._tally.damaged()
                self._tally.log(logging.WARNING, "%s: %s", self._spec.name, error)
            yield Picture(image=ready(image), stamp=number / self._spec.fps, period=1 / self._spec.fps)
        if failed:
            raise VideoError(f"{failed} of its {len(files)} pictures failed; the log names them")

    def length(self) -> int:
        """Return the number of pictures."""
        return len(self._spec.pictures)

    def reason(self, error: Exception) -> str:
        """Return the cause of an error of `pictures`."""
        return str(error)

    def is_hopeless(self, error: Exception) -> bool:
        """Return whether a retry cannot help."""
        return True
