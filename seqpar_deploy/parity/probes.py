"""Probes, small experiments that each test one part of the graphs, so that a failure locates the fault.

A probe returns one line on the fault, or None. They run from simple to complex: a single crop in one call, step by
step, after truncation, in a batch, and in every slot of a batch. Each runs at every width that crops are trimmed to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from seqpar_deploy.backends.base import Backend, Float32Array, Int64Array
from seqpar_deploy.backends.pooled import pooled_errors, wrong_pooled
from seqpar_deploy.parity.reference import Reference
from seqpar_deploy.parity.tolerances import ParityTolerances
from seqpar_deploy.vocab import EOS, FIRST_ATTRIBUTE

PROBED = 3  # crops per width, each encoded several times
_STEP_MEDIAN = 10  # a single step's median may be this many times the tolerance of the median over all steps
_FORGOTTEN = 3  # tokens that are fed and then truncated


class Trial:
    """Run a backend under test, and compare it with the reference.

    Attributes:
        groups: The crops to probe, by their width in patch columns. It is 0 if the checkpoint does not trim.
        not_finite: A line on the first NaN or infinity, or None.
        wrong_pooled: A line on the first wrong pooled features, or None.
        pooled_max: The largest relative error of pooled features. None: no backend and reference have them.
    """

    def __init__(self, backend: Backend[Any], reference: Reference, tolerances: ParityTolerances) -> None:
        self.backend, self.reference, self.tolerances = backend, reference, tolerances
        self.not_finite: str | None = None
        self.wrong_pooled: str | None = None
        self.pooled_max: float | None = None
        self._alone: dict[int, Float32Array] = {}
        self.lengths = reference.lengths
        self.max_rows = backend.max_rows or len(reference.crops)
        self.groups: dict[int, list[int]] = {}
        for width in sorted(set(reference.widths)):
            first = [crop for crop, own in enumerate(reference.widths) if own == width][:8]
            # Of the first crops those with the longest sequences, since short ones test little.
            longest = sorted(first, key=lambda crop: -self.lengths[crop])
            self.groups[width] = sorted(longest[: min(PROBED, self.max_rows)])

    def against_itself(self) -> Trial:
        """Return a trial of the backend against its own outputs of one call, with a tenth of the tolerances.

        Caches, masks and batches must not change those outputs. A reduced precision changes the reference's, though.
        """
        log_probs = self.reference.log_probs.copy()
        for crop in self.probed:
            log_probs[crop] = self.alone(crop)
        strict = dataclasses.replace(
            self.tolerances,
            log_prob_median=self.tolerances.log_prob_median / 10,
            log_prob_max=self.tolerances.log_prob_max / 10,
        )
        return Trial(self.backend, dataclasses.replace(self.reference, log_probs=log_probs), strict)

    @property
    def probed(self) -> list[int]:
        """The crops to probe, of all widths."""
        return sorted(crop for crops in self.groups.values() for crop in crops)

    def at(self, width: int) -> str:
        """Return words on a width, or none if all crops have the same."""
        return f" (at {width} patch columns)" if len(self.groups) > 1 else ""

    def encode(self, crops: Sequence[int]) -> Any:
        """Encode crops of one width, in a batch."""
        state = self.backend.encode(self.reference.prepared(crops))
        self.look_at_pooled(state, crops)
        cross_kv = getattr(state, "cross_kv", None)  # only backends in host memory have it
        if isinstance(cross_kv, np.ndarray) and not (finite := np.isfinite(cross_kv).all(axis=(0, 2, 3, 4))).all():
            row = int(np.argmin(finite))
            self._remember(f"cross_kv, the encoder's output, of crop {crops[row]}")
        return state

    def look_at_pooled(self, state: Any, crops: Sequence[int], when: str = "") -> None:
        """Compare the pooled features of a state with the reference's, if both have them."""
        got: Float32Array | None = getattr(state, "pooled", None)
        if got is None or self.reference.pooled is None:
            return
        expected = self.reference.pooled[list(crops)]
        if found := wrong_pooled(expected, got, self.tolerances.log_prob_median):
            row, wrong = found
            width = self.at(self.reference.widths[crops[0]])
            self.wrong_pooled = self.wrong_pooled or f"crop {crops[row]}{width}{when}: {wrong}"
        if got.shape == expected.shape:
            self.pooled_max = max(self.pooled_max or 0.0, float(pooled_errors(expected, got).max()))

    def step(self, state: Any, tokens: Int64Array, crops: Sequence[int]) -> Float32Array:
        """Run one step, and return its log-probabilities (B, T, V). `crops` are the crops of the rows."""
        before = state.lengths
        log_probs = self.backend.step(state, tokens).log_probs
        finite = np.isfinite(log_probs).all(axis=-1)
        if not finite.all():
            row, column = (int(place) for place in np.argwhere(~finite)[0])
            step = int(before[row]) + column
            # Steps after a sequence's end are never used, but an infinity there is a fault as well.
            self._remember(f"log_probs, the decoder step's output, of crop {crops[row]} at step {step}")
        return log_probs

    def _remember(self, place: str) -> None:
        if self.not_finite is None:
            self.not_finite = (
                f"infinity or NaN first in {place}: an overflow, for example of a layer normalisation in FP16"
            )

    def differences(self, crop: int, log_probs: Float32Array, start: int = 0) -> Float32Array:
        """Return absolute differences (S, V) to the reference, up to the end of the crop's sequence.

        `log_probs` (T, V) are of the steps from `start` on. The difference of a NaN is infinite.
        """
        expected = self.reference.log_probs[crop, start : min(start + len(log_probs), self.lengths[crop])]
        with np.errstate(invalid="ignore"):
            difference = np.abs(log_probs[: len(expected)] - expected)
        return np.asarray(np.where(np.isnan(difference), np.inf, difference), dtype=np.float32)

    def wrong_step(self, crop: int, log_probs: Float32Array, start: int = 0) -> int | None:
        """Return the first step with wrong log-probabilities (T, V), which are of the steps from `start` on."""
        wrong = self.first_wrong(self.differences(crop, log_probs, start))
        return None if wrong is None else start + wrong

    def first_wrong(self, differences: Float32Array) -> int | None:
        """Return the first of some steps' differences (S, V) that is beyond the tolerances, or None."""
        most, median = self.tolerances.log_prob_max, _STEP_MEDIAN * self.tolerances.log_prob_median
        wrong = np.flatnonzero((differences.max(axis=-1) > most) | (np.median(differences, axis=-1) > median))
        return int(wrong[0]) if len(wrong) else None

    def whole(self, crops: Sequence[int]) -> Float32Array:
        """Return log-probabilities (B, C - 1, V) along the reference's sequences, from one call."""
        return self.step(self.encode(crops), self.reference.tokens[list(crops), :-1], crops)

    def alone(self, crop: int) -> Float32Array:
        """Return `whole` of a single crop (C - 1, V), which is cached."""
        if crop not in self._alone:
            self._alone[crop] = self.whole([crop])[0]
        return self._alone[crop]

    def by_steps(self, state: Any, crops: Sequence[int], start: int = 0) -> Float32Array:
        """Return them from `start` on, from one token per step, up to the end of the longest sequence."""
        stop = int(max(self.lengths[list(crops)]))
        tokens = self.reference.tokens[list(crops)]
        steps = [self.step(state, tokens[:, at : at + 1], crops) for at in range(start, stop)]
        return np.concatenate(steps, axis=1)


