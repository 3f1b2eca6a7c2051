"""The stream that is read: no cover, no thumbnails, and the best of several."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from video.clips import make_clip, make_cover, make_sound, mux, number_of, two_programs

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import expand_sources
from seqpar_deploy.video.types import Frame

DEFAULT, ATTACHED, TIMED = 1 << 0, 1 << 10, 1 << 11


def _frames(path: Path) -> list[Frame]:
    (spec,) = expand_sources([str(path)])
    return list(Source(spec))


def _is_recording(frames: list[Frame], size: tuple[int, int] = (160, 120)) -> bool:
    return [number_of(frame.image) for frame in frames] == list(range(20)) and {
        frame.image.shape for frame in frames
    } == {(size[1], size[0], 3)}


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> dict[str, Path]:
    """Clips with one stream each: small, large, thumbnails, covers and sounds."""
    folder = tmp_path_factory.mktemp("parts")
    sounds = {codec: make_sound(folder / f"{codec}.mkv", codec=codec) for codec in ("mp2", "aac", "flac", "libmp3lame")}
    covers = {codec: make_cover(folder / f"{codec}.mov", codec=codec, size=(640, 480)) for codec in ("mjpeg", "png")}
    thumbnails = {"frames": 2, "times": [0, 10], "codec": "mjpeg", "pixels": "yuvj420p"}
    return {
        **sounds,
        **covers,
        "small": make_clip(folder / "small.mkv"),
        "large": make_clip(folder / "large.mkv", size=(320, 240)),
        "thumbnails": make_clip(folder / "thumbnails.mkv", size=(80, 60), **thumbnails),
        "large thumbnails": make_clip(folder / "large_thumbnails.mkv", size=(640, 480), **thumbnails),
    }


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("disposition", [0, DEFAULT, ATTACHED])
@pytest.mark.parametrize("first", [True, False])
def test_a_cover_hides_no_recording(tmp_path, parts, suffix, disposition, first):
    clips, flags = [parts["mjpeg"], parts["small"], parts["mp2"]], [disposition, 0, 0]
    if not first:
        clips, flags = clips[::-1], flags[::-1]
    assert _is_recording(_frames(mux(tmp_path / f"clip{suffix}", *clips, dispositions=flags)))


def test_a_cover_in_png_hides_no_recording(tmp_path, parts):
    assert _is_recording(_frames(mux(tmp_path / "clip.mp4", parts["png"], parts["small"])))


@pytest.mark.parametrize(
    ("name", "sound", "cover"),
    [
        ("music.mp3", "libmp3lame", "mjpeg"),
        ("music.mp3", "libmp3lame", "png"),
        ("music.flac", "flac", "mjpeg"),
        ("music.mp4", "aac", "mjpeg"),
        ("music.mkv", "mp2", "mjpeg"),
        ("music.wma", "mp2", "png"),
    ],
)
def test_music_with_a_cover_is_no_video(tmp_path, parts, name, sound, cover):
    path = mux(tmp_path / name, parts[sound], parts[cover], dispositions=[DEFAULT, ATTACHED])
    with pytest.raises(VideoError, match=rf"{name} .*must contain a video.*audio and a cover"):
        _frames(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_music_whose_cover_is_not_marked_is_no_video(tmp_path, parts, suffix):
    path = mux(tmp_path / f"music{suffix}", parts["mjpeg"], parts["mp2"])
    with pytest.raises(VideoError, match="audio and a cover"):
        _frames(path)


def test_a_film_of_pictures_with_sound_is_a_video(tmp_path, parts):
    film = make_clip(tmp_path / "film.mkv", codec="mjpeg", pixels="yuvj420p")
    assert _is_recording(_frames(mux(tmp_path / "clip.mkv", film, parts["mp2"])))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
@pytest.mark.parametrize("thumbnails", ["thumbnails", "large thumbnails"])
def test_thumbnails_are_no_video(tmp_path, parts, suffix, thumbnails):
    for clips in ([parts["small"], parts[thumbnails]], [parts[thumbnails], parts["small"]]):
        assert _is_recording(_frames(mux(tmp_path / f"clip{suffix}", *clips)))


def test_timed_thumbnails_are_no_video(tmp_path, parts):
    flags = [ATTACHED | TIMED, DEFAULT]
    path = mux(tmp_path / "clip.mp4", parts["large thumbnails"], parts["small"], dispositions=flags)
    assert _is_recording(_frames(path))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".mov"])
def test_the_largest_of_several_streams_is_read_and_named(tmp_path, parts, caplog, suffix):
    for number, clips in enumerate(([parts["small"], parts["large"]], [parts["large"], parts["small"]])):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            assert _is_recording(_frames(mux(tmp_path / f"clip{suffix}", *clips)), (320, 240))
        (line,) = caplog.messages
        assert f"stream {1 - number}" in line
        assert "320 x 240" in line
        assert "of 2" in line


def test_the_default_of_streams_of_one_size_is_read(tmp_path, parts):
    other = make_clip(tmp_path / "other.mkv", scene=np.full((120, 160, 3), 200, np.uint8))
    for flags in ([DEFAULT, 0], [0, DEFAULT]):
        frames = _frames(mux(tmp_path / "clip.mkv", parts["small"], other, dispositions=flags))
        assert _is_recording(frames) == (flags[0] == DEFAULT)


def test_the_best_program_of_a_multiplex_is_read_and_named(tmp_path, parts, caplog):
    for number, names in enumerate((("small", "large"), ("large", "small"))):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            path = two_programs(tmp_path / "clip.ts", *(parts[name] for name in names))
            assert _is_recording(_frames(path), (320, 240))
        (line,) = caplog.messages
        assert f"{0x100 * (2 - number):#x}" in line
        assert "of 2" in line


def test_one_stream_needs_no_line(tmp_path, parts, caplog):
    with caplog.at_level(logging.INFO):
        _frames(mux(tmp_path / "clip.mkv", parts["small"], parts["mp2"]))
    assert caplog.messages == []


def test_a_stream_without_a_decoder_loses(tmp_path, parts):
    path = mux(tmp_path / "clip.mp4", parts["large"], parts["small"])
    content = path.read_bytes()
    codec = content.index(b"avc1", content.index(b"stsd"))
    path.write_bytes(content[:codec] + b"zzzz" + content[codec + 4 :])
    assert _is_recording(_frames(path))
    alone = mux(tmp_path / "alone.mp4", parts["small"])
    alone.write_bytes(alone.read_bytes().replace(b"avc1\0\0", b"zzzz\0\0"))
    with pytest.raises(VideoError, match=r"alone\.mp4 .*no decoder.*H\.264"):
        _frames(alone)


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".mkv"])
def test_damaged_sound_is_ignored(tmp_path, parts, suffix):
    path = mux(tmp_path / f"clip{suffix}", parts["small"], parts["mp2"])
    whole = path.read_bytes()
    damaged = whole.replace(b"\xff\xfd", b"\0\0")  # the beginning of each packet of sound
    assert damaged != whole
    path.write_bytes(damaged)
    assert _is_recording(_frames(path))


@pytest.mark.parametrize("codec", ["libx264", "mjpeg", "ffv1"])
def test_giant_frames_are_refused_before_they_fill_the_memory(tmp_path, monkeypatch, codec):
    pixels = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    clip = make_clip(tmp_path / "giant.mkv", frames=3, codec=codec, pixels=pixels)
    for module in ("opening", "source", "stream_choice"):
        monkeypatch.setattr(f"seqpar_deploy.video.sources.{module}.MAX_PIXELS", 160 * 120 - 1)
    with pytest.raises(VideoError, match=r"giant\.mkv .*19199"):
        _frames(clip)
