"""Pictures are upright, unmirrored and have square pixels, whatever their container says."""

from __future__ import annotations

import gc
import itertools
import logging
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from video.clips import make_clip

from seqpar_deploy.video.sources.orientation import oriented
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import expand_sources

ONE = 1 << 16  # in a display matrix
EIGHT = [(a, 0, 0, d) for a, d in itertools.product((1, -1), repeat=2)] + [
    (0, b, c, 0) for b, c in itertools.product((1, -1), repeat=2)
]


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """No two of its corners, halves or orientations are alike."""
    image = np.zeros((48, 80, 3), np.uint8)
    image[:24, :40], image[:24, 40:], image[24:, :40], image[24:, 40:] = 30, 90, 150, 220
    image[4:12, 8:16] = 255
    return image


def _images(path: Path) -> list[np.ndarray]:
    (spec,) = expand_sources([str(path)])
    return [frame.image for frame in Source(spec)]


def _moved(image: np.ndarray, matrix: tuple[float, ...]) -> np.ndarray:
    """The image after each pixel moved to (a x + c y, b x + d y), a pixel at a time."""
    a, b, c, d = (round(number) for number in matrix)
    y, x = np.indices(image.shape[:2])
    to_x, to_y = a * x + c * y, b * x + d * y
    to_x, to_y = to_x - to_x.min(), to_y - to_y.min()
    moved = np.empty((to_y.max() + 1, to_x.max() + 1, 3), image.dtype)
    moved[to_y, to_x] = image
    return moved


def _with_matrix(clip: Path, matrix: tuple[float, ...]) -> Path:
    """An .mp4 with another display matrix in the header of its track."""
    content = clip.read_bytes()
    header = content.index(b"tkhd") + 4 + 40
    a, b, c, d = (round(ONE * number) for number in matrix)
    numbers = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    clip.write_bytes(content[:header] + numbers + content[header + 36 :])
    return clip


@pytest.mark.parametrize("matrix", EIGHT)
@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_each_of_the_eight_orientations(tmp_path, scene, matrix, suffix):
    clip = make_clip(tmp_path / f"clip{suffix}", frames=1, size=(80, 48), scene=scene)
    (plain,) = _images(clip)
    (image,) = _images(_with_matrix(clip, matrix))
    assert np.array_equal(image, _moved(plain, matrix))


@pytest.mark.parametrize("matrix", EIGHT)
def test_a_matrix_that_scales_both_axes(tmp_path, scene, matrix):
    clip = make_clip(tmp_path / "clip.mp4", frames=1, size=(80, 48), scene=scene)
    (plain,) = _images(clip)
    for scale in (0.5, 3):
        (image,) = _images(_with_matrix(clip, tuple(scale * number for number in matrix)))
        assert np.array_equal(image, _moved(plain, matrix))


@pytest.mark.parametrize(
    ("matrix", "shape"), [((2, 0, 0, 1), (48, 160)), ((0, 2, -1, 0), (160, 48)), ((0, -2, -1, 0), (160, 48))]
)
def test_a_matrix_that_scales_one_axis(tmp_path, scene, matrix, shape):
    clip = make_clip(tmp_path / "clip.mp4", frames=1, size=(80, 48), scene=scene)
    (image,) = _images(_with_matrix(clip, matrix))
    assert image.shape[:2] == shape


@pytest.mark.parametrize("matrix", EIGHT)
def test_an_angle_that_is_not_right_is_rounded_also_in_a_mirror(scene, matrix):
    a, b, c, d = matrix
    for degrees in (-30, 10, 40):
        cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turned = (a * cosine - b * sine, a * sine + b * cosine, c * cosine - d * sine, c * sine + d * cosine)
        assert np.array_equal(oriented(scene, turned), _moved(scene, matrix))


def test_a_matrix_of_zeros_says_nothing(tmp_path, scene):
    clip = make_clip(tmp_path / "clip.mp4", frames=1, size=(80, 48), scene=scene)
    (plain,) = _images(clip)
    (image,) = _images(_with_matrix(clip, (0, 0, 0, 0)))
    assert np.array_equal(image, plain)


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, -1), (-1, 0, 0, 1)])
def test_the_roll_and_the_mirror_of_matroska(tmp_path, scene, matrix):
    (plain,) = _images(make_clip(tmp_path / "plain.mkv", frames=1, size=(80, 48), scene=scene))
    a, b, c, d = (ONE * number for number in matrix)
    numbers = (a, b, 0, c, d, 0, 0, 0, 1 << 30)
    (image,) = _images(make_clip(tmp_path / "clip.mkv", frames=1, size=(80, 48), scene=scene, matrix=numbers))
    assert np.array_equal(image, _moved(plain, matrix))


