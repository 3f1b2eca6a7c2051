"""The frames of one video as an iterable or in a thread. Live sources are reconnected."""

from __future__ import annotations

import dataclasses
import logging
import random
import threading
import time
from collections.abc import Iterator

from seqpar_deploy.errors import VideoError
from seqpar_deploy.preprocess import MAX_PIXELS
from seqpar_deploy.video.queues import BoundedQueue
from seqpar_deploy.video.sources.clock import StreamClock
from seqpar_deploy.video.sources.connection import DecodingError
from seqpar_deploy.video.sources.pace import Pace
from seqpar_deploy.video.sources.readers import reader_of
from seqpar_deploy.video.sources.spec import SourceSpec
from seqpar_deploy.video.sources.state import SourceOptions, SourceStats, Tally
from seqpar_deploy.video.types import Frame

_JOIN = 0.5  # s. A thread that hangs in a read is abandoned; it is a daemon, and its read times out

_log = logging.getLogger(__name__)


class Source:
    """Iterable of the frames of one video. Iterate over it, or `start` a thread that fills a queue.

    It logs the loss of a live source, each new reason of a failed retry, and the reconnection. `quiet` omits the lines
    on how a recording is read. The iteration raises VideoError if a recording cannot be read to its end, or if a live
    source has the same fault of decoding again and again.
    """

    def __init__(self, spec: SourceSpec, *, options: SourceOptions = SourceOptions(), quiet: bool = False) -> None:
        self.spec = spec
        self._options = options
        self._clock = StreamClock(live=spec.live)
        self._tally = Tally(quiet=quiet)
        self._pace = Pace(spec.name, options.max_fps, adaptive=options.adaptive_fps and spec.live)
        self._queue: BoundedQueue[Frame] | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._connection = reader_of(spec, options, self._tally, self._closing)

    @property
    def stats(self) -> SourceStats:
        """The current state and counts. For any thread."""
        stats = self._tally.stats
        dropped = self._queue.dropped if self._queue is not None else 0
        return dataclasses.replace(stats, dropped=dropped, state="closed" if self._closing.is_set() else stats.state)

    def start(self, size: int = 8) -> BoundedQueue[Frame]:
        """Decode in a thread into a queue of `size` frames. If it is full, files wait and live sources drop frames."""
        if self._thread is not None:
            raise RuntimeError(f"source {self.spec.name} must be started once, got a second call of start")
        self._queue = queue = BoundedQueue[Frame](size, drop_oldest=self.spec.live)
        thread = threading.Thread(target=self._pump, args=(queue,), name=f"source {self.spec.name}", daemon=True)
        thread.start()
        self._thread = thread  # after the start, because another thread may call `close`, which joins it
        return queue

    def close(self, within: float = _JOIN) -> None:
        """Stop reading, and wait at most `within` seconds. The queue ends after its frames. Safe to call twice."""
        self._closing.set()
        if self._queue is not None:
            self._queue.finish()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(within)

    def probe_length(self) -> int:
        """Open the file again and return its number of frames, 0 if unknown. For any thread."""
        return self._connection.length()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        return self._live_frames() if self.spec.live else self._recorded_frames()

    def _pump(self, queue: BoundedQueue[Frame]) -> None:
        try:
            for frame in self:
                if not queue.put(frame):
                    break
        except BaseException as error:
            queue.finish(error)
        else:
            queue.finish()

    def _recorded_frames(self) -> Iterator[Frame]:
        self._tally.note(state="connecting")
        try:
            yield from self._frames()
            if not self.stats.width and not self._closing.is_set():
                raise VideoError(
                    f"it has no frame that can be decoded, of at most {MAX_PIXELS} pixels; copy or record it again"
                )
        except Exception as error:  # of FFmpeg and of PyAV, which raises many kinds
            raise self._failed(self._connection.reason(error)) from None
        self._tally.note(state="ended")

    def _live_frames(self) -> Iterator[Frame]:
        back_off = _BackOff(self._options)
        connected = False  # whether there was ever a connection
        lost: float | None = None  # time of the loss
        logged: set[str] = set()  # reasons logged since the loss
        fault, times = "", 0  # the latest fault of decoding, and how often it came in a row without a frame
        while not self._closing.is_set():
            self._tally.note(state="connecting")
            began, problem = None, "the stream ended"
            try:
                for frame in self._frames():
                    if began is None:
                        began = time.monotonic()
                        if lost is not None:
                            self._tally.note(back_off=0.0, reconnects=self.stats.reconnects + 1)
                            state = "reconnected" if connected else "connected"
                            _log.info("%s: %s after %.1f s", self.spec.name, state, began - lost)
                            lost, logged = None, set()
                        connected, times = True, 0
                    yield frame
            except Exception as error:  # of FFmpeg and of PyAV, which raises many kinds
                problem = self._connection.reason(error)
                if self._connection.is_hopeless(error):
                    raise self._failed(problem) from None
                if isinstance(error, DecodingError):
                    fault, times = problem, times + 1 if problem == fault else 1
                else:
                    times = 0
                if times >= self._options.same_faults:
                    raise self._failed(f"{problem} ({times} times in a row)") from None
            if self._closing.is_set():
                return
            now = time.monotonic()
            lost = now if lost is None else lost
            pause = back_off.pause(now - began if began is not None else 0.0)
            self._tally.note(state="lost", back_off=pause, last_error=problem)
            if not logged:
                state = "connection lost" if connected else "cannot connect"
                _log.warning("%s (%s): %s: %s; retrying", self.spec.name, self.spec.shown, state, problem)
            elif problem not in logged:
                state = "not reconnected" if connected else "not connected"
                _log.warning("%s: %s yet: %s; retrying", self.spec.name, state, problem)
            logged.add(problem)
            self._closing.wait(pause)

    def _frames(self) -> Iterator[Frame]:
        """Yield the frames of one connection until it ends."""
        self._clock.interrupted()
        for picture in self._connection.pictures():
            index = self.stats.frames
            timestamp = self._clock.at(picture.stamp, picture.period)
            self._tally.note(frames=index + 1)
            dropped = self._queue.dropped if self._queue is not None else 0
            if not self._pace.takes(timestamp, dropped):
                self._tally.note(skipped=self.stats.skipped + 1)
                continue
            received, image = time.monotonic(), picture.image()
            if image is not None:
                height, width, _ = image.shape
                self._tally.note(state="running", height=height, width=width)
                yield Frame(
                    stream=self.spec.name,
                    index=index,
                    timestamp=timestamp,
                    image=image,
                    received=received,
                    dropped=dropped,
                )

    def _failed(self, problem: str) -> VideoError:
        self._tally.note(state="failed", last_error=problem)
        extent = " in full" if self.stats.frames else ""
        return VideoError(f"{self.spec.shown} cannot be read{extent}: {problem}")


class _BackOff:
    """Pauses between retries, which double up to a limit."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._longest = options.first_retry  # upper limit of the next pause

    def pause(self, ran: float) -> float:
        """Return the seconds to wait after a connection that lasted `ran` seconds."""
        if ran >= self._options.stable_after:
            self._longest = self._options.first_retry
        pause = self._longest * random.uniform(0.5, 1.0)
        self._longest = min(2 * self._longest, self._options.longest_retry)
        return pause
