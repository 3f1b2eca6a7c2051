"""Recordings: every picture, or one clear line."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from video.clips import grey, make_clip, make_sound, number_of
from video.faulty import END, opener

from seqpar_deploy.errors import BackendUnavailableError, VideoError
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import expand_sources
from seqpar_deploy.video.sources.state import SourceOptions
from seqpar_deploy.video.types import Frame

STREET = Path(__file__).parents[2] / "samples" / "vtest" / "street.mp4"


def _source(path: Path) -> Source:
    (spec,) = expand_sources([str(path)])
    return Source(spec)


def _frames(path: Path) -> list[Frame]:
    return list(_source(path))


def test_every_picture_of_the_sample_clip():
    source = _source(STREET)
    frames = list(source)
    assert [frame.index for frame in frames] == list(range(100))
    assert [frame.timestamp for frame in frames] == pytest.approx([number / 10 for number in range(100)])
    assert {frame.image.shape for frame in frames} == {(576, 768, 3)}
    assert {frame.stream for frame in frames} == {"street"}
    assert frames[0].image.dtype == np.uint8
    stats = source.stats
    assert (stats.state, stats.frames, stats.decode_errors, stats.width, stats.height) == ("ended", 100, 0, 768, 576)
    assert stats.length == _source(STREET).probe_length() == 100


def test_frames_that_are_not_analysed_are_counted_and_the_others_are_the_same(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")  # 10 per second
    (spec,) = expand_sources([str(clip)])
    source = Source(spec, options=SourceOptions(max_fps=4, adaptive_fps=True))  # a recording drops nothing
    frames, every = list(source), _frames(clip)
    assert [frame.index for frame in frames] == [0, 3, 5, 8, 10, 13, 15, 18]
    for frame in frames:
        assert frame.timestamp == every[frame.index].timestamp
        assert np.array_equal(frame.image, every[frame.index].image)
    assert (source.stats.frames, source.stats.skipped, source.stats.dropped) == (20, 12, 0)
    for fps in (0, -1, float("nan")):
        with pytest.raises(VideoError, match="max_fps must be above 0"):
            SourceOptions(max_fps=fps)


def test_a_slow_consumer_loses_no_picture_of_a_file(tmp_path):
    source = _source(make_clip(tmp_path / "clip.mp4"))
    queue = source.start(size=2)
    assert queue.take()[0].index == 0
    assert source.stats.frames <= 5  # taken, two that wait, one in hand
    assert [number_of(frame.image) for frame in queue] == list(range(1, 20))
    assert source.stats.dropped == 0


def test_closing_ends_a_thread_that_waits(tmp_path):
    with _source(make_clip(tmp_path / "clip.mp4")) as source:
        queue = source.start(size=2)
        queue.take()
    assert len(list(queue)) <= 2
    assert source.stats.state == "closed"
    assert source._thread is not None
    assert not source._thread.is_alive()


def test_stamps_of_a_variable_frame_rate(tmp_path):
    times = [0, 1, 3, 4, 9, 30, 31, 600]
    frames = _frames(make_clip(tmp_path / "clip.mkv", frames=8, times=times))
    assert [frame.timestamp for frame in frames] == pytest.approx([stamp / 10 for stamp in times], abs=0.002)


@pytest.mark.parametrize(("codec", "pixels"), [("libx264", "yuv444p"), ("ffv1", "gray"), ("ffv1", "rgba64le")])
def test_pixel_formats(tmp_path, codec, pixels):
    frames = _frames(make_clip(tmp_path / "clip.mkv", frames=3, codec=codec, pixels=pixels))
    assert [number_of(frame.image) for frame in frames] == [0, 1, 2]


def test_the_length_of_a_container_without_a_frame_count(tmp_path):
    assert _source(make_clip(tmp_path / "clip.mkv", frames=30)).probe_length() == pytest.approx(30, abs=1)
    (tmp_path / "page.mp4").write_text("<!DOCTYPE html>" * 100)
    assert _source(tmp_path / "page.mp4").probe_length() == 0


def test_odd_sizes(tmp_path):
    frames = _frames(make_clip(tmp_path / "clip.mkv", frames=3, codec="ffv1", pixels="yuv420p", size=(161, 119)))
    assert [frame.image.shape for frame in frames] == [(119, 161, 3)] * 3


def test_a_picture_is_a_video_of_one_frame(tmp_path):
    Image.new("RGB", (40, 30), (grey(3),) * 3).save(tmp_path / "picture.png")
    (frame,) = _frames(tmp_path / "picture.png")
    assert (frame.index, frame.timestamp, number_of(frame.image)) == (0, 0.0, 3)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi", ".flv", ".nut"])
@pytest.mark.parametrize(
    ("text", "encoding"), [("门口摄像机录像", "gbk"), ("Überwachung Tür", "latin-1"), ("駐車場カメラ", "shift-jis")]
)
def test_titles_in_other_encodings_than_utf8(tmp_path, suffix, text, encoding):
    raw = text.encode(encoding)
    with pytest.raises(UnicodeDecodeError):
        raw.decode()
    path = make_clip(tmp_path / f"clip{suffix}", frames=3, title="T" * len(raw))
    content = path.read_bytes()
    assert content.count(b"T" * len(raw)) >= 1
    path.write_bytes(content.replace(b"T" * len(raw), raw))
    assert [number_of(frame.image) for frame in _frames(path)] == [0, 1, 2]


@pytest.mark.parametrize(
    "error", [IndexError("x"), ValueError("x\ny"), MemoryError(), UnicodeDecodeError("a", b"", 0, 1, "x")]
)
def test_any_exception_of_the_library_ends_a_recording_after_its_frames(tmp_path, monkeypatch, error):
    clip = make_clip(tmp_path / "clip.mp4")
    monkeypatch.setattr(av, "open", opener(itertools.repeat(error), after=7))
    source = _source(clip)
    queue = source.start(size=100)
    frames = [queue.take()[0] for _ in range(7)]
    assert [number_of(frame.image) for frame in frames] == list(range(7))
    with pytest.raises(VideoError, match=rf"clip\.mp4 cannot be read.*: .*{type(error).__name__}") as refused:
        list(queue)
    assert "\n" not in str(refused.value)


def test_the_exception_of_pyav_at_the_end_of_a_recording_whose_sound_came_later_is_its_end(tmp_path, monkeypatch):
    clip = make_clip(tmp_path / "clip.mp4")
    monkeypatch.setattr(av, "open", opener(itertools.repeat(IndexError("list index out of range")), after=END))
    assert len(_frames(clip)) == 20


def test_damaged_packets_are_counted_and_the_others_read(tmp_path):
    path = make_clip(tmp_path / "clip.mp4", frames=20, every=1)
    content = bytearray(path.read_bytes())
    begin = content.index(b"mdat") + 4
    middle = begin + (content.index(b"moov") - begin) // 2
    content[middle : middle + 300] = bytes(range(256)) + bytes(44)
    path.write_bytes(bytes(content))
    source = _source(path)
    frames = list(source)
    assert source.stats.decode_errors >= 1
    assert 12 <= len(frames) < 20
    assert (number_of(frames[0].image), number_of(frames[-1].image)) == (0, 19)


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.avi"])
def test_a_file_that_breaks_off_gives_what_it_has_and_is_incomplete(tmp_path, name):
    options = {"movflags": "+faststart"} if name.endswith("mp4") else {}
    path = make_clip(tmp_path / name, frames=60, every=1, options=options)
    assert len(list(_source(path))) == 60
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    numbers = []
    with pytest.raises(VideoError, match=r"incomplete: .* of 6\.0 s could be read; copy it again"):
        numbers.extend(number_of(frame.image) for frame in _source(path))
    assert numbers == [number % 20 for number in range(len(numbers))]
    assert 3 <= len(numbers) < 50


def test_what_cannot_be_read_is_said_in_one_line(tmp_path):
    clip = make_clip(tmp_path / "clip.mp4")
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])  # its index was at the end
    (tmp_path / "page.mp4").write_text("<!DOCTYPE html><title>Camera</title>" * 100)
    make_sound(tmp_path / "sound.mp4")
    for name, says in (
        ("cut.mp4", "unknown to FFmpeg"),
        ("page.mp4", "unknown to FFmpeg"),
        ("sound.mp4", "audio only"),
    ):
        source = _source(tmp_path / name)
        with pytest.raises(VideoError, match=f"{name} cannot be read.*: .*{says}") as refused:
            list(source.start())
        assert "\n" not in str(refused.value)
        assert source.stats.state == "failed"
        assert says in source.stats.last_error


def test_without_pyav_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'seqpar-deploy\[video\]'"):
        _source(STREET)
