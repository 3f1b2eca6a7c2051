"""Live sources: they come back, whatever happens to them."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import av
import pytest
from video import gst_rtsp_server
from video.clips import make_clip, make_sound, recode
from video.gst_rtsp_server import GstRtspServer
from video.rtsp_server import RtspServer
from video.stream_server import StreamServer
from video.watched import IMPATIENT, PATIENCE, grows

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import expand_sources
from seqpar_deploy.video.sources.state import SourceOptions

pytestmark = pytest.mark.heavy


def test_a_server_killed_and_restarted_is_found_again(live_clip, watch):
    with StreamServer() as server:
        live = watch(server.url(clips=[live_clip], speed=4))
        frames = live.take(5)
        for time_killed in range(1, 4):
            server.kill()
            assert "connection lost" in live.said()
            live.until(lambda: live.source.stats.state == "lost")
            assert 0 < live.source.stats.back_off <= 2
            server.start()
            live.until(lambda number=time_killed: live.source.stats.reconnects == number)
            frames += live.take(5)
            live.hear(": reconnected")
        assert grows(frames)
        assert live.source.stats.back_off == 0


def test_time_stamps_go_on_over_a_connection_that_ends(server, live_clip, watch):
    live = watch(server.url(clips=[live_clip], speed=4, end_after=12, origin=5000), size=100)
    frames = live.take(30)
    assert live.source.stats.reconnects >= 2
    assert grows(frames)
    assert frames[-1].timestamp < 60
    assert "the connection was closed" in live.said()


def test_a_change_of_resolution_needs_no_new_connection(server, live_clip, watch, tmp_path):
    small = make_clip(tmp_path / "small.ts", size=(96, 64))
    live = watch(server.url(clips=[live_clip, small], speed=8), size=100)
    frames = live.take(50)
    assert {frame.image.shape for frame in frames} == {(120, 160, 3), (64, 96, 3)}
    assert grows(frames)
    assert live.source.stats.reconnects == 0


def test_a_change_of_codec(server, live_clip, watch, tmp_path):
    other = make_clip(tmp_path / "other.ts", codec="mpeg2video")
    live = watch(server.url(clips=[live_clip] + [other] * 100, speed=8), IMPATIENT)
    live.hear("cannot be decoded")
    live.hear(": reconnected")
    assert grows(live.take(9))


def test_damage_is_counted_and_survived(server, live_clip, watch):
    live = watch(server.url(clips=[live_clip], speed=20, damage=0.01), size=1000)
    live.until(lambda: live.source.stats.decode_errors > 0)
    assert grows(live.take(100))


def test_silence_is_noticed(server, live_clip, watch):
    live = watch(server.url(clips=[live_clip], speed=8, silent_after=15), IMPATIENT, size=100)
    assert "no answer for 0.5 s" in live.said()
    live.hear(": reconnected after")
    assert grows(live.take(20))


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("silence.ts", "no answer"),
        ("none.ts", "404 Not Found"),
        ("page.ts", "unknown to FFmpeg"),
    ],
)
def test_what_is_no_video_yet_is_retried_and_logged_once(server, watch, path, says):
    live = watch(server.url(path), IMPATIENT)
    said = live.said()
    assert "cannot connect: " in said
    assert says in said
    live.until(lambda: live.source.stats.back_off > 0.3)
    assert live.lines.empty()
    assert says in live.source.stats.last_error
    live.source.close()
    assert list(live.frames) == []


def test_a_camera_over_rtsp_is_found_again(live_clip, watch):
    with RtspServer() as camera:
        live = watch(camera.url(clip=live_clip, speed=4))
        frames = live.take(20)
        camera.kill()
        live.hear("connection lost")
        camera.start()
        live.hear(": reconnected")
        frames += live.take(10)
        assert grows(frames)


def test_a_camera_over_rtsp_that_falls_silent(live_clip, watch):
    with RtspServer() as camera:
        live = watch(
            camera.url(clip=live_clip, speed=8, silent_after=15),
            SourceOptions(connect_timeout=1.0, silence_timeout=1.0),
        )
        live.take(14)
        live.hear("connection lost: no answer for 1 s")
        live.hear(": reconnected")


def test_a_camera_that_comes_late_and_one_that_never_answers(live_clip, watch):
    camera = RtspServer()
    live = watch(camera.url(clip=live_clip, speed=4), IMPATIENT)
    assert "cannot connect: Connection refused" in live.said()
    with camera:
        camera.freeze()
        live.hear("not connected yet: no answer for 0.5 s")
        camera.thaw()
        live.hear(": connected after")


@pytest.mark.skipif(not gst_rtsp_server.is_there(), reason="Debian's GStreamer RTSP server is not installed")
def test_a_camera_of_gstreamer_is_found_again_and_changes_resolution(live_clip, watch, tmp_path):
    clips = [recode(live_clip, tmp_path / f"{width}.h264", size=(width, 96)) for width in (128, 64)]
    with GstRtspServer(*clips) as camera:
        live = watch(camera.url())
        frames = live.take(5)
        camera.kill()
        live.hear("connection lost")
        camera.start()
        frames += live.take(5)
        while frames[-1].image.shape != (96, 64, 3):
            frames += live.take(1)
        assert grows(frames)
        assert frames[-1].timestamp > 2
        assert live.source.stats.reconnects == 1


def test_sound_alone(server, watch, tmp_path):
    live = watch(server.url(clips=[make_sound(tmp_path / "sound.ts")], speed=8), IMPATIENT)
    assert "audio only" in live.said()


def test_nobody_has_time(server, live_clip, watch):
    live = watch(server.url(clips=[live_clip], speed=0), size=2)
    live.until(lambda: live.source.stats.dropped > 50)
    live.source.close()
    rest = list(live.frames)
    stats = live.source.stats
    assert len(rest) == 2
    assert rest[0].index >= 50
    assert stats.frames - stats.dropped <= 3


def test_memory_does_not_grow(server, live_clip, watch):
    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / 1e6

    live = watch(server.url(clips=[live_clip], speed=0), size=4)
    live.until(lambda: live.source.stats.frames > 500)
    before = resident()
    live.until(lambda: live.source.stats.frames > 4000)
    assert resident() - before < 20  # MB; the pictures that went by are 200


def test_a_protocol_that_is_not_built_in(monkeypatch):
    source = Source(expand_sources(["srt://me:secret@127.0.0.1:1"])[0])

    def refuse(*_arguments: object, **_options: object) -> None:
        raise av.error.ProtocolNotFoundError(1, "Protocol not found")

    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(VideoError, match=r"srt://127.0.0.1:1 cannot be read: .* does not support srt"):
        list(source)


def test_a_program_ends_while_its_source_hangs(server):
    program = f"""
from seqpar_deploy.video.sources.spec import SourceSpec
from seqpar_deploy.video.sources.source import Source
source = Source(SourceSpec(name="camera", place={server.url("silence.ts")!r}, live=True))
source.start()
while source.stats.state != "connecting":
    pass
"""
    # The connection alone takes 4 s, and a source that kept the program alive would retry for ever.
    assert subprocess.run([sys.executable, "-c", program], timeout=PATIENCE).returncode == 0


def test_a_source_leaves_out_frames_evenly_while_its_consumer_is_slow(server, live_clip, watch):
    live = watch(server.url(clips=[live_clip], speed=4), SourceOptions(adaptive_fps=True), size=2)  # 40 per second
    while live.source.stats.skipped < 40:
        assert live.frames.take()
        time.sleep(0.1)
    assert "analysed" in live.said()
    frames = live.take(20)
    assert grows(frames)
    assert frames[-1].dropped > 0
