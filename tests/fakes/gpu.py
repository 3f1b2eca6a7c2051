"""A device that is not there: its memory and streams, the rules of captures, and faults that tests inject.

`cuda.py` puts the CUDA calls on it.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import itertools
import random
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

from cuda.bindings import runtime, utils
from fakes.memory import Block, Memory
from fakes.streams import Capture, Event, Graph, GraphExec, Operation, Stream, Streams

OUT_OF_MEMORY, INVALID_VALUE, INVALID_HANDLE, NOT_READY, LAUNCH_FAILURE = 2, 1, 400, 600, 719
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED, CAPTURE_ISOLATION, CAPTURED_EVENT, WRONG_THREAD = 900, 901, 905, 907, 908

error_code = functools.cache(runtime.cudaError_t)
# They do their work even when they return an error: of work that was enqueued before, or because the device is lost.
_RELEASING = frozenset(
    {
        "cudaFree",
        "cudaFreeHost",
        "cudaStreamDestroy",
        "cudaEventDestroy",
        "cudaGraphDestroy",
        "cudaGraphExecDestroy",
        "cudaStreamEndCapture",
    }
)


class CudaFault(Exception):
    """The call returns this error code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def call(values: int = 0) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A CUDA call that gives so many values besides its error code: with the lock, and faults that tests inject."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        name = function.__name__

        @functools.wraps(function)
        def wrapper(self: FakeGpu, *arguments: Any) -> Any:
            self.on_call(name)
            with self.lock:
                self.calls[name] += 1
                self.streams.advance()
                code = self.injected_failure(name)
                result: Any = None
                try:
                    if code == 0 or name in _RELEASING:
                        result = function(self, *arguments)
                except CudaFault as fault:
                    code = code or fault.code
                if code and name == "cudaStreamEndCapture" and result is not None:
                    del self.templates[int(result)]
                if code:
                    return (error_code(code), *[None] * values)
                return (error_code(0), *((result,) if values == 1 else result or ()))

        return wrapper

    return decorate


