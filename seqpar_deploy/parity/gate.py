"""The parity gate: compare a bundle with its checkpoint, on whole sequences and their log-probabilities.

The checkpoint runs eagerly, in float32 and without a cache. Its sequences are the reference (`reference.py`). The
bundle must prepare the crops to the same bytes, trim them to the same widths, generate the same tokens with every
strategy and in every slot of a batch, and return the same log-probabilities along the reference's sequences, the same
probabilities of attributes wherever the tokens are equal, and the same pooled features for drafts. A check that fails
describes the fault in one line (`probes.py`, `preprocessing.py`). The first one that fails is the most fundamental.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from seqpar_deploy.backends.base import Backend, Float32Array
from seqpar_deploy.backends.verification import first_difference
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.decoding import Generation, Greedy, Speculative, Strategy
from seqpar_deploy.parity import probes
from seqpar_deploy.parity.preprocessing import preprocessing_difference, trimming_difference
from seqpar_deploy.parity.probabilities import compare_probabilities, wrong_probability
from seqpar_deploy.parity.probes import Trial
from seqpar_deploy.parity.reference import BATCH, BEAM, Reference
from seqpar_deploy.parity.report import NOTHING, Check, Divergence, ParityReport
from seqpar_deploy.parity.tolerances import ParityTolerances
from seqpar_deploy.parity.withheld import completed_reference
from seqpar_deploy.progress import OnProgress


def check_parity(
    backend: Backend[Any],
    reference: Reference,
    tolerances: ParityTolerances,
    *,
    bundle: Bundle | None = None,
    golden: Reference | None = None,
    batch_size: int = BATCH,
    on_progress: OnProgress | None = None,
) -> ParityReport:
    """Run a backend on the reference's crops, and compare its outputs with the reference.

    A breach of the tolerances does not raise. Call `ParityReport.require` for that.

    Args:
        backend: The backend with the opened bundle.
        reference: The reference, for example `reference_from_golden(bundle)`.
        tolerances: The crops to run and the tolerances, for example `tolerances_of(bundle)`.
        bundle: Also check the bundle's attribute names, its preprocessing and its profiles' batch sizes. Default: none.
        golden: The bundle's golden data, to check names and preprocessing against. Needed if `reference` was made with
            the bundle's own preprocessing. Default: `reference`.
        batch_size: Crops per batch. Default: 4.
        on_progress: Called with (crops done, crops in total). Default: none.

    Returns:
        The report with all checks.

    Raises:
        BackendError: The backend fails.

    Examples:
        >>> backend = open_backend(bundle, "openvino")
        >>> report = check_parity(backend, reference_from_golden(bundle), tolerances_of(bundle), bundle=bundle)
        >>> report.require("do not use it on this machine")
    """
    if bundle is not None:
        reference = completed_reference(reference, bundle, backend)
    trial = Trial(backend, reference, tolerances)
    batch_size = min(batch_size, trial.max_rows)
    made_with = golden or reference
    before = []
    if bundle is not None:
        before = [check(bundle, made_with) for check in (_check_attributes, _check_preprocessing, _check_trimming)]
    probed = list(_run_probes(trial, (*_ALONE, *_TOGETHER)))
    answers = _replay(trial, range(len(reference.crops)), batch_size, on_progress)
    divergences = _divergences(reference, answers, tolerances.tie_margin)
    speculated = _speculate(trial, batch_size)
    probabilities, probability_max = _check_probabilities(reference, answers, speculated, tolerances)
    slots = [_check_slots(trial, size, tolerances) for size in _batch_sizes(bundle, backend, tolerances)]
    checks = [
        _check_log_probs(answers, tolerances),
        _check_tokens("greedy", divergences, len(answers)),
        _check_speculative(reference, speculated, tolerances),
        _check_beams(trial, tolerances),
        probabilities,
        *slots,
        _check_pooled(trial),
    ]
    if not _any_failed(probed) and _any_failed(checks[:-1]):
        probed[len(_ALONE) :] = _look_closer(trial)
    differences = _together(answers)
    return ParityReport(
        backend=backend.name,
        reference=reference.source,
        crops=len(reference.crops),
        kinds=reference.kinds,
        identical=len(answers) - len(divergences),
        identical_sets=len(answers) - sum(d.wanted_attributes != d.got_attributes for d in divergences),
        divergences=divergences,
        log_prob_median=float(np.median(differences)),
        log_prob_p99=float(np.quantile(differences, 0.99, method="lower")),
        log_prob_max=float(np.max(differences)),
        probability_max=probability_max,
        pooled_max=trial.pooled_max,
        checks=(*before, _check("finite", trial.not_finite, "no NaN and no infinity in any output"), *probed, *checks),
        tolerances=tolerances,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Answer:
    """Hold the outputs for one crop: its generation, and the differences (S, V) along the reference's sequence."""

    crop: int
    generation: Generation
    differences: Float32Array

    @property
    def tokens(self) -> tuple[int, ...]:
        return self.generation.tokens


