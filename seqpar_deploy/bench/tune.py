"""Finding the quickest way to run a bundle on this machine that says what exact arithmetic says.

Quicker arithmetic (bf16, int8) moves log-probabilities a little. Tokens change where the best choice is ahead of the
second by less than it moves, so crops with such a choice are recognised again in exact arithmetic. How large that
margin has to be is measured here, on the crops, against the exact answers; so is how often it is undercut, which is
what the quicker way costs.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any

import numpy as np

from seqpar_deploy.backends import Backend, ComputePrecision, backends_for, open_backend
from seqpar_deploy.backends.base import REDUCED_PRECISIONS, Float32Array, Int64Array
from seqpar_deploy.bench.comparison import SETTLE
from seqpar_deploy.bench.table import columns
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.decoding import Generation, Greedy, Speculative
from seqpar_deploy.errors import BackendError, BackendUnavailableError
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.parity.gate import check_parity
from seqpar_deploy.parity.reference import reference_from_golden
from seqpar_deploy.parity.tolerances import tolerances_of
from seqpar_deploy.preprocess import Crop, prepare_batch
from seqpar_deploy.progress import Progress, silent
from seqpar_deploy.tuned import Tuned
from seqpar_deploy.vocab import BOS, PAD

WRONG_SHARE = 0.001  # of the crops may differ from the exact answer, after the recheck
_NOISE_SHARE = 0.999  # of all choices are moved by less than the margin below which crops are rechecked
_BATCHES = (1, 2, 4, 8, 16, 32)
_BATCH = 8  # crops at a time where only answers count
_ROUNDS = 9

Kind = tuple[str, ComputePrecision]  # a backend and how it computes
Way = tuple[str, ComputePrecision, bool]  # and whether it decodes speculatively
Report = Callable[[int, int], None]  # (done, in all)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to run a bundle, measured.

    `seconds` for one crop end to end (median), `expected_seconds` with the rechecks that an average crop needs.
    `wrong` crops say other tokens than exact arithmetic; `wrong_left` of them would not have been rechecked.
    """

    backend: str
    compute_precision: ComputePrecision
    speculative: bool
    fallback_margin: float | None
    fallback_share: float
    wrong: int
    wrong_left: int
    seconds: float
    expected_seconds: float

    def is_exact_enough(self, crops: int) -> bool:
        return self.wrong_left <= WRONG_SHARE * crops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """What was measured, quickest first; what could not be tried; the choice, with crops a second by batch size."""

    crops: int
    candidates: tuple[Candidate, ...]
    skipped: tuple[str, ...]
    throughput: dict[int, float]
    choice: Tuned


@dataclasses.dataclass(frozen=True)
class _Exact:
    """What exact arithmetic says of M crops."""

    generations: list[Generation]
    sequences: Int64Array  # (M, C): `<bos>`, the tokens, `<pad>`
    choices: Int64Array  # (M, C - 1, 2): the best token after each of them and the second
    margins: Float32Array  # (M, C - 1): by how much the best is ahead


def tune(bundle: Bundle, crops: Sequence[Crop], *, progress: Progress = silent) -> Tuning:
    """Measure every way this machine has to run a bundle, and choose the quickest that says what exact arithmetic says.

    Raises BackendUnavailableError if no installed backend gives the checkpoint's own answers on the golden crops.
    """
    skipped: list[str] = []
    with ExitStack() as stack:
        with progress("opening"):
            backends = _open_all(bundle, stack, skipped)
        prepared = _prepare(bundle, crops)
        answers: dict[Way, list[Generation]] = {}
        fallback_margin: dict[Kind, float | None] = {}
        exact: _Exact | None = None
        for (name, compute_precision), backend in backends.items():
            with progress(f"answers of {name}, {compute_precision}") as report:
                generations, log_probs = _answer(bundle, backend, prepared, exact, report)
                exact = exact or _exact(bundle, backend, prepared, generations)
                fallback_margin[name, compute_precision] = (
                    None if compute_precision == "native" else _noise(log_probs, exact)
                )
                answers[name, compute_precision, False] = generations
            with progress(f"answers of {name}, {compute_precision}, speculative") as report:
                answers[name, compute_precision, True] = _speculate(bundle, backend, prepared, report)
        if exact is None:
            raise BackendUnavailableError(f"nothing runs {bundle.path} exactly: {'; '.join(skipped) or 'no backend'}")
        with progress("timing one crop") as report:
            seconds = _time_all(bundle, backends, crops, report)
        candidates = _candidates(answers, fallback_margin, seconds, exact)
        best = next(candidate for candidate in candidates if candidate.is_exact_enough(len(crops)))
    with progress("timing threads and batches") as report:
        threads, throughput = _tune_further(bundle, best, crops, report)
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
        candidates=tuple(candidates),
        skipped=tuple(skipped),
        throughput=throughput,
        choice=choice,
    )


