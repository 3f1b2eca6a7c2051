"""Time calls."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np


def median_seconds(work: Callable[[], object], device: str = "cpu", *, seconds: float = 1.0, least: int = 3) -> float:
    """Return the median seconds of `work`, with the device's work, over about `seconds` after one warm-up."""
    return float(np.median(durations(work, device, seconds=seconds, least=least)))


def durations(
    work: Callable[[], object], device: str = "cpu", *, seconds: float, least: int = 3, most: int = 1000
) -> list[float]:
    """Return the seconds of each run of `work`, after one warm-up."""
    taken: list[float] = []
    work()
    wait_for(device)
    end = time.perf_counter() + seconds
    while len(taken) < least or (time.perf_counter() < end and len(taken) < most):
        start = time.perf_counter()
        work()
        wait_for(device)
        taken.append(time.perf_counter() - start)
    return taken


def wait_for(device: str) -> None:
    """Wait until a GPU has finished the work of all libraries."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