def _replay(
    trial: Trial, crops: Sequence[int], batch_size: int, on_progress: OnProgress | None = None
) -> list[_Answer]:
    """Run crops in batches of one width, see `_run_batch`. Returns the answers in the order of crops."""
    answers: list[_Answer] = []
    for batch in trial.reference.batches(crops, batch_size):
        answers += _run_batch(trial, batch)
        if on_progress:
            on_progress(len(answers), len(crops))
    return sorted(answers, key=lambda answer: answer.crop)


def _run_batch(trial: Trial, batch: list[int]) -> list[_Answer]:
    """Run each crop's reference sequence in one call, then decode it greedily, step by step, in the same cache."""
    tokens = trial.reference.tokens[batch]
    state = trial.encode(batch)
    log_probs = trial.step(state, tokens[:, :-1], batch)
    state.truncate(np.zeros(len(batch), dtype=np.int64))
    generations = Greedy().generate(trial.backend, state, max_steps=tokens.shape[1] - 1)
    return [
        _Answer(crop=crop, generation=generation, differences=trial.differences(crop, found))
        for crop, generation, found in zip(batch, generations, log_probs, strict=True)
    ]


def _divergences(reference: Reference, answers: Sequence[_Answer], tie_margin: float) -> tuple[Divergence, ...]:
    found = (first_divergence(reference, answer.crop, answer.tokens, tie_margin) for answer in answers)
    return tuple(divergence for divergence in found if divergence)


def first_divergence(reference: Reference, crop: int, got: Sequence[int], tie_margin: float) -> Divergence | None:
    """Return the first difference of a crop's tokens to the reference's greedy sequence, or None if they are equal."""
    expected = reference.sequence(crop)
    difference = first_difference(expected, got, reference.log_probs[crop])
    if difference is None:
        return None
    step, margin = difference
    return Divergence(
        crop=crop,
        name=reference.name(crop),
        step=step,
        wanted=expected[step] if step < len(expected) else NOTHING,
        got=got[step] if step < len(got) else NOTHING,
        margin=margin,
        tie=margin < tie_margin,
        wanted_attributes=reference.attribute_names(expected),
        got_attributes=reference.attribute_names(got),
    )


def _together(answers: Iterable[_Answer]) -> Float32Array:
    return np.concatenate([answer.differences.ravel() for answer in answers])


def _check(name: str, wrong: str | None, right: str) -> Check:
    return Check(name=name, status="failed", detail=wrong) if wrong else Check(name=name, status="passed", detail=right)


def _skipped(name: str, why: str) -> Check:
    return Check(name=name, status="skipped", detail=why)


def _any_failed(checks: Iterable[Check]) -> bool:
    return any(check.status == "failed" for check in checks)


def _check_attributes(bundle: Bundle, reference: Reference) -> Check:
    names = [attribute.name for attribute in bundle.label_set.attributes]
    if not reference.attributes:
        return _not_recorded("attributes", "names")
    pairs = enumerate(zip(names, reference.attributes, strict=False))
    different = [i for i, (got, expected) in pairs if expected not in (got, "")]
    wrong = None
    if different or len(names) != len(reference.attributes):
        at = different[0] if different else min(len(names), len(reference.attributes))
        wrong = f"attribute {at} must be {reference.attributes[at]!r} as in the checkpoint, got {names[at]!r}"
        if len(different) == 2 and names[different[0]] == reference.attributes[different[1]]:
            wrong += f": {names[at]!r} and {names[different[1]]!r} are exchanged in the manifest"
    return _check("attributes", wrong, f"{len(names)} names, in the order of the checkpoint")


def _check_preprocessing(bundle: Bundle, reference: Reference) -> Check:
    if not reference.people:
        return _not_recorded("preprocessing", "raw crops")
    size = bundle.dimensions.image_size
    wrong = preprocessing_difference(reference.people, reference.crops, size, bundle.preprocessing)
    return _check("preprocessing", wrong, f"{len(reference.people)} crops prepared to the same bytes")


