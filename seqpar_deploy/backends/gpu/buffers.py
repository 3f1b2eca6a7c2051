"""Device memory of the batches being decoded: one allocation per batch, from a pool that reuses them."""

from __future__ import annotations

import contextlib
import functools
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
    """Hold the device addresses of the buffers for up to `rows` rows of whole squares.

    A batch of B rows is packed at the start of each buffer, without gaps for more rows or wider crops. So a batch of
    trimmed crops uses the start of the same buffers, and batches of all widths reuse each other's memory. Paired
    buffers alternate: a step reads one and writes the other, since an SDK may not write to its inputs.
    """

    def __init__(self, cuda: Cuda, dimensions: Dimensions, item: int, rows: int, pooled: int = 0) -> None:
        """`item` is the size of a cache element in bytes, `pooled` the values per row. Raises GpuOutOfMemoryError."""
        d = dimensions
        self._cross_token = d.heads * d.head_size * item
        self.self_row = d.heads * d.capacity * d.head_size * item  # bytes of one row of one of the 2L tensors
        self._cross_kv_size = 2 * d.layers * rows * self.cross_row(d.image_tokens)
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
            "pooled": pooled_size(rows, pooled),
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
        self.pooled: Address = base + offsets["pooled"]
        self._second: Address | None = None  # the allocation of the second `cross_kv`
        self._spare: Address = 0

    def cross_row(self, image_tokens: int) -> int:
        """Return the bytes of one row of one of the 2L tensors of `cross_kv`, for crops of N image tokens."""
        return image_tokens * self._cross_token

    def other_cross_kv(self) -> Address:
        """Return a second buffer for `cross_kv`, allocated at the first call. Raises GpuOutOfMemoryError."""
        if self._second is None:
            self._second = self._spare = self._cuda.allocate(self._cross_kv_size)
        return self._spare

    def swap_cross_kv(self) -> None:
        """Exchange the two `cross_kv` buffers."""
        self.cross_kv, self._spare = self._spare, self.cross_kv

    def free(self) -> None:
        """Free the memory. No enqueued work may still use it."""
        for allocation in (self._base, self._second):
            if allocation is not None:
                self._cuda.free(allocation)


def inputs_size(rows: int, tokens: int) -> int:
    """Return the bytes of one step's inputs: tokens (B, T) int64, aligned, then positions (B,) int64."""
    return aligned(rows * tokens * INT64) + rows * INT64


def outputs_size(rows: int, tokens: int, vocabulary: int) -> int:
    """Return the bytes of one step's outputs: `next_token` (B, T) int64, aligned, `log_probs` (B, T, V) float32."""
    return aligned(rows * tokens * INT64) + rows * tokens * vocabulary * FLOAT32


def pooled_size(rows: int, values: int) -> int:
    """Return the bytes of `pooled` (B, values) float32."""
    return rows * values * FLOAT32


class DeviceBatch:
    """Hold the memory of one batch: device buffers, which turns access through `device`, and staging on the host."""

    def __init__(
        self, cuda: Cuda, lanes: Sequence[Lane], dimensions: Dimensions, item: int, rows: int, pooled: int = 0
    ) -> None:
        """Raises GpuOutOfMemoryError after it freed its partial allocations."""
        d = dimensions
        self.rows = rows
        with contextlib.ExitStack() as failing:
            buffers = Buffers(cuda, d, item, rows, pooled)
            failing.callback(buffers.free)

            def staging(size: int) -> Staging:
                made = Staging(cuda, size)
                failing.callback(made.free)
                return made

            self.crops = staging(rows * d.image_size * d.image_size * 3)
            self.inputs = staging(inputs_size(rows, d.capacity))
            outputs = outputs_size(rows, d.capacity, d.vocabulary)
            self.outputs = (staging(outputs), staging(outputs))  # one per output buffer
            self.pooled = staging(pooled_size(rows, pooled)) if pooled else None
            self.device = Guarded(cuda, lanes, buffers)
            failing.callback(self.device.free)
            self._free = failing.pop_all()

    def free(self) -> None:
        """Wait for the work that uses the batch, and free its memory."""
        self.device.wait()
        self._free.close()


class Lease:
    """Own a batch of a pool. `release`, or garbage collection of the lease, returns the batch to the pool."""

    def __init__(self, batch: DeviceBatch, returned: queue.SimpleQueue[DeviceBatch]) -> None:
        self._batch: DeviceBatch | None = batch
        # Garbage collection may run this in any thread, with any lock held. `SimpleQueue.put` is reentrant.
        self._give_back = weakref.finalize(self, returned.put, batch)
        self._give_back.atexit = False

    @property
    def batch(self) -> DeviceBatch:
        """The batch. Raises BackendError after `release`."""
        if self._batch is None:
            raise BackendError("a decode state must be fresh, got one that was already decoded; encode the crops again")
        return self._batch

    def release(self) -> None:
        """Return the batch to the pool. The device may still be working on it."""
        self._batch = None
        self._give_back()


class Pool:
    """Lease the batches of a backend, and reuse those that were returned."""

    def __init__(self, cuda: Cuda, lanes: Sequence[Lane], dimensions: Dimensions, item: int, pooled: int = 0) -> None:
        """`item` is the size of a cache element in bytes, `pooled` the values per row."""
        self._make_batch = functools.partial(DeviceBatch, cuda, lanes, dimensions, item, pooled=pooled)
        self._returned: queue.SimpleQueue[DeviceBatch] = queue.SimpleQueue()
        self._idle: dict[int, list[DeviceBatch]] = {}
        self._lock = threading.Lock()

    def take(self, rows: int) -> Lease:
        """Lease a batch for up to `rows` rows. Its content is undefined.

        Raises GpuOutOfMemoryError if a new batch does not fit, even after idle ones were freed.
        """
        with self._lock:
            self._sort_returned()
            idle = self._idle.get(rows)
            batch = idle.pop() if idle else None
        return Lease(batch or self._make(rows), self._returned)

    def _make(self, rows: int) -> DeviceBatch:
        try:
            return self._make_batch(rows)
        except GpuOutOfMemoryError:
            if not self.free_idle():
                raise
        return self._make_batch(rows)

    def free_idle(self) -> int:
        """Free the batches that are not leased. Returns their number."""
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
