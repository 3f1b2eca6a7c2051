"""The device-side logic of the TensorRT backend, on stand-ins for CUDA and TensorRT that run the real graphs.

What a GPU does differently is not tested here: benchmarks/gpu_check.py is for that.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fakes.device import BATCHES, Device
from fakes.tensorrt import ExecutionContext

from seqpar_deploy import Recognizer
from seqpar_deploy.backends import open_backend
from seqpar_deploy.backends.gpu.profiles import graph_profiles
from seqpar_deploy.decoding import Beam, Greedy, Speculative, Strategy
from seqpar_deploy.errors import BackendError
from seqpar_deploy.preprocess import Crop, prepare_batch

pytestmark = pytest.mark.slow


@pytest.fixture(params=[False, True], ids=["late", "at once"])
def eager(request: pytest.FixtureRequest) -> bool:
    """Whether the fake device works as late as it may, or at once."""
    return bool(request.param)


STRATEGIES = [Greedy(), Beam(width=3), Speculative()]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_says_what_onnx_runtime_says(
    device: Callable[..., Device], crops: list[Crop], strategy: Strategy, eager: bool
) -> None:
    """Every crop, in batches of every size, so often that graphs are captured and replayed."""
    made = device(eager=eager)
    with Recognizer(made.bundle, open_backend(made.bundle, "onnxruntime"), strategy=strategy) as recognizer:
        expected = recognizer.predict(crops)
    with Recognizer(made.bundle, made.open(), strategy=strategy) as recognizer:
        for size in (1, 2, 3, 4, 4, 4, 4):
            for start in range(0, 12, size):
                said = recognizer.predict(crops[start : start + size])
                for got, wanted in zip(said, expected[start : start + size], strict=True):
                    assert got.tokens == wanted.tokens
                    assert got.scores == pytest.approx(wanted.scores, rel=2e-3)  # FP16 sums differ between batch sizes
                    np.testing.assert_allclose(got.probabilities, wanted.probabilities, atol=2e-3)
        assert made.cuda.launches > 0
    assert not made.cuda.buffers  # all freed


def test_a_batch_larger_than_any_profile_goes_in_parts(device: Callable[..., Device], crops: list[Crop]) -> None:
    made = device()
    with Recognizer(made.bundle, open_backend(made.bundle, "onnxruntime")) as recognizer:
        expected = [prediction.tokens for prediction in recognizer.predict(crops)]
    with Recognizer(made.bundle, made.open(), batch_size=16) as recognizer:
        assert [prediction.tokens for prediction in recognizer.predict(crops)] == expected
    batches = [shape[0] for name, shape in made.trt.executions if name == "encoder"]
    assert batches == [12, 8]
    backend = made.open()
    batch = prepare_batch(crops[:13], image_size=32, preprocessing=made.bundle.preprocessing)
    with pytest.raises(BackendError, match=r"1 to 2, 1 to 12 rows .*got 13;"):
        backend.encode(batch)


def test_the_tightest_profile_runs_and_rows_of_one_token_have_their_own(device: Callable[..., Device]) -> None:
    made = device()
    profiles = graph_profiles(made.bundle, BATCHES)
    capacity = made.bundle.dimensions.capacity
    assert [shapes["crops"][2][0] for shapes in profiles["encoder"]] == [2, 12]
    assert [shapes["tokens"][2] for shapes in profiles["decoder_step"]] == [
        (2, 1),
        (2, capacity),
        (12, 1),
        (12, capacity),
    ]
    backend = made.open()
    chosen: list[int] = []
    run = backend._decoder_step.run
    backend._decoder_step.run = lambda turn, profile, *rest: (chosen.append(profile), run(turn, profile, *rest))  # type: ignore
    for rows, tokens in ((1, 1), (2, 3), (3, 1), (12, 2)):
        state = backend.encode(np.zeros((rows, 32, 32, 3), np.uint8))
        backend.step(state, np.zeros((rows, tokens), np.int64))
    assert chosen == [0, 1, 2, 3]


def test_the_device_stops_one_step_after_the_last_row(
    device: Callable[..., Device], crops: list[Crop], eager: bool
) -> None:
    made = device(eager=eager)
    backend = made.open()
    batch = prepare_batch(crops[:2], image_size=32, preprocessing=made.bundle.preprocessing)
    output = backend.greedy(backend.encode(batch), stop=-1, max_steps=26)
    backend.close()
    assert made.steps == output.next_token.shape[1] == 26  # no row ever stops
    third = int(output.next_token[0, 2])

    made.trt.executions.clear()
    backend = made.open()
    output = backend.greedy(backend.encode(batch[:1]), stop=third, max_steps=26)
    backend.close()  # all enqueued work is done by then
    first = int(np.flatnonzero(output.next_token[0] == third)[0])
    assert first <= 2
    assert made.steps == first + 2


def test_threads_share_a_backend(device: Callable[..., Device], crops: list[Crop]) -> None:
    made = device(eager=True)  # a fake stream is not for several threads at once, but what is tested is who holds which
    with Recognizer(made.bundle, made.open()) as recognizer:
        expected = [recognizer.predict([crop])[0].tokens for crop in crops]
        found: dict[int, Any] = {}

        def work(number: int) -> None:
            found[number] = [recognizer.predict([crop])[0].tokens for crop in crops]

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert list(found.values()) == [expected] * 4


def test_encoding_the_next_batch_while_one_is_decoded(
    device: Callable[..., Device], crops: list[Crop], eager: bool
) -> None:
    made = device(eager=eager)
    backend = made.open()
    batches = [
        prepare_batch(crops[i : i + 4], image_size=32, preprocessing=made.bundle.preprocessing) for i in (0, 4, 8)
    ]
    one_by_one = [backend.greedy(backend.encode(batch), stop=1, max_steps=26).next_token for batch in batches]
    states = [backend.encode(batch) for batch in batches]
    for state, expected in zip(states, one_by_one, strict=True):
        assert np.array_equal(backend.greedy(state, stop=1, max_steps=26).next_token, expected)
    held = len(made.cuda.buffers)
    del states, state
    again = [backend.encode(batch) for batch in batches]
    assert len(made.cuda.buffers) == held  # the same buffers, lent again
    del again
    backend.close()


def test_a_recognizer_encodes_one_batch_ahead(device: Callable[..., Device], crops: list[Crop]) -> None:
    made = device(eager=True)
    backend = made.open()
    with Recognizer(made.bundle, backend, batch_size=4) as recognizer:
        recognizer.predict(crops[:16])
        runs = [(name, len(list(same))) for name, same in itertools.groupby(name for name, _ in made.trt.executions)]
        assert [count for name, count in runs if name == "encoder"] == [2, 1, 1]
        assert backend.pool.free_idle() == 2  # the batch that one decoding gives back, the one after the next takes


def test_graphs_are_bounded_and_can_be_left_out(
    device: Callable[..., Device], crops: list[Crop], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqpar_deploy.backends.gpu.graph_runner.MOST_GRAPHS", 3)
    monkeypatch.setattr("seqpar_deploy.backends.gpu.graph_runner.MOST_CONTEXTS", 1)
    made = device()
    with Recognizer(made.bundle, made.open()) as recognizer:
        for size in (1, 2, 3, 4, 1, 2, 3, 4, 1, 1, 1, 1):
            recognizer.predict(crops[:size])
        assert 0 < len(made.cuda.graphs) <= 6  # three of each engine
    assert not made.cuda.graphs
    with Recognizer(made.bundle, made.open(cuda_graphs=False)) as recognizer:
        before = made.cuda.launches
        recognizer.predict(crops[:4])
        recognizer.predict(crops[:4])
        assert made.cuda.launches == before


def test_goes_on_without_graphs_where_capture_fails(
    device: Callable[..., Device], crops: list[Crop], caplog: pytest.LogCaptureFixture
) -> None:
    made = device()
    made.cuda.captures_fail = True
    with Recognizer(made.bundle, made.open()) as recognizer:
        first, second, third = (recognizer.predict(crops[:2]) for _ in range(3))
        assert first == second == third
        said = [record.getMessage() for record in caplog.records if "CUDA graph" in record.getMessage()]
        assert len(said) == 2  # once for each engine
        assert all("cudaStreamEndCapture" in line for line in said)


def test_limits_are_said_in_one_line(device: Callable[..., Device]) -> None:
    made = device()
    backend = made.open()
    state = backend.encode(np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(BackendError, match=r"27 tokens.* got 28"):
        backend.step(state, np.zeros((1, 28), np.int64))
    with pytest.raises(ValueError, match="tokens must have shape"):
        backend.step(state, np.zeros((2, 1), np.int64))
    made.cuda.memory = 1 << 10
    with pytest.raises(BackendError, match=r"out of memory: cudaMalloc \d+ MiB .*\S+ of 0 MiB"):
        backend.encode(np.zeros((12, 32, 32, 3), np.uint8))
    backend.close()


def test_contexts_share_scratch_memory(device: Callable[..., Device], crops: list[Crop]) -> None:
    made = device()
    with Recognizer(made.bundle, made.open()) as recognizer:
        before = sum(made.cuda.calls[name] for name in ("cudaMalloc",))
        for size in (1, 2, 3, 4, 5):
            recognizer.predict(crops[:size])
        assert made.trt.contexts >= 10
        assert len(made.trt.scratch_streams) == 2  # one per engine, on a stream of its own
        assert made.cuda.calls["cudaMalloc"] - before <= 4  # batches alone
    assert made.cuda.check() == []


def test_rtx_captures_each_inference_once(device: Callable[..., Device], crops: list[Crop]) -> None:
    """Steps write two buffers in turns: a context for each, or RTX captures again at every step."""
    made = device(rtx=True)
    with Recognizer(made.bundle, made.open()) as recognizer:
        for _ in range(3):
            recognizer.predict(crops[:2])
    assert made.trt.recaptures == 0
    assert made.cuda.check() == []


def test_nobody_allocates_while_rtx_may_capture(
    device: Callable[..., Device], crops: list[Crop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """How it captures is not documented; it does so in the second inference of a context."""
    made = device(rtx=True)
    backend = made.open()
    locked: dict[ExecutionContext, list[bool]] = {}
    execute = ExecutionContext.execute_async_v3

    def noted(context: ExecutionContext, stream_handle: int) -> bool:
        locked.setdefault(context, []).append(backend._cuda._exclusive.locked())
        return execute(context, stream_handle)

    monkeypatch.setattr(ExecutionContext, "execute_async_v3", noted)
    with Recognizer(made.bundle, backend) as recognizer:
        for _ in range(4):
            recognizer.predict(crops[:1])
    assert len(locked) == 3  # the encoder's, and one per buffer that a step writes
    for inferences in locked.values():
        assert inferences[:3] == [True] * 3
        assert not any(inferences[3:])
