"""One connection to a file, camera or stream: decodes the pictures of its best video stream (PyAV) until it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqpar_deploy.errors import BackendUnavailableError, VideoError
from seqpar_deploy.preprocess import RgbImage
from seqpar_deploy.redaction import redacted
from seqpar_deploy.video.sources.opening import Opener
from seqpar_deploy.video.sources.orientation import Matrix, Upright
from seqpar_deploy.video.sources.playlist import is_playlist
from seqpar_deploy.video.sources.spec import SourceSpec
from seqpar_deploy.video.sources.state import SourceOptions, Tally
from seqpar_deploy.video.sources.stream_choice import Counts, choose_stream, count_packets, describe_choice

if TYPE_CHECKING:
    from types import ModuleType

    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

_MOST_TROUBLE = 20  # failed packets minus decoded ones, after which the codec is assumed to have changed
_USELESS_READS = 100  # consecutive damaged packets after which a container is assumed to have ended
_INVENTED = ("mpjpeg", "mjpeg", "h264", "hevc")  # formats without timestamps, for which FFmpeg invents some
_UNKNOWN = "its format is unknown to FFmpeg, or it is damaged"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A decoded picture. `image` converts it to RGB, and returns None if it is damaged. `stamp` is None without one.

    Both times are in seconds.
    """

    image: Callable[[], RgbImage | None]
    stamp: float | None
    period: float


def ready(image: RgbImage | None) -> Callable[[], RgbImage | None]:
    """Return the `image` of a picture that is RGB already."""
    return lambda: image


class DecodingError(VideoError):
    """The data arrives, but cannot be decoded."""


