"""Detections of another program or library: boxes from a file, a pipe or a function.

The format is JSON Lines, with one line per frame in the order of the frames:

    {"frame": 12, "boxes": [[501, 159, 529, 232, 0.9], [466, 169, 504, 248]]}
    {"timestamp": 1.3, "boxes": []}
    {"stream": "gate", "frame": 12, "boxes": [[10, 20, 60, 180]]}

A box is left, top, right, bottom in pixels of the frame, and optionally a score, 0 to 1 (default: 1). Each line has
either `frame`, counted from 0 as `Frame.index`, or `timestamp`, the stream's time in seconds as `Frame.timestamp`.
`stream` is required if there are several streams. Other keys are ignored. A frame without a line has no boxes. With a
pipe, a frame waits for its line, a later line or the end. Lines out of order and boxes that are no pixels are refused.
Lines that match no frame, and boxes that no person has, are warned of once.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from seqpar_deploy.errors import DetectorError
from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.video.detect.sanity import Sanity
from seqpar_deploy.video.types import Box, Frame

TOLERANCE = 0.02  # seconds that the timestamps of line and frame may differ, at most half the time between frames
ROUNDING = 0.002  # seconds that they may differ at any rate
MOST_WAITING = 10_000  # maximum number of unread lines per stream; the oldest are dropped
_JUDGED_AFTER = 200  # frames of a stream after which lines that match none are warned of
_LARGEST_RELATIVE = 1.5  # nobody is as small as this in pixels
_PIXELS = "boxes must be left, top, right, bottom in pixels"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Line:
    number: int
    stream: str | None
    frame: int | None
    timestamp: float | None
    boxes: tuple[Box, ...]

    def compare(self, frame: Frame, tolerance: float) -> int:
        """Return -1 if the line is for an earlier frame, 0 if for this one, 1 if for a later one."""
        if self.frame is not None:
            return (self.frame > frame.index) - (self.frame < frame.index)
        away = self.away(frame)
        return 0 if abs(away) <= tolerance else 1 if away > 0 else -1

    def away(self, frame: Frame) -> float:
        """Return the seconds from a frame to the line, 0 for a line that has no timestamp."""
        return 0.0 if self.timestamp is None else self.timestamp - frame.timestamp

    @property
    def place(self) -> str:
        return f"frame {self.frame}" if self.frame is not None else f"timestamp {self.timestamp:g}"


@dataclasses.dataclass
class _Matches:
    """The lines of a stream that did and did not match a frame."""

    frames: int = 0
    timestamp: float | None = None  # of the latest frame
    latest: int = 0  # index of the latest frame
    first: _Line | None = None
    matched: int = 0
    passed: _Line | None = None  # the first line with boxes that matched none
    passed_count: int = 0
    warned: bool = False

    def tolerance(self, frame: Frame) -> float:
        """Return the seconds that the timestamps of a frame and its line may differ. Call it once for each frame."""
        before, self.timestamp = self.timestamp, frame.timestamp
        if before is None:
            return TOLERANCE
        return max(ROUNDING, min(TOLERANCE, (frame.timestamp - before) / 2))


class ExternalDetections:
    """A `Detector` that reads JSON Lines of boxes, at most to the line after the current frame.

    Args:
        source: A file, or "-" for standard input.

    Raises:
        DetectorError: The file cannot be opened. `detect` raises it for an invalid line or one out of order, and names
            its number.
    """

    def __init__(self, source: Path | str) -> None:
        self._source = source
        self._file = _open(source)
        self._number = 0
        self._ended = False
        self._waiting: dict[str | None, collections.deque[_Line]] = collections.defaultdict(collections.deque)
        self._matches: dict[str, _Matches] = {}
        self._latest: dict[str | None, _Line] = {}
        self._dropped = False
        self._sanity = Sanity(f"the file of boxes {source}", lambda: f"{_PIXELS} of this video's frames")
        self._unnamed = False  # whether a line had no stream

    def detect(self, frame: Frame) -> list[Box]:
        """Return the boxes in the frame's line, none if it has no line."""
        matches = self._matches.setdefault(frame.stream, _Matches())
        matches.frames, matches.latest = matches.frames + 1, frame.index
        if self._unnamed and len(self._matches) > 1:
            several = ", ".join(sorted(self._matches))
            raise DetectorError(
                f'lines of {self._source} must have "stream" for several streams, {several}, got a line without it'
            )
        found: _Line | None = None
        tolerance = matches.tolerance(frame)
        while (line := self._first(frame.stream)) is not None and (order := line.compare(frame, tolerance)) <= 0:
            matches.first = matches.first or line
            if order == 0:
                if found is not None and abs(line.away(frame)) >= abs(found.away(frame)):
                    break  # it is for the next frame
                matches.matched += found is None
                found = line
            elif line.boxes:
                matches.passed = matches.passed or line
                matches.passed_count += 1
            self._waiting[line.stream].popleft()
        if matches.frames == _JUDGED_AFTER:
            self._warn_of_mismatch(frame.stream, matches)
        boxes = list(found.boxes) if found else []
        self._sanity.see(frame, np.array([[b.left, b.top, b.right, b.bottom] for b in boxes]).reshape(-1, 4))
        return boxes

    def close(self) -> None:
        """Warn of lines that matched no frame, and close the file. Standard input stays open. Safe to call twice."""
        for name, matches in self._matches.items():
            self._warn_of_mismatch(name, matches)
        unknown = sorted(
            str(name) for name in self._waiting if name not in self._matches and self._waiting[name] and name
        )
        if unknown and self._matches:
            _log.warning(
                "lines of %s name streams that do not exist: %s; the streams are %s",
                self._source,
                ", ".join(unknown[:5]),
                ", ".join(sorted(self._matches)),
            )
        if self._matches and self._ended and not self._latest:
            _log.warning("the file of boxes %s has no lines, so nobody was found", self._source)
        self._sanity.close()
        self._matches.clear()
        self._ended = True
        self._waiting.clear()
        if self._file is not sys.stdin:
            self._file.close()

    def _warn_of_mismatch(self, stream: str, matches: _Matches) -> None:
        """Warn once if most lines of a stream match no frame, or frames seem to be counted from 1."""
        waiting = next((self._waiting[name][0] for name in (stream, None) if self._waiting[name]), None)
        if matches.warned:
            return
        line = matches.passed
        if not matches.matched and waiting is not None and not line:
            line = waiting
        if line is not None and matches.passed_count >= matches.matched:
            matches.warned = True
            _log.warning(
                "%s line %d: %s matches no frame of %s, as most lines do; frames count from 0, timestamps are seconds "
                "from the first frame",
                *(self._source, line.number, line.place, stream),
            )
        elif waiting is not None and self._counts_from_1(matches, waiting):
            matches.warned = True
            _log.warning(
                "%s line %d: %s is beyond the last frame of %s, so frames may be counted from 1; count from 0",
                *(self._source, waiting.number, waiting.place, stream),
            )

    def _counts_from_1(self, matches: _Matches, waiting: _Line) -> bool:
        """Return whether the lines go from frame 1 to the one after the last frame."""
        first, last = matches.first, matches.latest + 1
        if first is None or first.frame != 1 or waiting.frame != last or self._source == "-":
            return False
        return not self._file.readline()

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
            line = _parse(text, self._number)
            self._check_order(line)
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
            if not self._dropped:
                self._dropped = True
                _log.warning(
                    "%s: more than %d lines wait for their frames; the oldest are dropped", self._source, MOST_WAITING
                )

    def _check_order(self, line: _Line) -> None:
        """Refuse a line that is not after the previous one of its stream."""
        before = self._latest.get(line.stream)
        self._latest[line.stream] = line
        if before is None:
            return
        if (before.frame is None) != (line.frame is None):
            raise _LineError(f'lines must all have "frame" or all "timestamp", got {line.place} after {before.place}')
        if (line.frame or 0) == (before.frame or 0) and line.timestamp == before.timestamp:
            raise _LineError(
                f"each frame must have one line, got {line.place} again after line {before.number}; put all its boxes "
                "in one line, and give timestamps three decimals"
            )
        if (line.frame or 0) < (before.frame or 0) or (line.timestamp or 0) < (before.timestamp or 0):
            raise _LineError(f"lines must be in the order of frames, got {line.place} after {before.place}; sort them")


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
        self._sanity = Sanity("the detector function", lambda: f"{_PIXELS} of the frame")

    def detect(self, frame: Frame) -> list[Box]:
        """Return the boxes that the function returns. Raises DetectorError if they are invalid."""
        try:
            found = [_box(row) for row in self._function(frame.image)]
        except (ValueError, TypeError) as error:
            raise DetectorError(f"the detector function failed: {error}") from error
        self._sanity.see(frame, np.array([[b.left, b.top, b.right, b.bottom] for b in found]).reshape(-1, 4))
        return found

    def close(self) -> None:
        """Warn if the function found nobody despite motion."""
        self._sanity.close()


