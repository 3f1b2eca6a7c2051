"""The CUDA calls the backends make, in host memory, and as strict as hardware is.

Work on a stream waits until somebody waits for it; or is done at once, with `eager`; or is done at any time, with
`seed`. Between the three lies what a device may do, so code that reads too early or overwrites too soon fails in one of
them. `violations` lists what no program may do, each as `kind: text`: the calls themselves return CUDA's error codes,
and work that runs later has nobody to return one to.
"""

from __future__ import annotations

import ctypes
import dataclasses
import threading
from typing import Any

from cuda.bindings import runtime
from fakes.gpu import (
    CAPTURE_INVALIDATED,
    CAPTURE_ISOLATION,
    CAPTURE_UNSUPPORTED,
    CAPTURED_EVENT,
    INVALID_VALUE,
    NOT_READY,
    OUT_OF_MEMORY,
    WRONG_THREAD,
    CudaFault,
    FakeGpu,
    call,
    error_code,
)
from fakes.streams import Capture, Event, Graph, GraphExec, Operation, Stream


class FakeCuda(FakeGpu):
    """Stands in for `cuda.bindings.runtime`."""

    cudaStreamNonBlocking = 1
    cudaEventBlockingSync = 1
    cudaEventDisableTiming = 2
    cudaMemcpyKind = runtime.cudaMemcpyKind
    cudaStreamCaptureMode = runtime.cudaStreamCaptureMode
    cudaStreamCaptureStatus = runtime.cudaStreamCaptureStatus

    # Memory

    def _allocate(self, size: int, owner: str) -> int:
        self.not_while_capturing(f"allocation of {owner} memory")
        if owner != "pinned" and self.blocks.used + size > self.memory:
            raise CudaFault(OUT_OF_MEMORY)
        return self.blocks.allocate(size, owner, self.device).address

    def _free(self, address: int, owner: str) -> None:
        block = self.blocks.at(address)
        if block is None or block.address != address or block.owner != owner:
            self.report("freed", f"{address:#x} is freed as {owner} memory, and is none")
            raise CudaFault(INVALID_VALUE)
        if not block.live:
            self.report("freed", f"{block} are freed twice")
            raise CudaFault(INVALID_VALUE)
        self.check_device(block.device, str(block))
        self.not_while_capturing(f"freeing of {owner} memory")
        pending = self.streams.pending_on((block.address, block.size))
        if pending is not None:
            self.report("freed", f"{block} are freed while {pending.name} has yet to run")
        self.blocks.free(block)

    @call(1)
    def cudaMalloc(self, size: int) -> int:
        return self._allocate(size, "device")

    @call(1)
    def cudaHostAlloc(self, size: int, flags: int) -> int:
        assert flags == 0
        return self._allocate(size, "pinned")

    @call()
    def cudaFree(self, devPtr: int) -> None:
        self._free(devPtr, "device")

    @call()
    def cudaFreeHost(self, ptr: int) -> None:
        self._free(ptr, "pinned")

    @call(2)
    def cudaMemGetInfo(self) -> tuple[int, int]:
        return max(0, self.memory - self.blocks.used), self.memory

    @call()
    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: Any) -> None:
        assert kind is runtime.cudaMemcpyKind.cudaMemcpyDefault

        def copy() -> None:
            ctypes.memmove(dst, src, count)

        reads, writes = ((src, count),), ((dst, count),)
        self.enqueue_on(stream, Operation("cudaMemcpyAsync", copy, reads=reads, writes=writes, contiguous=True))

    @call()
    def cudaMemcpy2DAsync(
        self, dst: int, dpitch: int, src: int, spitch: int, width: int, height: int, kind: Any, stream: Any
    ) -> None:
        assert kind is runtime.cudaMemcpyKind.cudaMemcpyDefault
        if width > min(dpitch, spitch):
            self.report("argument", f"cudaMemcpy2DAsync of width {width} and pitches {dpitch} and {spitch}")
            raise CudaFault(INVALID_VALUE)

        def copy() -> None:
            for piece in range(height):
                ctypes.memmove(dst + piece * dpitch, src + piece * spitch, width)

        reads, writes = ((src, spitch * (height - 1) + width),), ((dst, dpitch * (height - 1) + width),)
        self.enqueue_on(stream, Operation("cudaMemcpy2DAsync", copy, reads=reads, writes=writes))

    @call()
    def cudaMemsetAsync(self, devPtr: int, value: int, count: int, stream: Any) -> None:
        def clear() -> None:
            ctypes.memset(devPtr, value, count)

        self.enqueue_on(stream, Operation("cudaMemsetAsync", clear, writes=((devPtr, count),)))

    # Streams and events

    @call(1)
    def cudaStreamCreateWithFlags(self, flags: int) -> Any:
        assert flags == self.cudaStreamNonBlocking
        stream = Stream(next(self.numbers), self.device)
        self.streams.all[stream.number] = stream
        return runtime.cudaStream_t(stream.number)

    @call()
    def cudaStreamDestroy(self, stream: Any) -> None:
        made = self.stream(stream)
        if made.queue:
            self.report("order", f"stream {made.number} is destroyed while {made.queue[0].name} has yet to run")
        if made.capture is not None:
            self.report("capture", f"stream {made.number} is destroyed while it captures")
        del self.streams.all[made.number]

    @call()
    def cudaStreamSynchronize(self, stream: Any) -> None:
        made = self.stream(stream)
        self.may_wait(made.capture, f"cudaStreamSynchronize of stream {made.number}", CAPTURE_UNSUPPORTED)
        self.streams.finish(made)

    @call(1)
    def cudaEventCreateWithFlags(self, flags: int) -> Any:
        assert flags & ~self.cudaEventBlockingSync == self.cudaEventDisableTiming
        event = Event(next(self.numbers), self.device)
        self.events[event.number] = event
        return runtime.cudaEvent_t(event.number)

    @call()
    def cudaEventDestroy(self, event: Any) -> None:
        del self.events[self.event(event).number]

    @call()
    def cudaEventRecord(self, event: Any, stream: Any) -> None:
        made, on = self.event(event), self.stream(stream)
        made.stream, made.capture = on, on.capture
        if on.capture is not None:
            self.check_joins(on.capture, "cudaEventRecord")
            return
        made.recorded += 1
        self.enqueue_on(stream, Operation("cudaEventRecord", _nothing, records=(made, made.recorded)))

    @call()
    def cudaStreamWaitEvent(self, stream: Any, event: Any, flags: int) -> None:
        assert flags == 0
        made, on = self.event(event), self.stream(stream)
        if on.capture is not None and made.capture is not on.capture:
            self.invalidate(on.capture, "cudaStreamWaitEvent for an event from outside the capture")
            raise CudaFault(CAPTURE_ISOLATION)
        if on.capture is None and made.capture is not None:
            self.report("capture", f"a stream that does not capture waits for event {made.number}, which was captured")
            raise CudaFault(CAPTURED_EVENT)
        if made.stream is not None and on.capture is None:
            awaits = (made, made.recorded, made.stream)
            self.enqueue_on(stream, Operation("cudaStreamWaitEvent", _nothing, awaits=awaits))

    @call()
    def cudaEventSynchronize(self, event: Any) -> None:
        made = self.event(event)
        self.may_wait(made.capture, f"cudaEventSynchronize of event {made.number}", CAPTURED_EVENT)
        if made.stream is not None:
            self.streams.finish(made.stream, made, made.recorded)

    @call()
    def cudaEventQuery(self, event: Any) -> None:
        made = self.event(event)
        self.may_wait(made.capture, f"cudaEventQuery of event {made.number}", CAPTURED_EVENT)
        if made.done < made.recorded:
            raise CudaFault(NOT_READY)

    # Captures and graphs

    @call()
    def cudaStreamBeginCapture(self, stream: Any, mode: Any) -> None:
        assert mode is runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        made = self.stream(stream)
        if made.number == 0 or made.capture is not None:
            self.report("capture", f"stream {made.number} cannot begin a capture")
            raise CudaFault(CAPTURE_UNSUPPORTED)
        made.capture = Capture(made, threading.get_ident())

    @call(1)
    def cudaStreamIsCapturing(self, stream: Any) -> Any:
        capture = self.stream(stream).capture
        return runtime.cudaStreamCaptureStatus(0 if capture is None else 1 if capture.invalid is None else 2)

    @call(1)
    def cudaStreamEndCapture(self, stream: Any) -> Any:
        made = self.stream(stream)
        if made.capture is None or made.capture.thread != threading.get_ident():
            self.report("capture", f"a thread ends a capture of stream {made.number} that it did not begin")
            raise CudaFault(WRONG_THREAD)
        capture, made.capture = made.capture, None
        if capture.invalid is not None or self.captures_fail:
            raise CudaFault(CAPTURE_INVALIDATED)
        graph = Graph(next(self.numbers), made.device, capture.operations)
        self.templates[graph.number] = graph
        return runtime.cudaGraph_t(graph.number)

    @call(2)
    def cudaGraphGetNodes(self, graph: Any, numNodes: int = 0) -> tuple[list[Any], int]:
        assert numNodes == 0  # which gives their number alone
        return [], len(self.found(self.templates, "graph", self.number(graph)).operations)

    @call(1)
    def cudaGraphInstantiate(self, graph: Any, flags: int) -> Any:
        assert flags == 0
        template = self.found(self.templates, "graph", self.number(graph))
        made = GraphExec(next(self.numbers), self.device, list(template.operations))
        self.executables[made.number] = made
        return runtime.cudaGraphExec_t(made.number)

    @call()
    def cudaGraphDestroy(self, graph: Any) -> None:
        del self.templates[self.found(self.templates, "graph", self.number(graph)).number]

    @call()
    def cudaGraphLaunch(self, graphExec: Any, stream: Any) -> None:
        graph: GraphExec = self.found(self.executables, "executable graph", self.number(graphExec))
        self.launches += 1
        runs = self.stream(stream).capture is None
        for recorded in graph.operations:
            launched = dataclasses.replace(recorded) if recorded.at_launch is None else recorded.at_launch(recorded)
            launched.graph = graph if runs else None
            self.enqueue_on(stream, launched)

    @call()
    def cudaGraphExecDestroy(self, graphExec: Any) -> None:
        graph: GraphExec = self.found(self.executables, "executable graph", self.number(graphExec))
        if graph.pending:
            self.report("order", f"executable graph {graph.number} is destroyed and has yet to run")
        del self.executables[graph.number]

    # The machine

    @call(1)
    def cudaGetDevice(self) -> int:
        return self.device

    @call()
    def cudaSetDevice(self, device: int) -> None:
        if not 0 <= device < self.devices:
            raise CudaFault(101)
        self.current.device = device

    @call(1)
    def cudaGetDeviceCount(self) -> int:
        return self.devices

    @call(1)
    def cudaGetDeviceProperties(self, device: int) -> Any:
        assert 0 <= device < self.devices
        return self.properties

    @call(1)
    def cudaDriverGetVersion(self) -> int:
        return self.driver

    def cudaGetErrorString(self, error: Any) -> tuple[Any, bytes]:
        return error_code(0), b"error " + str(int(error)).encode()


def _nothing() -> None:
    """The operation does nothing but wait or be waited for."""
