"""Live sources: they come back, whatever happens to them."""

from __future__ import annotations

import itertools
import logging
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import pytest
from video import gst_rtsp_server
from video.clips import make_clip, make_sound, recode
from video.gst_rtsp_server import GstRtspServer
from video.rtsp_server import RtspServer
from video.stream_server import StreamServer

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.queues import BoundedQueue
from seqpar_deploy.video.source import Source, SourceOptions
from seqpar_deploy.video.source_spec import expand_sources
from seqpar_deploy.video.types import Frame

pytestmark = pytest.mark.heavy

_PATIENCE = 20.0  # s. Only a test that fails waits this long
IMPATIENT = SourceOptions(connect_timeout=1.0, silence_timeout=0.5)
_LOGGER = logging.getLogger("seqpar_deploy.video.source")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.ts")


@pytest.fixture(scope="module")
def server() -> Iterator[StreamServer]:
    with StreamServer() as server:
        yield server


class Watched:
    """A started source, and what it logs."""

    def __init__(self, url: str, options: SourceOptions | None = None, size: int = 8) -> None:
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        (spec,) = expand_sources([url])
        self.handler = logging.Handler()
        self.handler.emit = lambda record: self.lines.put(record.getMessage())  # type: ignore[method-assign]
        _LOGGER.addHandler(self.handler)
        self.source = Source(spec, options=options or SourceOptions())
        self.frames: BoundedQueue[Frame] = self.source.start(size)

    def take(self, count: int) -> list[Frame]:
        return [self.frames.take()[0] for _ in range(count)]

    def said(self) -> str:
        return self.lines.get(timeout=_PATIENCE)

    def hear(self, words: str) -> None:
        """Wait until it is logged."""
        while words not in self.said():
            pass

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that is not logged."""
        deadline = time.monotonic() + _PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.005)


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., Watched]]:
    caplog.set_level(logging.INFO, logger=_LOGGER.name)
    watched: list[Watched] = []

    def start(*arguments: object, **options: object) -> Watched:
        watched.append(Watched(*arguments, **options))
        return watched[-1]

    yield start
    for each in watched:
        each.source.close()
        _LOGGER.removeHandler(each.handler)


def _grows(frames: list[Frame]) -> bool:
    return all(a.timestamp < b.timestamp and a.index < b.index for a, b in itertools.pairwise(frames))


def test_a_server_killed_and_restarted_is_found_again(clip, watch):
    with StreamServer() as server:
        live = watch(server.url(clips=[clip], speed=4))
        frames = live.take(5)
        for time_killed in range(1, 4):
            server.kill()
            assert "connection lost" in live.said()
            live.until(lambda: live.source.stats.state == "lost")
            assert 0 < live.source.stats.back_off <= 2
            server.start()
            returned = time.monotonic()
            live.until(lambda number=time_killed: live.source.stats.reconnects == number)
            frames += live.take(5)
            assert time.monotonic() - returned < 5
            live.hear(": reconnected")
        assert _grows(frames)
        assert live.source.stats.back_off == 0


def test_time_stamps_go_on_over_a_connection_that_ends(server, clip, watch):
    live = watch(server.url(clips=[clip], speed=4, end_after=12, origin=5000), size=100)
    frames = live.take(30)
    assert live.source.stats.reconnects >= 2
    assert _grows(frames)
    assert frames[-1].timestamp < 60
    assert "the connection was closed" in live.said()


def test_a_change_of_resolution_needs_no_new_connection(server, clip, watch, tmp_path):
    small = make_clip(tmp_path / "small.ts", size=(96, 64))
    live = watch(server.url(clips=[clip, small], speed=8), size=100)
    frames = live.take(50)
    assert {frame.image.shape for frame in frames} == {(120, 160, 3), (64, 96, 3)}
    assert _grows(frames)
    assert live.source.stats.reconnects == 0


def test_a_change_of_codec(server, clip, watch, tmp_path):
    other = make_clip(tmp_path / "other.ts", codec="mpeg2video")
    live = watch(server.url(clips=[clip] + [other] * 100, speed=8), IMPATIENT)
    live.hear("cannot be decoded")
    live.hear(": reconnected")
    assert _grows(live.take(9))


def test_damage_is_counted_and_survived(server, clip, watch):
    live = watch(server.url(clips=[clip], speed=20, damage=0.01), size=1000)
    live.until(lambda: live.source.stats.decode_errors > 0)
    assert _grows(live.take(100))


def test_silence_is_noticed(server, clip, watch):
    live = watch(server.url(clips=[clip], speed=8, silent_after=15), IMPATIENT, size=100)
    assert "no answer for 0.5 s" in live.said()
    live.hear(": reconnected after")
    assert _grows(live.take(20))


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


def test_a_camera_over_rtsp_is_found_again(clip, watch):
    with RtspServer() as camera:
        live = watch(camera.url(clip=clip, speed=4))
        frames = live.take(20)
        camera.kill()
        live.hear("connection lost")
        camera.start()
        live.hear(": reconnected")
        frames += live.take(10)
        assert _grows(frames)


def test_a_camera_over_rtsp_that_falls_silent(clip, watch):
    with RtspServer() as camera:
        live = watch(
            camera.url(clip=clip, speed=8, silent_after=15), SourceOptions(connect_timeout=1.0, silence_timeout=1.0)
        )
        live.take(14)
        heard = time.monotonic()
        live.hear("connection lost: no answer for 1 s")
        assert time.monotonic() - heard < 1.8  # FFmpeg alone would take 2
        live.hear(": reconnected")


def test_a_camera_that_comes_late_and_one_that_never_answers(clip, watch):
    camera = RtspServer()
    live = watch(camera.url(clip=clip, speed=4), IMPATIENT)
    assert "cannot connect: Connection refused" in live.said()
    with camera:
        camera.freeze()
        live.hear("not connected yet: no answer for 0.5 s")
        camera.thaw()
        live.hear(": connected after")


@pytest.mark.skipif(not gst_rtsp_server.is_there(), reason="Debian's GStreamer RTSP server is not installed")
def test_a_camera_of_gstreamer_is_found_again_and_changes_resolution(clip, watch, tmp_path):
    clips = [recode(clip, tmp_path / f"{width}.h264", size=(width, 96)) for width in (128, 64)]
    with GstRtspServer(*clips) as camera:
        live = watch(camera.url())
        frames = live.take(5)
        camera.kill()
        live.hear("connection lost")
        camera.start()
        returned = time.monotonic()
        frames += live.take(5)
        assert time.monotonic() - returned < 5
        while frames[-1].image.shape != (96, 64, 3):
            frames += live.take(1)
        assert _grows(frames)
        assert frames[-1].timestamp > 2
        assert live.source.stats.reconnects == 1


def test_sound_alone(server, watch, tmp_path):
    live = watch(server.url(clips=[make_sound(tmp_path / "sound.ts")], speed=8), IMPATIENT)
    assert "audio only" in live.said()


def test_nobody_has_time(server, clip, watch):
    live = watch(server.url(clips=[clip], speed=0), size=2)
    live.until(lambda: live.source.stats.dropped > 50)
    live.source.close()
    rest = list(live.frames)
    stats = live.source.stats
    assert len(rest) == 2
    assert rest[0].index >= 50
    assert stats.frames - stats.dropped <= 3


def test_memory_does_not_grow(server, clip, watch):
    def resident() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * 4096 / 1e6

    live = watch(server.url(clips=[clip], speed=0), size=4)
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
from seqpar_deploy.video.source_spec import expand_sources
from seqpar_deploy.video.source import Source
source = Source(expand_sources([{server.url("silence.ts")!r}])[0])
source.start()
while source.stats.state != "connecting":
    pass
"""
    started = time.monotonic()
    assert subprocess.run([sys.executable, "-c", program], timeout=_PATIENCE).returncode == 0
    assert time.monotonic() - started < 3.5  # the connection alone would take 4
