"""A detector per stream, for cameras with settings of their own."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Iterable

from seqpar_deploy.errors import SeqparError
from seqpar_deploy.redaction import redacted
from seqpar_deploy.video.sinks.metrics import Health
from seqpar_deploy.video.types import Box, Detector, ForgetsStreams, Frame, LooksAhead, Readiness

_log = logging.getLogger(__name__)


class StreamDetectors:
    """A `Detector` that passes the frames of each stream to the detector of that stream.

    A detector of one stream that fails is logged, and finds nobody from then on, so that other streams go on. Any
    thread may change the detectors. It owns them: a detector that is replaced is closed, once no stream has it.

    Args:
        usual: The detector of streams without one of their own. It is not closed.
        health: Health checks that report detectors that failed. Default: not reported.

    Example:
        detectors = StreamDetectors(open_detector("motion"))
        detectors.put("gate", open_detector("yolo11n.onnx"))
        watch(["rtsp://gate/1", "rtsp://yard/1"], recognizer, detector=detectors)
    """

    def __init__(self, usual: Detector, *, health: Health | None = None) -> None:
        self._usual, self._health = usual, health or Health()
        self._own: dict[str, Detector] = {}
        self._failed: dict[str, str] = {}
        self._lock = threading.Lock()

    def put(self, stream: str, detector: Detector | None) -> None:
        """Set the detector of a stream, in the thread that detects, or before it starts.

        Args:
            stream: Name of the stream.
            detector: Its detector, or None for the usual one.
        """
        with self._lock:
            before = self._own.pop(stream, None)
            if detector is not None:
                self._own[stream] = detector
            used = any(before is each for each in self._own.values())
        if self._failed.pop(stream, None) is not None:
            self._health.forget(f"detector of {stream}")
        if before is not None and not used:
            try:
                before.close()
            except SeqparError as error:  # for example, its layout is still ambiguous
                _log.warning("%s: %s", stream, redacted(str(error)))

    def detect(self, frame: Frame) -> list[Box]:
        """Detect people with the detector of the frame's stream."""
        own = self._own.get(frame.stream)
        if own is None:
            return self._usual.detect(frame)
        if frame.stream in self._failed:
            return []
        try:
            return own.detect(frame)
        except Exception as error:  # of any detector, for example of a runtime
            self._fail(frame.stream, " ".join(redacted(str(error) or type(error).__name__).split()))
            return []

    def ready(self, stream: str) -> bool:
        """Return whether the latest `detect` of a stream could find people."""
        detector = self._own.get(stream, self._usual)
        return stream not in self._failed and (not isinstance(detector, Readiness) or detector.ready(stream))

    def look_ahead(self, frames: Iterable[Frame]) -> None:
        """Let the detector of the frames' stream learn from them, if it does."""
        rest = iter(frames)
        if (first := next(rest, None)) is not None:
            detector = self._own.get(first.stream, self._usual)
            if isinstance(detector, LooksAhead):
                detector.look_ahead(itertools.chain([first], rest))

    def forget(self, stream: str) -> None:
        """Let detectors forget a stream that has ended, also the usual one, which it may have had before."""
        for detector in (self._own.get(stream), self._usual):
            if isinstance(detector, ForgetsStreams):
                detector.forget(stream)

    def close(self) -> None:
        """Close the detectors of streams. Safe to call twice."""
        for stream in list(self._own):
            self.put(stream, None)

    def _fail(self, stream: str, why: str) -> None:
        self._failed[stream] = why
        self._health.watch(f"detector of {stream}", lambda: why)
        _log.error("%s: its detector failed and finds nobody any more: %s", stream, why)
