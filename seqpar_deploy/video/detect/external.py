"""Detections of another program or library: boxes from a file, a pipe or a function.

The format is JSON Lines, with one line per frame in the order of the frames:

    {"frame": 12, "boxes": [[501, 159, 529, 232, 0.9], [466, 169, 504, 248]]}
    {"timestamp": 1.3, "boxes": []}
    {"stream": "gate", "frame": 12, "boxes": [[10, 20, 60, 180]]}

A box is left, top, right, bottom in pixels of the frame, and optionally a score, 0 to 1 (default: 1). Each line has
either `frame`, counted from 0 as `Frame.index`, or `timestamp`, the stream's time in seconds as `Frame.timestamp`.
`stream` is required if there are several streams. Other keys are ignored. A frame without a line has no boxes. With a
pipe, a frame waits for its line, a later line or the end.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from seqpar_deploy.errors import DetectorError
from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video.types import Box, Frame

TOLERANCE = 0.02  # seconds that the timestamps of line and frame may differ
MOST_WAITING = 10_000  # maximum number of unread lines per stream; the oldest are dropped


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Line:
    stream: str | None
    frame: int | None
    timestamp: float | None
    boxes: tuple[Box, ...]

    def compare(self, frame: Frame) -> int:
        """Return -1 if the line is for an earlier frame, 0 if for this one, 1 if for a later one."""
        if self.frame is not None:
            return (self.frame > frame.index) - (self.frame < frame.index)
        assert self.timestamp is not None
        away = self.timestamp - frame.timestamp
        return 0 if abs(away) <= TOLERANCE else 1 if away > 0 else -1


class ExternalDetections:
    """A `Detector` that reads JSON Lines of boxes, at most to the line after the current frame.

    Args:
        source: A file, or "-" for standard input.

    Raises:
        DetectorError: The file cannot be opened. `detect` raises it for an invalid line, and names its number.
    """

    def __init__(self, source: Path | str) -> None:
        self._source = source
        self._file = _open(source)
        self._number = 0
        self._ended = False
        self._waiting: dict[str | None, collections.deque[_Line]] = collections.defaultdict(collections.deque)
        self._streams: set[str] = set()
        self._unnamed = False  # whether a line had no stream

    def detect(self, frame: Frame) -> list[Box]:
        """Return the boxes in the frame's line, none if it has no line."""
        self._streams.add(frame.stream)
        if self._unnamed and len(self._streams) > 1:
            several = ", ".join(sorted(self._streams))
            raise DetectorError(
                f'lines of {self._source} must have "stream" for several streams, {several}, got a line without it'
            )
        found: tuple[Box, ...] = ()
        while (line := self._first(frame.stream)) is not None and (order := line.compare(frame)) <= 0:
            if order == 0:
                found = line.boxes
            self._waiting[line.stream].popleft()
        return list(found)

    def close(self) -> None:
        """Close the file. Standard input stays open."""
        self._ended = True
        self._waiting.clear()
        if self._file is not sys.stdin:
            self._file.close()

    def _first(self, stream: str) -> _Line | None:
        """Return the first unread line of a stream, None at the end of the file."""
        while True:
            for name in (stream, None):
                if self._waiting[name]:
                    return self._waiting[name][0]
            if self._ended:
                return None
            self._read()

    def _read(self) -> None:
        self._number += 1
        try:
            text = self._file.readline()
            if not text:
                self._ended = True
                return
            if not text.strip():
                return
            line = _parse(text)
        except _LineError as error:
            raise DetectorError(f"{self._source} line {self._number}: {error}") from None
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise DetectorError(
                f"{self._source} line {self._number} must be like "
                f'{{"frame": 0, "boxes": [[10, 20, 60, 180, 0.9]]}}, got {_cause(error)}'
            ) from None
        self._unnamed |= line.stream is None
        waiting = self._waiting[line.stream]
        waiting.append(line)
        if len(waiting) > MOST_WAITING:
            waiting.popleft()


class FunctionDetector:
    """A `Detector` that calls a function.

    Args:
        function: Takes a frame, uint8 RGB (h, w, 3). Returns rows of left, top, right, bottom in pixels, and optionally
            a score, 0 to 1 (default: 1).

    Example:
        watch("street.mp4", recognizer, detector=FunctionDetector(lambda image: my_model(image)))
    """

    def __init__(self, function: Callable[[RgbImage], Iterable[Sequence[float]]]) -> None:
        self._function = function

    def detect(self, frame: Frame) -> list[Box]:
        """Return the boxes that the function returns. Raises DetectorError if they are invalid."""
        try:
            return [_box(row) for row in self._function(frame.image)]
        except (ValueError, TypeError) as error:
            raise DetectorError(f"the detector function failed: {error}") from error

    def close(self) -> None:
        """Do nothing."""


def _open(source: Path | str) -> TextIO:
    if source == "-":
        return sys.stdin
    try:
        return open(source, encoding="utf-8")
    except OSError as error:
        raise DetectorError(f"{source} cannot be read: {error.strerror}; name a JSON Lines file of boxes") from None


def _parse(text: str) -> _Line:
    values: dict[str, Any] = json.loads(text.strip())
    frame, timestamp, stream = values.get("frame"), values.get("timestamp"), values.get("stream")
    if (frame is None) == (timestamp is None):
        raise _LineError('keys must include "frame" or "timestamp", got ' + ("none" if frame is None else "both"))
    return _Line(
        stream=None if stream is None else str(stream),
        frame=None if frame is None else int(frame),
        timestamp=None if timestamp is None else float(timestamp),
        boxes=tuple(_box(row) for row in values["boxes"]),
    )


class _LineError(ValueError):
    """A line that is JSON, but has other values."""


def _cause(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"a syntax error at column {error.colno}"
    if isinstance(error, UnicodeDecodeError):
        return "bytes that are not UTF-8"
    if isinstance(error, KeyError):
        return f"no key {error}"
    return "values nested too deeply" if isinstance(error, RecursionError) else "values of another kind"


def _box(row: Sequence[float]) -> Box:
    numbers = [float(value) for value in row]
    if len(numbers) not in (4, 5):
        raise _LineError(f"boxes must be left, top, right, bottom and optionally a score, got {len(numbers)} numbers")
    left, top, right, bottom = numbers[:4]
    if not (left < right and top < bottom):
        raise _LineError(f"boxes must have left < right and top < bottom, got {numbers[:4]}")
    return Box(left=left, top=top, right=right, bottom=bottom, score=numbers[4] if len(numbers) == 5 else 1.0)
