from __future__ import annotations

import pytest

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.source_spec import expand_sources


@pytest.fixture
def folder(tmp_path):
    for name in ("b.mp4", "a.mkv", "notes.txt", "deep/a.MP4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"video")
    (tmp_path / "empty.mp4").touch()
    return tmp_path


def test_files_folders_and_globs_get_short_names_that_differ(folder):
    (folder / "empty.mp4").unlink()
    specs = expand_sources([str(folder / "b.mp4"), str(folder), str(folder / "*.mkv")])
    assert [(spec.name, spec.place, spec.live) for spec in specs] == [
        ("b", str(folder / "b.mp4"), False),
        ("a", str(folder / "a.mkv"), False),
        ("a-2", str(folder / "deep" / "a.MP4"), False),
    ]


@pytest.mark.parametrize(
    ("place", "name", "live", "shown"),
    [
        ("rtsp://me:secret@cam1.local:554/s/1?t=x", "cam1.local-554-s-1", True, "rtsp://cam1.local:554/s/1"),
        ("https://host/live.m3u8", "host-live.m3u8", True, "https://host/live.m3u8"),
        ("http://host/clip.mp4", "host-clip.mp4", False, "http://host/clip.mp4"),
        ("udp://@239.0.0.1:1234", "239.0.0.1-1234", True, "udp://239.0.0.1:1234"),
        ("srt://host:9000", "host-9000", True, "srt://host:9000"),
    ],
)
def test_streams(place, name, live, shown):
    (spec,) = expand_sources([place])
    assert (spec.name, spec.place, spec.live, spec.shown) == (name, place, live, shown)
    assert spec.is_url


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("{}/missing.mp4", "missing.mp4 does not exist"),
        ("{}/*.mov", r"\*\.mov.* got none"),
        ("{}/empty.mp4", "empty.mp4 .* an empty file"),
        ("{}/deep/none", "does not exist"),
        ("ftp://host/a.mp4", "ftp://"),
        ("", "empty"),
        ("rtsp://[::1/s", r"rtsp://.*invalid URL"),
        ("http://me:se#cret@host/s", r"http://.*invalid URL"),
        ("http:///s", "no host"),
        ("987", "camera /dev/video987 does not exist"),
    ],
)
def test_what_stands_for_nothing_is_refused_in_one_line(folder, name, says):
    with pytest.raises(VideoError, match=says) as refused:
        expand_sources([name.format(folder)])
    assert "\n" not in str(refused.value)
    assert "cret" not in str(refused.value)


def test_a_folder_without_videos_and_no_sources_at_all(tmp_path):
    with pytest.raises(VideoError, match=r"videos .*got none"):
        expand_sources([str(tmp_path)])
    with pytest.raises(VideoError, match="got none"):
        expand_sources([])
