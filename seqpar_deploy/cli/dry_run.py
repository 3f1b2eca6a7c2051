"""`seqpar video --dry-run`: check the parts of a run and list all problems. Nothing is written."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import typer

from seqpar_deploy.cli.console import USAGE_ERROR, print_error, print_line, raise_interruption
from seqpar_deploy.cli.layout import printable
from seqpar_deploy.cli.recognizers import check_server, local_recognizer, where
from seqpar_deploy.errors import SeqparError, SinkError, VideoError
from seqpar_deploy.files import check_writable
from seqpar_deploy.recognition import AnyRecognizer
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.mqtt import MqttSink
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import SourceSpec
from seqpar_deploy.video.types import Detector, Frame

SOURCE_WITHIN = 15.0  # seconds until the first frame of a source
BROKER_WITHIN = 10.0
_AT_ONCE = 16  # sources
_POLL = 0.05  # seconds


@dataclasses.dataclass(frozen=True, kw_only=True)
class DryRun:
    """The parts of a run, each opened by a function that raises SeqparError.

    Attributes:
        sources: Names of the sources.
        expand: Expands names to sources.
        checks: Check options and names of outputs, given the sources.
        open_source: Opens a source.
        open_detector: Opens the detector, or None if it reads standard input.
        open_recognizer: Opens the bundle, with hashes checked, and the server.
        of_recognizer: Check what depends on the recognizer.
        files: Returns the files that the run would write, given the sources. `-` is standard output.
        open_broker: Opens the connection to the MQTT broker, or None without one.
        open_server: Opens the web server and returns its address and a function that closes it, or None without one.
        outlets: Check the other outputs, and return a line on what is ready.
    """

    sources: Sequence[str]
    expand: Callable[[list[str]], list[SourceSpec]]
    checks: Sequence[Callable[[list[SourceSpec]], None]]
    open_source: Callable[[SourceSpec], Source]
    open_detector: Callable[[], Detector] | None
    open_recognizer: Callable[[], AnyRecognizer]
    files: Callable[[list[SourceSpec]], list[Path]]
    open_broker: Callable[[Metrics, Health], MqttSink] | None
    open_server: Callable[[], tuple[str, Callable[[], None]]] | None
    outlets: Sequence[Callable[[], str]] = ()
    of_recognizer: Sequence[Callable[[AnyRecognizer], None]] = ()

    def run(self) -> None:
        """Print a line per part that is ready, and an error per problem. Exit with code 2 if there is a problem."""
        problems = _Problems()
        log = logging.getLogger("seqpar_deploy.video")
        level = log.level
        log.setLevel(logging.ERROR)  # each problem has one line, the error's
        try:
            self._check(problems)
        finally:
            log.setLevel(level)
        raise_interruption()
        if problems.count:
            raise typer.Exit(USAGE_ERROR)

    def _check(self, problems: _Problems) -> None:
        specs = self._expand(problems)
        frames = _check_sources([(spec, self.open_source) for spec in specs], problems)
        with problems.caught():
            if self.open_detector is None:
                _ready("detector: boxes from standard input, not read")
            else:
                _check_detector(self.open_detector, frames)
        for check in self.checks:
            with problems.caught():
                check(specs)
        for path in self.files(specs):
            with problems.caught():
                _check_file(path)
        if self.open_server is not None:
            with problems.caught():
                url, close = self.open_server()
                close()
                _ready(f"server: {url} is free")
        if self.open_broker is not None:
            with problems.caught():
                _check_broker(self.open_broker)
        for outlet in self.outlets:
            with problems.caught():
                _ready(outlet())
        with problems.caught(), self.open_recognizer() as recognizer:
            for fits in self.of_recognizer:
                with problems.caught():
                    fits(recognizer)
            _check_recognizer(recognizer)

    def _expand(self, problems: _Problems) -> list[SourceSpec]:
        """Expand each name by itself, for its own problem, then those that exist together, for unique names."""
        good: dict[str, list[SourceSpec]] = {}
        for name in self.sources:
            with problems.caught():
                good[name] = self.expand([name])
        with problems.caught():
            return self.expand(list(good)) if good else []
        return [spec for specs in good.values() for spec in specs]


def _ready(text: str) -> None:
    print_line(printable(text))


class _Problems:
    """Prints problems and counts them."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Print an error of the block, and go on after the block."""
        try:
            yield
        except SeqparError as error:
            self.add(error)

    def add(self, error: SeqparError) -> None:
        self.count += 1
        print_error(error)


