"""Rows, their order, and the end of a backend, on stand-ins that run the real graphs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fakes.device import Device

from seqpar_deploy.backends import open_backend
from seqpar_deploy.backends.gpu.calls import Calls
from seqpar_deploy.backends.gpu.decode import padded_rows, runs
from seqpar_deploy.bundle import BatchProfile
from seqpar_deploy.decoding import Greedy
from seqpar_deploy.errors import BackendError
from seqpar_deploy.preprocess import Crop, prepare_batch

# Rows


def test_rows_have_few_sizes_that_waste_little() -> None:
    profile = BatchProfile(min=1, opt=64, max=64)
    sizes = {rows: padded_rows(rows, profile) for rows in range(1, 65)}
    assert len(set(sizes.values())) == 20
    assert all(rows <= size <= 1.25 * rows for rows, size in sizes.items())
    assert all(sizes[rows] == rows for rows in (1, 2, 3, 4, 5, 6, 7, 8, 16, 32, 64))


@pytest.mark.parametrize(("rows", "expected"), [(1, 4), (4, 4), (9, 10), (10, 10), (11, 11)])
def test_rows_stay_within_the_profile(rows: int, expected: int) -> None:
    assert padded_rows(rows, BatchProfile(min=4, opt=8, max=11)) == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], []),
        ([0, 1, 2], [(0, 0, 3)]),
        ([3, 4, 0], [(0, 3, 2), (2, 0, 1)]),
        ([1, 1, 1], [(0, 1, 1), (1, 1, 1), (2, 1, 1)]),
        ([0, 1, 2, 3, 4, 3, 5], [(0, 0, 5), (5, 3, 1), (6, 5, 1)]),
    ],
)
def test_rows_that_follow_each_other_are_one_run(rows: list[int], expected: list[Any]) -> None:
    assert list(runs(np.array(rows, dtype=np.int64))) == expected


def prepared(made: Device, crops: list[Crop]) -> Any:
    return prepare_batch(crops, image_size=32, preprocessing=made.bundle.preprocessing)


@pytest.mark.slow
def test_reordering_copies_runs_and_nothing_where_rows_stay(device: Callable[..., Device], crops: list[Crop]) -> None:
    made = device()
    backend = made.open()
    state = backend.encode(prepared(made, crops[:4]))
    backend.step(state, np.zeros((4, 1), np.int64))
    copies = made.cuda.calls["cudaMemcpy2DAsync"]
    state.reorder(np.arange(4))
    assert made.cuda.calls["cudaMemcpy2DAsync"] == copies
    state.reorder(np.array([0, 1, 3, 3]))
    assert made.cuda.calls["cudaMemcpy2DAsync"] == copies + 6  # three runs, of both caches
    state.reorder(np.array([0, 1, 3, 2]))  # rows 2 and 3 are of one crop
    assert made.cuda.calls["cudaMemcpy2DAsync"] == copies + 9
    backend.close()
    assert made.cuda.check() == []


@pytest.mark.slow
def test_a_batch_below_a_profile_is_filled_up(device: Callable[..., Device], crops: list[Crop]) -> None:
    made = device(batches=(BatchProfile(min=4, opt=4, max=6),))
    host = open_backend(made.bundle, "onnxruntime")
    expected = Greedy().generate(host, host.encode(prepared(made, crops[:2])), max_steps=8)
    backend = made.open()
    for _ in range(3):
        got = Greedy().generate(backend, backend.encode(prepared(made, crops[:2])), max_steps=8)
        assert [generation.tokens for generation in got] == [generation.tokens for generation in expected]
    assert {shape[0] for _, shape in made.trt.executions} == {4}
    backend.close()


@pytest.mark.slow
def test_infinities_of_a_batch_do_not_reach_the_next(device: Callable[..., Device], crops: list[Crop]) -> None:
    """A masked slot of the cache counts nothing, but nothing times infinity is not a number."""
    made = device(eager=True)
    backend = made.open()
    state = backend.encode(prepared(made, crops[:2]))
    expected = backend.greedy(state, stop=1, max_steps=8)
    buffers = backend.pool.take(2).batch.device.memory
    block = made.cuda.block_at(buffers.crops)
    assert block is not None
    start = buffers.self_kv[0] - block.address
    block.content[start : start + 2 * (buffers.self_kv[1] - buffers.self_kv[0])] = 0xFF  # NaN
    got = backend.greedy(backend.encode(prepared(made, crops[:2])), stop=1, max_steps=8)
    assert np.array_equal(got.next_token, expected.next_token)
    assert np.array_equal(got.log_probs, expected.log_probs)
    backend.close()


# The end


@pytest.mark.slow
def test_a_closed_backend_refuses_and_its_states_too(device: Callable[..., Device], crops: list[Crop]) -> None:
    made = device()
    backend = made.open()
    state = backend.encode(prepared(made, crops[:2]))
    backend.close()
    backend.close()
    calls: list[Callable[[], object]] = [
        lambda: backend.encode(prepared(made, crops[:1])),
        lambda: backend.step(state, np.zeros((2, 1), np.int64)),
        lambda: backend.greedy(state, stop=1, max_steps=4),
        lambda: state.reorder(np.array([1, 0])),
    ]
    for call in calls:
        with pytest.raises(BackendError, match="closed"):
            call()
    assert made.cuda.leaks() == []
    assert made.cuda.check() == []


@pytest.mark.slow
def test_a_state_is_used_up_by_greedy_decoding(device: Callable[..., Device], crops: list[Crop]) -> None:
    made = device()
    backend = made.open()
    state = backend.encode(prepared(made, crops[:1]))
    backend.greedy(state, stop=1, max_steps=4)
    with pytest.raises(BackendError, match="encode the crops again"):
        backend.step(state, np.zeros((1, 1), np.int64))
    backend.close()


@pytest.mark.slow
def test_another_gpu_may_be_current_in_the_calling_thread(device: Callable[..., Device], crops: list[Crop]) -> None:
    made = device(devices=2)
    backend = made.open()
    made.cuda.cudaSetDevice(1)  # as torch.cuda.set_device does
    state = backend.encode(prepared(made, crops[:2]))
    state.reorder(np.array([1, 0]))
    backend.step(state, np.zeros((2, 1), np.int64))
    backend.greedy(backend.encode(prepared(made, crops[:2])), stop=1, max_steps=4)
    backend.close()
    assert made.cuda.cudaGetDevice()[1] == 1
    assert made.cuda.check() == []
    assert made.cuda.leaks() == []


def test_the_end_waits_for_calls_under_way_and_refuses_later_ones() -> None:
    calls = Calls()
    inside, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        with calls.call():
            inside.set()
            go_on.wait(30)

    def end() -> None:
        calls.end()
        ended.set()

    threads = [threading.Thread(target=work), threading.Thread(target=end)]
    threads[0].start()
    assert inside.wait(30)
    threads[1].start()
    assert not ended.wait(0.1)
    go_on.set()
    assert ended.wait(30)
    for thread in threads:
        thread.join(30)
    with pytest.raises(BackendError, match="closed"), calls.call():
        pass


def test_the_end_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqpar_deploy.backends.gpu.calls._LONGEST_CALL", 0.01)
    calls = Calls()
    with calls.call(), pytest.raises(BackendError, match=r"1 calls .* 0 s"):
        calls.end()
    calls.end()