def _open_all(bundle: Bundle, stack: ExitStack, skipped: list[str]) -> dict[Kind, Backend[Any]]:
    """Every backend of this machine in every arithmetic it has, where its exact answers pass the parity gate."""
    opened: dict[Kind, Backend[Any]] = {}
    compute_precisions: tuple[ComputePrecision, ...] = ("native", *REDUCED_PRECISIONS)
    for name, compute_precision in itertools.product(backends_for(bundle), compute_precisions):
        try:
            backend = open_backend(bundle, name, compute_precision=compute_precision)  # type: ignore[arg-type]
            stack.enter_context(closing(backend))
            if compute_precision == "native":
                _require_parity(bundle, backend)
            if compute_precision != "native" and (name, "native") not in opened:
                raise BackendError("no native precision to fall back on")
            opened[name, compute_precision] = backend
        except BackendError as error:
            skipped.append(f"{name}, {compute_precision}: {error}")
    return opened


def _require_parity(bundle: Bundle, backend: Backend[Any]) -> None:
    report = check_parity(backend, reference_from_golden(bundle), tolerances_of(bundle), bundle=bundle)
    if report.breaches:
        raise BackendError(f"it fails seqpar parity, {report.breaches[0]}")


def _prepare(bundle: Bundle, crops: Sequence[Crop]) -> Crop:
    return prepare_batch(crops, image_size=bundle.dimensions.image_size, preprocessing=bundle.preprocessing)


def _generate(bundle: Bundle, backend: Backend[Any], prepared: Crop, speculative: bool = False) -> list[Generation]:
    strategy = Speculative() if speculative else Greedy()
    return strategy.generate(backend, backend.encode(prepared), max_steps=bundle.dimensions.capacity - 1)


def _answer(
    bundle: Bundle, backend: Backend[Any], prepared: Crop, exact: _Exact | None, report: Report
) -> tuple[list[Generation], Float32Array]:
    """What a backend generates, and the log-probabilities (M, C - 1, V) it gives along the exact sequences, if there
    are any yet."""
    generations: list[Generation] = []
    log_probs: list[Float32Array] = []
    size = _batch(backend)
    for start in range(0, len(prepared), size):
        state = backend.encode(prepared[start : start + size])
        if exact:
            log_probs.append(backend.step(state, exact.sequences[start : start + size, :-1]).log_probs)
            state.truncate(np.zeros_like(state.lengths))
        generations += Greedy().generate(backend, state, max_steps=bundle.dimensions.capacity - 1)
        report(len(generations), len(prepared))
    return generations, np.concatenate(log_probs) if log_probs else np.empty(0, np.float32)


def _speculate(bundle: Bundle, backend: Backend[Any], prepared: Crop, report: Report) -> list[Generation]:
    """Steps of many tokens may round otherwise than steps of one."""
    generations: list[Generation] = []
    size = _batch(backend)
    for start in range(0, len(prepared), size):
        generations += _generate(bundle, backend, prepared[start : start + size], speculative=True)
        report(len(generations), len(prepared))
    return generations


def _batch(backend: Backend[Any]) -> int:
    return min(_BATCH, backend.max_rows or _BATCH)


def _exact(bundle: Bundle, backend: Backend[Any], prepared: Crop, generations: list[Generation]) -> _Exact:
    sequences = np.full((len(prepared), bundle.dimensions.capacity), PAD, dtype=np.int64)
    sequences[:, 0] = BOS
    for row, generation in enumerate(generations):
        sequences[row, 1 : 1 + len(generation.tokens)] = generation.tokens
    size = _batch(backend)
    starts = range(0, len(prepared), size)
    batches = ((prepared[start : start + size], sequences[start : start + size, :-1]) for start in starts)
    log_probs = np.concatenate([backend.step(backend.encode(crops), tokens).log_probs for crops, tokens in batches])
    choices = np.argsort(log_probs, axis=-1)[..., :-3:-1]
    return _Exact(generations, sequences, choices, _margins(log_probs, choices))


def _margins(log_probs: Float32Array, choices: Int64Array) -> Float32Array:
    best, second = np.moveaxis(np.take_along_axis(log_probs, choices, axis=-1), -1, 0)
    return np.asarray(best - second, dtype=np.float32)


def _noise(log_probs: Float32Array, exact: _Exact) -> float:
    """How far other arithmetic moves the margins of nearly all choices along the exact sequences."""
    moved = np.abs(_margins(log_probs, exact.choices) - exact.margins)
    lengths = np.array([len(generation.tokens) for generation in exact.generations])
    made = np.arange(moved.shape[1]) < lengths[:, None]  # what follows `<eos>` is no choice
    return float(np.quantile(moved[made], _NOISE_SHARE))


