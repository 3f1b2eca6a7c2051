"""Recordings, streams and snapshots over HTTP: what they are, and whether recordings are complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from video.clips import make_clip, number_of
from video.web_server import WebServer, serving

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import SourceSpec, expand_sources


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    for name in ("clip.ts", "clip.mkv"):
        make_clip(folder / name, frames=60, every=5)
    make_clip(folder / "clip.mp4", frames=60, every=5, options={"movflags": "+faststart"})
    make_clip(folder / "list.m3u8", frames=60, options={"hls_time": "1", "hls_list_size": "0"})
    playlist = (folder / "list.m3u8").read_text()
    (folder / "main.m3u8").write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=90000\nlist.m3u8\n")
    (folder / "gap.m3u8").write_text(playlist.replace("list2.ts", "lost.ts"))
    (folder / "live.m3u8").write_text(playlist.replace("#EXT-X-ENDLIST", ""))
    (folder / "page").write_text("<html><title>Camera</title>")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[WebServer]:
    with serving(folder) as server:
        yield server


def _spec(url: str, live: bool | None = None) -> SourceSpec:
    (spec,) = expand_sources([url], live=live)
    return spec


@pytest.mark.parametrize(
    ("path", "live", "polled"),
    [
        ("clip.ts", False, False),
        ("clip.mp4?X-Amz-Signature=abc", False, False),
        ("download?file=clip.mp4&sig=abc", False, False),
        ("download?file=clip.mkv&type=text/plain", False, False),  # many servers know few types
        ("clip.ts?unsized&whole", True, False),  # of a live stream no length is known
        ("clip.mp4?unsized&whole", False, False),
        ("page", True, False),  # perhaps of a camera that starts
        ("page?type=video/mp4", True, False),
        ("gone.ts", True, False),
        ("list.m3u8", False, False),
        ("main.m3u8?token=1", False, False),
        ("play?file=list.m3u8&type=application/vnd.apple.mpegurl", False, False),
        ("live.m3u8", True, False),
        ("cgi-bin/snapshot.cgi", True, True),
        ("snapshot?type=application/octet-stream", True, True),
        ("page?file=clip.ts&type=multipart/x-mixed-replace", True, False),
    ],
)
def test_the_answer_tells_what_a_url_is(server: WebServer, path: str, live: bool, polled: bool) -> None:
    spec = _spec(f"{server.url}/{path}")
    assert (spec.live, spec.polled) == (live, polled)


def test_the_option_overrides_the_answer(server: WebServer) -> None:
    assert not _spec(f"{server.url}/live.m3u8", live=False).live
    assert _spec(f"{server.url}/clip.mp4", live=True).live
    assert not _spec("rtsp://127.0.0.1:9/x", live=False).live


def test_a_server_that_is_down_is_judged_by_the_name() -> None:
    names = ("x.mp4", "x.ts", "snap.jpg", "axis-cgi/jpg/image.cgi", "ISAPI/Streaming/channels/101/picture", "video")
    specs = [_spec(f"http://127.0.0.1:9/{name}") for name in names]
    assert [spec.live for spec in specs] == [False, True, True, True, True, True]
    assert [spec.polled for spec in specs] == [False, False, True, True, True, False]


@pytest.mark.parametrize("path", ["clip.ts", "get?file=clip.mp4", "clip.mp4?unsized&whole", "main.m3u8"])
def test_a_recording_ends(server: WebServer, path: str) -> None:
    source = Source(_spec(f"{server.url}/{path}"))
    assert [number_of(frame.image) for frame in source] == [number % 20 for number in range(60)]
    assert source.stats.state == "ended"


@pytest.mark.parametrize(
    "path", ["clip.ts?cut=0.6", "clip.mp4?cut=0.6", "clip.mkv?cut=0.6", "clip.mkv?cut=0.5&unsized&whole", "gap.m3u8"]
)
def test_a_recording_that_breaks_off_says_so(server: WebServer, path: str) -> None:
    source = Source(_spec(f"{server.url}/{path}"))
    with pytest.raises(VideoError, match=r"cannot be read in full: .*incomplete: \d+\.\d s"):
        list(source)
    assert 5 < source.stats.frames < 55
    assert source.stats.state == "failed"


def test_playlists_in_files(folder: Path) -> None:
    assert [_spec(str(folder / name)).live for name in ("list.m3u8", "main.m3u8", "live.m3u8")] == [False, False, True]
    assert len(list(Source(_spec(str(folder / "list.m3u8"))))) == 60
    with pytest.raises(VideoError, match="incomplete"):
        list(Source(_spec(str(folder / "gap.m3u8"))))


def test_a_playlist_in_a_folder_stands_for_its_segments(folder: Path, tmp_path: Path) -> None:
    for file in folder.glob("*list*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "other.ts").write_bytes(b"x")
    assert [Path(spec.place).name for spec in expand_sources([str(tmp_path)])] == ["list.m3u8", "other.ts"]
