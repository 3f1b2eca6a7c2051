"""Pictures from files, cameras and streams, decoded by FFmpeg (PyAV). Live ones are reconnected, however often."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from seqpar_deploy.errors import BackendUnavailableError, VideoError
from seqpar_deploy.machine import thread_limit
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.video.clock import StreamClock
from seqpar_deploy.video.queues import BoundedQueue
from seqpar_deploy.video.source_spec import SourceSpec
from seqpar_deploy.video.types import Frame

if TYPE_CHECKING:
    from types import ModuleType

    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

State = Literal["new", "connecting", "running", "lost", "ended", "failed", "closed"]

_JOIN = 0.5  # s. A thread that hangs in a read longer is left to time out by itself; it is a daemon
_MOST_TROUBLE = 20  # how many more packets fail than succeed before a decoder is taken to be the wrong one
_USELESS_READS = 100  # damage in a row after which a container is taken to be at its end


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """When a live source is given up and tried again. All in seconds.

    A connection that is not there after `connect`, or brings no picture for `silence` (four times that for the first,
    as it may have to wait for a key frame), is given up. The next try comes after `first_retry`, then twice as long
    each time up to `longest_retry`, each shortened at random by up to half so that cameras behind one switch do not
    return in step. A connection that ran for `well` starts from `first_retry` again.
    """

    connect: float = 4.0
    silence: float = 4.0
    first_retry: float = 0.2
    longest_retry: float = 2.0
    well: float = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceStats:
    """What has become of a source so far. A snapshot, which any thread may ask for.

    `frames` were decoded; of them `dropped` made room for newer ones. `decode_errors` counts packets and pictures that
    were damaged, and left out. `decode_seconds` went into decoding, and into RGB, without waiting for data.
    `reconnects` counts connections that came back, `back_off` is the pause before the next try in seconds, 0 while
    there is none. `width` and `height` are of the last picture.
    """

    state: State = "new"
    frames: int = 0
    dropped: int = 0
    decode_errors: int = 0
    decode_seconds: float = 0.0
    reconnects: int = 0
    back_off: float = 0.0
    width: int = 0
    height: int = 0
    last_error: str = ""


class Source:
    """The frames of one video. Iterate it, or `start` a thread that does and take them from its queue.

    `report` is told in one line, by the thread that reads, when a live source is lost, for each other reason why it is
    not back yet, and when it is back.
    Raises VideoError while being iterated, if the source cannot be read at all.
    """

    def __init__(
        self,
        spec: SourceSpec,
        *,
        options: SourceOptions | None = None,
        report: Callable[[str], None] = lambda _line: None,
    ) -> None:
        self.spec = spec
        self._av = _load_av()
        self._options = options or SourceOptions()
        self._report = report
        self._clock = StreamClock(live=spec.live)
        self._reformatter = self._av.video.reformatter.VideoReformatter()
        self._stats = SourceStats()  # replaced, never changed, and by one thread
        self._queue: BoundedQueue[Frame] | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    @property
    def stats(self) -> SourceStats:
        """What has become of the source so far."""
        dropped = self._queue.dropped if self._queue is not None else 0
        state = "closed" if self._closing.is_set() else self._stats.state
        return dataclasses.replace(self._stats, dropped=dropped, state=state)

    def start(self, size: int = 8) -> BoundedQueue[Frame]:
        """Decode in a thread, into a queue of `size` frames that waits for files and drops the oldest of live ones."""
        if self._thread is not None:
            raise RuntimeError(f"source {self.spec.name} has been started already")
        self._queue = queue = BoundedQueue[Frame](size, drop_oldest=self.spec.live)
        thread = threading.Thread(target=self._pump, args=(queue,), name=f"source {self.spec.name}", daemon=True)
        thread.start()
        self._thread = thread  # only now: `close` may come from another thread, and joins it
        return queue

    def close(self, within: float = _JOIN) -> None:
        """Stop: the queue ends after what is in it. Returns `within` seconds, also if the source hangs. Safe to call
        twice."""
        self._closing.set()
        if self._queue is not None:
            self._queue.finish()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(within)

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
        self._note(state="connecting")
        try:
            yield from self._connection()
            if self._stats.frames == 0 and not self._closing.is_set():
                raise VideoError("no picture in it can be decoded")
        except (VideoError, self._av.error.FFmpegError) as error:
            raise self._failed(self._words(error)) from None
        self._note(state="ended")

    def _live_frames(self) -> Iterator[Frame]:
        back_off = _BackOff(self._options)
        known = False  # whether it was ever there
        lost: float | None = None  # since when
        told: set[str] = set()  # what has been reported since
        while not self._closing.is_set():
            self._note(state="connecting")
            began, problem = None, "the stream ended"
            try:
                for frame in self._connection():
                    if began is None:
                        began = time.monotonic()
                        if lost is not None:
                            self._note(back_off=0.0, reconnects=self._stats.reconnects + 1)
                            state = "is back" if known else "is there"
                            self._report(f"{self.spec.name} {state} after {began - lost:.1f} s")
                            lost, told = None, set()
                        known = True
                    yield frame
            except self._av.error.ProtocolNotFoundError:
                scheme = self.spec.place.partition(":")[0]
                raise self._failed(f"the FFmpeg that came with PyAV does not speak {scheme}") from None
            except (VideoError, self._av.error.FFmpegError) as error:
                problem = self._words(error)
            if self._closing.is_set():
                return
            now = time.monotonic()
            lost = now if lost is None else lost
            pause = back_off.pause(now - began if began is not None else 0.0)
            self._note(state="lost", back_off=pause, last_error=problem)
            if not told:
                state = "is lost" if known else "is not there"
                self._report(f"{self.spec.name} ({self.spec.shown}) {state}: {problem}; trying again")
            elif problem not in told:
                self._report(f"{self.spec.name} {'is not back' if known else 'is not there'} yet: {problem}")
            told.add(problem)
            self._closing.wait(pause)

    def _connection(self) -> Iterator[Frame]:
        """The frames of one connection, until it ends. Raises FFmpegError and VideoError."""
        self._clock.interrupted()
        with self._open() as container:
            stream = _video_stream(container)
            rate = stream.average_rate or stream.guessed_rate
            period = float(1 / rate) if rate else 0.04
            stamped = container.format.name not in ("mpjpeg", "mjpeg", "h264", "hevc")  # which only make stamps up
            patience, trouble = 4 * self._options.silence, 0
            heard = arrived = time.monotonic()  # the last picture, the last packet
            for packet in self._packets(container):
                if self._closing.is_set():
                    return
                # FFmpeg answers a time-out with what its parser still holds, and would wait as long again.
                silent = time.monotonic() - arrived > self._options.silence
                if packet.stream is stream:
                    errors = self._stats.decode_errors
                    for picture in self._decode(packet):
                        seconds = self._clock.at(_stamp(picture) if stamped else None, period)
                        if frame := self._frame(picture, stream, seconds):
                            yield frame
                        patience, heard = self._options.silence, time.monotonic()
                    trouble = max(0, trouble - 1) if self._stats.decode_errors == errors else trouble + 1
                arrived = time.monotonic()
                if self.spec.is_url and self.spec.live and silent:
                    raise VideoError(_no_answer(self._options.silence))
                if self.spec.live and arrived - heard > patience:
                    raise VideoError(f"no picture for {patience:g} s")
                if self.spec.live and trouble > _MOST_TROUBLE:
                    raise VideoError("most of it cannot be decoded; perhaps its codec has changed")

    def _open(self) -> InputContainer:
        place, wait = self.spec.place, self._options
        options: dict[str, str] = {}
        if self.spec.live:
            options |= {"analyzeduration": "1000000", "probesize": "1000000", "merge_pmt_versions": "1"}
        if place.startswith("rtsp"):
            options |= {"rtsp_transport": "tcp", "timeout": str(int(1e6 * wait.silence))}
        if place.startswith("udp"):
            options |= {"overrun_nonfatal": "1"}
        began = time.monotonic()
        try:
            opened: InputContainer = self._av.open(
                place if self.spec.is_url or self.spec.is_device else f"file:{place}",
                format="v4l2" if self.spec.is_device else None,
                options=options,
                timeout=(wait.connect, wait.silence) if self.spec.is_url else None,
            )
        except self._av.error.InvalidDataError:  # what RTSP makes of a time-out, too
            if self.spec.is_url and time.monotonic() - began >= min(wait.connect, wait.silence):
                raise VideoError(_no_answer(min(wait.connect, wait.silence))) from None
            raise
        return opened

    def _packets(self, container: InputContainer) -> Iterator[Packet[Any]]:
        """Everything in the container, other streams' packets too, past what cannot be read."""
        useless = 0
        while useless < _USELESS_READS:
            try:
                for packet in container.demux():
                    useless = 0
                    yield packet
                return
            except self._av.error.InvalidDataError:
                useless += 1
                self._note(decode_errors=self._stats.decode_errors + 1)

    def _decode(self, packet: Packet[Any]) -> list[VideoFrame]:
        try:
            with self._timed():
                pictures: list[VideoFrame] = packet.decode()
        except self._av.error.FFmpegError:
            self._note(decode_errors=self._stats.decode_errors + 1)
            return []
        return pictures

    def _frame(self, picture: VideoFrame, stream: VideoStream, seconds: float) -> Frame | None:
        """The frame, or None if the picture is damaged. It has its number either way."""
        index = self._stats.frames
        self._note(frames=index + 1)
        if picture.is_corrupt:
            self._note(decode_errors=self._stats.decode_errors + 1)
            return None
        with self._timed():
            image = self._upright(picture, stream)
        self._note(state="running", height=image.shape[0], width=image.shape[1])
        return Frame(stream=self.spec.name, index=index, seconds=seconds, image=image)

    def _upright(self, picture: VideoFrame, stream: VideoStream) -> Crop:
        """The picture as RGB, pixels made square by its width, then turned as the file says."""
        aspect = float(stream.codec_context.sample_aspect_ratio or stream.sample_aspect_ratio or 1)
        width = picture.width if aspect <= 0 else max(1, round(picture.width * aspect))
        rgb = self._reformatter.reformat(picture, width=width, height=picture.height, format="rgb24")
        image: Crop = rgb.to_ndarray()
        return np.ascontiguousarray(np.rot90(image, round(picture.rotation / 90) % 4))

    def _failed(self, problem: str) -> VideoError:
        self._note(state="failed", last_error=problem)
        return VideoError(f"{self.spec.shown} cannot be read: {problem}")

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._note(decode_seconds=self._stats.decode_seconds + time.perf_counter() - start)

    def _note(self, **changes: Any) -> None:
        self._stats = dataclasses.replace(self._stats, **changes)

    def _words(self, error: Exception) -> str:
        if isinstance(error, self._av.error.ExitError):  # what PyAV's time-outs make FFmpeg say
            return _no_answer(self._options.silence)
        if isinstance(error, self._av.error.InvalidDataError):
            return "it is no video that FFmpeg knows, or damaged"
        if self.spec.is_url and getattr(error, "errno", None) == errno.EIO:
            return "the connection broke off"
        return str(getattr(error, "strerror", None) or error)


