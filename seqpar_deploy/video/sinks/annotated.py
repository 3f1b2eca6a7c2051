"""Writes streams as video files, with boxes and attributes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from seqpar_deploy.errors import SinkError
from seqpar_deploy.video.sinks.base import BaseSink
from seqpar_deploy.video.sinks.draw import draw_people
from seqpar_deploy.video.sinks.draw_zones import Outlines, no_outlines
from seqpar_deploy.video.sinks.fan_out import one_line
from seqpar_deploy.video.sinks.placing import Place
from seqpar_deploy.video.types import Frame, Person, TrackedBox

if TYPE_CHECKING:
    from av import VideoStream
    from av.container import OutputContainer

_CLOCK = 90_000  # ticks per second
_KEY_SECONDS = 2.0  # between key frames: the precision of a jump, and the maximum loss after a kill
_LONGEST_FILE = 255  # bytes of a name, of most file systems
_LONGEST_STREAM = 120  # bytes of a stream's name in it: 40 characters of any script that is in use
_FORMATS = {
    # Written in complete fragments, and converted to a plain file on close.
    ".mp4": ("mp4", {"movflags": "hybrid_fragmented+frag_keyframe+empty_moov+default_base_moof"}),
    ".mkv": ("matroska", {"cluster_time_limit": "2000"}),
}


def files_for(path: Path, streams: Sequence[str]) -> dict[str, Path]:
    """Return a file for each stream: `path` for a single one, `NAME-STREAM.SUFFIX` beside it for several.

    The files differ also where case is ignored, and their names fit into a file system. Raises SinkError if `path` is
    no .mp4 or .mkv file.
    """
    _check_format(path)
    if len(streams) == 1:
        return {streams[0]: path}
    found: dict[str, Path] = {}
    taken: set[str] = set()
    for stream in streams:
        name = re.sub(r"[^\w.-]+", "_", stream).strip("._-") or "stream"
        file, number = _named(path, name, ""), 1
        while (key := unicodedata.normalize("NFC", file.name).casefold()) in taken:
            number += 1
            file = _named(path, name, f"-{number}")
        taken.add(key)
        found[stream] = file
    return found


def _check_format(path: Path) -> None:
    if path.suffix.lower() not in _FORMATS:
        fix = "; name one, for example people.mp4" if path.name.lower() in _FORMATS else ""
        raise SinkError(f"annotated video must be an .mp4 or .mkv file, got {path}{fix}")


def _named(path: Path, stream: str, number: str) -> Path:
    """Return NAME-STREAM-NUMBER.SUFFIX beside `path`, with NAME and STREAM cut to what a file system takes."""
    stream = _cut(stream, _LONGEST_STREAM)
    end = f"-{stream}{number}{path.suffix}"
    return path.with_name(_cut(path.stem, _LONGEST_FILE - len(os.fsencode(end))) + end)


def _cut(text: str, most: int) -> str:
    """Return the beginning of a text that has at most so many bytes in UTF-8."""
    while len(os.fsencode(text)) > most:
        text = text[:-1]
    return text


class AnnotatedSink(BaseSink):
    """Writes one stream as H.264 video, with each frame at its own timestamp.

    The file is playable at any time, also after a kill, except for its last two seconds. The first frame overwrites an
    existing file. Frames of another size are scaled to the size of the first. Drawing and encoding run in the caller's
    thread. An open .mp4 file needs 72 bytes of memory per frame, which is 6.5 MB per hour at 25 frames per second. Use
    .mkv, which needs none, for runs of days. If the file can no longer be written, `frame` closes it and raises
    SinkError.

    Args:
        stream: Name of the stream to write.
        path: An .mp4 or .mkv file.
        quality: x264's constant rate factor, 0 (lossless) to 51. Default: 23.
        preset: x264's preset. Default: "superfast".
        outlines: Function that returns the zones and lines of a stream to draw, as `ZoneWatcher.outlines`. Default:
            none.

    Attributes:
        path: The file.

    Raises:
        SinkError: The suffix is invalid, the file cannot be written, or PyAV is not installed.

    Example:
        watch("street.mp4", recognizer, sinks=[AnnotatedSink("street", Path("out.mp4"))])
    """

    def __init__(
        self,
        stream: str,
        path: Path,
        *,
        quality: int = 23,
        preset: str = "superfast",
        outlines: Outlines = no_outlines,
    ) -> None:
        try:
            import av  # noqa: F401
        except ImportError:
            raise SinkError("PyAV is not installed; pip install 'seqpar-deploy[video]'") from None
        _check_format(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._created = not path.exists()
            path.open("ab").close()
        except OSError as error:
            raise SinkError(f"{path} cannot be written: {error.strerror}; name another file") from None
        self.name = f"annotated video {path}"
        self._stream, self.path, self._outlines = stream, path, outlines
        self._options = {"crf": str(quality), "preset": preset, "tune": "zerolatency"}
        self._writer: _Writer | None = None
        self._places: dict[int, Place] = {}
        self._closed = False

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        if self._closed or frame.stream != self._stream:
            return
        try:
            sheet = draw_people(frame.image, boxes, people, self._places, self._outlines(self._stream))
            if self._writer is None:
                self._writer = _open(self.path, frame, self._options)
            self._writer.write(frame.timestamp, sheet)
        except Exception as error:  # of any kind: a video that ends early is better than a video with a gap
            self._closed = True
            if self._writer is None:
                self._remove_empty()
            else:
                with contextlib.suppress(Exception):
                    self._writer.container.close()
            end = f"it ends at {frame.timestamp:.1f} s of {self._stream}"
            raise SinkError(f"cannot be written: {one_line(error)}; {end}") from None

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._writer is None:
            self._remove_empty()
            return
        try:
            self._writer.finish()
        except Exception as error:
            raise SinkError(f"cannot be finished: {one_line(error)}") from None

    def _remove_empty(self) -> None:
        """Remove a file without frames, unless it is of an earlier run."""
        if self._created:
            with contextlib.suppress(OSError):
                self.path.unlink()

    @property
    def wrote(self) -> bool:
        """Whether this sink has written at least one frame."""
        return self._writer is not None


@dataclasses.dataclass(kw_only=True)
class _Writer:
    """An open file. `last` and `key` are ticks of the last frame and the last key frame."""

    container: OutputContainer
    video: VideoStream
    size: tuple[int, int]
    last: int = -1
    key: int = -(1 << 62)

    def write(self, timestamp: float, sheet: Image.Image) -> None:
        import av
        from av.video.frame import PictureType

        tick = max(self.last + 1, round(timestamp * _CLOCK))
        picture = av.VideoFrame.from_ndarray(np.asarray(_fitted(sheet, self.size)), format="rgb24")
        picture.pts, picture.time_base = tick, Fraction(1, _CLOCK)
        if tick - self.key >= _KEY_SECONDS * _CLOCK:
            picture.pict_type, self.key = PictureType.I, tick
        self.last = tick
        self.container.mux(self.video.encode(picture))

    def finish(self) -> None:
        try:
            self.container.mux(self.video.encode(None))
        finally:
            self.container.close()


def _open(path: Path, frame: Frame, encoder: dict[str, str]) -> _Writer:
    import av

    height, width = (max(2, side - side % 2) for side in frame.image.shape[:2])  # H.264 halves the colours
    kind, options = _FORMATS[path.suffix.lower()]
    container = av.open(str(path), "w", format=kind, options={"flush_packets": "1", **options})
    try:
        video = container.add_stream("libx264", rate=25, options=encoder)
    except ValueError:
        container.close()
        raise SinkError("this PyAV has no libx264 to encode H.264; install av from PyPI") from None
    video.width, video.height, video.pix_fmt = width, height, "yuv420p"
    video.codec_context.time_base = Fraction(1, _CLOCK)
    video.codec_context.thread_count = 1
    video.codec_context.gop_size = 1_000_000  # key frames are set by time
    return _Writer(container=container, video=video, size=(width, height))


def _fitted(sheet: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Fit a frame to `size`: cut off an odd row or column, or scale it with a black margin."""
    if sheet.size == size:
        return sheet
    if all(0 <= side - target <= 1 for side, target in zip(sheet.size, size, strict=True)):
        return sheet.crop((0, 0, *size))
    return ImageOps.pad(sheet, size)
