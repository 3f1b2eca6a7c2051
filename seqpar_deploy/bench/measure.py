"""Run one benchmark: the comparison of variants, their other costs, and the machine's roofline.

The result is JSON and names the machine and the bundle.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from seqpar_deploy.bench import flops
from seqpar_deploy.bench.cold_start import measure_cold_start
from seqpar_deploy.bench.comparison import Input, Timing, Variant, measure_throughput, run_comparison
from seqpar_deploy.bench.roofline import Roofline, measure_roofline
from seqpar_deploy.bench.variants import BenchContext
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.errors import BackendError
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.progress import Progress, silent

BATCHES = (1, 4, 16)
_NO_COLD_START = {
    "cold_start_seconds": None,
    "load_seconds": None,
    "first_call_seconds": None,
    "peak_memory_bytes": None,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a benchmark run.

    Attributes:
        crops: Crops per run. Default: 1.
        runs: Timed runs per variant. Default: 5.
        batches: Batch sizes for throughput. Default: those of 1, 4 and 16 up to the bundle's largest batch.
        threads: CPU threads. Default: each runtime's own choice.
        seconds: Approximate seconds per throughput and per rate of the roofline. Default: 0.5.
        ratio: Height to width of all crops, which are reshaped to it. Default: None, each has its own.
    """

    crops: int = 1
    runs: int = 5
    batches: tuple[int, ...] | None = None
    threads: int | None = None
    seconds: float = 0.5
    ratio: float | None = None

    def batches_for(self, bundle: Bundle) -> tuple[int, ...]:
        return self.batches or tuple(batch for batch in BATCHES if batch <= bundle.max_batch)