def _check_trimming(bundle: Bundle, reference: Reference) -> Check:
    wrong = trimming_difference(reference, bundle.trimming, bundle.preprocessing)
    if not wrong and reference.trimming and not reference.people:
        return _not_recorded("trimming", "raw crops")
    widths = sorted(set(reference.widths))
    trimmed = f"{len(reference.people)} crops trimmed as by the checkpoint, to {widths} of {widths[-1]} patch columns"
    return _check("trimming", wrong, trimmed if reference.trimming else "whole squares are read, with all padding")


def _not_recorded(name: str, lacking: str) -> Check:
    return _skipped(name, f"this bundle's golden data have no {lacking}; export it again")


_Probe = tuple[str, Callable[[Trial], str | None], str]  # name, probe, and the text for success

_ALONE: tuple[_Probe, ...] = (
    ("first step", probes.probe_first_step, "the encoder and the step after <bos>, for a single crop"),
    ("one call", probes.probe_one_call, "a whole sequence in one call, for a single crop"),
)
_TOGETHER: tuple[_Probe, ...] = (  # they pass if their outputs equal those of one call
    ("cache", probes.probe_steps, "one token per step, for a single crop"),
    ("forgetting", probes.probe_truncation, "truncated tokens have no effect"),
    ("grouping", probes.probe_neighbours, "crops in a batch have the outputs of single crops"),
    ("positions", probes.probe_ragged_rows, "rows of a batch at different positions"),
    ("reordering", probes.probe_reordering, "rows dropped, repeated and permuted"),
)


def _run_probes(trial: Trial, some: Sequence[_Probe]) -> Iterator[Check]:
    """Run probes in order, and stop at the first failure: later probes depend on earlier ones."""
    for name, probe, right in some:
        if why := _nothing_to_probe(name, trial):
            yield _skipped(name, why)
            continue
        wrong = probe(trial)
        yield _check(name, wrong, right)
        if wrong:
            return


def _nothing_to_probe(name: str, trial: Trial) -> str | None:
    if name not in ("first step", "grouping") and max(trial.lengths[trial.probed]) < 2:
        return "every sequence ends with its first token"
    if name in ("grouping", "positions", "reordering") and max(map(len, trial.groups.values())) < 2:
        return "this backend has batches of one row only"
    return None


def _look_closer(trial: Trial) -> Iterator[Check]:
    """Run the probes again with a tenth of the tolerances, if checks failed but no probe did."""
    for check in _run_probes(trial.against_itself(), _TOGETHER):
        stricter = "" if check.status != "failed" else "; found with a tenth of the tolerances, since later checks fail"
        yield dataclasses.replace(check, detail=f"{check.detail}{stricter}")


def _check_log_probs(answers: Sequence[_Answer], tolerances: ParityTolerances) -> Check:
    differences = _together(answers)
    found = {"log_prob_median": float(np.median(differences)), "log_prob_max": float(np.max(differences))}
    wrong = [
        f"{name} must be at most {getattr(tolerances, name):.3g}, got {got:.3g}"
        for name, got in found.items()
        if not got <= getattr(tolerances, name)
    ]
    right = f"differ by {found['log_prob_median']:.1e} in the median, {found['log_prob_max']:.1e} at most"
    return _check("log-probabilities", "; ".join(wrong) or None, right)


def _check_tokens(name: str, divergences: Sequence[Divergence], sequences: int) -> Check:
    breaches = [divergence for divergence in divergences if not divergence.tie]
    more = f" (and {len(breaches) - 1} more crops)" if len(breaches) > 1 else ""
    ties = f", {len(divergences)} differ at a tie" if divergences else ""
    right = f"{sequences - len(divergences)} of {sequences} sequences identical{ties}"
    return _check(name, f"{breaches[0]}{more}" if breaches else None, right)


def _speculate(trial: Trial, batch_size: int) -> list[tuple[int, Generation]]:
    """Decode the first crops speculatively: without drafts, and with drafts that are wrong on purpose."""
    answers: list[tuple[int, Generation]] = []
    for batch in trial.reference.batches(trial.reference.first(trial.tolerances.beams), batch_size):
        answers += zip(batch, _generate(trial, batch, Speculative()), strict=True)
        wrong = [probes.wrong_draft(trial.reference, crop) for crop in batch]
        answers += zip(batch, _generate(trial, batch, Speculative(), wrong), strict=True)
    return answers


def _check_speculative(
    reference: Reference, speculated: Sequence[tuple[int, Generation]], tolerances: ParityTolerances
) -> Check:
    found = (first_divergence(reference, crop, one.tokens, tolerances.tie_margin) for crop, one in speculated)
    return _check_tokens("speculative", [divergence for divergence in found if divergence], len(speculated))