def probe_first_step(trial: Trial) -> str | None:
    """Test the step after `<bos>` for single crops: the encoder, and the decoder without a cache."""
    got = {crop: trial.alone(crop) for crop in trial.probed}
    wrong = [crop for crop in got if trial.wrong_step(crop, got[crop]) == 0]
    if not wrong:
        return None
    if exchanged := _exchanged_columns(trial, got):
        return exchanged
    worst = max(float(trial.differences(crop, got[crop])[0].max()) for crop in wrong)
    suspected = sorted({known.crop for known in trial.reference.suspects})
    suspect = next(filter(None, (_suspect(trial, crop) for crop in suspected)), None)
    cause = suspect or "the image encoder, normalisation or token table, for an unknown reason"
    some = _all_or_some(trial, wrong, list(got))
    return f"log-probabilities are wrong from the first step on {some}, by up to {worst:.3g}: {cause}"


def _all_or_some(trial: Trial, wrong: Sequence[int], crops: Sequence[int]) -> str:
    """Return which of the crops are wrong, or at which widths."""
    if len(wrong) == len(crops):
        return "for all crops"
    widths = [width for width, group in trial.groups.items() if set(group) <= set(wrong)]
    if set(wrong) == {crop for width in widths for crop in trial.groups[width]}:
        return f"for all crops of {_or(widths)} patch columns, and for none of {_or(set(trial.groups) - set(widths))}"
    return f"for crops {list(wrong)} of {list(crops)}"


