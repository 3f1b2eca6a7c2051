"""Detections from elsewhere: a file or a pipe of boxes, or a function.

JSON Lines, one line per frame, in the order of the frames:

    {"frame": 12, "boxes": [[501, 159, 529, 232, 0.9], [466, 169, 504, 248]]}
    {"timestamp": 1.3, "boxes": []}
    {"stream": "gate", "frame": 12, "boxes": [[10, 20, 60, 180]]}

`boxes` are left, top, right, bottom in pixels of the frame, and optionally a score from 0 to 1 (default 1). Each line
has either `frame`, which counts from 0 as `Frame.index`, or `timestamp`, the stream's time in seconds as
`Frame.timestamp`. `stream` is needed if there are several streams. Other keys are ignored. A frame without a line has
no boxes. With a pipe, a frame waits until its line, a later one or the end arrives.
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

TOLERANCE = 0.02  # seconds by which a line's timestamp and the frame's may differ
MOST_WAITING = 10_000  # lines kept for streams that are behind


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Line:
    stream: str | None
    frame: int | None
    timestamp: float | None
    boxes: tuple[Box, ...]

    def compare(self, frame: Frame) -> int:
        """-1 if this is of an earlier frame, 0 if of this one, 1 if of a later one."""
        if self.frame is not None:
            return (self.frame > frame.index) - (self.frame < frame.index)
        assert self.timestamp is not None
        away = self.timestamp - frame.timestamp
        return 0 if abs(away) <= TOLERANCE else 1 if away > 0 else -1


class ExternalDetections:
    """A `Detector` that reads JSON Lines from a file, or from standard input if `source` is "-".

    Reads no further than the current frame. Raises DetectorError, with the line's number, if a line cannot be read.
    """

    def __init__(self, source: Path | str) -> None:
        self._source = source
        self._file = _open(source)
        self._number = 0
        self._ended = False
        self._waiting: dict[str | None, collections.deque[_Line]] = collections.defaultdict(collections.deque)
        self._streams: set[str] = set()
        self._unnamed = False  # whether there are lines without a stream

    def detect(self, frame: Frame) -> list[Box]:
        """Return the boxes of this frame's line."""
        self._streams.add(frame.stream)
        if self._unnamed and len(self._streams) > 1:
            several = ", ".join(sorted(self._streams))
            raise DetectorError(f'{self._source}: each line needs "stream", as there are several streams: {several}')
        found: tuple[Box, ...] = ()
        while (line := self._first(frame.stream)) is not None and (order := line.compare(frame)) <= 0:
            if order == 0:
                found = line.boxes
            self._waiting[line.stream].popleft()
        return list(found)

    def close(self) -> None:
        """Close the file; standard input is left open."""
        self._ended = True
        self._waiting.clear()
        if self._file is not sys.stdin:
            self._file.close()

    def _first(self, stream: str) -> _Line | None:
        """Return the first line of a stream not taken yet; None at the end of the file."""
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
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise self._error(
                f"cannot be read ({error}); expected " + '{"frame": 0, "boxes": [[l, t, r, b, score]]}'
            ) from None
        self._unnamed |= line.stream is None
        waiting = self._waiting[line.stream]
        waiting.append(line)
        if len(waiting) > MOST_WAITING:
            waiting.popleft()

    def _error(self, problem: str) -> DetectorError:
        return DetectorError(f"{self._source}: line {self._number} {problem}")


class FunctionDetector:
    """A `Detector` from a function: uint8 RGB (h, w, 3) -> rows of left, top, right, bottom and optionally a score."""

    def __init__(self, function: Callable[[RgbImage], Iterable[Sequence[float]]]) -> None:
        self._function = function

    def detect(self, frame: Frame) -> list[Box]:
        """Return the boxes the function finds."""
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
        raise DetectorError(f"{source} cannot be read: {error.strerror}; expected a JSON Lines file of boxes") from None


def _parse(text: str) -> _Line:
    values: dict[str, Any] = json.loads(text)
    frame, timestamp, stream = values.get("frame"), values.get("timestamp"), values.get("stream")
    if (frame is None) == (timestamp is None):
        raise ValueError('it needs either "frame" or "timestamp"')
    return _Line(
        stream=None if stream is None else str(stream),
        frame=None if frame is None else int(frame),
        timestamp=None if timestamp is None else float(timestamp),
        boxes=tuple(_box(row) for row in values["boxes"]),
    )


def _box(row: Sequence[float]) -> Box:
    numbers = [float(value) for value in row]
    if len(numbers) not in (4, 5):
        raise ValueError(f"a box must have left, top, right, bottom and optionally a score, got {len(numbers)} numbers")
    left, top, right, bottom = numbers[:4]
    if not (left < right and top < bottom):
        raise ValueError(f"a box must have left < right and top < bottom, got {numbers[:4]}")
    return Box(left=left, top=top, right=right, bottom=bottom, score=numbers[4] if len(numbers) == 5 else 1.0)
