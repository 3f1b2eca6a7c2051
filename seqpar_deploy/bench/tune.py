"""Find the fastest configuration of a bundle on this machine that returns the tokens of native precision.

Reduced precision (bf16, int8) shifts log-probabilities slightly. A token can change if its margin over the second best
is below the shift, so low-margin crops are re-run in native precision. If the bundle has a calibration, crops with a
probability as near to a threshold are re-run too. The fallback margin is measured here, on the crops, by comparison
with native precision. The share of crops below it is the cost of the fallback.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np

from seqpar_deploy.backends import Backend, ComputePrecision, backends_for, open_backend
from seqpar_deploy.backends.base import REDUCED_PRECISIONS
from seqpar_deploy.bench.comparison import SETTLE
from seqpar_deploy.bench.margins import (
    Prepared,
    Reference,
    Shifts,
    decode_along,
    differences,
    in_order,
    make_reference,
    measure_shifts,
    prepare,
)
from seqpar_deploy.bench.table import Row, format_columns
from seqpar_deploy.bench.trimmed_tuning import TrimmedWay, measure_trimmed
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.decoding import DraftHead, Generation, Greedy
from seqpar_deploy.decoding.choice import small_batches
from seqpar_deploy.decoding.draft_fitting import LEAST_CROPS, collect_answers, fit_head, held_out_calls
from seqpar_deploy.decoding.drafts import load_head
from seqpar_deploy.errors import BackendError, BackendUnavailableError
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.parity.gate import check_parity
from seqpar_deploy.parity.reference import reference_from_golden
from seqpar_deploy.parity.tolerances import tolerances_of
from seqpar_deploy.preprocess import Crop, CropBatch
from seqpar_deploy.progress import OnProgress, Progress, silent
from seqpar_deploy.tuned import Tuned

DIFFERENT_SHARE = 0.001  # of the crops may differ from native precision after the fallback
_BATCHES = (1, 2, 4, 8, 16, 32)
_ROUNDS = 9

BackendKey = tuple[str, ComputePrecision]  # backend and compute precision
ConfigurationKey = tuple[str, ComputePrecision, bool]  # and whether decoding is speculative


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasuredConfiguration:
    """Hold the measurements of one configuration.

    Attributes:
        backend: Name of the backend.
        compute_precision: `native`, `bf16` or `int8`.
        speculative: Whether decoding is speculative.
        fallback_margin: Crops with a margin below this value are re-run in native precision. None for `native`.
        token_shift: The shift that 99.9 % of the tokens' margins do not exceed. None for `native`.
        log_odds_shift: The shift that 99.9 % of the probabilities' log-odds do not exceed. None for `native`. The
            fallback margin is the greater of these two.
        fallback_share: Share of the crops below that margin, 0 to 1.
        different: Crops with other tokens than in native precision, or other states if the bundle has a calibration.
        different_after_fallback: Those of them that the fallback does not re-run.
        seconds: Median seconds per crop, end to end, without the fallback.
        expected_seconds: Seconds per crop with the average cost of the fallback.
    """

    backend: str
    compute_precision: ComputePrecision
    speculative: bool
    fallback_margin: float | None
    token_shift: float | None
    log_odds_shift: float | None
    fallback_share: float
    different: int
    different_after_fallback: int
    seconds: float
    expected_seconds: float

    def is_exact_enough(self, crops: int) -> bool:
        return self.different_after_fallback <= DIFFERENT_SHARE * crops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """Hold the result of tuning.

    Attributes:
        crops: Number of crops that were measured.
        configurations: The configurations, fastest first.
        skipped: One line per configuration that could not run, with the reason.
        throughput: Crops per second by batch size.
        choice: The chosen configuration.
        trimmed: What trimmed crops would gain, with re-runs, if the model was made for all padding. None if it was
            not, or no crop is narrow enough. It is never chosen, see `trimmed_tuning`. Default: None.
    """

    crops: int
    configurations: tuple[MeasuredConfiguration, ...]
    skipped: tuple[str, ...]
    throughput: dict[int, float]
    choice: Tuned
    trimmed: TrimmedWay | None = None


def refit_drafts(bundle: Bundle, crops: Sequence[Crop], *, progress: Progress = silent) -> DraftHead | None:
    """Fit a draft head on the model's own answers to a user's crops, which need no labels.

    Args:
        bundle: The opened bundle.
        crops: Raw crops, uint8 (h, w, 3). The more, the fewer decoder calls: 1,000 are worth it.
        progress: Receives the progress. Default: none is reported.

    Returns:
        The new head, which is not saved yet. None if there are fewer than 40 crops, the bundle has no pooled image
        tokens, or the head in use needs no more calls on these crops.
    """
    if len(crops) < LEAST_CROPS or not bundle.has_pooled:
        return None
    with progress("fitting drafts") as on_progress, closing(open_backend(bundle)) as backend:
        answers = collect_answers(bundle, backend, crops, most=len(crops), on_progress=on_progress)
        head = None if answers is None else fit_head(answers)
    used = load_head(bundle)
    if answers is not None and head is not None and used is not None and held_out_calls(used, answers) <= head.calls:
        return None
    return head


def tune(bundle: Bundle, crops: Sequence[Crop], *, progress: Progress = silent) -> Tuning:
    """Measure every configuration that runs on this machine, and choose the fastest that keeps the tokens.

    Args:
        bundle: The opened bundle.
        crops: Raw crops, uint8 (h, w, 3), of any sizes. More crops give a more reliable margin.
        progress: Receives the progress of each stage. Default: none is reported.

    Returns:
        All measurements and the choice, which is not saved yet.

    Raises:
        BackendUnavailableError: No installed backend reproduces the golden sequences in native precision.
    """
    skipped: list[str] = []
    _head_of.cache_clear()  # it may have been refitted
    with ExitStack() as stack:
        with progress("opening"):
            backends = _open_all(bundle, stack, skipped)
        prepared = prepare(bundle, crops)
        generations: dict[ConfigurationKey, list[Generation]] = {}
        shifts: dict[BackendKey, Shifts | None] = {}
        reference: Reference | None = None
        for (name, compute_precision), backend in backends.items():
            with progress(f"tokens of {name}, {compute_precision}") as on_progress:
                shift = None
                if reference is None:  # the first backend is opened in native precision
                    reference = make_reference(bundle, backend, prepared, on_progress)
                    greedy = reference.generations
                else:
                    greedy, log_probs = decode_along(bundle, backend, prepared, reference, on_progress)
                    if compute_precision != "native":
                        shift = measure_shifts(log_probs, reference)
                shifts[name, compute_precision] = shift
                generations[name, compute_precision, False] = greedy
            with progress(f"tokens of {name}, {compute_precision}, speculative") as on_progress:
                generations[name, compute_precision, True] = _speculate(bundle, backend, prepared, on_progress)
        if reference is None:
            why = "; ".join(skipped) or "no backend is installed"
            raise BackendUnavailableError(
                f"no backend runs {bundle.path} in native precision: {why}; run seqpar doctor"
            )
        with progress("timing one crop") as on_progress:
            seconds = _time_all(bundle, backends, crops, on_progress)
        configurations = _configurations(bundle, generations, shifts, seconds, reference)
        best = next(one for one in configurations if one.is_exact_enough(len(crops)))
        native = next(one for one in configurations if one.compute_precision == "native" and not one.speculative)
        with progress("trimmed crops") as on_progress:
            backend = backends[native.backend, "native"]
            trimmed = measure_trimmed(bundle, backend, crops, reference, native.seconds, on_progress)
    with progress("timing threads and batches") as on_progress:
        threads, throughput = _tune_further(bundle, best, crops, on_progress)
    choice = Tuned(
        backend=best.backend,  # type: ignore[arg-type]
        compute_precision=best.compute_precision,
        fallback_margin=best.fallback_margin,
        speculative=best.speculative,
        threads=threads,
        batch_size=max(throughput, key=lambda size: throughput[size]),
    )
    return Tuning(
        crops=len(crops),
        configurations=tuple(configurations),
        skipped=tuple(skipped),
        throughput=throughput,
        choice=choice,
        trimmed=trimmed,
    )


def _open_all(bundle: Bundle, stack: ExitStack, skipped: list[str]) -> dict[BackendKey, Backend[Any]]:
    """Open every backend of this machine in every precision, if it passes the parity gate in native precision."""
    opened: dict[BackendKey, Backend[Any]] = {}
    compute_precisions: tuple[ComputePrecision, ...] = ("native", *REDUCED_PRECISIONS)
    for name, compute_precision in itertools.product(backends_for(bundle), compute_precisions):
        try:
            backend = open_backend(bundle, name, compute_precision=compute_precision)  # type: ignore[arg-type]
            stack.enter_context(closing(backend))
            if compute_precision == "native":
                _require_parity(bundle, backend)
            if compute_precision != "native" and (name, "native") not in opened:
                raise BackendError("its native precision, which the fallback needs, cannot run")
            opened[name, compute_precision] = backend
        except BackendError as error:
            skipped.append(f"{name}, {compute_precision}: {error}")
    return opened


def _require_parity(bundle: Bundle, backend: Backend[Any]) -> None:
    parity = check_parity(backend, reference_from_golden(bundle), tolerances_of(bundle), bundle=bundle)
    if parity.breaches:
        raise BackendError(f"fails seqpar parity: {parity.breaches[0]}")


def _generate(bundle: Bundle, backend: Backend[Any], crops: CropBatch, speculative: bool = False) -> list[Generation]:
    strategy = small_batches(_head_of(bundle.path, bundle.digest)) if speculative else Greedy()
    return strategy.generate(backend, backend.encode(crops), max_steps=bundle.dimensions.capacity - 1)


@functools.lru_cache(maxsize=1)
def _head_of(path: Path, _digest: str) -> DraftHead | None:
    """Return the draft head of a bundle, which is read once and not in every timed call."""
    return load_head(Bundle.open(path, verify=False))


def _speculate(bundle: Bundle, backend: Backend[Any], prepared: Prepared, on_progress: OnProgress) -> list[Generation]:
    """Decode speculatively, in small batches: steps of several tokens may round differently from steps of one token."""
    found: dict[int, Generation] = {}
    for rows, crops in prepared.batches(1):
        found |= zip(rows, _generate(bundle, backend, crops, speculative=True), strict=True)
        on_progress(len(found), len(prepared))
    return in_order(found)


def _time_all(
    bundle: Bundle, backends: dict[BackendKey, Backend[Any]], crops: Sequence[Crop], on_progress: OnProgress
) -> dict[ConfigurationKey, float]:
    """Return median seconds per crop, end to end. Configurations are interleaved, with the same crop in each round."""
    taken: dict[ConfigurationKey, list[float]] = {
        (*key, speculative): [] for key in backends for speculative in (False, True)
    }
    for turn in range(_ROUNDS + 1):
        for (name, compute_precision, speculative), values in taken.items():
            time.sleep(SETTLE)
            crop = crops[turn % len(crops)]
            values.append(_seconds(bundle, backends[name, compute_precision], [crop], speculative))
        on_progress(turn + 1, _ROUNDS + 1)
    return {key: float(np.median(values[1:])) for key, values in taken.items()}  # the first run is a warm-up


def _seconds(bundle: Bundle, backend: Backend[Any], crops: Sequence[Crop], speculative: bool) -> float:
    start = time.perf_counter()
    for _, batch in prepare(bundle, crops).batches(len(crops)):
        _generate(bundle, backend, batch, speculative)
    return time.perf_counter() - start


def _configurations(
    bundle: Bundle,
    generations: dict[ConfigurationKey, list[Generation]],
    shifts: dict[BackendKey, Shifts | None],
    seconds: dict[ConfigurationKey, float],
    reference: Reference,
) -> list[MeasuredConfiguration]:
    """Return the measured configurations, fastest first."""
    configurations = []
    for (name, compute_precision, speculative), taken in seconds.items():
        shift, found = shifts[name, compute_precision], generations[name, compute_precision, speculative]
        margin = None if shift is None else shift.margin
        different, low_margin = differences(bundle, found, reference, margin)
        share = float(low_margin.mean())
        configurations.append(
            MeasuredConfiguration(
                backend=name,
                compute_precision=compute_precision,
                speculative=speculative,
                fallback_margin=margin,
                token_shift=None if shift is None else shift.tokens,
                log_odds_shift=None if shift is None else shift.log_odds,
                fallback_share=share,
                different=int(different.sum()),
                different_after_fallback=int((different & ~low_margin).sum()),
                seconds=taken,
                expected_seconds=taken + share * seconds[name, "native", speculative],
            )
        )
    return sorted(configurations, key=lambda one: one.expected_seconds)


def _tune_further(
    bundle: Bundle, best: MeasuredConfiguration, crops: Sequence[Crop], on_progress: OnProgress
) -> tuple[int | None, dict[int, float]]:
    """Return the fastest number of threads for one crop, or None for the runtime's choice, and the throughput.

    The throughput is crops per second by batch size, without the fallback, which costs the same for every batch size.
    """
    cores = describe_machine()["cores"]
    counts = [None, *sorted({count for count in (1, cores // 2) if 0 < count < cores})]
    of_threads: dict[int | None, float] = {}
    for threads in counts:
        options: dict[str, Any] = {"threads": threads, "compute_precision": best.compute_precision}
        with closing(open_backend(bundle, best.backend, **options)) as backend:  # type: ignore[arg-type]
            taken = [_seconds(bundle, backend, [crop], best.speculative) for crop in crops[: _ROUNDS + 1]]
            of_threads[threads] = float(np.median(taken[1:] or taken))
            on_progress(len(of_threads), len(counts) + 1)
    threads = min(counts, key=lambda count: of_threads[count])
    throughput = {}
    options = {"threads": threads, "compute_precision": best.compute_precision}
    with closing(open_backend(bundle, best.backend, **options)) as backend:  # type: ignore[arg-type]
        for size in _BATCHES:
            if size <= bundle.max_batch:
                batch = list(itertools.islice(itertools.cycle(crops), size))
                taken = [_seconds(bundle, backend, batch, best.speculative) for _ in range(4)]
                throughput[size] = size / float(np.median(taken[1:]))
    on_progress(len(counts) + 1, len(counts) + 1)
    return threads, throughput


def format_tuning(tuning: Tuning) -> str:
    """Format the configurations as a table, fastest first, with a star before the choice."""
    rows: list[Row] = [("", "ms", "margin", "fallback", "different", "after fallback", "ms expected")]
    for one in tuning.configurations:
        name = f"{one.backend}, {one.compute_precision}{', speculative' if one.speculative else ''}"
        chosen = (one.backend, one.compute_precision, one.speculative) == (
            tuning.choice.backend,
            tuning.choice.compute_precision,
            tuning.choice.speculative,
        )
        reduced = one.fallback_margin is not None
        rows.append(
            (
                f"{'*' if chosen else ' '} {name}",
                f"{one.seconds * 1e3:.1f}",
                f"{one.fallback_margin:.3f}" if reduced else "-",
                f"{one.fallback_share:.1%}" if reduced else "-",
                str(one.different),
                str(one.different_after_fallback),
                f"{one.expected_seconds * 1e3:.1f}",
            )
        )
    if tuning.trimmed is not None:
        rows.append(tuning.trimmed.row())
    return format_columns(rows)
