"""Snapshot URLs: polled, quiet, bounded."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from video.web_server import WebServer, serving

from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.sources import snapshots
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import SourceSpec, expand_sources
from seqpar_deploy.video.sources.state import SourceOptions

_PATIENCE = 20.0  # s. Only a test that fails waits this long
FAST = SourceOptions(silence_timeout=0.5, first_retry=0.01, longest_retry=0.02)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    with serving(tmp_path) as server:
        yield server


def _source(url: str, options: SourceOptions = FAST, fps: float = 50) -> Source:
    return Source(SourceSpec(name="camera", place=url, live=True, polled=True, fps=fps), options=options)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_each_request_is_a_frame_and_no_line(server: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="seqpar_deploy")
    with _source(f"{server.url}/snapshot.jpg") as source:
        queue = source.start()
        frames = [queue.take()[0] for _ in range(10)]
    assert [frame.index for frame in frames] == list(range(10))
    assert all(a.timestamp < b.timestamp for a, b in itertools.pairwise(frames))
    assert [int(frame.image[0, 0, 0]) for frame in frames] == pytest.approx(list(range(1, 11)), abs=2)
    stats = source.stats
    assert (stats.width, stats.height, stats.reconnects, stats.decode_errors) == (64, 48, 0, 0)
    assert caplog.records == []


def test_the_rate_is_bounded(server: WebServer) -> None:
    (spec,) = expand_sources([f"{server.url}/cgi-bin/snapshot.cgi"], fps=2.0)
    assert (spec.fps, spec.polled) == (2.0, True)
    assert expand_sources([f"{server.url}/snapshot.jpg"])[0].fps == 5.0
    with _source(f"{server.url}/snapshot.jpg", fps=0.1) as source:
        before = server.requests
        source.start().take(1)
        time.sleep(0.2)
        assert server.requests - before == 1


def test_the_same_picture_again_is_no_frame_at_once(server: WebServer) -> None:
    with _source(f"{server.url}/snapshot.jpg?same") as source:
        queue = source.start(100)
        _until(lambda: server.pictures > 10)
        assert source.stats.frames < server.pictures / 2
        assert len(queue.take(3) + queue.take(1)) >= 2  # but later it shows that the camera answers


@pytest.mark.parametrize(
    "place",
    [
        "me:p%40ss@{}/snapshot.jpg?auth=basic",
        "me:x@{}/snapshot.jpg?auth=digest",
        "me:x@{}/snapshot.jpg?auth=digest-sha",
    ],
)
def test_user_and_password(server: WebServer, place: str) -> None:
    url = "http://" + place.format(server.url.removeprefix("http://"))
    with _source(url) as source:
        assert source.start().take(1)
    with _source(url.replace("me:", "you:")) as source:
        source.start()
        _until(lambda: "401" in source.stats.last_error)
        assert "you" not in source.stats.last_error


@pytest.mark.parametrize("fault", ["down", "damaged"])
def test_a_failed_request_now_and_then_is_no_loss(
    server: WebServer, caplog: pytest.LogCaptureFixture, fault: str
) -> None:
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    with _source(f"{server.url}/snapshot.jpg?{fault}", SourceOptions()) as source:
        queue = source.start()
        assert len([queue.take() for _ in range(5)]) == 5
        assert source.stats.decode_errors >= 4 * (fault == "damaged")
    assert caplog.records == []


def test_a_camera_that_is_gone_is_one_line_and_comes_back(
    server: WebServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    with _source(f"{server.url}/snapshot.jpg") as source:
        queue = source.start()
        queue.take()
        request = snapshots.Snapshots._request

        def refuse(_self: object) -> bytes:
            raise VideoError("it answered 503")

        monkeypatch.setattr(snapshots.Snapshots, "_request", refuse)
        _until(lambda: source.stats.state == "lost")
        time.sleep(0.2)
        monkeypatch.setattr(snapshots.Snapshots, "_request", request)
        _until(lambda: source.stats.reconnects == 1)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2
    assert "503" in lines[0]
    assert "reconnected" in lines[1]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("snapshot.jpg?huge", "at most 32 MB"),
        ("snapshot.jpg?type=text/html", "got text/html"),
        ("gone.jpg", "404 Not Found"),
    ],
)
def test_what_is_no_picture_is_said(server: WebServer, path: str, says: str) -> None:
    with _source(f"{server.url}/{path}", SourceOptions()) as source:
        source.start()
        _until(lambda: says in source.stats.last_error)


def test_close_does_not_wait_for_the_camera(server: WebServer) -> None:
    source = _source(f"{server.url}/snapshot.jpg?slow", SourceOptions(silence_timeout=10))
    source.start()
    _until(lambda: server.requests > 0)
    source.close()
    assert server.answered == 0  # the camera takes 30 s
    server.stopped.set()
