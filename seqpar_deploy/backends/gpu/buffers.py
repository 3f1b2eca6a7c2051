"""Memory of one batch that is being decoded: laid out in one allocation, lent, given back and lent again."""

from __future__ import annotations

import contextlib
import queue
import threading
import weakref
from collections.abc import Sequence

from seqpar_deploy.backends.gpu.cuda import Address, Cuda, GpuOutOfMemoryError, aligned, buffer_plan
from seqpar_deploy.backends.gpu.lanes import Guarded, Lane, Staging
from seqpar_deploy.bundle import Dimensions
from seqpar_deploy.errors import BackendError

INT64, FLOAT32 = 8, 4  # bytes


class Buffers:
    """Device addresses for up to `rows` rows.

    A batch of B rows lies at the start of each buffer, as tightly as if B were the most there may be. Pairs are written
    in turns: a step reads one buffer and writes the other, as an SDK may not write where it reads.
    """

    def __init__(self, cuda: Cuda, dimensions: Dimensions, item: int, rows: int) -> None:
        """`item` is the bytes of a number in the caches. Raises GpuOutOfMemoryError."""
        d = dimensions
        self.cross_row = d.heads * d.image_tokens * d.head_size * item  # bytes of one row of one of the 2L tensors
        self.self_row = d.heads * d.capacity * d.head_size * item
        self._cross_kv_size = 2 * d.layers * rows * self.cross_row
        self_kv_size = 2 * d.layers * rows * self.self_row
        outputs = outputs_size(rows, d.capacity, d.vocabulary)
        sizes = {
            "crops": rows * d.image_size * d.image_size * 3,
            "cross_kv": self._cross_kv_size,
            "self_kv_0": self_kv_size,
            "self_kv_1": self_kv_size,
            "inputs": inputs_size(rows, d.capacity),
            "position": rows * INT64,
            "outputs_0": outputs,
            "outputs_1": outputs,
        }
        offsets, total = buffer_plan(sizes)
        base = cuda.allocate(total)
        self._cuda, self._base = cuda, base
        self.crops: Address = base + offsets["crops"]
        self.cross_kv: Address = base + offsets["cross_kv"]
        self.self_kv = (base + offsets["self_kv_0"], base + offsets["self_kv_1"])
        self.inputs: Address = base + offsets["inputs"]  # tokens, then positions
        self.position: Address = base + offsets["position"]
        self.outputs = (base + offsets["outputs_0"], base + offsets["outputs_1"])  # next_token, then log_probs
        self._second: Address | None = None  # the allocation of the second `cross_kv`
        self._spare: Address = 0

    def other_cross_kv(self) -> Address:
        """A second buffer for `cross_kv`, allocated when it is first needed. Raises GpuOutOfMemoryError."""
        if self._second is None:
            self._second = self._spare = self._cuda.allocate(self._cross_kv_size)
        return self._spare

    def swap_cross_kv(self) -> None:
        """The second buffer becomes the first."""
        self.cross_kv, self._spare = self._spare, self.cross_kv

    def free(self) -> None:
        """Free the memory, which no enqueued work uses any more."""
        for allocation in (self._base, self._second):
            if allocation is not None:
                self._cuda.free(allocation)


def inputs_size(rows: int, tokens: int) -> int:
    """Bytes of one step's inputs: tokens (B, T) int64, aligned, then positions (B,) int64."""
    return aligned(rows * tokens * INT64) + rows * INT64


def outputs_size(rows: int, tokens: int, vocabulary: int) -> int:
    """Bytes of one step's outputs: `next_token` (B, T) int64, aligned, then `log_probs` (B, T, V) float32."""
    return aligned(rows * tokens * INT64) + rows * tokens * vocabulary * FLOAT32


class DeviceBatch:
    """The buffers of one batch, which turns reach through `device`, and the host's staging beside them."""

    def __init__(self, cuda: Cuda, lanes: Sequence[Lane], dimensions: Dimensions, item: int, rows: int) -> None:
        """Raises GpuOutOfMemoryError, with nothing left behind."""
        d = dimensions
        self.rows = rows
        with contextlib.ExitStack() as failing:
            buffers = Buffers(cuda, d, item, rows)
            failing.callback(buffers.free)

            def staging(size: int) -> Staging:
                made = Staging(cuda, size)
                failing.callback(made.free)
                return made

            self.crops = staging(rows * d.image_size * d.image_size * 3)
            self.inputs = staging(inputs_size(rows, d.capacity))
            outputs = outputs_size(rows, d.capacity, d.vocabulary)
            self.outputs = (staging(outputs), staging(outputs))  # of the two output buffers
            self.device = Guarded(cuda, lanes, buffers)
            failing.callback(self.device.free)
            self._free = failing.pop_all()

    def free(self) -> None:
        """Wait for the work that uses the batch, and free all of it."""
        self.device.wait()
        self._free.close()


class Lease:
    """A batch in the hands of one owner. It goes back by `release`, or when nobody holds the lease any more."""

    def __init__(self, batch: DeviceBatch, returned: queue.SimpleQueue[DeviceBatch]) -> None:
        self._batch: DeviceBatch | None = batch
        # Garbage collection may run this in any thread, whatever locks it holds. `put` is safe even then.
        self._give_back = weakref.finalize(self, returned.put, batch)
        self._give_back.atexit = False

    @property
    def batch(self) -> DeviceBatch:
        """Raises BackendError after `release`."""
        if self._batch is None:
            raise BackendError("these sequences have been decoded; encode the crops again")
        return self._batch

    def release(self) -> None:
        """Give the batch back, also while the device still works on it."""
        self._batch = None
        self._give_back()


class Pool:
    """The batches of a backend: those that nobody holds are lent again."""

    def __init__(self, cuda: Cuda, lanes: Sequence[Lane], dimensions: Dimensions, item: int) -> None:
        self._cuda, self._lanes, self._dimensions, self._item = cuda, lanes, dimensions, item
        self._returned: queue.SimpleQueue[DeviceBatch] = queue.SimpleQueue()
        self._idle: dict[int, list[DeviceBatch]] = {}
        self._lock = threading.Lock()

    def take(self, rows: int) -> Lease:
        """A batch with room for `rows` rows, whose content is undefined.

        Raises GpuOutOfMemoryError where there is no room for another, even after idle ones were freed.
        """
        with self._lock:
            self._sort_returned()
            idle = self._idle.get(rows)
            batch = idle.pop() if idle else None
        return Lease(batch or self._make(rows), self._returned)

    def _make(self, rows: int) -> DeviceBatch:
        try:
            return DeviceBatch(self._cuda, self._lanes, self._dimensions, self._item, rows)
        except GpuOutOfMemoryError:
            if not self.free_idle():
                raise
        return DeviceBatch(self._cuda, self._lanes, self._dimensions, self._item, rows)

    def free_idle(self) -> int:
        """Free the batches that nobody holds; returns how many."""
        with self._lock:
            self._sort_returned()
            idle = [batch for batches in self._idle.values() for batch in batches]
            self._idle.clear()
        for batch in idle:
            batch.free()
        return len(idle)

    def _sort_returned(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                batch = self._returned.get_nowait()
                self._idle.setdefault(batch.rows, []).append(batch)
