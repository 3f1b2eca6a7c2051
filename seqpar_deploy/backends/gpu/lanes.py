"""Who may touch which memory, and when. The rules that keep threads, streams and the host apart are types of this file.

1. A CUDA stream is reached through a `Turn` at its `Lane` alone, and a turn holds the lane's lock. So nothing is
   enqueued on a stream while another thread captures there.
2. `Guarded` memory is touched by one thread at a time, its owner. The device addresses come out of `Turn.use` alone,
   which makes the lane wait for the work that other lanes enqueued on them, and leaves an event behind for the next.
   So memory may change its owner at once, while the device still works on it.
3. `Staging` is page-locked memory. The host reads and writes it through `read` and `write`, which wait for the last
   copy that a turn enqueued.
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
    """A CUDA stream, and the lock under which work is enqueued on it."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._stream = cuda.stream()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def turn(self) -> Iterator[Turn]:
        """This thread alone enqueues on the stream within the block. Not to be nested."""
        with self._lock:
            turn = Turn(self._cuda, self, self._stream)
            try:
                yield turn
            finally:
                turn.end()


class Turn:
    """The right to enqueue work on a lane's stream, until the block of `Lane.turn` ends."""

    def __init__(self, cuda: Cuda, lane: Lane, stream: Any) -> None:
        self._cuda, self.lane = cuda, lane
        self._open_stream: Any = stream
        self._used: list[Guarded[Any]] = []

    @property
    def _stream(self) -> Any:
        if self._open_stream is None:
            raise RuntimeError("this turn has ended; work is enqueued within the block of Lane.turn")
        return self._open_stream

    @property
    def handle(self) -> int:
        """The stream's number, for an SDK that enqueues on it."""
        return native_handle(self._stream)

    def use(self, guarded: Guarded[T]) -> T:
        """The memory, once the work of other lanes on it is done: the lane waits for that, the host does not."""
        if guarded not in self._used:
            for lane, event in guarded.last_uses.items():
                if lane is not self.lane:
                    self._cuda.make_wait(self._stream, event)
            self._used.append(guarded)
        return guarded.memory

    def end(self) -> None:
        """Leave an event behind for each memory in use, whether or not the turn failed."""
        try:
            for guarded in self._used:
                self._cuda.record(guarded.last_uses[self.lane], self._stream)
        finally:
            self._open_stream = None

    def copy(self, target: Address, source: Address, size: int) -> None:
        """Copy `size` bytes of device memory."""
        self._cuda.copy(target, source, size, self._stream)

    def copy_strided(self, target: tuple[Address, int], source: tuple[Address, int], width: int, height: int) -> None:
        """Copy `height` pieces of `width` bytes between (address, bytes from one piece to the next)."""
        self._cuda.copy_strided(target, source, width, height, self._stream)

    def clear(self, target: Address, size: int) -> None:
        """Set `size` bytes to 0."""
        self._cuda.clear(target, size, self._stream)

    def upload(self, target: Address, staging: Staging, size: int) -> None:
        """Copy the first `size` bytes of staging to the device."""
        self._cuda.copy(target, staging.address, size, self._stream)
        self._cuda.record(staging.copied, self._stream)

    def download(self, staging: Staging, source: Address, size: int) -> None:
        """Copy `size` bytes from the device to the start of staging."""
        self._cuda.copy(staging.address, source, size, self._stream)
        self._cuda.record(staging.copied, self._stream)

    @contextlib.contextmanager
    def capturing(self) -> Iterator[list[Any]]:
        """Record the work that the block enqueues in a CUDA graph, which the list holds afterwards."""
        with self._cuda.capturing(self._stream) as graphs:
            yield graphs

    def launch(self, graph: Any) -> None:
        """Enqueue a CUDA graph."""
        self._cuda.launch(graph, self._stream)

    def synchronise(self) -> None:
        """Block the host until all work of the lane is done."""
        self._cuda.synchronise(self._stream)


class Guarded(Generic[T]):
    """Device memory that several lanes touch, one after the other."""

    def __init__(self, cuda: Cuda, lanes: Sequence[Lane], memory: T) -> None:
        """`memory` holds the device addresses: they are for `Turn.use` to give out."""
        self._cuda = cuda
        self.memory = memory
        self.last_uses: dict[Lane, Any] = {}
        with contextlib.ExitStack() as failing:
            failing.callback(self.free)
            for lane in lanes:
                self.last_uses[lane] = cuda.event(host_waits=True)
            failing.pop_all()

    def wait(self) -> None:
        """Block the host until no enqueued work touches the memory."""
        for event in self.last_uses.values():
            self._cuda.wait_for(event)

    def free(self) -> None:
        """Free the events. The memory is the caller's."""
        for event in self.last_uses.values():
            self._cuda.free_event(event)


class Staging:
    """Page-locked memory of the host that turns copy from or to."""

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
        """Write arrays at these bytes, after the last copy."""
        self._cuda.wait_for(self.copied)
        for array, start in zip(arrays, at, strict=True):
            self._memory[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)

    def read(self, start: int, size: int) -> npt.NDArray[np.uint8]:
        """A copy of `size` bytes, after the last copy."""
        self._cuda.wait_for(self.copied)
        content: npt.NDArray[np.uint8] = self._memory[start : start + size].copy()
        return content

    def free(self) -> None:
        """Free the memory, after the last copy."""
        self._cuda.wait_for(self.copied)
        self._cuda.free_pinned(self._memory)
        self._memory = np.empty(0, np.uint8)
        self._cuda.free_event(self.copied)
