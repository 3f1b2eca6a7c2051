from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import expand_sources


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
        ("https://127.0.0.1:9/live.m3u8", "127.0.0.1-9-live.m3u8", True, "https://127.0.0.1:9/live.m3u8"),
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
        ("rtsp://me:secret@camera 1/s", r"rtsp://.*invalid URL.*no spaces"),
        ("rtsp://<camera>/s", r"rtsp://.*invalid URL"),
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


@pytest.mark.parametrize(
    "suffix",
    "3gp 3g2 ogv h264 265 hevc 264 mjpeg mjpg gif mxf vob asf rm y4m dav f4v ivf m2v MP4 Ts 3GP".split(),  # noqa: SIM905
)
def test_every_kind_that_is_read_when_named_is_read_in_a_folder(tmp_path, suffix):
    (tmp_path / f"clip.{suffix}").write_bytes(b"video")
    (spec,) = expand_sources([str(tmp_path)])
    assert spec.place == str(tmp_path / f"clip.{suffix}")


def _names(*sources: object) -> list[str]:
    return [Path(spec.place).name for spec in expand_sources([str(source) for source in sources])]


def test_linked_folders_are_entered_once(tmp_path):
    recordings, elsewhere = tmp_path / "recordings", tmp_path / "elsewhere"
    for folder in (recordings / "real", elsewhere):
        folder.mkdir(parents=True)
        (folder / f"{folder.name}.mp4").write_bytes(b"video")
    (recordings / "loop").symlink_to("..", target_is_directory=True)
    (recordings / "a_link").symlink_to("real", target_is_directory=True)
    (recordings / "disk").symlink_to(elsewhere, target_is_directory=True)
    specs = expand_sources([str(recordings)])
    assert [os.path.relpath(spec.place, recordings) for spec in specs] == ["disk/elsewhere.mp4", "real/real.mp4"]


def test_hidden_and_unfinished_files_are_left_out(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    names = "a.mp4", ".b.mp4", "._a.mp4", "c.mp4.part", "d.mkv.crdownload", ".trash/e.mp4", "@eaDir/f.mp4", "g.mp3"
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"video")
    assert _names(tmp_path) == ["a.mp4"]
    (line,) = caplog.messages
    assert "unfinished" in line
    assert line.endswith(", 2")


def test_what_cannot_be_read_in_a_folder_is_a_source_that_fails(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.mp4").write_bytes(b"video")
    (tmp_path / "latest.mp4").symlink_to("gone.mp4")
    scandir = os.scandir

    def refuse(place):  # root may read every folder
        if str(place).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(place))
        return scandir(place)

    monkeypatch.setattr(os, "scandir", refuse)
    specs = {Path(spec.place).name: spec for spec in expand_sources([str(tmp_path)])}
    assert list(specs) == ["a.mp4", "closed", "latest.mp4"]
    for name, says in (("closed", "Permission denied"), ("latest.mp4", "link")):
        with pytest.raises(VideoError, match=f"{name} cannot be read: .*{says}"):
            list(Source(specs[name]))
    with pytest.raises(VideoError, match=r"closed cannot be read: .*Permission"):
        expand_sources([str(tmp_path / "closed")])


@pytest.mark.parametrize("other", ["./a.mp4", "linked/a.mp4", "deep/../a.mp4", "file://{}/a.mp4"])
def test_two_names_of_one_file_are_one_source_and_one_line(tmp_path, monkeypatch, caplog, other):
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.mp4").write_bytes(b"video")
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    assert _names("a.mp4", other.format(tmp_path)) == ["a.mp4"]
    (line,) = caplog.messages
    assert "a.mp4" in line
    assert "twice" in line


def test_a_link_is_a_source_of_its_own_if_named_and_read_once_in_a_folder(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    (tmp_path / "b.mp4").write_bytes(b"video")
    (tmp_path / "a.mp4").symlink_to("b.mp4")
    assert _names(tmp_path / "a.mp4", tmp_path / "b.mp4") == ["a.mp4", "b.mp4"]
    assert caplog.messages == []
    assert _names(tmp_path) == ["b.mp4"]
    assert "links" in caplog.text


def test_two_ways_to_write_an_address_are_one_source(caplog):
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    (spec,) = expand_sources(["rtsp://me:secret@Camera.local/1", "RTSP://me:secret@camera.local:554/1"])
    assert (spec.place, spec.live) == ("rtsp://me:secret@Camera.local/1", True)
    assert "secret" not in caplog.text
    assert len(expand_sources(["RTSP://camera/1", "rtsp://camera/2"])) == 2
    assert expand_sources(["HTTP://camera/x.MP4"])[0].place == "http://camera/x.MP4"


def test_a_glob_in_a_folder_with_brackets(tmp_path):
    (tmp_path / "cam[1]").mkdir()
    for name in ("clip10.mp4", "clip9.mp4", "notes.txt"):
        (tmp_path / "cam[1]" / name).write_bytes(b"video")
    assert _names(tmp_path / "cam[1]" / "*.mp4") == ["clip9.mp4", "clip10.mp4"]
    assert _names(tmp_path / "cam[1]" / "*") == ["clip9.mp4", "clip10.mp4"]
    assert _names(tmp_path / "*") == ["clip9.mp4", "clip10.mp4"]


def test_live_and_recorded_sources_need_an_option_to_be_mixed(folder):
    names = [str(folder / "b.mp4"), "rtsp://127.0.0.1:9/x"]
    with pytest.raises(VideoError, match=r"--live or --recorded"):
        expand_sources(names)
    assert [spec.live for spec in expand_sources(names, live=True)] == [True, True]
    assert [spec.live for spec in expand_sources(names, live=False)] == [False, False]


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(fps: float, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="fps must be above 0"):
        expand_sources([str(tmp_path)], fps=fps)