def _or(numbers: Iterable[int]) -> str:
    return " or ".join(str(number) for number in sorted(numbers))


def _suspect(trial: Trial, crop: int) -> str | None:
    """Return the known mistake that explains a crop's log-probabilities after `<bos>`, or None."""
    got, expected = trial.alone(crop)[0], trial.reference.log_probs[crop, 0]
    if trial.wrong_step(crop, got[None]) is None or not np.isfinite(got).all():
        return None
    suspects = [known for known in trial.reference.suspects if known.crop == crop]
    distances = [float(np.abs(got - known.log_probs).mean()) for known in suspects]
    nearest = int(np.argmin(distances))
    return suspects[nearest].mistake if distances[nearest] < 0.2 * float(np.abs(got - expected).mean()) else None


def _exchanged_columns(trial: Trial, got: Mapping[int, Float32Array]) -> str | None:
    """Return a line if exactly two tokens are exchanged in the log-probabilities after `<bos>`, else None."""
    found = np.stack([log_probs[0] for log_probs in got.values()])
    expected = np.stack([trial.reference.log_probs[crop, 0] for crop in got])
    most = trial.tolerances.log_prob_max
    columns = np.flatnonzero((np.abs(found - expected) > most).any(axis=0))
    if len(columns) != 2 or np.abs(found[:, columns[::-1]] - expected[:, columns]).max() > most:
        return None
    one, other = (_token_name(trial.reference, int(token)) for token in columns)
    return f"{one} and {other} are exchanged in the decoder's output"


def _token_name(reference: Reference, token: int) -> str:
    names = reference.attribute_names([token])
    return f"{names[0]!r}" if names else f"token {token}"


def probe_one_call(trial: Trial) -> str | None:
    """Test a whole sequence in one call for single crops: positions, and attention among the tokens of a step."""
    for crop in trial.probed:
        step = trial.wrong_step(crop, trial.alone(crop))
        if step:
            return (
                f"a single crop ({crop}), its sequence in one call, is wrong from step {step} on: positions, the token "
                f"table, or attention among the tokens of one step{trial.at(trial.reference.widths[crop])}"
            )
    return None


def probe_steps(trial: Trial) -> str | None:
    """Test one token per step for single crops, in a new cache."""
    for crop in trial.probed:
        step = trial.wrong_step(crop, trial.by_steps(trial.encode([crop]), [crop])[0])
        if step is not None:
            return (
                f"a single crop ({crop}), one token per step in a new cache, is wrong from step {step} on, but correct "
                "in one call: positions of later steps, or the cache entries of earlier "
                f"ones{trial.at(trial.reference.widths[crop])}"
            )
    return None


