"""Options of a source, its counts, and the tally that its thread keeps."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from typing import Any, Literal

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.sources.hardware import Hwaccel

RtspTransport = Literal["auto", "tcp", "udp"]
State = Literal["new", "connecting", "running", "lost", "ended", "failed", "closed"]

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Timeouts and retries of a live source. Times are in seconds.

    Attributes:
        connect_timeout: Time to connect. Default: 4.
        silence_timeout: Time without a frame after which a connection is closed. The first frame has four times as
            long, because it may have to wait for a key frame. Default: 4.
        first_retry: Pause before the first retry. It doubles with each retry. Each pause is shortened at random by up
            to half, so that cameras behind one switch do not reconnect at the same moment. Default: 0.2.
        longest_retry: Longest pause before a retry. Default: 2.
        stable_after: Duration of a connection after which the pauses start from `first_retry` again. Default: 5.
        same_faults: Number of connections in a row that end with the same fault of decoding before a frame, after which
            the source fails. Faults of the network are retried without limit. Default: 20.
        rtsp_transport: Transport of RTSP. `auto` tries TCP first, then UDP if TCP is refused. Default: `auto`.
        hwaccel: Device that decodes: `cuda`, `vaapi`, `auto` for the first that works, or `none`. The CPU decodes what
            it cannot. Default: `none`.
        max_fps: Frames to analyse per second of the stream's time. The others are decoded only. Default: all.
        adaptive_fps: Whether a live source leaves out frames evenly while frames are dropped. Default: no.
    """

    connect_timeout: float = 4.0
    silence_timeout: float = 4.0
    first_retry: float = 0.2
    longest_retry: float = 2.0
    stable_after: float = 5.0
    same_faults: int = 20
    rtsp_transport: RtspTransport = "auto"
    hwaccel: Hwaccel = "none"
    max_fps: float | None = None
    adaptive_fps: bool = False

    def __post_init__(self) -> None:
        if self.max_fps is not None and not 0 < self.max_fps < math.inf:
            raise VideoError(f"max_fps must be above 0, got {self.max_fps:g}; omit it to analyse all frames")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceStats:
    """A snapshot of a source's state and counts.

    Attributes:
        state: Present state.
        frames: Number of decoded frames.
        length: Number of frames according to the container, 0 if unknown.
        skipped: Number of decoded frames that were left out for `max_fps` or `adaptive_fps`.
        dropped: Number of decoded frames that were dropped for newer ones.
        decode_errors: Number of damaged packets and frames, which are skipped.
        decode_seconds: Time of decoding and conversion to RGB, without waiting for data.
        reconnects: Number of reconnections.
        back_off: Pause before the next retry in seconds, 0 while connected.
        width: Width of the latest frame in pixels.
        height: Height of the latest frame in pixels.
        rate: Frames per second according to the container, 0 if unknown.
        codec: Name of the codec, empty before the first connection.
        last_error: Message of the latest error, empty if there was none.
    """

    state: State = "new"
    frames: int = 0
    length: int = 0
    skipped: int = 0
    dropped: int = 0
    decode_errors: int = 0
    decode_seconds: float = 0.0
    reconnects: int = 0
    back_off: float = 0.0
    width: int = 0
    height: int = 0
    rate: float = 0.0
    codec: str = ""
    last_error: str = ""


class Tally:
    """The counts of a source. One thread changes them, and any thread may read `stats`, which is replaced whole."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.stats = SourceStats()
        self._quiet = quiet

    def log(self, level: int, message: str, *values: object) -> None:
        """Log a line on the source, unless it is read a second time, which would repeat the lines."""
        if not self._quiet:
            _log.log(level, message, *values)

    def note(self, **changes: Any) -> None:
        """Set some of the counts."""
        self.stats = dataclasses.replace(self.stats, **changes)

    def damaged(self) -> None:
        """Count a damaged packet or frame."""
        self.note(decode_errors=self.stats.decode_errors + 1)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Add the duration of the block to the time of decoding."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.note(decode_seconds=self.stats.decode_seconds + time.perf_counter() - start)