@pytest.mark.parametrize(
    ("words", "matrix"),
    [
        ("rotate=90", (0, -1, 1, 0)),
        ("flip=horizontal", (-1, 0, 0, 1)),
        ("flip=vertical", (1, 0, 0, -1)),
        ("rotate=180:flip=horizontal", (1, 0, 0, -1)),
    ],
)
def test_the_orientation_within_h264_holds_until_the_next_key_frame(tmp_path, scene, words, matrix):
    clip = make_clip(tmp_path / "clip.h264", frames=4, every=2, size=(80, 48), scene=scene)
    plain = _images(clip)
    with av.open(str(clip)) as recorded, av.open(str(tmp_path / "said.h264"), "w") as written:
        copied = written.add_stream_from_template(recorded.streams.video[0])
        description = f"h264_metadata=display_orientation=insert:{words}"
        adds = av.bitstream.BitStreamFilterContext(description, recorded.streams.video[0], copied)
        for number, packet in enumerate(recorded.demux(video=0)):
            for changed in adds.filter(packet) if number < 2 else [packet] * (packet.size > 0):
                changed.stream = copied
                written.mux(changed)
    images = _images(tmp_path / "said.h264")
    assert len(images) == 4
    for image, before in zip(images[:2], plain[:2], strict=True):
        assert np.array_equal(image, _moved(before, matrix))
    assert np.array_equal(images[2], plain[2])


@pytest.mark.parametrize(
    ("aspect", "shape"),
    [
        (Fraction(4, 3), (120, 192)),
        (Fraction(2, 1), (120, 288)),  # anamorphic
        (Fraction(1, 2), (120, 72)),  # half-height fields
        (Fraction(12, 11), (120, 157)),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".h264"])
def test_pixels_are_made_square(tmp_path, suffix, aspect, shape):
    images = _images(make_clip(tmp_path / f"clip{suffix}", frames=2, size=(144, 120), aspect=aspect))
    assert {image.shape for image in images} == {(*shape, 3)}


@pytest.mark.parametrize("aspect", [Fraction(64, 1), Fraction(1, 64), Fraction(9, 2), Fraction(100, 1)])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_an_absurd_aspect_is_ignored_with_one_line(tmp_path, caplog, suffix, aspect):
    clip = make_clip(tmp_path / f"clip{suffix}", frames=3, size=(144, 120), aspect=aspect)
    with caplog.at_level(logging.WARNING):
        images = _images(clip)
    assert {image.shape for image in images} == {(120, 144, 3)}
    (line,) = caplog.messages
    assert "clip" in line
    assert "aspect" in line
    assert f"{float(aspect):.5g}:1" in line


def test_the_container_overrides_the_aspect_of_the_codec(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4", frames=1, size=(144, 120), aspect=Fraction(4, 3))
    content = clip.read_bytes()
    place = content.index(b"pasp") + 4
    clip.write_bytes(content[:place] + struct.pack(">2I", 3, 2) + content[place + 8 :])
    (image,) = _images(clip)
    assert image.shape == (120, 216, 3)


def test_size_and_aspect_that_change_within_a_stream(tmp_path):
    whole = tmp_path / "whole.h264"
    with whole.open("wb") as written:
        for number, (size, aspect) in enumerate(
            [((96, 64), None), ((64, 96), Fraction(2, 1)), ((96, 64), Fraction(1, 1))]
        ):
            clip = make_clip(tmp_path / f"{number}.h264", frames=2, size=size, aspect=aspect)
            written.write(clip.read_bytes())
    shapes = [image.shape[:2] for image in _images(whole)]
    assert shapes == [(64, 96)] * 2 + [(96, 128)] * 2 + [(64, 96)] * 2


def test_a_wide_aspect_enlarges_no_frame_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("seqpar_deploy.video.sources.orientation.MAX_PIXELS", 144 * 120)
    (image,) = _images(make_clip(tmp_path / "clip.mp4", frames=1, size=(144, 120), aspect=Fraction(2, 1)))
    assert image.shape == (60, 144, 3)


def test_decoded_pictures_are_freed_without_a_collection_of_garbage(tmp_path: Path, scene: np.ndarray) -> None:
    size = (86, 46)  # of no other test, whose pictures may be waiting for the collection
    path = make_clip(tmp_path / "clip.mp4", scene=scene, size=size)
    gc.collect()
    gc.disable()
    try:
        assert len(_images(path)) == 20
        left = [each for each in gc.get_objects() if type(each) is av.VideoFrame and (each.width, each.height) == size]
    finally:
        gc.enable()
    assert len(left) <= 2  # the latest one may be held
