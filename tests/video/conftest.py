"""Fixtures of live sources."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from video.clips import make_clip
from video.stream_server import StreamServer
from video.watched import LOGGER, Watched


@pytest.fixture(scope="session")
def live_clip(tmp_path_factory) -> Path:
    """A transport stream of 20 pictures."""
    return make_clip(tmp_path_factory.mktemp("clips") / "clip.ts")


@pytest.fixture(scope="module")
def server() -> Iterator[StreamServer]:
    with StreamServer() as server:
        yield server


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[..., Watched]]:
    caplog.set_level(logging.INFO, logger=LOGGER.name)
    watched: list[Watched] = []

    def start(*arguments: object, **options: object) -> Watched:
        watched.append(Watched(*arguments, **options))
        return watched[-1]

    yield start
    for each in watched:
        each.source.close()
        LOGGER.removeHandler(each.handler)
