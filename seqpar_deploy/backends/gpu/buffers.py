"""Device buffers of one batch that is being decoded: laid out in one allocation, kept and lent again."""

from __future__ import annotations

import threading
from typing import Any

from seqpar_deploy.backends.gpu.cuda import Address, Cuda, aligned, buffer_plan
from seqpar_deploy.bundle import Dimensions

INT64, FLOAT32 = 8, 4  # bytes


class DeviceBatch:
    """Buffers for up to `rows` rows, and where the host reads and writes beside them.

    A batch of B rows lies at the start of each buffer, as tightly as if B were the most there may be.
    """

    def __init__(self, cuda: Cuda, dimensions: Dimensions, item: int, rows: int) -> None:
        """`item` is the bytes of a number in the caches."""
        d = dimensions
        self.rows = rows
        self.cross_row = d.heads * d.image_tokens * d.head_size * item  # bytes of one row of one of the 2L tensors
        self.self_row = d.heads * d.capacity * d.head_size * item
        crops = rows * d.image_size * d.image_size * 3
        cross_kv, self_kv = 2 * d.layers * rows * self.cross_row, 2 * d.layers * rows * self.self_row
        inputs = aligned(rows * d.capacity * INT64) + rows * INT64
        outputs = outputs_size(rows, d.capacity, d.vocabulary)
        sizes = {
            "crops": crops,
            "cross_kv": cross_kv,
            "self_kv_0": self_kv,
            "self_kv_1": self_kv,
            "inputs": inputs,
            "position": rows * INT64,
            "outputs_0": outputs,
            "outputs_1": outputs,
        }
        offsets, total = buffer_plan(sizes)
        base = cuda.allocate(total)
        self.crops: Address = base + offsets["crops"]
        self.cross_kv: Address = base + offsets["cross_kv"]
        self.self_kv = (base + offsets["self_kv_0"], base + offsets["self_kv_1"])
        self.inputs: Address = base + offsets["inputs"]  # tokens, then positions
        self.position: Address = base + offsets["position"]
        self.outputs = (base + offsets["outputs_0"], base + offsets["outputs_1"])  # next_token, then log_probs
        self._spare_cross_kv: Address | None = None
        self._cross_kv_size = cross_kv

        self.crops_staging = cuda.pinned(crops)
        self.inputs_staging = cuda.pinned(inputs)
        self.outputs_staging = cuda.pinned(outputs)
        self.history_stride = outputs_size(rows, 1, d.vocabulary)
        self.history_staging = cuda.pinned(d.capacity * self.history_stride)

        self.encoded, self.stepped = cuda.event(), cuda.event()
        self.looks = (cuda.event(), cuda.event())
        self._cuda, self._self_kv_size = cuda, self_kv

    def clear(self, stream: Any) -> None:
        """Make the caches finite. What a slot held before is masked, but nothing times infinity is not nothing."""
        for address in self.self_kv:
            self._cuda.clear(address, self._self_kv_size, stream)

    def other_cross_kv(self) -> Address:
        """A second buffer for `cross_kv`, made when first needed."""
        if self._spare_cross_kv is None:
            self._spare_cross_kv = self._cuda.allocate(self._cross_kv_size)
        return self._spare_cross_kv

    def swap_cross_kv(self) -> None:
        """The second buffer becomes the first."""
        self.cross_kv, self._spare_cross_kv = self.other_cross_kv(), self.cross_kv


def outputs_size(rows: int, tokens: int, vocabulary: int) -> int:
    """Bytes of one step's outputs: `next_token` (B, T) int64, aligned, then `log_probs` (B, T, V) float32."""
    return aligned(rows * tokens * INT64) + rows * tokens * vocabulary * FLOAT32


class Pool:
    """Device batches that are lent and given back."""

    def __init__(self, cuda: Cuda, dimensions: Dimensions, item: int, stream: Any) -> None:
        self._cuda, self._dimensions, self._item, self._stream = cuda, dimensions, item, stream
        self._free: dict[int, list[DeviceBatch]] = {}
        self._lock = threading.Lock()

    def take(self, rows: int) -> DeviceBatch:
        """A device batch for `rows` rows. Raises BackendError where the GPU has no room for another."""
        with self._lock:
            free = self._free.setdefault(rows, [])
            if free:
                return free.pop()
            made = DeviceBatch(self._cuda, self._dimensions, self._item, rows)
            made.clear(self._stream)
            return made

    def give_back(self, batch: DeviceBatch) -> None:
        """It may be lent again, while the device still works on it."""
        with self._lock:
            self._free.setdefault(batch.rows, []).append(batch)
