"""Reads frames of files, cameras and streams with FFmpeg (PyAV). Live sources are reconnected without limit."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import random
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from seqpar_deploy.errors import BackendUnavailableError, VideoError
from seqpar_deploy.machine import thread_limit
from seqpar_deploy.preprocess import RgbImage
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

_JOIN = 0.5  # s. A thread that hangs in a read is abandoned; it is a daemon, and its read times out
_MOST_TROUBLE = 20  # failed packets minus decoded ones, after which the codec is assumed to have changed
_USELESS_READS = 100  # consecutive damaged packets after which a container is assumed to have ended

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Timeouts and retry pauses of a live source, in seconds.

    Attributes:
        connect_timeout: Time to connect. Default: 4.
        silence_timeout: Time without a frame after which a connection is closed. The first frame has four times as
            long, because it may have to wait for a key frame. Default: 4.
        first_retry: Pause before the first retry. It doubles with each retry. Each pause is shortened at random by up
            to half, so that cameras behind one switch do not reconnect at the same moment. Default: 0.2.
        longest_retry: Longest pause before a retry. Default: 2.
        stable_after: Duration of a connection after which the pauses start from `first_retry` again. Default: 5.
    """

    connect_timeout: float = 4.0
    silence_timeout: float = 4.0
    first_retry: float = 0.2
    longest_retry: float = 2.0
    stable_after: float = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SourceStats:
    """A snapshot of a source's state and counts.

    Attributes:
        state: Present state.
        frames: Number of decoded frames.
        length: Number of frames according to the container, 0 if unknown.
        dropped: Number of decoded frames that were dropped for newer ones.
        decode_errors: Number of damaged packets and frames, which are skipped.
        decode_seconds: Time of decoding and conversion to RGB, without waiting for data.
        reconnects: Number of reconnections.
        back_off: Pause before the next retry in seconds, 0 while connected.
        width: Width of the latest frame in pixels.
        height: Height of the latest frame in pixels.
        last_error: Message of the latest error, empty if there was none.
    """

    state: State = "new"
    frames: int = 0
    length: int = 0
    dropped: int = 0
    decode_errors: int = 0
    decode_seconds: float = 0.0
    reconnects: int = 0
    back_off: float = 0.0
    width: int = 0
    height: int = 0
    last_error: str = ""