def _open(source: Path | str) -> TextIO:
    if source == "-":
        return sys.stdin
    try:
        return open(source, encoding="utf-8-sig")  # a byte order mark is allowed
    except OSError as error:
        raise DetectorError(f"{source} cannot be read: {error.strerror}; name a JSON Lines file of boxes") from None


def _parse(text: str, number: int) -> _Line:
    values: dict[str, Any] = json.loads(text.strip())
    frame, timestamp, stream = values.get("frame"), values.get("timestamp"), values.get("stream")
    if (frame is None) == (timestamp is None):
        raise _LineError('keys must include "frame" or "timestamp", got ' + ("none" if frame is None else "both"))
    if frame is not None and (isinstance(frame, bool) or int(frame) != float(frame) or int(frame) < 0):
        raise _LineError(f"frame must be a whole number from 0, got {frame}")
    if timestamp is not None and not (math.isfinite(float(timestamp)) and float(timestamp) >= 0):
        raise _LineError(f"timestamp must be seconds from 0, got {timestamp}")
    return _Line(
        number=number,
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
    if not all(map(math.isfinite, numbers)):
        raise _LineError(f"{_PIXELS}, got {numbers}, which are not all numbers")
    if not (left < right and top < bottom):
        raise _LineError(
            f"{_PIXELS}, with left < right and top < bottom, got {numbers[:4]}; convert them if they are left, top, "
            "width, height"
        )
    if max(map(abs, numbers[:4])) <= _LARGEST_RELATIVE:
        raise _LineError(f"{_PIXELS}, got {numbers[:4]}, relative to the frame; multiply by its width and height")
    score = numbers[4] if len(numbers) == 5 else 1.0
    if not 0 <= score <= 1.001:  # rounded in half precision
        raise _LineError(f"scores must be 0 to 1, got {score:g}; divide by 100 if they are per cent")
    return Box(left=left, top=top, right=right, bottom=bottom, score=min(1.0, score))
