"""Execution contexts and CUDA graphs: which inferences share one, what is captured, and what goes."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.cuda import FakeCuda

from seqpar_deploy.backends.gpu import graph_runner
from seqpar_deploy.backends.gpu.cuda import Cuda
from seqpar_deploy.backends.gpu.graph_runner import Engine
from seqpar_deploy.backends.gpu.lanes import Lane, Turn


class Context:
    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name = log, name

    def enqueue(self, addresses: Any, turn: Turn) -> None:
        self.log.append(f"{self.name} {addresses['x'] % 100}")
        turn.clear(addresses["x"], 1)

    def close(self) -> None:
        self.log.append(f"{self.name} closed")


class Executor:
    """Its contexts clear a byte and note what is asked of them."""

    def __init__(self, *, captures_by_itself: bool = False) -> None:
        self.captures_by_itself = captures_by_itself
        self.log: list[str] = []

    def context(self, profile: int, shapes: Any, turn: Turn) -> Context:
        self.log.append(f"context {profile} {shapes['x'][0]}")
        return Context(self.log, f"{profile}/{shapes['x'][0]}")

    def close(self) -> None:
        self.log.append("closed")


class Rig:
    def __init__(self, *, graphs: bool = True, captures_by_itself: bool = False) -> None:
        self.fake = FakeCuda()
        self.cuda = Cuda(self.fake)
        self.executor = Executor(captures_by_itself=captures_by_itself)
        self.lane = Lane(self.cuda)
        self.engine = Engine(self.executor, self.cuda, name="test", lane=self.lane, graphs=graphs)
        self.memory = self.cuda.allocate(1000)

    def run(self, rows: int, place: int = 0, profile: int = 0) -> None:
        with self.lane.turn() as turn:
            self.engine.run(turn, profile, {"x": (rows,)}, {"x": self.memory + place})

    @property
    def contexts(self) -> list[str]:
        return [line for line in self.executor.log if line.startswith("context")]

    def graphs(self) -> int:
        return sum("graph" in leak for leak in self.fake.leaks())


def test_the_first_inference_runs_the_second_is_captured_the_third_is_replayed() -> None:
    rig = Rig()
    for launches, enqueued in ((0, 1), (0, 3), (1, 3), (2, 3)):
        rig.run(2)
        assert rig.fake.launches == launches
        assert len(rig.executor.log) - 1 == enqueued
    assert rig.fake.check() == []


def test_each_set_of_shapes_has_a_context_of_its_own() -> None:
    rig = Rig()
    for _ in range(4):
        for rows, place in ((5, 0), (64, 0), (5, 8)):
            rig.run(rows, place)
    rig.run(5, profile=1)
    assert rig.contexts == ["context 0 5", "context 0 64", "context 1 5"]
    assert rig.graphs() == 3
    assert rig.fake.launches == 6  # of 12, the first two of each kind are not


def test_an_sdk_that_captures_by_itself_has_a_context_for_each_set_of_addresses() -> None:
    """It keeps one graph per context, and captures again when an address changes."""
    rig = Rig(captures_by_itself=True)
    for _ in range(3):
        for place in (0, 8):
            rig.run(2, place)
    assert rig.contexts == ["context 0 2", "context 0 2"]
    assert rig.fake.calls["cudaStreamBeginCapture"] == 0


def test_a_capture_that_fails_is_tried_again_and_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.fake.fail_next("cudaGraphInstantiate", 2)
    rig.run(2)
    rig.run(2)
    assert rig.graphs() == 0
    for _ in range(3):
        rig.run(2)
        rig.run(3)
    assert rig.graphs() == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "test engine" in caplog.records[0].getMessage()


def test_an_inference_that_cannot_be_captured_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.fake.captures_fail = True
    for _ in range(8):
        rig.run(2)
    assert rig.fake.calls["cudaStreamBeginCapture"] == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert rig.fake.check() == []


def test_the_least_recently_used_context_goes_with_its_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_runner, "MOST_CONTEXTS", 2)
    rig = Rig()
    for rows in (1, 1, 2, 2, 1, 3):
        rig.run(rows)
    assert "0/2 closed" in rig.executor.log
    assert "0/1 closed" not in rig.executor.log
    assert rig.graphs() == 1
    assert rig.fake.check() == []  # none was destroyed while it ran


def test_the_least_recently_used_graph_of_a_context_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_runner, "MOST_GRAPHS", 2)
    rig = Rig()
    for place in (0, 8, 0, 8, 0, 16, 16):
        rig.run(2, place)
    assert rig.graphs() == 2
    assert rig.fake.check() == []


def test_close_lets_go_of_all() -> None:
    rig = Rig()
    for _ in range(2):
        rig.run(2)
    with rig.lane.turn() as turn:
        turn.synchronise()
    rig.engine.close()
    assert rig.graphs() == 0
    assert rig.executor.log[-2:] == ["0/2 closed", "closed"]


def test_without_graphs_every_inference_is_enqueued() -> None:
    rig = Rig(graphs=False)
    for _ in range(4):
        rig.run(2)
    assert rig.fake.calls["cudaStreamBeginCapture"] == 0
    assert len(rig.executor.log) == 5
