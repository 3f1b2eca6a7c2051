"""Overload and progress: what a person who waits, or watches a live run, is shown of it."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from seqpar_deploy.video.meters import OverloadLog, RunProgress
from seqpar_deploy.video.sources.state import SourceStats


def test_overload_is_logged_when_it_starts_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    now = 0.0
    log = OverloadLog(clock=lambda: now)
    dropped = 0
    lines: dict[float, str] = {}
    for tick in range(1, 101):
        now = 0.5 * tick
        dropped += 3 * (10 < now <= 20)
        caplog.clear()
        spent = {"detect": 0.2 * now, "track": 0.7 * now, "recognize": 9 * now}
        log.look({"gate": (12 * tick, dropped), "yard": (12 * tick, 0)}, spent)
        if caplog.messages:
            (lines[now],) = caplog.messages
    assert list(lines) == [15.0, 25.0]
    assert lines[15.0].startswith("gate: 30 of 120 frames dropped in the last 5 s")
    assert "track (70 %" in lines[15.0]  # recognition has a thread of its own: live frames do not wait for it
    assert lines[25.0].startswith("gate: no frames dropped")
    assert "60 in all" in lines[25.0]


def test_a_stream_that_drops_again_and_again_is_warned_of_every_thirty_seconds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="seqpar_deploy")
    now = 0.0
    log = OverloadLog(clock=lambda: now)
    dropped = 0
    times: dict[str, list[float]] = {"WARNING": [], "INFO": []}
    for tick in range(1, 201):
        now = 0.5 * tick
        dropped += (tick - 1) // 10 % 2 == 0  # in every second window of 5 s
        caplog.clear()
        log.look({"gate": (12 * tick, dropped)}, {})
        for record in caplog.records:
            times[record.levelname].append(now)
    assert times == {"WARNING": [5, 35, 65, 95], "INFO": [10, 40, 70, 100]}


def source(name: str, **stats: Any) -> Any:
    """A stand-in; `probe` frames are what its container promises."""
    probe = stats.pop("probe", 0)
    return SimpleNamespace(
        spec=SimpleNamespace(name=name, can_be_read_twice=True), stats=SourceStats(**stats), probe_length=lambda: probe
    )


@pytest.mark.parametrize(
    ("sources", "reported"),
    [
        ([source("a", frames=30, length=100)], [(30, 100)]),
        ([source("a", frames=30, length=100), source("b", probe=50)], [(30, 150)]),
        ([source("a", frames=30, length=100), source("b"), source("c", probe=50)], [(30, 225)]),  # b: as the others
        ([source("a", frames=90, length=100, state="ended"), source("b", frames=7, length=5)], [(97, 97)]),
        ([source("a", frames=30)], []),  # no length: nothing to measure it by
    ],
)
def test_progress_is_frames_of_all_files(sources: list[Any], reported: list[tuple[int, int]]) -> None:
    seen: list[tuple[int, int]] = []
    RunProgress(sources, lambda done, total: seen.append((done, total))).look()
    assert seen == reported
