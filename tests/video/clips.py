"""Small clips, made when a test needs them. Picture `i` is one grey: `grey(i)`, with a black left half."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def grey(number: int) -> int:
    return 60 + 8 * (number % 20)


def number_of(image: np.ndarray) -> int:
    """Which of 20 pictures this is."""
    height, width = image.shape[:2]
    return round((float(image[height // 4 : height // 2, 3 * width // 4].mean()) - 60) / 8)


def make_clip(
    path: Path,
    *,
    frames: int = 20,
    size: tuple[int, int] = (160, 120),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    every: int = 10,
    aspect: Fraction | None = None,
    times: Iterable[int] | None = None,
    options: dict[str, str] | None = None,
    scene: np.ndarray | None = None,
    matrix: Iterable[int] | None = None,
    title: str = "",
) -> Path:
    """A video at 10 pictures/s with a key frame every `every`, or with the given time stamps, in 1/10 s.

    `scene` is shown instead of the greys, and `matrix` is a display matrix of nine numbers, for the container. `title`
    is the title of the video, of its stream and of a chapter.
    """
    width, height = size
    with av.open(str(path), "w", options=options or {}) as clip:
        stream = clip.add_stream(codec, rate=25 if codec == "mpeg2video" else 10)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = every, 0
        stream.codec_context.time_base = Fraction(1, 25 if codec == "mpeg2video" else 10)
        stream.codec_context.thread_count = 1
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if title:
            clip.metadata["title"] = stream.metadata["title"] = stream.metadata["handler_name"] = title
            clip.set_chapters(
                [{"id": 1, "start": 0, "end": 10, "time_base": Fraction(1, 10), "metadata": {"title": title}}]
            )
        if matrix is not None:
            stream.set_display_matrix(matrix)
        for number, stamp in zip(range(frames), times if times is not None else range(frames), strict=False):
            image = np.full((height, width, 3), grey(number), np.uint8)
            image[:, : width // 2] = 0
            image = image if scene is None else scene
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = stamp
            frame.time_base = stream.codec_context.time_base
            clip.mux(stream.encode(frame))
        clip.mux(stream.encode())
    return path


def recode(clip: Path, path: Path, *, size: tuple[int, int], rate: int = 10) -> Path:
    """A clip in another size, as H.264 of so many pictures/s with a key frame each second."""
    with av.open(str(clip)) as recorded, av.open(str(path), "w") as written:
        options = {"preset": "veryfast", "bf": "0", "g": str(rate), "aud": "1"}
        stream = written.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # a slice a picture: GStreamer repeats the headers before each slice
        for number, picture in enumerate(recorded.decode(video=0)):
            resized = picture.reformat(width=stream.width, height=stream.height, format="yuv420p")
            resized.pts, resized.time_base = number, Fraction(1, rate)
            written.mux(stream.encode(resized))
        written.mux(stream.encode(None))
    return path


def mux(path: Path, *clips: Path, dispositions: Iterable[int] = (), options: dict[str, str] | None = None) -> Path:
    """The streams of several clips in one container, in the order of time."""
    flags = dict(enumerate(dispositions))
    with contextlib.ExitStack() as opened, av.open(str(path), "w", options=options or {}) as written:
        packets = []
        for clip in clips:
            recorded = opened.enter_context(av.open(str(clip)))
            for stream in recorded.streams:
                copied = written.add_stream_from_template(stream)
                copied.disposition = flags.get(copied.index, 0)
                here = [packet for packet in recorded.demux(stream) if packet.dts is not None]
                packets += [(packet.dts * packet.time_base, copied, packet) for packet in here]
                recorded.seek(0)
        for _time, copied, packet in sorted(packets, key=lambda each: each[0]):
            packet.stream = copied
            written.mux(packet)
    return path


def two_programs(path: Path, *clips: Path) -> Path:
    """A transport stream with a program for each of two clips, as of a television multiplex."""
    packets = []
    for number, clip in enumerate(clips, 1):
        pids = {"mpegts_pmt_start_pid": str(0x20 * number), "mpegts_start_pid": str(0x100 * number)}
        program = mux(path.with_suffix(f".{number}.ts"), clip, options=pids | {"mpegts_service_id": str(number)})
        content = program.read_bytes()
        packets.append([content[start : start + 188] for start in range(0, len(content), 188)])
    # The table of programs (PAT): its header, two programs with the PIDs of their tables, and a checksum.
    table = bytes.fromhex("00b011 0001c10000 0001e020 0002e040")
    payload = b"\0" + table + _crc(table).to_bytes(4, "big")
    head = b"\x47\x40\x00\x10" + payload + b"\xff" * (184 - len(payload))
    rest = [
        packet for both in itertools.zip_longest(*packets) for packet in both if packet and _pid(packet) not in (0, 17)
    ]
    path.write_bytes(head + b"".join(rest))
    return path


def _pid(packet: bytes) -> int:
    return (packet[1] & 0x1F) << 8 | packet[2]


def _crc(content: bytes) -> int:
    """The checksum of MPEG's tables."""
    crc = 0xFFFFFFFF
    for byte in content:
        for bit in range(7, -1, -1):
            carry = crc >> 31 ^ byte >> bit & 1
            crc = (crc << 1 & 0xFFFFFFFF) ^ (0x04C11DB7 if carry else 0)
    return crc


def make_cover(path: Path, *, size: tuple[int, int] = (160, 120), codec: str = "mjpeg") -> Path:
    """A container with a single picture, to be muxed with others."""
    pixels = "yuvj420p" if codec == "mjpeg" else "rgb24"
    return make_clip(path, frames=1, size=size, codec=codec, pixels=pixels)


def make_sound(path: Path, *, codec: str = "mp2") -> Path:
    """Two seconds of silence, without a picture."""
    with av.open(str(path), "w") as clip:
        stream = clip.add_stream(codec, rate=48000)
        stream.codec_context.layout = "mono"
        for number in range(84):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = 48000, number * 1152, Fraction(1, 48000)
            clip.mux(stream.encode(samples))
        clip.mux(stream.encode())
    return path
