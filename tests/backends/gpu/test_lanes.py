"""The rules of `lanes.py`: who may touch which memory, and when."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from fakes.cuda import FakeCuda

from seqpar_deploy.backends.gpu.cuda import Cuda
from seqpar_deploy.backends.gpu.lanes import Guarded, Lane, Staging


@pytest.fixture
def fake() -> FakeCuda:
    """Its work is done as late as it may be."""
    return FakeCuda()


@pytest.fixture
def cuda(fake: FakeCuda) -> Cuda:
    return Cuda(fake)


def content(staging: Staging, size: int) -> list[int]:
    return staging.read(0, size).tolist()


def test_a_turn_enqueues_nothing_after_its_block(cuda: Cuda, fake: FakeCuda) -> None:
    lane, address = Lane(cuda), cuda.allocate(16)
    with lane.turn() as turn:
        turn.clear(address, 16)
    for late in (lambda: turn.clear(address, 16), lambda: turn.synchronise(), lambda: turn.handle):
        with pytest.raises(RuntimeError, match=r"turn .*ended"):
            late()
    assert fake.calls["cudaMemsetAsync"] == 1


def test_a_lane_is_one_threads_at_a_time(cuda: Cuda, fake: FakeCuda) -> None:
    """Work of another thread waits until a capture is over, in place of being recorded in it."""
    lane, address = Lane(cuda), cuda.allocate(16)

    def clear() -> None:
        with lane.turn() as turn:
            turn.clear(address, 16)

    other = threading.Thread(target=clear)
    with lane.turn() as turn, turn.capturing() as graphs:
        turn.clear(address, 8)
        other.start()
        other.join(0.1)
    other.join(10)
    assert not other.is_alive()
    assert len(graphs) == 1
    assert fake.violations == []
    assert fake.calls["cudaMemsetAsync"] == 2


def test_memory_is_used_by_one_lane_after_the_other(cuda: Cuda) -> None:
    """Also when the second lane's work is done first, as long as nobody waits for the first lane's."""
    first, second = Lane(cuda), Lane(cuda)
    guarded = Guarded(cuda, [first, second], cuda.allocate(4))
    source, target = Staging(cuda, 4), Staging(cuda, 4)
    source.write(np.array([1, 2, 3, 4], np.uint8))
    with first.turn() as turn:
        turn.upload(turn.use(guarded), source, 4)
    with second.turn() as turn:
        turn.download(target, turn.use(guarded), 4)
    assert content(target, 4) == [1, 2, 3, 4]


def test_memory_is_guarded_after_a_turn_that_failed(cuda: Cuda) -> None:
    first, second = Lane(cuda), Lane(cuda)
    guarded = Guarded(cuda, [first, second], cuda.allocate(4))
    source, target = Staging(cuda, 4), Staging(cuda, 4)
    source.write(np.array([5, 6, 7, 8], np.uint8))

    def fail() -> None:
        with first.turn() as turn:
            turn.upload(turn.use(guarded), source, 4)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    with second.turn() as turn:
        turn.download(target, turn.use(guarded), 4)
    assert content(target, 4) == [5, 6, 7, 8]


def test_staging_is_written_after_the_copy_that_reads_it(cuda: Cuda, fake: FakeCuda) -> None:
    lane, address = Lane(cuda), cuda.allocate(4)
    staging, target = Staging(cuda, 4), Staging(cuda, 4)
    staging.write(np.array([1, 1, 1, 1], np.uint8))
    with lane.turn() as turn:
        turn.upload(address, staging, 4)
    staging.write(np.array([2, 2, 2, 2], np.uint8))
    with lane.turn() as turn:
        turn.download(target, address, 4)
    assert content(target, 4) == [1, 1, 1, 1]
    assert fake.check() == []


def test_staging_takes_arrays_at_places_and_gives_copies(cuda: Cuda) -> None:
    staging = Staging(cuda, 32)
    staging.write(np.array([[1, 2]], np.int64), np.arange(4, dtype=np.uint8)[::2], at=(0, 24))
    numbers = staging.read(0, 16).view(np.int64)
    assert numbers.tolist() == [1, 2]
    assert staging.read(24, 2).tolist() == [0, 2]
    staging.write(np.array([9], np.int64))
    assert numbers.tolist() == [1, 2]