def _time_all(
    bundle: Bundle, backends: dict[Kind, Backend[Any]], crops: Sequence[Crop], report: Report
) -> dict[Way, float]:
    """Median seconds of one crop, end to end; the ways take turns, all on the same crop."""
    taken: dict[Way, list[float]] = {(*kind, speculative): [] for kind in backends for speculative in (False, True)}
    for turn in range(_ROUNDS + 1):
        for (name, compute_precision, speculative), values in taken.items():
            time.sleep(SETTLE)
            crop = crops[turn % len(crops)]
            values.append(_seconds(bundle, backends[name, compute_precision], [crop], speculative))
        report(turn + 1, _ROUNDS + 1)
    return {way: float(np.median(values[1:])) for way, values in taken.items()}  # the first warms up


def _seconds(bundle: Bundle, backend: Backend[Any], crops: Sequence[Crop], speculative: bool) -> float:
    start = time.perf_counter()
    _generate(bundle, backend, _prepare(bundle, crops), speculative)
    return time.perf_counter() - start


def _candidates(
    answers: dict[Way, list[Generation]],
    rechecks: dict[Kind, float | None],
    seconds: dict[Way, float],
    exact: _Exact,
) -> list[Candidate]:
    """Quickest first."""
    candidates = []
    for (name, compute_precision, speculative), taken in seconds.items():
        fallback_margin, generations = rechecks[name, compute_precision], answers[name, compute_precision, speculative]
        pairs = zip(generations, exact.generations, strict=True)
        wrong = np.array([said.tokens != wanted.tokens for said, wanted in pairs])
        doubtful = np.array([fallback_margin is not None and not g.margin >= fallback_margin for g in generations])
        share = float(doubtful.mean())
        candidates.append(
            Candidate(
                backend=name,
                compute_precision=compute_precision,
                speculative=speculative,
                fallback_margin=fallback_margin,
                fallback_share=share,
                wrong=int(wrong.sum()),
                wrong_left=int((wrong & ~doubtful).sum()),
                seconds=taken,
                expected_seconds=taken + share * seconds[name, "native", speculative],
            )
        )
    return sorted(candidates, key=lambda candidate: candidate.expected_seconds)


def _tune_further(
    bundle: Bundle, best: Candidate, crops: Sequence[Crop], report: Report
) -> tuple[int | None, dict[int, float]]:
    """The number of threads that is quickest for one crop, None for the runtime's own; crops a second by batch size.

    Rechecks are left out: they cost the same whatever the batch.
    """
    cores = describe_machine()["cores"]
    counts = [None, *sorted({count for count in (1, cores // 2) if 0 < count < cores})]
    of_threads: dict[int | None, float] = {}
    for threads in counts:
        options: dict[str, Any] = {"threads": threads, "compute_precision": best.compute_precision}
        with closing(open_backend(bundle, best.backend, **options)) as backend:  # type: ignore[arg-type]
            taken = [_seconds(bundle, backend, [crop], best.speculative) for crop in crops[: _ROUNDS + 1]]
            of_threads[threads] = float(np.median(taken[1:] or taken))
            report(len(of_threads), len(counts) + 1)
    threads = min(counts, key=lambda count: of_threads[count])
    throughput = {}
    options = {"threads": threads, "compute_precision": best.compute_precision}
    with closing(open_backend(bundle, best.backend, **options)) as backend:  # type: ignore[arg-type]
        for size in _BATCHES:
            if size <= bundle.max_batch:
                batch = list(itertools.islice(itertools.cycle(crops), size))
                taken = [_seconds(bundle, backend, batch, best.speculative) for _ in range(4)]
                throughput[size] = size / float(np.median(taken[1:]))
    report(len(counts) + 1, len(counts) + 1)
    return threads, throughput


def format_tuning(tuning: Tuning) -> str:
    """The ways for a person, quickest first; the chosen one marked."""
    rows = [("", "ms", "fallback_margin", "rechecked", "wrong", "left", "ms expected")]
    for candidate in tuning.candidates:
        way = f"{candidate.backend}, {candidate.compute_precision}{', speculative' if candidate.speculative else ''}"
        chosen = (candidate.backend, candidate.compute_precision, candidate.speculative) == (
            tuning.choice.backend,
            tuning.choice.compute_precision,
            tuning.choice.speculative,
        )
        reduced = candidate.fallback_margin is not None
        rows.append(
            (
                f"{'*' if chosen else ' '} {way}",
                f"{candidate.seconds * 1e3:.1f}",
                f"{candidate.fallback_margin:.3f}" if reduced else "-",
                f"{candidate.fallback_share:.1%}" if reduced else "-",
                str(candidate.wrong),
                str(candidate.wrong_left),
                f"{candidate.expected_seconds * 1e3:.1f}",
            )
        )
    return columns(rows)
