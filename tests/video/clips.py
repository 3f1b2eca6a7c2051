"""Small clips, made when a test needs them. Picture `i` is one grey: `grey(i)`, with a black left half."""

from __future__ import annotations

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
) -> Path:
    """A video at 10 pictures/s with a key frame every `every`, or with the given time stamps, in 1/10 s."""
    width, height = size
    with av.open(str(path), "w", options=options or {}) as clip:
        stream = clip.add_stream(codec, rate=25 if codec == "mpeg2video" else 10)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = every, 0
        stream.codec_context.time_base = Fraction(1, 25 if codec == "mpeg2video" else 10)
        stream.codec_context.thread_count = 1
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for number, stamp in zip(range(frames), times if times is not None else range(frames), strict=False):
            image = np.full((height, width, 3), grey(number), np.uint8)
            image[:, : width // 2] = 0
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


def make_sound(path: Path) -> Path:
    """Two seconds of silence, without a picture."""
    with av.open(str(path), "w") as clip:
        stream = clip.add_stream("mp2", rate=48000)
        stream.codec_context.layout = "mono"
        for number in range(84):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), format="s16", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = 48000, number * 1152, Fraction(1, 48000)
            clip.mux(stream.encode(samples))
        clip.mux(stream.encode())
    return path
