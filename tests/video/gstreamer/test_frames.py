"""Pictures of mapped memory: formats, strides, offsets, odd sizes and matrices."""

from __future__ import annotations

import numpy as np
import pytest

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.gstreamer.frames import FORMATS, LUMA, Layout, to_rgb

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 150, 120), (255, 255, 255), (0, 0, 0), (128, 64, 200)]
ORDER = {"RGB": "012", "BGR": "210", "RGBx": "012x", "RGBA": "012x", "BGRx": "210x", "BGRA": "210x"}


@pytest.mark.parametrize("name", ORDER)
@pytest.mark.parametrize("padding", [0, 5])
def test_packed_formats(name: str, padding: int, rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (6, 7, 3), np.uint8)
    pixels = np.stack([image[..., int(c)] if c != "x" else image[..., 0] // 2 for c in ORDER[name]], axis=-1)
    rows = np.pad(pixels.reshape(6, -1), ((0, 0), (0, padding)), constant_values=77)
    memory = b"ahead" + rows.tobytes()
    rgb = to_rgb(memory, Layout(format=name, width=7, height=6, strides=(rows.shape[1],), offsets=(5,)))
    assert np.array_equal(rgb, image)
    assert rgb.flags.writeable


def yuv(colour: tuple[int, int, int], matrix: str, full_range: bool) -> tuple[int, int, int]:
    red, blue = LUMA[matrix]
    r, g, b = (value / 255 for value in colour)
    y = red * r + (1 - red - blue) * g + blue * b
    u, v = (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))
    if full_range:
        return round(255 * y), round(np.clip(128 + 255 * u, 0, 255)), round(np.clip(128 + 255 * v, 0, 255))
    return round(16 + 219 * y), round(128 + 224 * u), round(128 + 224 * v)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", LUMA)
@pytest.mark.parametrize("name", ["NV12", "I420"])
def test_planes_with_padding_and_odd_sizes(name: str, matrix: str, full_range: bool) -> None:
    """Each colour fills a picture of 5 x 3, so rows and columns of luma are odd and chroma is rounded up."""
    for colour in COLOURS:
        y, u, v = yuv(colour, matrix, full_range)
        luma, padding = np.full((3, 8), y, np.uint8), np.full(6, 99, np.uint8)
        luma[:, 5:] = 99
        if name == "NV12":
            chroma = np.full((2, 10), 99, np.uint8)
            chroma[:, 0:6:2], chroma[:, 1:6:2] = u, v
            memory, strides, offsets = np.concatenate([luma.ravel(), padding, chroma.ravel()]), (8, 10), (0, 30)
        else:
            planes = [np.full((2, 4), value, np.uint8) for value in (u, v)]
            memory = np.concatenate([luma.ravel(), padding, planes[0].ravel(), planes[1].ravel()])
            strides, offsets = (8, 4, 4), (0, 30, 38)
        layout = Layout(
            format=name, width=5, height=3, strides=strides, offsets=offsets, matrix=matrix, full_range=full_range
        )
        rgb = to_rgb(memory.data, layout)
        assert rgb.shape == (3, 5, 3)
        assert np.abs(rgb.astype(int) - colour).max() <= 3, (colour, rgb[0, 0])


@pytest.mark.parametrize("name", FORMATS)
def test_memory_that_is_too_small_is_refused(name: str) -> None:
    layout = Layout(format=name, width=64, height=64, strides=(64, 64, 32), offsets=(0, 4096, 5120))
    with pytest.raises(VideoError, match="64x64"):
        to_rgb(bytes(100), layout)


def test_a_format_of_no_kind_is_refused() -> None:
    with pytest.raises(VideoError, match=r"YUY2.*videoconvert"):
        to_rgb(bytes(100), Layout(format="YUY2", width=2, height=2, strides=(4,), offsets=(0,)))


def test_the_picture_does_not_change_with_the_memory() -> None:
    memory = bytearray(12)
    rgb = to_rgb(memory, Layout(format="RGB", width=2, height=2, strides=(6,), offsets=(0,)))
    memory[:] = b"\xff" * 12
    assert not rgb.any()
