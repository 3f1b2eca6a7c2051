"""The stand-in for TensorRT holds an execution context to its shapes, its memory and one thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cuda.bindings import runtime
from fakes.cuda import FakeCuda
from fakes.memory import array_at
from fakes.tensorrt import (
    CudaGraphStrategy,
    EngineValidity,
    ExecutionContextAllocationStrategy,
    FakeTensorRt,
    ILogger,
    fake_plan,
)

USER_MANAGED = ExecutionContextAllocationStrategy.USER_MANAGED
THREAD_LOCAL = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
PROFILES = [{"tokens": [[1, 1], [1, 1], [4, 1]]}, {"tokens": [[1, 1], [1, 1], [4, 9]]}]


class Log(ILogger):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, severity: Any, msg: str) -> None:
        self.lines.append(msg)


class Program:
    """An engine that counts each token one up, and a context that runs it for `rows` tokens."""

    def __init__(self, onnx_file: Path, *, rtx: bool = False, **options: Any) -> None:
        self.cuda = FakeCuda(**options)
        self.trt = FakeTensorRt(self.cuda, rtx=rtx)
        self.log = Log()
        made = self.trt.Runtime(self.log).deserialize_cuda_engine(fake_plan(onnx_file, PROFILES, ["next_token"]))
        assert made is not None
        self.engine = made
        self.stream = self.cuda.cudaStreamCreateWithFlags(1)[1]
        self.tokens, self.answers = self.cuda.cudaMalloc(256)[1], self.cuda.cudaMalloc(256)[1]

    def context(self, *strategy: Any) -> Any:
        return self.engine.create_execution_context(*strategy)

    def run(self, context: Any, rows: int = 1, stream: Any = None) -> bool:
        assert context.set_input_shape("tokens", (rows, 1))
        assert context.set_tensor_address("tokens", self.tokens)
        assert context.set_tensor_address("next_token", self.answers)
        return bool(context.execute_async_v3(int(self.stream if stream is None else stream)))

    def captured(self, context: Any, rows: int = 1) -> Any:
        self.cuda.cudaStreamBeginCapture(self.stream, THREAD_LOCAL)
        self.run(context, rows)
        code, template = self.cuda.cudaStreamEndCapture(self.stream)
        if int(code):
            return None
        graph = self.cuda.cudaGraphInstantiate(template, 0)[1]
        self.cuda.cudaGraphDestroy(template)
        return graph

    def answer(self, feed: int, work: Callable[[], object]) -> int:
        array_at(self.tokens, (1,), np.int64)[:] = feed
        work()
        self.cuda.cudaStreamSynchronize(self.stream)
        return int(array_at(self.answers, (1,), np.int64)[0])

    def kinds(self) -> list[str]:
        return sorted({line.partition(":")[0] for line in self.cuda.check()})


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape, integer = ["B", "T"], onnx.TensorProto.INT64
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["tokens", "one"], ["next_token"])],
        "count",
        [onnx.helper.make_tensor_value_info("tokens", integer, shape)],
        [onnx.helper.make_tensor_value_info("next_token", integer, shape)],
        [onnx.helper.make_tensor("one", integer, [1], [1])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)
    file = tmp_path_factory.mktemp("count") / "decoder_step.onnx"
    onnx.save(model, file)
    return file


def test_a_graph_holds_for_the_shapes_it_was_captured_with(onnx_file: Path) -> None:
    program = Program(onnx_file)
    context, other = program.context(), program.context()
    program.run(context)
    graph = program.captured(context)
    assert program.answer(3, lambda: program.cuda.cudaGraphLaunch(graph, program.stream)) == 4
    program.run(other, rows=2)  # another context changes nothing
    assert program.answer(5, lambda: program.cuda.cudaGraphLaunch(graph, program.stream)) == 6
    assert program.kinds() == []
    program.run(context, rows=2)
    program.run(context, rows=1)  # the same shape again, and yet another state
    assert program.answer(5, lambda: program.cuda.cudaGraphLaunch(graph, program.stream)) == -1
    assert program.kinds() == ["stale"]


def test_a_graph_outlives_no_context(onnx_file: Path) -> None:
    program = Program(onnx_file)
    context = program.context()
    program.run(context)
    graph = program.captured(context)
    program.cuda.cudaStreamSynchronize(program.stream)
    del context
    program.cuda.cudaGraphLaunch(graph, program.stream)
    assert program.kinds() == ["freed"]  # its scratch memory

    program = Program(onnx_file)
    context = program.context()
    program.run(context)
    del context
    program.cuda.cudaStreamSynchronize(program.stream)
    assert program.kinds() == ["freed"]


def test_a_context_allocates_at_its_first_run_which_a_capture_forbids(onnx_file: Path) -> None:
    for rows in (1, 2):
        program = Program(onnx_file)
        context = program.context()
        if rows == 2:
            program.run(context)
        assert program.captured(context, rows) is None
        assert program.kinds() == ["capture"]
        assert "cannot allocate" in program.log.lines[-1]


def test_memory_that_the_user_manages(onnx_file: Path) -> None:
    program = Program(onnx_file)
    context = program.context(USER_MANAGED)
    assert not program.run(context)  # it has none
    assert program.kinds() == ["scratch"]

    program = Program(onnx_file)
    context = program.context(USER_MANAGED)
    needed = [program.engine.get_device_memory_size_for_profile_v2(profile) for profile in (0, 1)]
    assert 0 < needed[0] < needed[1]
    memory = program.cuda.cudaMalloc(needed[1] + 256)[1]
    context.set_device_memory(memory, needed[0])
    assert program.answer(3, lambda: program.run(context)) == 4
    assert set(array_at(memory, (needed[0],), np.uint8)) == {255}
    assert program.kinds() == []
    context.set_device_memory(memory + 1, needed[0])
    assert program.kinds() == ["scratch"]

    program = Program(onnx_file)
    context = program.context(USER_MANAGED)
    context.set_optimization_profile_async(1, int(program.stream))
    context.set_device_memory(program.cuda.cudaMalloc(needed[0])[1], needed[0])
    assert not program.run(context)
    assert program.kinds() == ["scratch"]


def test_contexts_share_memory_on_one_stream_alone(onnx_file: Path) -> None:
    for streams, expected in ((1, []), (2, ["scratch"])):
        program = Program(onnx_file)
        memory = program.cuda.cudaMalloc(4096)[1]
        for number in range(2):
            context = program.context(USER_MANAGED)
            context.set_device_memory(memory, 1000)
            stream = program.cuda.cudaStreamCreateWithFlags(1)[1] if number < streams - 1 else program.stream
            program.run(context, stream=stream)
            program.cuda.cudaStreamSynchronize(stream)
        assert program.kinds() == expected


def test_one_thread_uses_a_context_at_a_time(onnx_file: Path) -> None:
    program = Program(onnx_file)
    context = program.context()
    for _ in range(2):
        thread = threading.Thread(target=lambda: program.run(context))
        thread.start()
        thread.join(10)
    assert program.kinds() == []
    context.set_input_shape("tokens", (2, 1))
    thread = threading.Thread(target=lambda: program.run(context))
    thread.start()
    thread.join(10)
    assert program.kinds() == ["context"]


def test_an_engine_reads_and_writes_apart(onnx_file: Path) -> None:
    for apart, expected in ((True, []), (False, ["alias"])):
        program = Program(onnx_file)
        program.answers = program.answers if apart else program.tokens
        context = program.context()
        program.run(context)
        assert program.kinds() == expected


def test_rtx_recaptures_when_an_address_changes(onnx_file: Path) -> None:
    program = Program(onnx_file, rtx=True)
    for strategy, expected in ((CudaGraphStrategy.DISABLED, 0), (CudaGraphStrategy.WHOLE_GRAPH_CAPTURE, 3)):
        config = program.engine.create_runtime_config()
        config.cuda_graph_strategy = strategy
        context = program.context(config)
        one = program.answers
        addresses = [one, program.cuda.cudaMalloc(256)[1]]
        for step in range(4):
            program.answers = addresses[step % 2]
            program.run(context)
        assert program.trt.recaptures == expected
        program.answers = one


def test_rtx_answers_whether_an_engine_and_a_capture_will_do(onnx_file: Path) -> None:
    program = Program(onnx_file, rtx=True)
    assert program.trt.Runtime(program.log).get_engine_validity(b"plan") == (EngineValidity.VALID, 0)
    program.trt.validity = (EngineValidity.INVALID, 2)
    assert program.trt.Runtime(program.log).get_engine_validity(b"plan")[0] is EngineValidity.INVALID
    config = program.engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(USER_MANAGED)
    context = program.context(config)
    assert not program.run(context)
    assert context.is_stream_capturable(int(program.stream))
    program.trt.capturable = False
    assert not context.is_stream_capturable(int(program.stream))


def test_memory_may_run_out_for_the_sdk_as_well(onnx_file: Path) -> None:
    program = Program(onnx_file)
    program.cuda.fail_next("sdk_allocate")
    assert program.context() is None
    context = program.context()
    program.cuda.fail_next("sdk_allocate")
    assert not program.run(context)
    assert program.run(context)
    assert program.kinds() == []