class Connection:
    """Reads a source with FFmpeg. Each call of `pictures` opens it again."""

    def __init__(self, spec: SourceSpec, options: SourceOptions, tally: Tally, closing: threading.Event) -> None:
        self._av = load_av()
        self._spec = spec
        self._silence = options.silence_timeout
        self._tally = tally
        self._closing = closing
        self._opener = Opener(self._av, spec, options)
        self._upright = Upright(spec.name, tally, self._av.video.reformatter.VideoReformatter())
        self.declared = 0  # frames that the container says it has, 0 if it does not tell
        self._chosen = ""  # the latest line on the choice of a stream

    def pictures(self) -> Iterator[Picture]:
        """Connect, and yield pictures until the source ends or is closed.

        Raises DecodingError if the data is at fault, and FFmpegError or another VideoError for other reasons.
        """
        retry = True
        while retry:
            retry, worked = False, False
            try:
                for picture in self._pictures():
                    if not worked:
                        worked = True
                        self._opener.worked()
                    yield picture
                if not (worked or self._closing.is_set()):
                    retry = self._opener.try_another_way(None, worked=False)
            except Exception as error:
                if isinstance(error, DecodingError) and self._opener.hardware is not None:
                    self._opener.leave_hardware(str(error))
                    if retry := not (worked or self._closing.is_set()):
                        continue
                retry = not self._closing.is_set() and self._opener.try_another_way(error, worked=worked)
                if not retry and self._is_of_data(error):
                    raise DecodingError(self.reason(error)) from error
                if not retry:
                    raise

    def _pictures(self) -> Iterator[Picture]:
        live, silence = self._spec.live, self._silence
        with self._opener.open() as container:
            stream = choose_stream(container, self._count_packets)
            self._log_choice(describe_choice(container, stream))
            for other in container.streams:
                if other is not stream and hasattr(other, "discard"):  # since PyAV 18
                    other.discard = self._av.stream.Discard.all
            if container.format.name == "mjpeg" and not stream.codec_context.width:
                raise VideoError(_UNKNOWN)
            self._upright.begin(stream)
            length = 0 if live else _length(container, stream)
            self._tally.note(length=length)
            # A part of a playlist or of an answer that is missing may hold all of a stream.
            several = self._spec.is_url or is_playlist(self._spec.place)
            self.declared = length if several or _is_of_stream(container, stream) else 0
            rate = stream.average_rate or stream.guessed_rate
            period = float(1 / rate) if rate else 0.04
            self._tally.note(rate=float(rate or 0), codec=stream.codec_context.name)
            stamped = container.format.name not in _INVENTED
            patience, trouble = 4 * silence, 0
            heard = arrived = time.monotonic()  # times of the latest frame and the latest packet
            for packet in self._packets(container):
                if self._closing.is_set():
                    return
                # After a timeout FFmpeg returns the rest in its parser, then would wait for a second timeout.
                silent = time.monotonic() - arrived > silence
                if packet.stream is stream:
                    errors = self._tally.stats.decode_errors
                    for picture in self._decode(packet):
                        stamp = _stamp(picture) if stamped else None
                        image = functools.partial(self._image, picture, stream, self._upright.matrix_of(picture))
                        yield Picture(image=image, stamp=stamp, period=period)
                        patience, heard = silence, time.monotonic()
                    trouble = max(0, trouble - 1) if self._tally.stats.decode_errors == errors else trouble + 1
                arrived = time.monotonic()
                if self._spec.is_url and live and silent:
                    raise VideoError(_no_answer(silence))
                if live and arrived - heard > patience:
                    raise VideoError(f"no frame for {patience:g} s")
                if (live or self._opener.hardware) and trouble > _MOST_TROUBLE:
                    raise DecodingError("most packets cannot be decoded; perhaps the codec has changed")

    def length(self) -> int:
        """Open the source again and return its number of frames, 0 if unknown."""
        with contextlib.suppress(Exception), self._opener.open() as container:  # the reader of the frames reports it
            return _length(container, choose_stream(container, self._count_packets))
        return 0

    def reason(self, error: Exception) -> str:
        """Return the cause of an error of `pictures`, in our words."""
        if isinstance(error, VideoError):
            return str(error)
        if isinstance(error, self._av.error.ProtocolNotFoundError):
            return f"the FFmpeg in PyAV does not support {self._opener.scheme}; use rtsp or http"
        if isinstance(error, self._av.error.ExitError):  # FFmpeg's error after one of PyAV's time-outs
            return _no_answer(self._silence)
        if isinstance(error, self._av.error.InvalidDataError):
            return _UNKNOWN
        number = getattr(error, "errno", None)
        if self._spec.is_url and number == errno.EIO:
            return "the connection was closed"
        if self._opener.scheme.startswith("rtsp") and number == errno.EPROTONOSUPPORT:  # status 461
            return f"the camera refuses RTSP over {self._opener.transports}; change --rtsp-transport or its settings"
        if isinstance(error, self._av.error.FFmpegError):
            return redacted(str(error.strerror or error))
        _log.debug("%s: decoding failed", self._spec.name, exc_info=error)  # PyAV raises any kind
        return f"decoding failed with {type(error).__name__}; update PyAV, or use another codec"

    def is_hopeless(self, error: Exception) -> bool:
        """Return whether a retry cannot help."""
        return isinstance(error, self._av.error.ProtocolNotFoundError)

    def _is_of_data(self, error: Exception) -> bool:
        """Return whether the data is at fault, rather than the network or a camera that starts."""
        av = self._av.error
        network = (OSError, av.EOFError, av.HTTPError, av.HTTPClientError, av.ExitError, av.ArgumentError)
        return not isinstance(error, (VideoError, *network, av.InvalidDataError, av.ProtocolNotFoundError))

    def _log_choice(self, line: str) -> None:
        if line and line != self._chosen:
            self._tally.log(logging.INFO, "%s: %s", self._spec.name, line)
        self._chosen = line

    def _packets(self, container: InputContainer) -> Iterator[Packet[Any]]:
        """Yield all packets in the container, also of other streams, and skip damaged ones."""
        useless, flushing = 0, False
        while useless < _USELESS_READS:
            try:
                for packet in container.demux():
                    useless, flushing = 0, packet.size == 0
                    yield packet
                return
            except self._av.error.InvalidDataError:
                if self._spec.live and container.format.name == "mpjpeg":
                    raise  # its boundaries are missing or wrong
                useless += 1
                self._tally.damaged()
            except IndexError:  # of PyAV before 19, at the end, if streams were added after the beginning
                if flushing:
                    return
                raise

    def _decode(self, packet: Packet[Any]) -> list[VideoFrame]:
        try:
            with self._tally.timed():
                pictures: list[VideoFrame] = packet.decode()
        except self._av.error.FFmpegError:
            self._tally.damaged()
            return []
        return pictures

    def _image(self, picture: VideoFrame, stream: VideoStream, matrix: Matrix | None) -> RgbImage | None:
        if not picture.is_corrupt:
            with self._tally.timed(), contextlib.suppress(self._av.error.FFmpegError):
                return self._upright(picture, stream, matrix)
        self._tally.damaged()
        return None

    def _count_packets(self) -> Counts:
        """Open the source again to count, unless that would take its data away."""
        if self._spec.live or not (self._spec.is_url or Path(self._spec.place).is_file()):
            return {}
        with self._opener.open() as container:
            return count_packets(container)


def load_av() -> ModuleType:
    """Import PyAV, or raise BackendUnavailableError."""
    try:
        import av
    except ModuleNotFoundError:
        raise BackendUnavailableError(
            "video needs PyAV, which is not installed; pip install 'seqpar-deploy[video]'"
        ) from None
    return av


def _no_answer(seconds: float) -> str:
    return f"no answer for {seconds:g} s"


def _length(container: InputContainer, stream: VideoStream) -> int:
    """Return the number of frames according to the container, 0 if unknown."""
    if stream.frames:
        return int(stream.frames)
    rate = stream.average_rate or stream.guessed_rate
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    else:
        seconds = (container.duration or 0) / 1e6  # microseconds
    return max(0, round(seconds * float(rate))) if rate else 0


def _is_of_stream(container: InputContainer, stream: VideoStream) -> bool:
    """Return whether the length is that of the pictures, and not of sound that may be longer."""
    return bool(stream.frames or stream.duration or len(container.streams) == 1)


def _stamp(picture: VideoFrame) -> float | None:
    if picture.pts is None or picture.time_base is None:
        return None
    return float(picture.pts * picture.time_base)
