"""What a device can do at best, measured in the run that quotes it, and how much work the model is."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from seqpar_deploy.bundle import Bundle, Precision
from seqpar_deploy.exporting.graphs import EncoderGraph


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Rates a second: of matrix products (2 operations for each product and sum), bytes of memory read and written by a
    copy on the device, and bytes copied to it from page-locked memory."""

    fp32_flops: float
    fp16_flops: float
    copied_bytes: float
    uploaded_bytes: float


def measure_limits(device: str, *, seconds: float = 1.0) -> Limits:
    """Each rate as the median over about `seconds`, of sizes a device of its kind is busy with."""
    gpu = device.startswith("cuda")
    side, size = (8192, 1 << 30) if gpu else (1024, 1 << 26)

    def products(dtype: torch.dtype) -> float:
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        return 2 * side**3 / median_seconds(lambda: a @ b, device, seconds=seconds)

    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    host = torch.ones(size, dtype=torch.uint8, pin_memory=gpu)
    return Limits(
        fp32_flops=products(torch.float32),
        fp16_flops=products(torch.float16),
        copied_bytes=2 * size / median_seconds(lambda: target.copy_(source), device, seconds=seconds),
        uploaded_bytes=size / median_seconds(lambda: target.copy_(host, non_blocking=True), device, seconds=seconds),
    )


def median_seconds(work: Callable[[], object], device: str = "cpu", *, seconds: float = 1.0, least: int = 3) -> float:
    """The median duration of `work`, device and all, repeated for about `seconds` after one warm-up."""
    return float(np.median(durations(work, device, seconds=seconds, least=least)))


def durations(
    work: Callable[[], object], device: str = "cpu", *, seconds: float, least: int = 3, most: int = 1000
) -> list[float]:
    """Seconds of each of the runs of `work`, after one that does not count."""
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
    """Until a GPU has done what was asked of it, through whatever library."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def encoder_flops(encoder: EncoderGraph, crops: Tensor) -> int:
    """Operations of one crop's matrix products and convolutions, counted while it runs on `crops` (1, H, W, 3)."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        encoder(crops)
    return int(counter.get_total_flops())


def step_bytes(bundle: Bundle, rows: int, precision: Precision) -> int:
    """Bytes a decoder step in this precision cannot do without moving: its weights and the image tokens' keys and
    values are read, the cache is read and written."""
    d, item = bundle.dimensions, {"fp16": 2, "fp32": 4}
    graph_and_weights = bundle.path.glob(f"{bundle.decoder_step.name}*")
    weights = sum(path.stat().st_size for path in graph_and_weights) * item[precision] // item[bundle.precision]
    slots = rows * (d.image_tokens + 2 * d.capacity)
    return weights + 2 * d.layers * slots * d.heads * d.head_size * item[precision]
