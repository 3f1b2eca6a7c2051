"""The roofline of this machine's CPU: peak GEMM rates and memory bandwidth, measured in the run that quotes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from seqpar_deploy.bench import gemm
from seqpar_deploy.bench.memory import best_read
from seqpar_deploy.machine import thread_limit
from seqpar_deploy.progress import Progress, silent

BEYOND_CACHE = 1 << 29  # bytes: more than any processor's last cache of today holds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roofline:
    """Peak rates, and the library that reached each.

    `gemm_flops_per_second` holds one rate per precision (2 FLOPs per multiply-add), None if neither the processor nor
    the libraries support it. `bytes_per_second` is the rate of reading as many bytes as one decoder step reads, again
    and again, as decoding does. `streamed_bytes_per_second` is the rate of reading more than any cache holds.
    """

    gemm_flops_per_second: Mapping[str, float | None]
    gemm_by: Mapping[str, str | None]
    bytes_per_second: float
    bytes_by: str
    streamed_bytes_per_second: float
    streamed_by: str

    def gemm_rate(self, precision: str) -> float:
        """FLOPs per second in this precision, or in FP32, which CPUs fall back to."""
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
    """Measure each rate as the best that any installed library reaches in about `seconds`.

    `largest_gemm` is (rows, inner, columns) of the encoder's largest GEMM, tried beside a large square one.
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
