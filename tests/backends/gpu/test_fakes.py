"""The stand-in for CUDA forgives nothing that hardware does not forgive. Tests of the backends count on that."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda.bindings import runtime
from fakes.cuda import FakeCuda

THREAD_LOCAL = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
DEFAULT = runtime.cudaMemcpyKind.cudaMemcpyDefault


class Program:
    """Calls of a program: each returns its value, and `code` is the error of the last one."""

    def __init__(self, **options: Any) -> None:
        self.cuda = FakeCuda(**options)
        self.code = 0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            error, *values = getattr(self.cuda, f"cuda{name}")(*arguments)
            self.code = int(error)
            return values[0] if values else None

        return call

    def stream(self) -> Any:
        return self.StreamCreateWithFlags(1)

    def event(self) -> Any:
        return self.EventCreateWithFlags(2)

    def pinned(self, size: int) -> np.ndarray:
        address = self.HostAlloc(size, 0)
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def copy(self, target: int, source: int, size: int, stream: Any) -> None:
        self.MemcpyAsync(target, source, size, DEFAULT, stream)

    def graph(self, stream: Any, address: int, size: int = 4) -> Any:
        """A graph that clears memory."""
        self.StreamBeginCapture(stream, THREAD_LOCAL)
        self.MemsetAsync(address, 0, size, stream)
        return self.GraphInstantiate(self.StreamEndCapture(stream), 0)

    def kinds(self) -> list[str]:
        return sorted({line.partition(":")[0] for line in self.cuda.check()})


def in_thread(function: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join(10)
    return found[0]


def bytes_at(address: int, size: int) -> list[int]:
    return list((ctypes.c_uint8 * size).from_address(address))


# When work is done


def test_work_is_done_at_once_late_or_at_any_time() -> None:
    def cleared(**options: Any) -> bool:
        program = Program(**options)
        stream, address = program.stream(), program.Malloc(4)
        program.MemsetAsync(address, 0, 4, stream)
        for _ in range(3):
            program.GetDevice()
        return bytes_at(address, 4) == [0] * 4

    assert cleared(eager=True)
    assert not cleared()
    at_random = [cleared(seed=seed) for seed in range(40)]
    assert 5 < sum(at_random) < 40
    assert at_random == [cleared(seed=seed) for seed in range(40)]


@pytest.mark.parametrize("options", [{}, {"eager": True}, *({"seed": seed} for seed in range(10))], ids=str)
def test_a_stream_waits_for_an_event_of_another(options: dict[str, Any]) -> None:
    program = Program(**options)
    one, other, event = program.stream(), program.stream(), program.event()
    source, target = program.Malloc(4), program.Malloc(4)
    for value in range(5):
        program.MemsetAsync(source, value, 4, one)
        program.EventRecord(event, one)
        program.StreamWaitEvent(other, event, 0)
        program.copy(target, source, 4, other)
        program.EventRecord(event, other)
        program.StreamWaitEvent(one, event, 0)
        program.StreamSynchronize(other)
        assert bytes_at(target, 4) == [value] * 4
    assert program.kinds() == []


def test_a_wait_finishes_no_more_than_it_needs() -> None:
    program = Program()
    stream, other, event, address = program.stream(), program.stream(), program.event(), program.Malloc(8)
    program.MemsetAsync(address, 0, 4, stream)
    program.EventRecord(event, stream)
    program.MemsetAsync(address, 1, 4, stream)
    program.MemsetAsync(address + 4, 2, 4, other)
    assert program.EventQuery(event) is None
    assert program.code == 600
    program.EventSynchronize(event)
    assert bytes_at(address, 8) == [0] * 4 + [255] * 4
    program.EventQuery(event)
    assert program.code == 0
    program.StreamSynchronize(stream)
    assert bytes_at(address, 8) == [1] * 4 + [255] * 4


# Captures


BREAKS: dict[str, tuple[Callable[[Program, Any, Any], Any], int]] = {
    "allocation": (lambda program, stream, event: program.Malloc(8), 900),
    "allocation of pinned memory": (lambda program, stream, event: program.HostAlloc(8, 0), 900),
    "freeing": (lambda program, stream, event: program.Free(next(iter(program.cuda.buffers))), 900),
    "legacy stream": (
        lambda program, stream, event: program.MemsetAsync(next(iter(program.cuda.buffers)), 0, 1, None),
        900,
    ),
    "waiting for the stream": (lambda program, stream, event: program.StreamSynchronize(stream), 900),
    "waiting for its event": (lambda program, stream, event: program.EventSynchronize(event), 907),
}


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same thread", "another thread"])
@pytest.mark.parametrize("name", BREAKS)
def test_what_breaks_a_capture(name: str, elsewhere: bool) -> None:
    program = Program()
    stream, event, address = program.stream(), program.event(), program.Malloc(8)
    program.StreamBeginCapture(stream, THREAD_LOCAL)
    program.MemsetAsync(address, 0, 8, stream)
    program.EventRecord(event, stream)
    act, code = BREAKS[name]
    if elsewhere:
        in_thread(lambda: act(program, stream, event))
    else:
        act(program, stream, event)
    assert program.code == code
    assert program.StreamEndCapture(stream) is None
    assert program.code == 901
    assert program.kinds() == ["capture"]
    program.MemsetAsync(address, 3, 8, stream)  # the stream is as good as before
    program.StreamSynchronize(stream)
    assert bytes_at(address, 8) == [3] * 8


@pytest.mark.parametrize(("elsewhere", "expected"), [(True, []), (False, ["capture"])])
def test_a_thread_that_captures_may_not_wait_for_anything_but_others_may(elsewhere: bool, expected: list[str]) -> None:
    program = Program()
    stream, other = program.stream(), program.stream()
    program.StreamBeginCapture(stream, THREAD_LOCAL)
    if elsewhere:
        in_thread(lambda: program.StreamSynchronize(other))
    else:
        program.StreamSynchronize(other)
    program.StreamEndCapture(stream)
    assert program.kinds() == expected


def test_what_another_thread_enqueues_is_recorded() -> None:
    program = Program(eager=True)
    stream, address, event = program.stream(), program.Malloc(4), program.event()
    program.StreamBeginCapture(stream, THREAD_LOCAL)
    in_thread(lambda: program.MemsetAsync(address, 7, 4, stream))
    assert bytes_at(address, 4) == [255] * 4
    assert program.kinds() == ["capture"]
    graph = program.GraphInstantiate(program.StreamEndCapture(stream), 0)
    for _ in range(2):
        program.MemsetAsync(address, 1, 4, stream)
        program.GraphLaunch(graph, stream)
        assert bytes_at(address, 4) == [7] * 4  # at every launch

    program = Program()
    stream, event = program.stream(), program.event()
    program.StreamBeginCapture(stream, THREAD_LOCAL)
    in_thread(lambda: program.EventRecord(event, stream))
    program.StreamEndCapture(stream)
    program.EventSynchronize(event)
    assert program.code == 907  # it never comes to pass
    assert program.kinds() == ["capture"]


def test_a_capture_stays_in_its_stream_and_thread() -> None:
    program = Program()
    stream, other, outside = program.stream(), program.stream(), program.event()
    program.EventRecord(outside, other)
    program.StreamBeginCapture(stream, THREAD_LOCAL)
    program.StreamWaitEvent(stream, outside, 0)
    assert program.code == 905
    assert program.StreamEndCapture(stream) is None

    program = Program()
    stream = program.stream()
    program.StreamBeginCapture(stream, THREAD_LOCAL)
    assert int(program.StreamIsCapturing(stream)) == 1
    in_thread(lambda: program.StreamEndCapture(stream))
    assert program.code == 908
    program.StreamEndCapture(stream)
    assert program.code == 0
    assert program.kinds() == ["capture"]


# Memory


def test_memory_is_poisoned_before_and_after() -> None:
    program = Program()
    address, pinned = program.Malloc(8), program.pinned(8)
    assert bytes_at(address, 8) == list(pinned) == [255] * 8
    pinned[:] = 1
    program.FreeHost(pinned.ctypes.data)
    assert list(pinned) == [255] * 8
    assert program.kinds() == []
    pinned[3] = 1  # a NumPy view outlives what it shows
    assert program.kinds() == ["freed"]


USES: dict[str, Callable[[Program, int, Any], Any]] = {
    "enqueued after": lambda program, address, stream: (
        program.Free(address),
        program.MemsetAsync(address, 0, 8, stream),
    ),
    "freed before it ran": lambda program, address, stream: (
        program.MemsetAsync(address, 0, 8, stream),
        program.Free(address),
    ),
    "in a graph": lambda program, address, stream: program.GraphLaunch(
        [program.graph(stream, address), program.Free(address)][0], stream
    ),
    "freed twice": lambda program, address, stream: (program.Free(address), program.Free(address)),
    "never allocated": lambda program, address, stream: program.Free(address + 1),
    "freed as the other kind": lambda program, address, stream: program.FreeHost(address),
    "past the end": lambda program, address, stream: program.MemsetAsync(address + 4, 0, 5, stream),
    "read past the end": lambda program, address, stream: program.copy(address, address + 4, 5, stream),
}


@pytest.mark.parametrize("name", USES)
def test_memory_that_may_not_be_touched(name: str) -> None:
    program = Program()
    stream, address = program.stream(), program.Malloc(8)
    USES[name](program, address, stream)
    program.StreamSynchronize(stream)
    assert program.kinds() == ["freed"]


def test_freed_memory_is_looked_at_when_work_runs() -> None:
    program = Program()
    stream, address = program.stream(), program.Malloc(8)
    graph = program.graph(stream, address, size=8)
    program.GraphLaunch(graph, stream)
    program.Free(address)
    program.StreamSynchronize(stream)
    assert any("ran when" in line for line in program.cuda.check())
    assert bytes_at(address, 8) == [255] * 8


def test_the_host_waits_before_it_touches_what_a_copy_uses() -> None:
    program = Program()
    stream, address, source = program.stream(), program.Malloc(8), program.pinned(8)
    source[:] = 1
    program.copy(address, source.ctypes.data, 8, stream)
    source[2] = 2
    program.StreamSynchronize(stream)
    assert program.kinds() == ["host"]

    program = Program()
    stream, address, target = program.stream(), program.Malloc(8), program.pinned(8)
    target[:] = 0
    program.MemsetAsync(address, 5, 8, stream)
    program.copy(target.ctypes.data, address, 8, stream)
    assert list(target) == [255] * 8  # not what was there before, which may pass for an answer
    program.StreamSynchronize(stream)
    assert list(target) == [5] * 8
    assert program.kinds() == []


# Objects


def test_what_still_works_is_not_destroyed() -> None:
    program = Program()
    stream, address = program.stream(), program.Malloc(4)
    graph = program.graph(stream, address)
    program.GraphLaunch(graph, stream)
    program.GraphExecDestroy(graph)
    assert program.kinds() == ["order"]

    program = Program()
    stream, address = program.stream(), program.Malloc(4)
    program.MemsetAsync(address, 0, 4, stream)
    program.StreamDestroy(stream)
    assert program.kinds() == ["order"]


def test_what_was_destroyed_is_not_used() -> None:
    program = Program()
    stream, event = program.stream(), program.event()
    program.EventDestroy(event)
    program.EventRecord(event, stream)
    assert program.code == 400
    program.StreamDestroy(stream)
    program.StreamSynchronize(stream)
    assert program.code == 400
    assert len(program.cuda.check()) == 2
    assert program.kinds() == ["handle"]
    with pytest.raises(TypeError):
        program.StreamSynchronize(5)  # a number is no handle


def test_what_is_left_is_listed() -> None:
    program = Program()
    stream, event, address = program.stream(), program.event(), program.Malloc(4)
    graph = program.graph(stream, address)
    pinned = program.HostAlloc(4, 0)
    text = " ".join(program.cuda.leaks())
    for part in ("4 bytes of device", "4 bytes of pinned", f"stream {int(stream)}", f"event {int(event)}", "graph"):
        assert part in text
    assert len(program.cuda.leaks()) == 6  # the graph that was captured, and the one made of it
    program.Free(address)
    program.FreeHost(pinned)
    program.EventDestroy(event)
    program.StreamDestroy(stream)
    program.GraphExecDestroy(graph)
    (left,) = program.cuda.leaks()
    assert left.startswith("graph")


def test_each_thread_has_a_device_and_objects_are_of_one() -> None:
    program = Program(devices=2)
    stream, address = program.stream(), program.Malloc(4)

    def elsewhere(act: Callable[[], Any]) -> None:
        program.SetDevice(1)
        assert program.GetDevice() == 1
        act()

    in_thread(lambda: elsewhere(lambda: program.StreamSynchronize(stream)))
    assert program.code == 400
    in_thread(lambda: elsewhere(lambda: program.MemsetAsync(address, 0, 4, stream)))
    assert program.code == 400
    in_thread(lambda: elsewhere(lambda: program.Free(address)))
    assert program.GetDevice() == 0
    assert program.kinds() == ["device"]
    program.SetDevice(2)
    assert program.code == 101


# Faults


def test_calls_fail_when_a_test_wants_it() -> None:
    program = Program()
    program.cuda.fail_next("cudaMalloc", after=1)
    assert [program.Malloc(4) is None for _ in range(3)] == [False, True, False]
    program.cuda.fail_at_random("cudaHostAlloc", 1.0, 2)
    assert program.HostAlloc(4, 0) is None
    assert program.cuda.injected == {"cudaMalloc": 1, "cudaHostAlloc": 1}
    stream = program.stream()
    program.cuda.fail_next("cudaStreamEndCapture", 901)
    assert program.graph(stream, next(iter(program.cuda.buffers))) is None
    assert int(program.StreamIsCapturing(stream)) == 0  # the capture ended all the same
    assert not any(line.startswith("graph") for line in program.cuda.leaks())


def test_a_lost_device_fails_every_call_and_still_lets_go() -> None:
    program = Program()
    stream, address = program.stream(), program.Malloc(4)
    program.MemsetAsync(address, 0, 4, stream)
    program.cuda.lose_device()
    assert program.MemGetInfo() is None
    program.Free(address)
    program.StreamDestroy(stream)
    assert program.code == 719
    assert program.cuda.leaks() == []
    assert program.kinds() == []
