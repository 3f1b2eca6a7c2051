"""Measure the roofline of a GPU, or of PyTorch on a CPU. `roofline.py` measures all libraries of a CPU."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from seqpar_deploy.bench.timing import median_seconds

if TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeviceRoofline:
    """Rates per second: FLOPs of matrix multiplications (2 per multiply-add), bytes read and written by a copy on the
    device, and bytes copied to it from page-locked memory."""

    fp32_flops: float
    fp16_flops: float
    copied_bytes: float
    uploaded_bytes: float


def measure_device_roofline(device: str, *, seconds: float = 1.0) -> DeviceRoofline:
    """Measure each rate as the median over about `seconds`, with sizes that keep such a device busy."""
    import torch

    gpu = device.startswith("cuda")
    side, size = (8192, 1 << 30) if gpu else (1024, 1 << 26)

    def gemm_rate(dtype: torch.dtype) -> float:
        a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        return 2 * side**3 / median_seconds(lambda: a @ b, device, seconds=seconds)

    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    host = torch.ones(size, dtype=torch.uint8, pin_memory=gpu)
    return DeviceRoofline(
        fp32_flops=gemm_rate(torch.float32),
        fp16_flops=gemm_rate(torch.float16),
        copied_bytes=2 * size / median_seconds(lambda: target.copy_(source), device, seconds=seconds),
        uploaded_bytes=size / median_seconds(lambda: target.copy_(host, non_blocking=True), device, seconds=seconds),
    )
