"""Memory of a device that is not there. Freed memory is poisoned and stays mapped, so that a late access is reported
and does not crash the tests.
"""

from __future__ import annotations

import bisect
import ctypes
import dataclasses

import numpy as np

POISON = 0xFF  # NaN as FP16 and FP32, -1 as an integer
_ALIGNMENT = 256  # of cudaMalloc
# Work that lies in wait for its turn reads and writes these: (address, bytes).
Range = tuple[int, int]


@dataclasses.dataclass
class Block:
    """One allocation. `owner` is `device`, `pinned` or `sdk`."""

    address: int
    size: int
    owner: str
    device: int
    raw: np.ndarray
    live: bool = True

    @property
    def content(self) -> np.ndarray:
        start = self.address - self.raw.ctypes.data
        return self.raw[start : start + self.size]

    def __str__(self) -> str:
        return f"{self.size} bytes of {self.owner} memory at {self.address:#x}"


class Memory:
    """All that was ever allocated."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []  # by address
        self._starts: list[int] = []
        self.used = 0

    def allocate(self, size: int, owner: str, device: int) -> Block:
        raw = np.full(size + _ALIGNMENT, POISON, dtype=np.uint8)  # nothing may be taken for cleared
        block = Block(-(-raw.ctypes.data // _ALIGNMENT) * _ALIGNMENT, size, owner, device, raw)
        place = bisect.bisect(self._starts, block.address)
        self._starts.insert(place, block.address)
        self._blocks.insert(place, block)
        self.used += size
        return block

    def at(self, address: int) -> Block | None:
        """The block that this address lies in, freed or not."""
        place = bisect.bisect(self._starts, address) - 1
        if place < 0:
            return None
        block = self._blocks[place]
        return block if address < block.address + block.size else None

    def free(self, block: Block) -> None:
        block.live = False
        block.content[...] = POISON
        self.used -= block.size

    @property
    def live(self) -> dict[int, Block]:
        return {block.address: block for block in self._blocks if block.live}

    def fault(self, address: int, size: int) -> str | None:
        """Why these bytes may not be touched; None if they may."""
        block = self.at(address)
        if block is None:
            return f"{size} bytes at {address:#x} were never allocated"
        if address + size > block.address + block.size:
            return f"{size} bytes at {address:#x} end outside {block}"
        return None if block.live else f"{block} were freed"

    def is_pinned(self, address: int) -> bool:
        block = self.at(address)
        return block is not None and block.owner == "pinned"

    def changed_after_free(self) -> list[Block]:
        """Freed blocks that somebody has written since. Reported once."""
        changed = [block for block in self._blocks if not block.live and (block.content != POISON).any()]
        for block in changed:
            block.content[...] = POISON
        return changed


def array_at(address: int, shape: tuple[int, ...], dtype: object) -> np.ndarray:
    """The memory at this address as an array."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize  # type: ignore[call-overload]
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=dtype).reshape(shape)  # type: ignore


def overlap(one: Range, other: Range) -> bool:
    return one[0] < other[0] + other[1] and other[0] < one[0] + one[1]