class FakeGpu:
    """`on_call(name)` is called as each call begins."""

    def __init__(
        self,
        *,
        eager: bool = False,
        seed: int | None = None,
        name: bytes = b"NVIDIA Fake",
        major: int = 9,
        minor: int = 0,
        driver: int = 13010,
        memory: int = 1 << 34,
        devices: int = 1,
    ) -> None:
        self.properties = types.SimpleNamespace(name=name, major=major, minor=minor, totalGlobalMem=memory)
        self.driver, self.memory, self.devices = driver, memory, devices
        self.violations: list[str] = []
        self.calls: collections.Counter[str] = collections.Counter()
        self.launches = 0
        self.captures_fail = False
        self.sticky = 0  # the error that every call returns, once it is set
        self.on_call: Callable[[str], object] = lambda name: None
        self.blocks = Memory()
        self.streams = Streams(
            self.blocks, self.report, eager=eager, random_source=None if seed is None else random.Random(seed)
        )
        self.streams.all[0] = Stream(0, 0)  # the legacy default stream
        self.events: dict[int, Event] = {}
        self.templates: dict[int, Graph] = {}
        self.executables: dict[int, GraphExec] = {}
        self.numbers = itertools.count(1)
        self.current = threading.local()
        self.lock = threading.RLock()
        self._failures: dict[str, collections.deque[int]] = collections.defaultdict(collections.deque)
        self._unreliable: dict[str, tuple[float, int]] = {}
        self.fault_random = random.Random(0 if seed is None else seed)
        self.injected: collections.Counter[str] = collections.Counter()

    # For tests

    def report(self, kind: str, text: str) -> None:
        """Note what no program may do."""
        line = f"{kind}: {text}"
        if line not in self.violations:
            self.violations.append(line)

    def check(self) -> list[str]:
        """All violations, after a look at what was written to freed memory."""
        with self.lock:
            for block in self.blocks.changed_after_free():
                self.report("freed", f"{block} were written after they were freed")
            return self.violations

    def leaks(self) -> list[str]:
        """What is held that nobody freed."""
        return [
            *(str(block) for block in self.blocks.live.values()),
            *(f"stream {number}" for number in self.streams.all if number != 0),
            *(f"event {number}" for number in self.events),
            *(f"graph {number}" for number in (*self.templates, *self.executables)),
        ]

    def fail_next(self, name: str, code: int = OUT_OF_MEMORY, *, after: int = 0) -> None:
        """The next call of this name fails, or that after so many which do not."""
        self._failures[name].extend([0] * after + [code])

    def fail_at_random(self, name: str, probability: float, code: int = OUT_OF_MEMORY) -> None:
        self._unreliable[name] = (probability, code)

    def fail_no_more(self) -> None:
        self._failures.clear()
        self._unreliable.clear()

    def lose_device(self, code: int = LAUNCH_FAILURE) -> None:
        """From now on every call returns this error, as after a fault of a kernel. Enqueued work is gone."""
        with self.lock:
            self.sticky = code
            for stream in self.streams.all.values():
                stream.queue.clear()
            for graph in self.executables.values():
                graph.pending = 0

    @property
    def buffers(self) -> dict[int, Block]:
        """Live memory, by address."""
        return self.blocks.live

    @property
    def graphs(self) -> list[GraphExec]:
        return list(self.executables.values())

    @property
    def executed(self) -> int:
        """Pieces of work that have run."""
        return self.streams.executed

    @property
    def capturing(self) -> bool:
        return bool(self.streams.captures())

    def pending_on(self, address: int, size: int) -> bool:
        """Whether work that touches these bytes has yet to run."""
        with self.lock:
            return self.streams.pending_on((address, size)) is not None

    def finish_on(self, address: int, size: int) -> None:
        """Run the work that touches these bytes."""
        with self.lock:
            self.streams.finish_on((address, size))

    def run_all(self) -> None:
        with self.lock:
            self.streams.run_all()

    def block_at(self, address: int) -> Block | None:
        return self.blocks.at(address)

    def injected_failure(self, name: str) -> int:
        if self.sticky:
            return self.sticky
        waiting = self._failures.get(name)
        code = waiting.popleft() if waiting else 0
        if not code and name in self._unreliable and self.fault_random.random() < self._unreliable[name][0]:
            code = self._unreliable[name][1]
        if code:
            self.injected[name] += 1
        return code

    # Handles

    @staticmethod
    def number(handle: Any) -> int:
        return 0 if handle is None else int(utils.get_cuda_native_handle(handle))

    def found(self, table: dict[int, Any], kind: str, number: int) -> Any:
        if number not in table:
            self.report("handle", f"{kind} {number} does not exist (any more)")
            raise CudaFault(INVALID_HANDLE)
        if number != 0:
            self.check_device(table[number].device, f"{kind} {number}")
        return table[number]

    def stream(self, handle: Any) -> Stream:
        found: Stream = self.found(self.streams.all, "stream", self.number(handle))
        return found

    def event(self, handle: Any) -> Event:
        found: Event = self.found(self.events, "event", self.number(handle))
        return found

    @property
    def device(self) -> int:
        return int(getattr(self.current, "device", 0))

    def check_device(self, device: int, what: str) -> None:
        if device != self.device and not self.sticky:  # no device can be made current when it is lost
            self.report("device", f"{what} is of device {device}, the thread's current device is {self.device}")
            raise CudaFault(INVALID_HANDLE)

    def invalidate(self, capture: Capture, what: str) -> None:
        capture.invalid = what
        self.report("capture", f"{what} while stream {capture.stream.number} captures")

    def not_while_capturing(self, what: str) -> None:
        captures = self.streams.captures()
        for capture in captures:
            self.invalidate(capture, what)
        if captures:
            raise CudaFault(CAPTURE_UNSUPPORTED)

    def may_wait(self, waited_for: Capture | None, what: str, code: int) -> None:
        """The host may not wait for what is captured, and the thread that captures may not wait at all."""
        if waited_for is not None and waited_for.stream.capture is not waited_for:
            self.report("capture", f"{what}, which was captured and never comes to pass")
            raise CudaFault(code)
        for capture in self.streams.captures():
            if capture is waited_for or capture.thread == threading.get_ident():
                self.invalidate(capture, what)
                raise CudaFault(code if capture is waited_for else CAPTURE_UNSUPPORTED)

    def enqueue(self, stream: Any, work: Operation | Callable[[], None]) -> None:
        """Work of an SDK: `stream` is a handle, or its number. Raises CudaFault."""
        operation = work if isinstance(work, Operation) else Operation("work of an SDK", work)
        with self.lock:
            self.enqueue_on(runtime.cudaStream_t(stream) if isinstance(stream, int) else stream, operation)

    def enqueue_on(self, handle: Any, operation: Operation) -> None:
        stream = self.stream(handle)
        for place in (*operation.reads, *operation.writes):
            fault = self.blocks.fault(*place)
            if fault is not None:
                self.report("freed", f"{operation.name} is enqueued when {fault}")
                raise CudaFault(INVALID_VALUE)
        if stream.number == 0:
            self.not_while_capturing("work on the legacy default stream")
        if stream.capture is None:
            self.streams.append(stream, operation)
            return
        self.check_joins(stream.capture, operation.name)
        if stream.capture.invalid is not None:
            raise CudaFault(CAPTURE_INVALIDATED)
        stream.capture.operations.append(operation)

    def check_joins(self, capture: Capture, what: str) -> None:
        if capture.thread != threading.get_ident():
            self.report("capture", f"another thread's {what} was recorded, not run")

    # What SDKs do by themselves

    @contextlib.contextmanager
    def sdk_captures(self) -> Iterator[None]:
        """An SDK captures on a stream of its own within the block."""
        with self.lock:
            stream = Stream(next(self.numbers), self.device)
            stream.capture = Capture(stream, threading.get_ident())
            self.streams.all[stream.number] = stream
        try:
            yield
        finally:
            with self.lock:
                del self.streams.all[stream.number]

    def sdk_allocate(self, size: int, stream: int | None = None) -> int | None:
        """Memory of an SDK's own, or None: out of memory, or this thread or this stream captures."""
        with self.lock:
            code = self.injected_failure("sdk_allocate")
            for capture in self.streams.captures():
                if capture.thread == threading.get_ident() or capture.stream.number == stream:
                    self.invalidate(capture, "an SDK's own allocation")
                    return None
            if code or self.blocks.used + size > self.memory:
                return None
            return self.blocks.allocate(size, "sdk", self.device).address

    def sdk_free(self, address: int) -> None:
        """Called when the SDK's object goes: at its last reference, or in a garbage collection of any thread."""
        with self.lock:
            block = self.blocks.at(address)
            assert block is not None
            pending = self.streams.pending_on((block.address, block.size))
            if pending is not None and not self.sticky:
                self.report("freed", f"an SDK's object goes while its {pending.name} has yet to run")
            for capture in self.streams.captures():
                if capture.thread == threading.get_ident():
                    self.invalidate(capture, "an SDK's own freeing")
            self.blocks.free(block)
