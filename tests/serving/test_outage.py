"""A live stream whose server goes away: tracking goes on, few crops wait, and everybody is recognised in the end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("av")
from serving.kserve import FakeServer
from video.clips import make_clip
from video.stream_server import StreamServer
from video.test_pipeline import Notebook, Passersby

from seqpar_deploy.errors import ServerError, ServerUnavailableError
from seqpar_deploy.serving import RemoteOptions, RemoteRecognizer
from seqpar_deploy.video import LifetimeOptions, SelectionOptions, VideoOptions
from seqpar_deploy.video.pipeline import Pipeline
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import expand_sources

pytestmark = pytest.mark.slow

MOST_WAITING = 3


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


class Run:
    """A pipeline over a live stream, in a thread."""

    def __init__(self, url: str, recognizer: RemoteRecognizer, metrics: Metrics, health: Health) -> None:
        self.notebook, self.errors = Notebook(), list[BaseException]()
        self.people = people = Passersby()
        options = VideoOptions(
            selection=SelectionOptions(max_latency=0.1, max_waiting=MOST_WAITING),
            lifetime=LifetimeOptions(leave_after=0.5),
        )
        sources = [Source(spec) for spec in expand_sources([url], live=True)]
        self.pipeline = Pipeline(
            *(sources, people, recognizer, self.notebook),
            options=options,
            tracker=lambda: people,
            metrics=metrics,
            health=health,
        )
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.pipeline.run()
        except BaseException as error:
            self.errors.append(error)

    @property
    def appeared(self) -> list[int]:
        return [track for kind, _, track in self.notebook.events if kind == "appeared"]

    @property
    def waiting(self) -> int:
        follower = self.pipeline.follower
        with follower._state_lock:
            return sum(track.waiting is not None for track in follower._selector._tracks.values())

    def end(self) -> None:
        self.pipeline.stop()
        self.thread.join(60)
        assert not self.thread.is_alive()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.ts")


def test_a_server_that_is_away_for_a_while(clip: Path, server: FakeServer) -> None:
    metrics, health = Metrics(), Health()
    options = RemoteOptions(give_up_after=math.inf)
    with (
        StreamServer() as streams,
        RemoteRecognizer(server.url, options=options, metrics=metrics, health=health) as recognizer,
    ):
        run = Run(streams.url(clips=[clip], speed=2), recognizer, metrics, health)
        until(lambda: len(run.appeared) >= 2)
        server.down()
        until(lambda: recognizer.stats.reachable is False)
        assert any(server.url in problem for problem in health.problems())
        known, frames, most = len(run.appeared), len(run.notebook.frames), 0
        while len(run.notebook.frames) < frames + 60:  # six more people pass
            most = max(most, run.waiting)
            assert run.thread.is_alive()
            time.sleep(0.02)
        assert 1 <= most <= MOST_WAITING
        assert len(run.appeared) <= known + 1  # one may have been under way
        server.up()
        until(lambda: len(run.appeared) >= known + 5)
        assert recognizer.stats.reachable
        assert not any(server.url in problem for problem in health.problems())
        failures = metrics.registry.get_sample_value("seqpar_server_failures_total", {"server": server.url})
        assert failures == recognizer.stats.failures >= 2
        run.end()
    assert run.errors == []
    assert sorted(run.appeared) == sorted(track for kind, _, track in run.notebook.events if kind == "ended")


@pytest.mark.parametrize("end", ["stop", "patience"])
def test_a_server_that_stays_away_ends_the_run_in_order(clip: Path, server: FakeServer, end: str) -> None:
    options = RemoteOptions(give_up_after=math.inf if end == "stop" else 0.5)
    with StreamServer() as streams, RemoteRecognizer(server.url, options=options) as recognizer:
        run = Run(streams.url(clips=[clip], speed=2), recognizer, Metrics(), Health())
        until(lambda: len(run.appeared) >= 1)
        server.down()
        until(lambda: recognizer.stats.reachable is False)
        if end == "stop":
            recognizer.give_up()
            run.end()
        else:
            run.thread.join(60)
    assert [type(error) for error in run.errors] == [ServerUnavailableError]
    assert isinstance(run.errors[0], ServerError)
    assert run.notebook.closed == 1
    assert sorted(run.appeared) == sorted(track for kind, _, track in run.notebook.events if kind == "ended")