class Source:
    """Iterable of the frames of one video. Iterate over it, or `start` a thread that fills a queue.

    It logs the loss of a live source, each new reason of a failed retry, and the reconnection. The iteration raises
    VideoError if the source cannot be read at all.
    """

    def __init__(self, spec: SourceSpec, *, options: SourceOptions = SourceOptions()) -> None:
        self.spec = spec
        self._av = _load_av()
        self._options = options
        self._clock = StreamClock(live=spec.live)
        self._reformatter = self._av.video.reformatter.VideoReformatter()
        self._stats = SourceStats()  # immutable; one thread replaces it
        self._queue: BoundedQueue[Frame] | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()

    @property
    def stats(self) -> SourceStats:
        """The current state and counts. For any thread."""
        dropped = self._queue.dropped if self._queue is not None else 0
        state = "closed" if self._closing.is_set() else self._stats.state
        return dataclasses.replace(self._stats, dropped=dropped, state=state)

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
        try:
            with self._open() as container:
                return _length(container)
        except (VideoError, self._av.error.FFmpegError):
            return 0

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
                raise VideoError("it has no frame that can be decoded; copy or record it again")
        except (VideoError, self._av.error.FFmpegError) as error:
            raise self._failed(self._reason(error)) from None
        self._note(state="ended")

    def _live_frames(self) -> Iterator[Frame]:
        back_off = _BackOff(self._options)
        connected = False  # whether there was ever a connection
        lost: float | None = None  # time of the loss
        logged: set[str] = set()  # reasons logged since the loss
        while not self._closing.is_set():
            self._note(state="connecting")
            began, problem = None, "the stream ended"
            try:
                for frame in self._connection():
                    if began is None:
                        began = time.monotonic()
                        if lost is not None:
                            self._note(back_off=0.0, reconnects=self._stats.reconnects + 1)
                            state = "reconnected" if connected else "connected"
                            _log.info("%s: %s after %.1f s", self.spec.name, state, began - lost)
                            lost, logged = None, set()
                        connected = True
                    yield frame
            except self._av.error.ProtocolNotFoundError:
                scheme = self.spec.place.partition(":")[0]
                raise self._failed(f"the FFmpeg in PyAV does not support {scheme}; use rtsp or http") from None
            except (VideoError, self._av.error.FFmpegError) as error:
                problem = self._reason(error)
            if self._closing.is_set():
                return
            now = time.monotonic()
            lost = now if lost is None else lost
            pause = back_off.pause(now - began if began is not None else 0.0)
            self._note(state="lost", back_off=pause, last_error=problem)
            if not logged:
                state = "connection lost" if connected else "cannot connect"
                _log.warning("%s (%s): %s: %s; retrying", self.spec.name, self.spec.shown, state, problem)
            elif problem not in logged:
                state = "not reconnected" if connected else "not connected"
                _log.warning("%s: %s yet: %s; retrying", self.spec.name, state, problem)
            logged.add(problem)
            self._closing.wait(pause)

    def _connection(self) -> Iterator[Frame]:
        """Yield the frames of one connection until it ends. Raises FFmpegError and VideoError."""
        self._clock.interrupted()
        with self._open() as container:
            stream = _video_stream(container)
            self._note(length=0 if self.spec.live else _length(container))
            rate = stream.average_rate or stream.guessed_rate
            period = float(1 / rate) if rate else 0.04
            stamped = container.format.name not in (
                "mpjpeg",
                "mjpeg",
                "h264",
                "hevc",
            )  # FFmpeg invents their timestamps
            patience, trouble = 4 * self._options.silence_timeout, 0
            heard = arrived = time.monotonic()  # times of the latest frame and the latest packet
            for packet in self._packets(container):
                if self._closing.is_set():
                    return
                # After a timeout FFmpeg returns the rest in its parser, then would wait for a second timeout.
                silent = time.monotonic() - arrived > self._options.silence_timeout
                if packet.stream is stream:
                    errors = self._stats.decode_errors
                    for picture in self._decode(packet):
                        timestamp = self._clock.at(_stamp(picture) if stamped else None, period)
                        if frame := self._frame(picture, stream, timestamp):
                            yield frame
                        patience, heard = self._options.silence_timeout, time.monotonic()
                    trouble = max(0, trouble - 1) if self._stats.decode_errors == errors else trouble + 1
                arrived = time.monotonic()
                if self.spec.is_url and self.spec.live and silent:
                    raise VideoError(_no_answer(self._options.silence_timeout))
                if self.spec.live and arrived - heard > patience:
                    raise VideoError(f"no frame for {patience:g} s")
                if self.spec.live and trouble > _MOST_TROUBLE:
                    raise VideoError("most packets cannot be decoded; perhaps the codec has changed")

    def _open(self) -> InputContainer:
        place, wait = self.spec.place, self._options
        options: dict[str, str] = {}
        if self.spec.live:
            options |= {"analyzeduration": "1000000", "probesize": "1000000", "merge_pmt_versions": "1"}
        if place.startswith("rtsp"):
            options |= {"rtsp_transport": "tcp", "timeout": str(int(1e6 * wait.silence_timeout))}
        if place.startswith("udp"):
            options |= {"overrun_nonfatal": "1"}
        began = time.monotonic()
        try:
            opened: InputContainer = self._av.open(
                place if self.spec.is_url or self.spec.is_device else f"file:{place}",
                format="v4l2" if self.spec.is_device else None,
                options=options,
                timeout=(wait.connect_timeout, wait.silence_timeout) if self.spec.is_url else None,
            )
        except self._av.error.InvalidDataError:  # RTSP raises it after a timeout, too
            if self.spec.is_url and time.monotonic() - began >= min(wait.connect_timeout, wait.silence_timeout):
                raise VideoError(_no_answer(min(wait.connect_timeout, wait.silence_timeout))) from None
            raise
        return opened

    def _packets(self, container: InputContainer) -> Iterator[Packet[Any]]:
        """Yield all packets in the container, also of other streams, and skip damaged ones."""
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

    def _frame(self, picture: VideoFrame, stream: VideoStream, timestamp: float) -> Frame | None:
        """Return the frame, or None if it is damaged. Both are counted."""
        index = self._stats.frames
        self._note(frames=index + 1)
        if picture.is_corrupt:
            self._note(decode_errors=self._stats.decode_errors + 1)
            return None
        with self._timed():
            image = self._upright(picture, stream)
        self._note(state="running", height=image.shape[0], width=image.shape[1])
        return Frame(stream=self.spec.name, index=index, timestamp=timestamp, image=image)

    def _upright(self, picture: VideoFrame, stream: VideoStream) -> RgbImage:
        """Convert to RGB, scale the width to square pixels, and rotate by the angle in the file."""
        aspect = float(stream.codec_context.sample_aspect_ratio or stream.sample_aspect_ratio or 1)
        width = picture.width if aspect <= 0 else max(1, round(picture.width * aspect))
        rgb = self._reformatter.reformat(picture, width=width, height=picture.height, format="rgb24")
        image: RgbImage = rgb.to_ndarray()
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

    def _reason(self, error: Exception) -> str:
        if isinstance(error, self._av.error.ExitError):  # FFmpeg's error after one of PyAV's time-outs
            return _no_answer(self._options.silence_timeout)
        if isinstance(error, self._av.error.InvalidDataError):
            return "its format is unknown to FFmpeg, or it is damaged"
        if self.spec.is_url and getattr(error, "errno", None) == errno.EIO:
            return "the connection was closed"
        return str(getattr(error, "strerror", None) or error)


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
        kinds = " and ".join(sorted({stream.type for stream in container.streams})) or "unknown data"
        raise VideoError(f"it must contain a video stream, got {kinds} only; choose another file or stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise VideoError("FFmpeg has no decoder for its codec; convert it to H.264")
    if (limit := thread_limit()) is not None:
        stream.codec_context.thread_count = limit
    return stream


def _length(container: InputContainer) -> int:
    """Return the number of frames according to the container, 0 if unknown."""
    stream = _video_stream(container)
    if stream.frames:
        return int(stream.frames)
    rate = stream.average_rate or stream.guessed_rate
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    else:
        seconds = (container.duration or 0) / 1e6  # microseconds
    return max(0, round(seconds * float(rate))) if rate else 0


def _stamp(picture: VideoFrame) -> float | None:
    if picture.pts is None or picture.time_base is None:
        return None
    return float(picture.pts * picture.time_base)