class _BackOff:
    """The pauses between tries."""

    def __init__(self, options: SourceOptions) -> None:
        self._options = options
        self._longest = options.first_retry  # that the next pause can be

    def pause(self, ran: float) -> float:
        """Seconds to wait after a connection that brought pictures for `ran` seconds."""
        if ran >= self._options.well:
            self._longest = self._options.first_retry
        pause = self._longest * random.uniform(0.5, 1.0)
        self._longest = min(2 * self._longest, self._options.longest_retry)
        return pause


def _load_av() -> ModuleType:
    try:
        import av
    except ModuleNotFoundError:
        raise BackendUnavailableError(
            "video needs PyAV, which is not installed; pip install 'seqpar-deploy[video]'"
        ) from None
    return av


def _no_answer(seconds: float) -> str:
    return f"no answer for {seconds:g} s"


def _video_stream(container: InputContainer) -> VideoStream:
    if not container.streams.video:
        kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "nothing that FFmpeg knows"
        raise VideoError(f"there is no video in it, only {kinds}")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise VideoError("FFmpeg has no decoder for its video")
    if (limit := thread_limit()) is not None:
        stream.codec_context.thread_count = limit
    return stream


def _stamp(picture: VideoFrame) -> float | None:
    if picture.pts is None or picture.time_base is None:
        return None
    return float(picture.pts * picture.time_base)
