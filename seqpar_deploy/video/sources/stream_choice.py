"""Chooses the video stream of a container: neither a cover picture nor thumbnails, and the best of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from seqpar_deploy.errors import VideoError
from seqpar_deploy.machine import thread_limit
from seqpar_deploy.preprocess import MAX_PIXELS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

_NO_VIDEO = 1 << 10 | 1 << 11  # FFmpeg's dispositions attached_pic and timed_thumbnails
_DEFAULT, _DEPENDENT = 1 << 0, 1 << 19  # dependent: an enhancement layer of another stream
_IMAGES = ("mjpeg", "png", "apng", "bmp", "gif", "webp", "tiff", "jpeg2000", "jpegxl", "jpegls")
_SAMPLE = 600  # packets from which the frame rates of the streams are compared
_FEW = 0.1  # a stream with no larger share of the frames of another one consists of thumbnails

Counts = Mapping[int, int]


def choose_stream(container: InputContainer, count: Callable[[], Counts]) -> VideoStream:
    """Return the best video stream, with the limit of threads and pixels set.

    `count` returns the packets of each stream at the beginning, by index, or nothing if that is impossible. It is
    called only if it matters. Raises VideoError if there is no video, or none that can be decoded.
    """
    offered = [stream for stream in container.streams.video if not int(stream.disposition) & _NO_VIDEO]
    streams = [stream for stream in offered if stream.codec_context is not None]
    if offered and not streams:
        raise VideoError("FFmpeg has no decoder for its codec; convert it to H.264")
    packets: Counts = {}
    if len(streams) > 1 or (container.streams.audio and any(_is_image(stream) for stream in streams)):
        known = {stream.index: stream.frames for stream in streams}
        packets = known if all(known.values()) else count()
        if container.streams.audio or max(packets.values(), default=0) > 1:  # else they are pictures on their own
            streams = [stream for stream in streams if not (_is_image(stream) and packets.get(stream.index) == 1)]
    if not streams:
        raise VideoError(f"it must contain a video stream, got {_kinds(container)} only; choose another file or stream")
    most, best = max(packets.values(), default=0), container.streams.best("video")

    def quality(stream: VideoStream) -> tuple[bool | int, ...]:
        disposition, context = int(stream.disposition), stream.codec_context
        return (
            not disposition & _DEPENDENT,
            packets.get(stream.index, 0) > _FEW * most or not packets,
            bool(packets) or not _is_image(stream),
            context.width * context.height,
            bool(disposition & _DEFAULT),
            packets.get(stream.index, 0),
            stream is best,
            -stream.index,
        )

    stream = max(streams, key=quality)
    context = stream.codec_context
    if context.width * context.height > MAX_PIXELS:
        raise VideoError(
            f"its frames must have at most {MAX_PIXELS} pixels, got {context.width} x {context.height}; scale it down"
        )
    context.options = {"max_pixels": str(MAX_PIXELS)}  # the size may change, also by damage
    if (limit := thread_limit()) is not None:
        context.thread_count = limit
    return stream


def count_packets(container: InputContainer) -> Counts:
    """Return how many of the first packets belong to each stream, by index."""
    found: Counter[int] = Counter()
    for packet in container.demux():
        found[packet.stream.index] += packet.size > 0
        if found.total() >= _SAMPLE:
            break
    return found


def describe_choice(container: InputContainer, stream: VideoStream) -> str:
    """Return a line that says which of several video streams is read, empty if there is one."""
    streams = container.streams.video
    if len(streams) < 2:
        return ""
    context = stream.codec_context
    place = f"stream {stream.index}" + (f" (ID {stream.id:#x})" if stream.id > 0 else "")
    return f"reading {place}, {context.name} {context.width} x {context.height}, of {len(streams)} video streams"


def _is_image(stream: Stream) -> bool:
    return stream.codec_context.name in _IMAGES


def _kinds(container: InputContainer) -> str:
    found: list[str] = sorted({stream.type for stream in container.streams if stream.type != "video"})
    if container.streams.video:
        found.append("a cover picture")
    return " and ".join(found) or "unknown data"
