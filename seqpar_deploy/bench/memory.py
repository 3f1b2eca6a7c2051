"""Measure this machine's memory read rate with the fastest library."""

from __future__ import annotations

import concurrent.futures
import contextlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from seqpar_deploy.bench.timing import durations
from seqpar_deploy.machine import usable_cores

Floats = npt.NDArray[np.float32]
Work = Callable[[], object]


def best_read(size: int, *, threads: int | None, seconds: float) -> tuple[float, str]:
    """Return (bytes per second, library) of reading an array of `size` bytes repeatedly, on all cores or in `threads`.

    An array that fits into a cache is read from there, like the weights of a small decoder. The fastest run counts.
    """
    array = np.ones(max(1, size // 4), dtype=np.float32)
    parts = np.array_split(array, threads or usable_cores())
    found: list[tuple[float, str]] = []
    with concurrent.futures.ThreadPoolExecutor(len(parts)) as pool:
        readers: dict[str, Work] = {
            "numpy sum, one thread": array.sum,
            f"numpy sum, threads: {len(parts)}": lambda: list(pool.map(np.sum, parts)),
        }
        if threads is None:  # these choose their own number of threads
            readers[f"numpy dot, threads: {len(parts)}"] = lambda: list(pool.map(_dot, parts))
            readers["numpy matrix by vector"] = _matrix_by_vector(array)
        with contextlib.suppress(ImportError):
            readers["torch sum"] = _torch_sum(array, threads)
        for name, work in readers.items():
            found.append((array.nbytes / min(durations(work, seconds=seconds)), name))
    return max(found)


def _dot(part: Floats) -> float:
    return float(part @ part)


def _matrix_by_vector(array: Floats) -> Work:
    """Return a matrix-vector product, which has the access pattern of a decoder step."""
    inner = min(1024, array.size)
    matrix = array[: array.size // inner * inner].reshape(-1, inner)
    vector = np.ones(inner, dtype=np.float32)
    return lambda: matrix @ vector


def _torch_sum(array: Floats, threads: int | None) -> Work:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return torch.from_numpy(array).sum
