"""Polls a snapshot URL of a camera, which returns one picture per request."""

from __future__ import annotations

import io
import threading
import time
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps

from seqpar_deploy.errors import VideoError
from seqpar_deploy.preprocess import MAX_PIXELS, RgbImage
from seqpar_deploy.video.sources import web
from seqpar_deploy.video.sources.connection import Picture, ready
from seqpar_deploy.video.sources.spec import SourceSpec
from seqpar_deploy.video.sources.state import SourceOptions, Tally

_LARGEST = 32_000_000  # bytes of one answer
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF")  # what cameras return; EPS would run Ghostscript
_STILL = 1.0  # s. The same bytes within this time are no new picture; later they show that the camera answers
_FAILURES = 3  # consecutive failed requests that a connection survives, if they take less than the silence_timeout


class Snapshots:
    """Requests a picture `fps` times per second, at most. A camera that takes longer gets its next request later."""

    def __init__(self, spec: SourceSpec, options: SourceOptions, tally: Tally, closing: threading.Event) -> None:
        self._spec = spec
        self._options = options
        self._tally = tally
        self._closing = closing

    def pictures(self) -> Iterator[Picture]:
        """Yield pictures until several requests in a row fail. Raises VideoError with the cause of the last."""
        period = 1 / self._spec.fps
        self._tally.note(rate=self._spec.fps, codec="pictures")
        latest, emitted = b"", 0.0
        heard, failures = None, 0  # time of the latest answer; requests that failed since
        while not self._closing.is_set():
            began = time.monotonic()
            try:
                content = self._request()
                if content != latest or began - emitted >= _STILL:
                    image = self._decode(content)
                    latest, emitted = content, began
                    yield Picture(image=ready(image), stamp=None, period=period)
                heard, failures = time.monotonic(), 0
            except VideoError:
                failures += 1
                silence = time.monotonic() - (heard or 0.0)
                if heard is None or (failures > _FAILURES and silence > self._options.silence_timeout):
                    raise
            self._closing.wait(max(0.0, began + period - time.monotonic()))

    def length(self) -> int:
        """Return 0, because a live source has no length."""
        return 0

    def reason(self, error: Exception) -> str:
        """Return the cause of an error of `pictures`."""
        return str(error)

    def is_hopeless(self, error: Exception) -> bool:
        """Return whether a retry cannot help. It always may: cameras answer anything while they start."""
        return False

    def _request(self) -> bytes:
        seconds = self._options.silence_timeout
        with web.opened(self._spec.place, seconds=seconds, headers={"Cache-Control": "no-cache"}) as response:
            kind = response.headers.get_content_type()
            if kind.startswith(("text/", "multipart/", "video/")):
                raise VideoError(
                    f"it must return a picture, got {kind}; check the path, or start again if it is a stream"
                )
            return web.read(response, most=_LARGEST, seconds=seconds, stop=self._closing)

    def _decode(self, content: bytes) -> RgbImage:
        try:
            with self._tally.timed(), warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the check below is stricter
                with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
                    if image.width * image.height <= MAX_PIXELS:
                        return np.array(ImageOps.exif_transpose(image).convert("RGB"))
                    problem = f"its picture must have at most {MAX_PIXELS} pixels, got {image.width} x {image.height}"
        except Exception:  # Pillow raises OSError, SyntaxError, TypeError, struct.error and others for damage
            problem = "its picture is damaged"
        self._tally.damaged()
        raise VideoError(problem)
