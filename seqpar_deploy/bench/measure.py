"""One run of everything: the ladder, what each rung costs besides time, and the machine's limits. The result is JSON,
and says on what and of what it was measured."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from typing import Any

from seqpar_deploy.bench import flops
from seqpar_deploy.bench.cold_start import measure_cold_start
from seqpar_deploy.bench.comparison import Input, Timing, Variant, measure_throughput, run_comparison
from seqpar_deploy.bench.roofline import Limits, measure_limits
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
    """`crops` at a time in each of `runs` timed turns of each rung; `batches` to measure the throughput of, by default
    those of BATCHES the bundle is meant for; about `seconds` for each of the machine's limits."""

    crops: int = 1
    runs: int = 5
    batches: tuple[int, ...] | None = None
    threads: int | None = None
    seconds: float = 0.5

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
    """Measure rungs of a workshop, which is closed on the way. Raises BundleFormatError: its work cannot be counted."""
    bundle = context.bundle
    given = Input(crops=crops, dimensions=bundle.dimensions, preprocessing=bundle.preprocessing)
    model = _model(bundle)
    with progress("measuring") as report:
        timings = run_comparison(variants, given, runs=settings.runs, batch=settings.crops, report=report)
    throughputs = []
    with progress("measuring throughput") as report:
        for done, timing in enumerate(timings):
            throughputs.append(_throughput(timing, given, settings, bundle))
            report(done + 1, len(timings))
    step_bytes = model["step_bytes"]
    limits = measure_limits(
        flops.largest_product(bundle), step_bytes, threads=settings.threads, seconds=settings.seconds, progress=progress
    )
    context.close()
    cold_starts = []
    with progress("starting afresh") as report:
        for done, variant in enumerate(variants):
            cold_starts.append(_cold_start(variant))
            report(done + 1, len(variants))
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
        "settings": {"crops": settings.crops, "runs": settings.runs, "threads": settings.threads},
        "variants": entries,
        "skipped": list(skipped),
        "limits": dataclasses.asdict(limits),
        "model": model,
        "shares": [share for timing in timings for share in _shares(timing, limits, bundle, settings.crops)],
    }


def _model(bundle: Bundle) -> dict[str, int]:
    """The work of one crop, and of one decoder step of one token; bytes in the graphs' own precision."""
    return {
        "encoder_operations": flops.encoder_operations(bundle),
        "encoder_bytes": flops.encoder_bytes(bundle, bundle.precision),
        "step_operations": flops.step_operations(bundle),
        "step_bytes": flops.step_bytes(bundle, bundle.precision),
    }


def _throughput(timing: Timing, given: Input, settings: Settings, bundle: Bundle) -> list[dict[str, Any]]:
    found = []
    for batch in settings.batches_for(bundle):
        most = timing.variant.backend.max_rows
        if batch == settings.crops:
            found.append({"batch": batch, "crops_per_second": batch / timing.p50})
        elif not timing.variant.one_batch and (most is None or batch <= most):
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
        "reference": timing.is_reference,  # whose tokens the others' are held against
        **cold_start,
        "joules_per_crop": timing.joules_per_crop,
        "throughput": throughput,
    }


def _shares(timing: Timing, limits: Limits, bundle: Bundle, rows: int) -> list[dict[str, Any]]:
    """What a rung that does the work of the bundle's graphs reaches of the CPU's limits; of GPUs, gpu_check.py says."""
    variant = timing.variant
    if not variant.as_bundle or variant.backend.device != "cpu":
        return []
    seconds = {"encoder": timing.stages.encode, "decoder_step": timing.step_seconds}
    operations = {
        "encoder": flops.encoder_operations(bundle, rows),
        "decoder_step": flops.step_operations(bundle, rows),
    }
    moved = {
        "encoder": flops.encoder_bytes(bundle, variant.precision, rows),
        "decoder_step": flops.step_bytes(bundle, variant.precision, rows),
    }
    # An encoder streams its weights; a step finds some of its own in the cache, where the last one left them.
    bandwidth = {"encoder": limits.streamed_bytes_per_second, "decoder_step": limits.bytes_per_second}
    found = []
    for graph, taken in seconds.items():
        of_products = operations[graph] / taken / limits.of_products(variant.precision)
        of_bandwidth = moved[graph] / taken / bandwidth[graph]
        found.append(
            {
                "variant": variant.name,
                "graph": graph,
                "seconds": taken,
                "operations": operations[graph],
                "bytes": moved[graph],
                "share_of_products": of_products,
                "share_of_bandwidth": of_bandwidth,
                "binds": "products" if of_products > of_bandwidth else "bandwidth",
            }
        )
    return found
