"""Synchronise threads, CUDA streams and the host. The types of this file enforce three rules.

1. A CUDA stream is accessed only through a `Turn` of its `Lane`, and a turn holds the lane's lock. So no thread
   enqueues work on a stream while another captures on it.
2. `Guarded` memory has one owner thread at a time. Its device addresses are returned only by `Turn.use`, which makes
   the lane wait for work on them in other lanes, and records an event for the next user. So memory can change its owner
   while the device still works on it.
3. `Staging` is page-locked memory. The host accesses it through `read` and `write`, which wait for the last copy that a
   turn enqueued.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends.gpu.cuda import Address, Cuda, native_handle

T = TypeVar("T")


class Lane:
    """Own a CUDA stream, and the lock to hold while work is enqueued on it."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._stream = cuda.stream()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def turn(self) -> Iterator[Turn]:
        """Give this thread exclusive access to the stream during the block. Turns of one lane cannot be nested."""
        with self._lock:
            turn = Turn(self._cuda, self, self._stream)
            try:
                yield turn
            finally:
                turn.end()


class Turn:
    """Enqueue work on a lane's stream, until the block of `Lane.turn` ends."""

    def __init__(self, cuda: Cuda, lane: Lane, stream: Any) -> None:
        self._cuda, self.lane = cuda, lane
        self._open_stream: Any = stream
        self._used: list[Guarded[Any]] = []

    @property
    def _stream(self) -> Any:
        if self._open_stream is None:
            raise RuntimeError("a turn must be open, got one that has ended; enqueue within the block of Lane.turn")
        return self._open_stream

    @property
    def handle(self) -> int:
        """The stream's address, for an SDK that enqueues on it."""
        return native_handle(self._stream)

    def use(self, guarded: Guarded[T]) -> T:
        """Return guarded memory, and make the lane wait for other lanes' work on it. The host does not wait."""
        if guarded not in self._used:
            for lane, event in guarded.last_uses.items():
                if lane is not self.lane:
                    self._cuda.make_wait(self._stream, event)
            self._used.append(guarded)
        return guarded.memory

    def end(self) -> None:
        """Record an event for each guarded memory in use, even if the turn failed."""
        try:
            for guarded in self._used:
                self._cuda.record(guarded.last_uses[self.lane], self._stream)
        finally:
            self._open_stream = None

    def copy(self, target: Address, source: Address, size: int) -> None:
        """Copy `size` bytes of device memory."""
        self._cuda.copy(target, source, size, self._stream)

    def copy_strided(self, target: tuple[Address, int], source: tuple[Address, int], width: int, height: int) -> None:
        """Copy `height` rows of `width` bytes. `target` and `source` are (address, stride in bytes)."""
        self._cuda.copy_strided(target, source, width, height, self._stream)

    def clear(self, target: Address, size: int) -> None:
        """Set `size` bytes to 0."""
        self._cuda.clear(target, size, self._stream)

    def upload(self, target: Address, staging: Staging, size: int) -> None:
        """Copy the first `size` bytes of staging memory to the device."""
        self._cuda.copy(target, staging.address, size, self._stream)
        self._cuda.record(staging.copied, self._stream)

    def download(self, staging: Staging, source: Address, size: int) -> None:
        """Copy `size` bytes from the device to the start of staging memory."""
        self._cuda.copy(staging.address, source, size, self._stream)
        self._cuda.record(staging.copied, self._stream)

    @contextlib.contextmanager
    def capturing(self) -> Iterator[list[Any]]:
        """Capture the work that the block enqueues in a CUDA graph, and append it to the yielded list."""
        with self._cuda.capturing(self._stream) as graphs:
            yield graphs

    def launch(self, graph: Any) -> None:
        """Enqueue a CUDA graph."""
        self._cuda.launch(graph, self._stream)

    def synchronise(self) -> None:
        """Block the host until all work of the lane is done."""
        self._cuda.synchronise(self._stream)


class Guarded(Generic[T]):
    """Guard device memory that several lanes use, one after the other."""

    def __init__(self, cuda: Cuda, lanes: Sequence[Lane], memory: T) -> None:
        """`memory` has the device addresses. Only `Turn.use` may return it."""
        self._cuda = cuda
        self.memory = memory
        self.last_uses: dict[Lane, Any] = {}
        with contextlib.ExitStack() as failing:
            failing.callback(self.free)
            for lane in lanes:
                self.last_uses[lane] = cuda.event(host_waits=True)
            failing.pop_all()

    def wait(self) -> None:
        """Block the host until no enqueued work uses the memory."""
        for event in self.last_uses.values():
            self._cuda.wait_for(event)

    def free(self) -> None:
        """Free the events. The caller frees the memory."""
        for event in self.last_uses.values():
            self._cuda.free_event(event)


class Staging:
    """Hold page-locked host memory that turns copy from or to."""

    def __init__(self, cuda: Cuda, size: int) -> None:
        self._cuda = cuda
        self.copied = cuda.event(host_waits=True)  # recorded by the turn, after each copy
        try:
            self._memory = cuda.pinned(size)
        except BaseException:
            cuda.free_event(self.copied)
            raise
        self.address: Address = self._memory.ctypes.data

    def write(self, *arrays: npt.NDArray[Any], at: Sequence[int] = (0,)) -> None:
        """Wait for the last copy, then write arrays at these byte offsets."""
        self._cuda.wait_for(self.copied)
        for array, start in zip(arrays, at, strict=True):
            self._memory[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def read(self, start: int, size: int) -> npt.NDArray[np.uint8]:
        """Wait for the last copy, then return a copy of `size` bytes."""
        self._cuda.wait_for(self.copied)
        content: npt.NDArray[np.uint8] = self._memory[start : start + size].copy()
        return content

    def free(self) -> None:
        """Wait for the last copy, then free the memory."""
        self._cuda.wait_for(self.copied)
        self._cuda.free_pinned(self._memory)
        self._memory = np.empty(0, np.uint8)
        self._cuda.free_event(self.copied)