class _SourceCheck:
    """Reads one frame of a source in a thread, which is abandoned if it hangs."""

    def __init__(self, spec: SourceSpec, open_source: Callable[[SourceSpec], Source]) -> None:
        self._spec, self._open_source = spec, open_source
        self._source: Source | None = None
        self._frame: Frame | None = None
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._read, name=f"check {spec.name}", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            self._source = self._open_source(self._spec)
            for frame in self._source:
                self._frame = frame
                return
        except Exception as error:  # raised again in the main thread
            self._error = error

    def finish(self, deadline: float) -> Frame:
        """Wait for the frame, print the source's line, and return the frame. Raises VideoError."""
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(_POLL)
            raise_interruption()
        source, frame = self._source, self._frame
        if source is not None:
            source.close(within=0.0)
        if isinstance(self._error, SeqparError):
            raise self._error
        if self._error is not None:
            raise VideoError(f"{self._spec.shown} cannot be read: {self._error}") from self._error
        if source is None or frame is None:
            why = source.stats.last_error if source is not None else ""
            raise VideoError(
                f"{self._spec.shown} must give a frame within {SOURCE_WITHIN:g} s, got {why or 'none'}; check the "
                "address and the network"
            )
        stats = source.stats
        rate = f"{stats.rate:.4g} frames per second" if stats.rate else "unknown rate"
        kind = "live" if self._spec.live else "recorded"
        size = f"{stats.width} x {stats.height}"
        _ready(f"source {self._spec.name}: {self._spec.shown}, {size}, {rate}, {stats.codec}, {kind}")
        return frame


def _check_sources(
    wanted: Sequence[tuple[SourceSpec, Callable[[SourceSpec], Source]]], problems: _Problems
) -> list[Frame]:
    """Check sources, several at once, and return a frame of each that is ready."""
    frames = []
    for start in range(0, len(wanted), _AT_ONCE):
        deadline = time.monotonic() + SOURCE_WITHIN
        for check in [_SourceCheck(*each) for each in wanted[start : start + _AT_ONCE]]:
            with problems.caught():
                frames.append(check.finish(deadline))
    return frames


def _check_detector(open_detector: Callable[[], Detector], frames: Sequence[Frame]) -> None:
    blank = Frame(stream="blank", index=0, timestamp=0.0, image=np.zeros((480, 640, 3), np.uint8))
    detector = open_detector()
    try:
        boxes = detector.detect(frames[0] if frames else blank)
    finally:
        detector.close()
    _ready(f"detector: ran on one frame, {len(boxes)} {'person' if len(boxes) == 1 else 'people'} in it")


def _check_file(path: Path) -> None:
    if str(path) == "-":
        return
    check_writable(path)
    if path.exists() and not os.access(path, os.W_OK):
        raise SinkError(f"{path} cannot be written: it is read-only; name another file")
    _ready(f"output {path}: can be written" + (", and would be replaced" if path.exists() else ""))


def _check_broker(open_broker: Callable[[Metrics, Health], MqttSink]) -> None:
    """Raise SinkError unless the broker accepts the connection."""
    metrics, health = Metrics(), Health()
    broker = open_broker(metrics, health)
    try:
        deadline = time.monotonic() + BROKER_WITHIN
        while not any(line.startswith("seqpar_mqtt_connected{") and line.endswith(" 1.0")
                      for line in metrics.text().splitlines()):  # fmt: skip
            if problem := next(iter(health.problems()), None):
                raise SinkError(problem)
            if time.monotonic() > deadline:
                raise SinkError(f"{broker.name} must answer within {BROKER_WITHIN:g} s, got no answer; check --mqtt")
            time.sleep(_POLL)
            raise_interruption()
    finally:
        broker.close()
    _ready(f"{broker.name}: accepts the connection")


def _check_recognizer(recognizer: AnyRecognizer) -> None:
    """Recognise a crop on the server and with the bundle, if they are given."""
    crop = np.zeros((256, 128, 3), np.uint8)
    if (local := local_recognizer(recognizer)) is not None:
        local.predict([crop])
        _ready(f"bundle {local.bundle.path}: all hashes fit, runs on {where(local)}")
    if (server := check_server(recognizer)) is not None:
        recognizer.predict([crop])
        _ready(server)
