"""The state of a batch that is decoded on an NVIDIA GPU: what the host knows of its rows."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from seqpar_deploy.backends.base import Float32Array, Int64Array
from seqpar_deploy.backends.gpu.buffers import Lease


class _Gathers(Protocol):
    """The backend of a state."""

    def gather(self, state: DeviceState, rows: Int64Array) -> None: ...

    def read_pooled(self, state: DeviceState) -> Float32Array | None: ...


class DeviceState:
    """Hold rows that are being decoded in a device batch. The next step writes the buffer `parity` of each pair.

    The device computes `padded` rows, see `padded_rows`. Those beyond `rows` are ignored. All rows have `image_tokens`
    image tokens, which follow from the width of the batch's crops.
    """

    def __init__(self, backend: _Gathers, lease: Lease, rows: int, padded: int, image_tokens: int) -> None:
        self._backend = backend
        self.lease = lease
        self.rows, self.padded, self.image_tokens = rows, padded, image_tokens
        self.parity = 0
        self._lengths = np.zeros(rows, dtype=np.int64)
        self.crops = rows
        self.crop_of_row = np.arange(rows)
        self._pooled_of_crop: Float32Array | None = None
        self._knows_pooled = False

    @property
    def lengths(self) -> Int64Array:
        return self._lengths

    @property
    def pooled(self) -> Float32Array | None:
        """Pooled image tokens of each row, float32 (B, 3d), or None. Waits for the encoder at the first access."""
        self.keep_pooled()
        return None if self._pooled_of_crop is None else self._pooled_of_crop[self.crop_of_row]

    def keep_pooled(self) -> None:
        """Read `pooled` of each crop, once, since its memory belongs to the batch that encoded the crops."""
        if not self._knows_pooled:
            self._pooled_of_crop, self._knows_pooled = self._backend.read_pooled(self), True

    def advance(self, tokens: int) -> None:
        self._lengths = self._lengths + tokens
        self.parity = 1 - self.parity

    def truncate(self, lengths: Int64Array) -> None:
        if np.any(lengths > self._lengths) or np.any(lengths < 0):
            raise ValueError(f"truncated lengths must be 0 to the rows' lengths {self._lengths}, got {lengths}")
        self._lengths = np.array(lengths, dtype=np.int64)

    def reorder(self, rows: Int64Array) -> None:
        self._backend.gather(self, np.asarray(rows))
        self.rows, self._lengths, self.crop_of_row = len(rows), self._lengths[rows], self.crop_of_row[rows]