def probe_truncation(trial: Trial) -> str | None:
    """Test that tokens that were fed and truncated have no effect."""
    reference = trial.reference
    for crop in trial.probed:
        kept = max(1, int(trial.lengths[crop]) // 2)
        others = _other_tokens(reference, crop, kept)
        if not others.size or kept >= trial.lengths[crop]:
            continue
        state = trial.encode([crop])
        trial.step(state, np.concatenate([reference.tokens[[crop], :kept], others], axis=1), [crop])
        state.truncate(np.array([kept]))
        step = trial.wrong_step(crop, trial.by_steps(state, [crop], kept)[0], kept)
        if step is not None:
            why = (
                "the mask is too long, so a truncated cache slot is read"
                if step == kept
                else "a stale cache slot: a step reads the old entry after it was overwritten"
            )
            return (
                f"crop {crop} is wrong from step {step} on, but only after {others.shape[1]} tokens were truncated at "
                f"step {kept}: {why}"
            )
    return None


def _other_tokens(reference: Reference, crop: int, start: int) -> Int64Array:
    """Return attribute tokens (1, T) that differ from the reference's tokens from `start` on."""
    attributes = reference.log_probs.shape[-1] - FIRST_ATTRIBUTE
    tokens = reference.tokens[crop, start : start + _FORGOTTEN]
    others = [FIRST_ATTRIBUTE + (max(token, FIRST_ATTRIBUTE) - 2) % attributes for token in tokens.tolist()]
    return np.array([others], dtype=np.int64)


def probe_neighbours(trial: Trial) -> str | None:
    """Test crops in a batch: each must have the outputs of a single crop."""
    return _at_each_width(trial, _neighbours)


def _at_each_width(trial: Trial, probe: Callable[[Trial, list[int]], str | None]) -> str | None:
    """Run a probe on a batch of each width. Returns the first line on a fault, with its width."""
    for width, crops in trial.groups.items():
        if wrong := probe(trial, crops):
            return f"{wrong}{trial.at(width)}"
    return None


def _neighbours(trial: Trial, crops: list[int]) -> str | None:
    got = trial.whole(crops)
    wrong = [row for row, crop in enumerate(crops) if trial.wrong_step(crop, got[row]) is not None]
    if not wrong:
        return None
    rows = f"rows {wrong} of a batch of {len(crops)} are wrong, but their crops are correct in batches of one"
    row = wrong[0]
    for other, crop in enumerate(crops):
        if other != row and trial.wrong_step(crop, got[row][:1]) is None:
            return f"{rows}: row {row} reads the cross_kv of row {other}"
    return f"{rows}: rows affect each other"


def probe_ragged_rows(trial: Trial) -> str | None:
    """Test rows of one batch at different positions, as in speculative decoding."""
    return _at_each_width(trial, _ragged_rows)


def _ragged_rows(trial: Trial, crops: list[int]) -> str | None:
    tokens = trial.reference.tokens
    shortest = int(min(trial.lengths[crops]))
    state = trial.encode(crops)
    trial.step(state, tokens[crops, :shortest], crops)
    positions = np.array([shortest - row % shortest - 1 for row in range(len(crops))])
    state.truncate(positions)
    got = trial.step(state, tokens[crops, positions][:, None], crops)
    for row, crop in enumerate(crops):
        if trial.wrong_step(crop, got[row], int(positions[row])) is not None:
            return (
                f"row {row} of a batch with rows at positions {positions.tolist()} is wrong: "
                "it reads positions or masks of another row"
            )
    return None


def probe_reordering(trial: Trial) -> str | None:
    """Test rows that are dropped, repeated and permuted, as in beam search."""
    return _at_each_width(trial, _reordering)


def _reordering(trial: Trial, crops: list[int]) -> str | None:
    tokens = trial.reference.tokens
    kept = max(1, int(min(trial.lengths[crops])) // 2)
    if kept == max(trial.lengths[crops]):
        return None
    state = trial.encode(crops)
    trial.step(state, tokens[crops, :kept], crops)
    rows = [len(crops) - 1, 0, 0][: trial.max_rows]
    state.reorder(np.array(rows))
    reordered = [crops[row] for row in rows]
    trial.look_at_pooled(state, reordered, f", after reordering to rows {rows}")
    got = trial.by_steps(state, reordered, kept)
    for place, crop in enumerate(reordered):
        step = trial.wrong_step(crop, got[place], kept)
        if step is not None:
            return (
                f"after reordering to rows {rows}, row {place} is wrong from step {step} on: "
                "it reads the cache or cross_kv of another row"
            )
    return None


def wrong_slots(size: int, wrong: Iterable[int], crops: Sequence[int]) -> str | None:
    """Return a line on the wrong slots in a batch of `size`, or None. `crops` are the crops in its slots."""
    slots = sorted(wrong)
    if not slots:
        return None
    if len(slots) == size > 1:
        return f"every slot of batch size {size} is wrong"
    if len(slots) > 1:
        named = f"slots {slots} are"
    else:
        named = f"slot {slots[0]}, the last, is" if slots[0] == size - 1 else f"slot {slots[0]} is"
    return f"{named} wrong in batches of {size}, with crop {crops[slots[0]]} in it: check the profile of this size"


def wrong_draft(reference: Reference, crop: int) -> tuple[int, ...]:
    """Return a crop's sequence with one attribute too many or too few, another one per crop."""
    count = reference.log_probs.shape[-1] - FIRST_ATTRIBUTE
    emitted = {token for token in reference.sequence(crop) if token >= FIRST_ATTRIBUTE}
    return (*sorted(emitted ^ {FIRST_ATTRIBUTE + crop % count}), EOS)