def _check_probabilities(
    reference: Reference,
    answers: Sequence[_Answer],
    speculated: Sequence[tuple[int, Generation]],
    tolerances: ParityTolerances,
) -> tuple[Check, float | None]:
    """Return the check and the largest difference. Sequences with other tokens are left to the checks of tokens."""
    found = [("greedy", answer.crop, answer.generation) for answer in answers]
    found += [("speculative", crop, generation) for crop, generation in speculated]
    wrong, compared, most = compare_probabilities(reference, found, tolerances.log_prob_max)
    if not compared:
        return _skipped("probabilities", "no sequence has the tokens of the checkpoint"), most
    return _check(
        "probabilities", wrong, f"of all attributes in {compared} sequences, differ by {most:.1e} at most"
    ), most


def _check_beams(trial: Trial, tolerances: ParityTolerances) -> Check:
    reference = trial.reference
    crops = reference.beamed
    if reference.beam_margins is None:
        return _not_recorded("beam", "beams")
    if trial.max_rows < BEAM.width:
        return _skipped("beam", f"this backend has batches of at most {trial.max_rows} rows")
    wrong, ties = [], 0
    for crop in crops:
        got = _generate(trial, [crop], BEAM)[0].tokens
        expected = reference.beam(crop)
        if got == expected:
            continue
        # A tie: both sequences score the same, or one was dropped earlier for another with the same score.
        margin = min(abs(_score(trial, crop, got) - _score(trial, crop, expected)), reference.beam_margins[crop])
        if margin < tolerances.tie_margin:
            ties += 1
        else:
            wrong.append(
                f"crop {crop}: tokens of {BEAM.width} beams must be {expected}, got {got} (margin {margin:.3g})"
            )
    more = f" (and {len(wrong) - 1} more crops)" if len(wrong) > 1 else ""
    right = f"{len(crops) - ties} of {len(crops)} sequences identical{f', {ties} differ at a tie' if ties else ''}"
    return _check("beam", f"{wrong[0]}{more}" if wrong else None, right)


def _score(trial: Trial, crop: int, tokens: Sequence[int]) -> float:
    """Return the backend's summed log-probability of a sequence."""
    fed = np.concatenate([trial.reference.tokens[crop, :1], tokens[:-1]])[None]
    log_probs = trial.step(trial.encode([crop]), fed, [crop])[0]
    return float(log_probs[np.arange(len(tokens)), list(tokens)].sum())


def _generate(
    trial: Trial, crops: Sequence[int], strategy: Strategy, drafts: Sequence[tuple[int, ...]] | None = None
) -> list[Generation]:
    max_steps = trial.reference.tokens.shape[1] - 1
    return strategy.generate(trial.backend, trial.encode(crops), max_steps=max_steps, drafts=drafts)


def _batch_sizes(bundle: Bundle | None, backend: Backend[Any], tolerances: ParityTolerances) -> list[int]:
    """Return the batch sizes of all profiles, limited by the recipe and the backend."""
    if bundle is None:
        return []
    largest = min(tolerances.largest_batch, backend.max_rows or tolerances.largest_batch)
    named = {size for batch in bundle.batches for size in dataclasses.astuple(batch)}
    return sorted({min(size, largest) for size in named})


def _check_slots(trial: Trial, size: int, tolerances: ParityTolerances) -> Check:
    """Run one batch of `size` crops per width. Every slot must return the outputs of its own crop."""
    reference = trial.reference
    faults = []
    for width in trial.groups:
        own = [crop for crop, other in enumerate(reference.widths) if other == width]
        crops = [own[(size + slot) % len(own)] for slot in range(size)]
        wrong = []
        for slot, answer in enumerate(_run_batch(trial, crops)):
            divergence = first_divergence(reference, answer.crop, answer.tokens, tolerances.tie_margin)
            wrong_tokens = divergence is not None and not divergence.tie
            probability = wrong_probability(reference, answer.crop, answer.generation, tolerances.log_prob_max)
            if trial.first_wrong(answer.differences) is not None or wrong_tokens or probability:
                wrong.append(slot)
        if fault := probes.wrong_slots(size, wrong, crops):
            faults.append(f"{fault}{trial.at(width)}")
    return _check(f"batches of {size}", "; ".join(faults) or None, "every slot matches its crop")


def _check_pooled(trial: Trial) -> Check:
    """Report on the pooled features of all batches so far."""
    if trial.reference.pooled is None:
        return _not_recorded("pooled", "pooled features")
    if trial.pooled_max is None and trial.wrong_pooled is None:
        return _skipped("pooled", "this backend returns no pooled features, which only drafts need")
    return _check("pooled", trial.wrong_pooled, f"features for drafts, relative error at most {trial.pooled_max:.1e}")
