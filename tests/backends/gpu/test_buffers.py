"""Batches that are lent, given back, lent again, and freed when memory runs out."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
from fakes.cuda import FakeCuda

from seqpar_deploy.backends.gpu.buffers import Lease, Pool
from seqpar_deploy.backends.gpu.cuda import Cuda, GpuOutOfMemoryError
from seqpar_deploy.backends.gpu.lanes import Lane
from seqpar_deploy.bundle import Dimensions
from seqpar_deploy.errors import BackendError

DIMENSIONS = Dimensions(layers=1, heads=2, head_size=8, capacity=4, image_tokens=3, image_size=8, vocabulary=10)


@pytest.fixture
def fake() -> FakeCuda:
    return FakeCuda()


@pytest.fixture
def lanes(fake: FakeCuda) -> list[Lane]:
    cuda = Cuda(fake)
    return [Lane(cuda), Lane(cuda)]


@pytest.fixture
def pool(fake: FakeCuda, lanes: list[Lane]) -> Pool:
    return Pool(lanes[0]._cuda, lanes, DIMENSIONS, 2)


def test_a_batch_that_nobody_holds_is_lent_again(pool: Pool) -> None:
    lease = pool.take(2)
    batch = lease.batch
    assert pool.take(4).batch.rows == 4  # which nobody holds any more
    lease.release()
    assert pool.take(2).batch is batch
    with pytest.raises(BackendError, match="encode the crops again"):
        lease.batch  # noqa: B018


def test_a_lease_is_released_once(pool: Pool) -> None:
    lease = pool.take(2)
    batch = lease.batch
    lease.release()
    lease.release()
    del lease
    first, second = pool.take(2), pool.take(2)
    assert (first.batch is batch) + (second.batch is batch) == 1


def test_a_lease_goes_back_in_a_collection_while_the_pool_is_locked(pool: Pool) -> None:
    """A collection may start wherever memory is allocated, so also in `take`, and runs finalizers in that thread."""

    class Cycle:
        def __init__(self, lease: Lease) -> None:
            self.lease, self.me = lease, self

    Cycle(pool.take(2))
    done = threading.Event()

    def collect() -> None:
        with pool._lock:
            gc.collect()
        done.set()

    threading.Thread(target=collect, daemon=True).start()
    assert done.wait(30)
    assert pool.free_idle() == 1


def test_idle_batches_are_freed_when_memory_runs_out(pool: Pool, fake: FakeCuda, lanes: list[Lane]) -> None:
    held, idle = pool.take(2), pool.take(2)
    with lanes[0].turn() as turn:  # the device still works on it when it goes back
        turn.clear(turn.use(idle.batch.device).crops, 8)
    idle.release()
    before = len(fake.leaks())
    fake.fail_next("cudaMalloc", 2)
    taken = pool.take(4)
    assert taken.batch.rows == 4
    assert len(fake.leaks()) == before  # one came, one went
    assert held.batch.rows == 2
    assert fake.check() == []


@pytest.mark.parametrize("failing", range(6))
def test_an_allocation_that_fails_midway_leaves_nothing(pool: Pool, fake: FakeCuda, failing: int) -> None:
    before = fake.leaks()
    calls = iter(range(100))

    def fail(real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            return (2, None) if next(calls) == failing else real(*arguments)

        return call

    for name in ("cudaMalloc", "cudaHostAlloc", "cudaEventCreateWithFlags"):
        setattr(fake, name, fail(getattr(fake, name)))
    with pytest.raises(GpuOutOfMemoryError):
        pool.take(2)
    assert fake.leaks() == before
    assert fake.check() == []
