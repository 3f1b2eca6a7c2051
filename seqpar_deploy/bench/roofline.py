"""What this machine's CPU can do at best, measured in the run that quotes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from seqpar_deploy.bench import gemm
from seqpar_deploy.bench.memory import best_read
from seqpar_deploy.machine import thread_limit
from seqpar_deploy.progress import Progress, silent

BEYOND_CACHE = 1 << 29  # bytes: more than any processor's last cache of today holds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Rates a second.

    `products_per_second` counts 2 operations for each product and sum, for each precision; None where the processor or
    the libraries have none. `bytes_per_second` is of reading as many bytes as a decoder step reads, again and again, as
    decoding does; `streamed_bytes_per_second` of reading more than any cache holds.
    """

    products_per_second: Mapping[str, float | None]
    products_by: Mapping[str, str | None]
    bytes_per_second: float
    bytes_by: str
    streamed_bytes_per_second: float
    streamed_by: str

    def of_products(self, precision: str) -> float:
        """The rate of this precision, or of FP32, which CPUs without arithmetic of their own for it compute in."""
        rate = self.products_per_second.get(precision) or self.products_per_second["fp32"]
        assert rate is not None  # NumPy multiplies everywhere
        return rate


def measure_limits(
    largest_product: tuple[int, int, int],
    step_bytes: int,
    *,
    threads: int | None = None,
    seconds: float = 0.5,
    square: int = gemm.SQUARE,
    beyond_cache: int = BEYOND_CACHE,
    progress: Progress = silent,
) -> Limits:
    """Each rate as the best of what every installed library reaches in about `seconds`.

    `largest_product` is (rows, inner, columns) of the encoder's largest, tried beside a large square.
    """
    threads = thread_limit() if threads is None else threads
    shapes = [largest_product, (square, square, square)]
    rates: dict[str, tuple[float | None, str | None]] = {}
    with progress("measuring the machine's limits") as report:
        for done, precision in enumerate(gemm.PRECISIONS):
            report(done, len(gemm.PRECISIONS) + 2)
            rates[precision] = gemm.best_rate(precision, shapes, threads=threads, seconds=seconds)
        report(len(rates), len(rates) + 2)
        of_step, step_by = best_read(step_bytes, threads=threads, seconds=seconds)
        report(len(rates) + 1, len(rates) + 2)
        streamed, streamed_by = best_read(beyond_cache, threads=threads, seconds=seconds)
    return Limits(
        products_per_second={precision: rate for precision, (rate, _) in rates.items()},
        products_by={precision: by for precision, (_, by) in rates.items()},
        bytes_per_second=of_step,
        bytes_by=step_by,
        streamed_bytes_per_second=streamed,
        streamed_by=streamed_by,
    )
