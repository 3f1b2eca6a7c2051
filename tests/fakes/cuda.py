"""The CUDA calls the backend makes, in host memory. Work on a stream waits until somebody waits for it, or is done at
once with `eager`: between the two lies what a device may do, so code that reads too early or overwrites too soon fails
in one of them.
"""

from __future__ import annotations

import ctypes
import itertools
import types
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

SUCCESS, OUT_OF_MEMORY, INVALID_VALUE = 0, 2, 1
Operation = Callable[[], None]


class Stream(int):
    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting: deque[Operation] = deque()
        self.captured: list[Operation] | None = None

    def x(self):
        pass


N = itertools.count(1000)


class Event(int):
    def __new__(cls):
        return super().__new__(cls, next(N))

    recorded: int = 0
    done: int = 0
    stream: Stream | None = None


class G(int):
    def __new__(cls, ops):
        x = super().__new__(cls, next(N))
        x.ops = ops
        return x


class FakeCuda:
    """Stands in for `cuda.bindings.runtime`."""

    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaEventBlockingSync = 1
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyDefault=4)
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(
        self,
        *,
        eager: bool = False,
        name: bytes = b"NVIDIA Fake",
        major: int = 9,
        minor: int = 0,
        driver: int = 13010,
        memory: int = 1 << 34,
        devices: int = 1,
    ) -> None:
        self.eager = eager
        self.properties = types.SimpleNamespace(name=name, major=major, minor=minor, totalGlobalMem=memory)
        self.driver, self.memory, self.devices = driver, memory, devices
        self.buffers: dict[int, np.ndarray] = {}
        self.streams: dict[int, Stream] = {}
        self.events: list[Event] = []
        self.graphs: list[list[Operation]] = []
        self.launches = 0
        self.captures_fail = False
        self._numbers = itertools.count(1)

    # Memory

    def _buffer(self, size: int) -> int:
        raw = np.full(size + 256, 0xFF, dtype=np.uint8)  # NaN, whatever the type: nothing may be taken for cleared
        address = -(-raw.ctypes.data // 256) * 256
        self.buffers[address] = raw
        return address

    def cudaMalloc(self, size: int) -> tuple[int, int | None]:
        if sum(buffer.size for buffer in self.buffers.values()) + size > self.memory:
            return OUT_OF_MEMORY, None
        return SUCCESS, self._buffer(size)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        assert flags == 0
        return SUCCESS, self._buffer(size)

    def cudaFree(self, devPtr: int) -> tuple[int]:
        del self.buffers[devPtr]
        return (SUCCESS,)

    def cudaFreeHost(self, ptr: int) -> tuple[int]:
        return self.cudaFree(ptr)

    def cudaMemGetInfo(self) -> tuple[int, int, int]:
        return SUCCESS, self.memory - sum(buffer.size for buffer in self.buffers.values()), self.memory

    def check(self, address: int, size: int) -> None:
        """Fail if any of these bytes lies outside what was allocated."""
        for start, buffer in self.buffers.items():
            if start <= address and address + size <= start + buffer.size:
                return
        raise AssertionError(f"{size} bytes at {address} were never allocated")

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: int, stream: Stream) -> tuple[int]:
        return self.cudaMemcpy2DAsync(dst, count, src, count, count, 1, kind, stream)

    def cudaMemcpy2DAsync(
        self, dst: int, dpitch: int, src: int, spitch: int, width: int, height: int, kind: int, stream: Stream
    ) -> tuple[int]:
        assert kind == 4
        assert width <= min(dpitch, spitch)
        self.check(dst, dpitch * (height - 1) + width)
        self.check(src, spitch * (height - 1) + width)

        def copy() -> None:
            for piece in range(height):
                ctypes.memmove(dst + piece * dpitch, src + piece * spitch, width)

        return self.enqueue(stream, copy)

    def cudaMemsetAsync(self, devPtr: int, value: int, count: int, stream: Stream) -> tuple[int]:
        self.check(devPtr, count)
        return self.enqueue(stream, lambda: ctypes.memset(devPtr, value, count) and None)

    # Streams and events

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, Stream]:
        assert flags == self.cudaStreamNonBlocking
        stream = Stream(next(self._numbers))
        self.streams[stream.number] = stream
        return SUCCESS, stream

    def cudaStreamDestroy(self, stream: Stream) -> tuple[int]:
        del self.streams[stream.number]
        return (SUCCESS,)

    def enqueue(self, stream: Stream, operation: Operation) -> tuple[int]:
        if stream.captured is not None:
            stream.captured.append(operation)
        elif self.eager:
            operation()
        else:
            stream.waiting.append(operation)
        return (SUCCESS,)

    def _drain(self, stream: Stream, event: Event | None = None, generation: int = 0) -> None:
        while stream.waiting and (event is None or event.done < generation):
            stream.waiting.popleft()()

    def cudaStreamSynchronize(self, stream: Stream) -> tuple[int]:
        self._drain(stream)
        return (SUCCESS,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[int, Event]:
        assert flags in (2, 3)
        self.events.append(Event())
        return SUCCESS, self.events[-1]

    def cudaEventDestroy(self, event: Event) -> tuple[int]:
        self.events = [other for other in self.events if other is not event]
        return (SUCCESS,)

    def cudaEventRecord(self, event: Event, stream: Stream) -> tuple[int]:
        event.recorded += 1
        event.stream, generation = stream, event.recorded
        return self.enqueue(stream, lambda: setattr(event, "done", max(event.done, generation)))

    def cudaStreamWaitEvent(self, stream: Stream, event: Event, flags: int) -> tuple[int]:
        assert flags == 0
        recorded_on, generation = event.stream, event.recorded
        if recorded_on is None:
            return (SUCCESS,)
        return self.enqueue(stream, lambda: self._drain(recorded_on, event, generation))

    def cudaEventSynchronize(self, event: Event) -> tuple[int]:
        if event.stream is not None:
            self._drain(event.stream, event, event.recorded)
        return (SUCCESS,)

    # Graphs

    def cudaStreamBeginCapture(self, stream: Stream, mode: int) -> tuple[int]:
        assert mode == self.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        stream.captured = []
        return (SUCCESS,)

    def cudaStreamEndCapture(self, stream: Stream) -> tuple[int, list[Operation] | None]:
        captured, stream.captured = stream.captured, None
        return (INVALID_VALUE, None) if self.captures_fail else (SUCCESS, captured)

    def cudaGraphInstantiate(self, graph: list[Operation], flags: int) -> tuple[int, list[Operation]]:
        assert flags == 0
        self.graphs.append(G(graph))
        return SUCCESS, self.graphs[-1]

    def cudaGraphDestroy(self, graph: list[Operation]) -> tuple[int]:
        return (SUCCESS,)

    def cudaGraphLaunch(self, graphExec: list[Operation], stream: Stream) -> tuple[int]:
        self.launches += 1
        for operation in graphExec.ops:
            self.enqueue(stream, operation)
        return (SUCCESS,)

    def cudaGraphExecDestroy(self, graphExec: list[Operation]) -> tuple[int]:
        self.graphs = [other for other in self.graphs if other is not graphExec]
        return (SUCCESS,)

    def cudaGraphGetNodes(self, graph, numNodes=0):
        return SUCCESS, graph, len(graph)

    def cudaGetDevice(self):
        return SUCCESS, 0

    def cudaSetDevice(self, device):
        return (SUCCESS,)

    # The machine

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return SUCCESS, self.devices

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        assert device == 0
        return SUCCESS, self.properties

    def cudaDriverGetVersion(self) -> tuple[int, int]:
        return SUCCESS, self.driver

    def cudaGetErrorString(self, error: int) -> tuple[int, bytes]:
        return SUCCESS, b"error " + str(int(error)).encode()
