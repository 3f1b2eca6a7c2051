"""Measure the roofline of this machine's CPU, which is its peak GEMM rates and memory bandwidth, in the same run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from seqpar_deploy.bench import gemm
from seqpar_deploy.bench.memory import best_read
from seqpar_deploy.machine import thread_limit
from seqpar_deploy.progress import Progress, silent

BEYOND_CACHE = 1 << 29  # bytes, more than the last-level cache of any current processor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roofline:
    """Hold peak rates, and the library that reached each.

    Attributes:
        gemm_flops_per_second: One rate per precision, 2 FLOPs per multiply-add. None if neither the processor nor the
            libraries support it.
        gemm_by: The library and shape of each rate.
        bytes_per_second: Rate of repeatedly reading as many bytes as one decoder step reads.
        bytes_by: The library of that rate.
        streamed_bytes_per_second: Rate of reading more bytes than any cache has.
        streamed_by: The library of that rate.
    """

    gemm_flops_per_second: Mapping[str, float | None]
    gemm_by: Mapping[str, str | None]
    bytes_per_second: float
    bytes_by: str
    streamed_bytes_per_second: float
    streamed_by: str

    def gemm_rate(self, precision: str) -> float:
        """Return the FLOPs per second in this precision, or in FP32, the fallback of CPUs."""
        rate = self.gemm_flops_per_second.get(precision) or self.gemm_flops_per_second["fp32"]
        assert rate is not None  # NumPy supports FP32 everywhere
        return rate


def measure_roofline(
    largest_gemm: tuple[int, int, int],
    step_bytes: int,
    *,
    threads: int | None = None,
    seconds: float = 0.5,
    square: int = gemm.SQUARE,
    beyond_cache: int = BEYOND_CACHE,
    progress: Progress = silent,
) -> Roofline:
    """Measure each rate as the best of all installed libraries, for about `seconds` each.

    `largest_gemm` is (rows, inner, columns) of the encoder's largest GEMM. A large square one is measured as well.
    """
    threads = thread_limit() if threads is None else threads
    shapes = [largest_gemm, (square, square, square)]
    rates: dict[str, tuple[float | None, str | None]] = {}
    with progress("measuring the roofline") as on_progress:
        for done, precision in enumerate(gemm.PRECISIONS):
            on_progress(done, len(gemm.PRECISIONS) + 2)
            rates[precision] = gemm.best_rate(precision, shapes, threads=threads, seconds=seconds)
        on_progress(len(rates), len(rates) + 2)
        of_step, step_by = best_read(step_bytes, threads=threads, seconds=seconds)
        on_progress(len(rates) + 1, len(rates) + 2)
        streamed, streamed_by = best_read(beyond_cache, threads=threads, seconds=seconds)
    return Roofline(
        gemm_flops_per_second={precision: rate for precision, (rate, _) in rates.items()},
        gemm_by={precision: by for precision, (_, by) in rates.items()},
        bytes_per_second=of_step,
        bytes_by=step_by,
        streamed_bytes_per_second=streamed,
        streamed_by=streamed_by,
    )
