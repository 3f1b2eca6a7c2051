"""Live sources: faults of the data and of the decoding library, and cameras that do as they like."""

from __future__ import annotations

import itertools

import av
import pytest
from video.clips import make_clip, make_sound, mux
from video.faulty import opener
from video.rtsp_server import RtspServer
from video.watched import IMPATIENT, grows

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.sources.state import SourceOptions

pytestmark = pytest.mark.heavy

HASTY = SourceOptions(first_retry=0.01, longest_retry=0.02, same_faults=4)
ERRORS = [
    IndexError("list index out of range"),
    ValueError("a\nb"),
    UnicodeDecodeError("utf-8", b"\xb2", 0, 1, "invalid start byte"),
    OverflowError(),
    RuntimeError(),
    MemoryError(),
    av.error.BugError(1, "Bug"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_after_any_fault_a_live_source_reconnects(server, live_clip, watch, monkeypatch, error):
    monkeypatch.setattr(av, "open", opener(itertools.chain([error] * 3, itertools.repeat(None)), after=5))
    live = watch(server.url(clips=[live_clip], speed=20), HASTY, size=100)
    frames = live.take(40)
    assert live.source.stats.reconnects == 3
    assert grows(frames)
    live.hear("connection lost")


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_the_same_fault_without_a_frame_is_not_retried_for_ever(server, live_clip, watch, monkeypatch, error):
    monkeypatch.setattr(av, "open", opener(itertools.repeat(error), after=0))
    live = watch(server.url(clips=[live_clip], speed=20), HASTY)
    with pytest.raises(VideoError, match=r"cannot be read.*: .*4 times") as refused:
        list(live.frames)
    assert "\n" not in str(refused.value)
    assert live.source.stats.state == "failed"


def test_faults_that_differ_and_faults_of_the_network_are_retried(server, live_clip, watch, monkeypatch):
    lost = av.error.ConnectionResetError(104, "Connection reset by peer")
    mixed = [IndexError(), IndexError(), IndexError(), lost, IndexError(), ValueError()] * 2
    errors = itertools.chain(mixed, [lost] * 8, itertools.repeat(None))
    monkeypatch.setattr(av, "open", opener(errors, after=0))
    live = watch(server.url(clips=[live_clip], speed=20), HASTY)
    assert grows(live.take(5))


@pytest.mark.parametrize("streams", [1, 2])
def test_sound_that_comes_later(server, live_clip, watch, tmp_path, streams):
    sounds = [make_sound(tmp_path / "sound.ts")] * streams
    both = mux(tmp_path / "both.ts", live_clip, *sounds)
    live = watch(server.url(clips=[live_clip, both, both, live_clip], speed=10), size=200)
    frames = live.take(100)
    assert grows(frames)
    assert live.source.stats.reconnects == 0


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("end", [{}, {"chunked": 1}])
def test_a_connection_that_ends_after_sound_came_later_is_found_again(server, live_clip, watch, tmp_path, streams, end):
    both = mux(tmp_path / "both.ts", live_clip, *[make_sound(tmp_path / "sound.ts")] * streams)
    live = watch(server.url(clips=[live_clip, both], speed=20, end_after=60, **end), size=200)
    frames = live.take(60)
    assert live.source.stats.reconnects >= 1
    assert grows(frames)


@pytest.mark.parametrize("raw", ["门口摄像机".encode("gbk"), "Tür".encode("latin-1")])
def test_a_title_that_is_not_utf8(server, watch, tmp_path, raw):
    clip = make_clip(tmp_path / "clip.flv", title="T" * len(raw))
    clip.write_bytes(clip.read_bytes().replace(b"T" * len(raw), raw))
    live = watch(server.url("file.flv", file=clip), size=100)
    assert grows(live.take(30))


@pytest.mark.parametrize("tcp", ["461", "400", "501", "close", "mute", "end"])
def test_a_camera_that_refuses_rtsp_over_tcp(live_clip, watch, tcp):
    with RtspServer() as camera:
        live = watch(camera.url(clip=live_clip, speed=4, tcp=tcp), IMPATIENT)
        frames = live.take(10)
        live.hear("UDP")
        camera.kill()
        live.hear("connection lost")
        camera.start()
        live.hear(": reconnected")
        assert grows(frames + live.take(10))


def test_a_transport_that_is_given_is_not_changed(live_clip, watch):
    with RtspServer() as camera:
        tcp = SourceOptions(rtsp_transport="tcp", connect_timeout=1.0, silence_timeout=0.5)
        refused = watch(camera.url(clip=live_clip, tcp="461"), tcp)
        assert "over TCP; change --rtsp-transport" in refused.said()
        refused.until(lambda: refused.source.stats.back_off > 0.3)
        assert refused.source.stats.frames == 0
        udp = watch(camera.url(clip=live_clip, speed=4, tcp="400"), SourceOptions(rtsp_transport="udp"))
        assert grows(udp.take(10))
        assert udp.lines.empty()


def test_a_camera_that_has_neither_transport_is_retried(live_clip, watch):
    with RtspServer() as camera:
        live = watch(camera.url(clip=live_clip, tcp="461", udp="461"), IMPATIENT)
        assert "TCP and UDP" in live.said()
        live.until(lambda: live.source.stats.back_off > 0.3)
        assert live.source.stats.state in ("connecting", "lost")


@pytest.mark.parametrize("scheme", ["RTSP", "Rtsp"])
def test_a_scheme_in_capitals(live_clip, watch, scheme):
    with RtspServer() as camera:
        url = camera.url(clip=live_clip, speed=4, tcp="461")
        assert grows(watch(url.replace("rtsp", scheme, 1)).take(5))


def test_http_in_capitals(server, live_clip, watch):
    assert grows(watch(server.url(clips=[live_clip], speed=4).replace("http", "HTTP", 1)).take(5))


@pytest.mark.parametrize(
    "style",
    [
        "usual", "no_first_boundary", "picture_first", "no_dashes", "other_boundary", "no_length", "image_jpg",
        "no_type", "no_headers", "no_boundaries", "long_length", "short_length", "line_feeds",
    ],
)  # fmt: skip
def test_mjpeg_with_the_mistakes_of_cameras(server, live_clip, watch, style):
    live = watch(server.url("camera.mjpg", clips=[live_clip], speed=4, style=style), size=100)
    frames = live.take(15)
    assert grows(frames)
    assert {frame.image.shape for frame in frames} == {(120, 160, 3)}
    assert live.source.stats.reconnects == 0
    assert live.lines.empty()


def test_a_web_page_is_not_taken_for_mjpeg(server, watch):
    live = watch(server.url("page.ts"), IMPATIENT)
    assert "unknown to FFmpeg" in live.said()
    live.until(lambda: live.source.stats.back_off > 0.5)
    assert live.lines.empty()