def measure(
    context: BenchContext,
    variants: Sequence[Variant],
    skipped: Sequence[dict[str, str]],
    crops: Sequence[Crop],
    settings: Settings,
    *,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Measure the variants of a context and close it. Raises BundleFormatError if FLOPs cannot be counted."""
    bundle = context.bundle
    if settings.ratio is not None:
        crops = [_reshaped(crop, settings.ratio) for crop in crops]
    given = Input(crops=crops, dimensions=bundle.dimensions, preprocessing=bundle.preprocessing)
    model = _model(bundle)
    with progress("measuring") as on_progress:
        timings = run_comparison(variants, given, runs=settings.runs, batch=settings.crops, on_progress=on_progress)
    throughputs = []
    with progress("measuring throughput") as on_progress:
        for done, timing in enumerate(timings):
            throughputs.append(_throughput(timing, given, settings, bundle))
            on_progress(done + 1, len(timings))
    step_bytes = model["step_bytes"]
    roofline = measure_roofline(
        flops.largest_gemm(bundle), step_bytes, threads=settings.threads, seconds=settings.seconds, progress=progress
    )
    context.close()
    cold_starts = []
    with progress("measuring cold starts") as on_progress:
        for done, variant in enumerate(variants):
            cold_starts.append(_cold_start(variant))
            on_progress(done + 1, len(variants))
    entries = [
        _entry(timing, cold_start, throughput)
        for timing, cold_start, throughput in zip(timings, cold_starts, throughputs, strict=True)
    ]
    return {
        "what": "seconds end to end, from raw crops to attributes",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": describe_machine(),
        "bundle": {
            "digest": bundle.digest,
            "label_set": bundle.label_set.name,
            "precision": bundle.precision,
            "checkpoint": bundle.manifest["checkpoint"],
            "producer": bundle.manifest["producer"],
        },
        "settings": {
            "crops": settings.crops,
            "ratio": settings.ratio,
            "runs": settings.runs,
            "threads": settings.threads,
        },
        "variants": entries,
        "skipped": list(skipped),
        "roofline": dataclasses.asdict(roofline),
        "model": model,
        "shares": [share for timing in timings for share in _shares(timing, roofline, bundle, given, settings.crops)],
    }


def _reshaped(crop: Crop, ratio: float) -> Crop:
    """Return a crop of the same height, resized to `ratio` times its width in height."""
    height = crop.shape[0]
    return np.asarray(Image.fromarray(crop).resize((max(1, round(height / ratio)), height)))


def _model(bundle: Bundle) -> dict[str, int]:
    """Return FLOPs and bytes of one crop and of one decoder step of one token, in the graphs' own precision."""
    return {
        "encoder_flops": flops.encoder_flops(bundle),
        "encoder_bytes": flops.encoder_bytes(bundle, bundle.precision),
        "step_flops": flops.step_flops(bundle),
        "step_bytes": flops.step_bytes(bundle, bundle.precision),
    }


def _throughput(timing: Timing, given: Input, settings: Settings, bundle: Bundle) -> list[dict[str, Any]]:
    found = []
    for batch in settings.batches_for(bundle):
        max_rows = timing.variant.backend.max_rows
        if batch == settings.crops:
            found.append({"batch": batch, "crops_per_second": batch / timing.p50})
        elif not timing.variant.one_batch and (max_rows is None or batch <= max_rows):
            rate = measure_throughput(timing.variant, given, batch, seconds=settings.seconds)
            found.append({"batch": batch, "crops_per_second": rate})
    return found


def _cold_start(variant: Variant) -> dict[str, Any]:
    if variant.cold_start is None:
        return _NO_COLD_START
    try:
        return dataclasses.asdict(measure_cold_start(variant.cold_start))
    except BackendError as error:
        return {**_NO_COLD_START, "cold_start_failed": str(error)}


def _entry(timing: Timing, cold_start: dict[str, Any], throughput: list[dict[str, Any]]) -> dict[str, Any]:
    variant = timing.variant
    return {
        "name": variant.name,
        "description": variant.description,
        "precision": variant.precision,
        "reduced": variant.reduced,
        "seconds": list(timing.seconds),
        "p50": timing.p50,
        "p95": timing.percentile(95),
        "p99": timing.percentile(99),
        "stages": dataclasses.asdict(timing.stages),
        "steps": timing.steps,
        "step_seconds": timing.step_seconds,
        "identical": timing.identical,
        "reference": timing.is_reference,  # whether the other variants' tokens are compared with this one's
        **cold_start,
        "joules_per_crop": timing.joules_per_crop,
        "throughput": throughput,
    }


def _shares(timing: Timing, roofline: Roofline, bundle: Bundle, given: Input, rows: int) -> list[dict[str, Any]]:
    """Return the shares of the CPU's roofline of a variant that runs the bundle's graphs. gpu_check.py is for GPUs."""
    variant = timing.variant
    if not variant.as_bundle or variant.backend.device != "cpu":
        return []
    widths = {given.columns(crop, variant.trimming) for crop in given.crops}
    if len(widths) > 1:  # each batch of one width has its own limit
        return []
    (columns,) = widths
    seconds = {"encoder": timing.stages.encode, "decoder_step": timing.step_seconds}
    counts = {
        "encoder": flops.encoder_flops(bundle, rows, columns),
        "decoder_step": flops.step_flops(bundle, rows, columns),
    }
    moved = {
        "encoder": flops.encoder_bytes(bundle, variant.precision, rows, columns),
        "decoder_step": flops.step_bytes(bundle, variant.precision, rows, columns),
    }
    # An encoder streams its weights from memory. A step finds some of its weights in the cache, from the previous step.
    bandwidth = {"encoder": roofline.streamed_bytes_per_second, "decoder_step": roofline.bytes_per_second}
    found = []
    for graph, taken in seconds.items():
        of_gemm = counts[graph] / taken / roofline.gemm_rate(variant.precision)
        of_bandwidth = moved[graph] / taken / bandwidth[graph]
        found.append(
            {
                "variant": variant.name,
                "graph": graph,
                "seconds": taken,
                "flops": counts[graph],
                "bytes": moved[graph],
                "share_of_gemm": of_gemm,
                "share_of_bandwidth": of_bandwidth,
                "bound_by": "gemm" if of_gemm > of_bandwidth else "bandwidth",
            }
        )
    return found
