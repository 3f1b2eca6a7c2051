"""Small experiments that each exercise one part of the graphs, so that a failure points at that part.

A probe gives None, or one line that says what is wrong. They are run from the simplest to the most entangled: one crop
alone and in one call; step by step; after forgetting tokens; beside other crops; in every slot of a batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from seqpar_deploy.backends.base import Backend, Float32Array, Int64Array
from seqpar_deploy.parity.reference import Reference
from seqpar_deploy.parity.tolerances import ParityTolerances
from seqpar_deploy.vocab import FIRST_ATTRIBUTE

PROBED = 3  # crops, each of which is encoded several times
_STEP_MEDIAN = 10  # times the tolerance of the median over all steps: what a single step's median may be
_FORGOTTEN = 3  # tokens that are fed and then forgotten


class Trial:
    """A backend under test beside the reference. Remembers the first thing that was not a number."""

    def __init__(self, backend: Backend[Any], reference: Reference, tolerances: ParityTolerances) -> None:
        self.backend, self.reference, self.tolerances = backend, reference, tolerances
        self.not_finite: str | None = None
        self._alone: dict[int, Float32Array] = {}
        self.lengths = reference.lengths
        self.max_rows = backend.max_rows or len(reference.crops)
        # Of the first crops those that say most: a sequence that ends at once exercises nothing.
        first = range(min(8, len(self.lengths)))
        probed = min(PROBED, self.max_rows)
        self.probed = sorted(sorted(first, key=lambda crop: -self.lengths[crop])[:probed])

    def against_itself(self) -> Trial:
        """The same backend held, ten times more strictly, to what it itself says of the probed crops in one call.

        Cache, masks and batches are to change nothing in that, where a reduced precision does change the reference's.
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

    def encode(self, crops: Sequence[int]) -> Any:
        state = self.backend.encode(self.reference.crops[list(crops)])
        cross_kv = getattr(state, "cross_kv", None)  # there where a backend keeps it in host memory
        if isinstance(cross_kv, np.ndarray) and not (finite := np.isfinite(cross_kv).all(axis=(0, 2, 3, 4))).all():
            row = int(np.argmin(finite))
            self._remember(f"cross_kv, the encoder's output, of crop {crops[row]}")
        return state

    def step(self, state: Any, tokens: Int64Array, crops: Sequence[int]) -> Float32Array:
        """Log-probabilities (B, T, V) of one step; `crops` says whose row is whose."""
        before = state.lengths
        log_probs = self.backend.step(state, tokens).log_probs
        finite = np.isfinite(log_probs).all(axis=-1)
        if not finite.all():
            row, column = (int(place) for place in np.argwhere(~finite)[0])
            step = int(before[row]) + column
            # What follows a sequence's end is of tokens nobody generates, but infinity there is a fault all the same.
            self._remember(f"log_probs, the decoder step's output, of crop {crops[row]} at step {step}")
        return log_probs

    def _remember(self, where: str) -> None:
        if self.not_finite is None:
            self.not_finite = f"infinity or NaN first in {where}: an overflow, as of a layer normalisation in FP16"

    def differences(self, crop: int, log_probs: Float32Array, start: int = 0) -> Float32Array:
        """Absolute differences (S, V) to the reference of log-probabilities (T, V) from step `start` on, as far as the
        crop's sequence goes. What is not a number differs infinitely."""
        wanted = self.reference.log_probs[crop, start : min(start + len(log_probs), self.lengths[crop])]
        with np.errstate(invalid="ignore"):
            difference = np.abs(log_probs[: len(wanted)] - wanted)
        return np.asarray(np.where(np.isnan(difference), np.inf, difference), dtype=np.float32)

    def wrong_step(self, crop: int, log_probs: Float32Array, start: int = 0) -> int | None:
        """The first step at which log-probabilities (T, V) from step `start` on are wrong."""
        wrong = self.first_wrong(self.differences(crop, log_probs, start))
        return None if wrong is None else start + wrong

    def first_wrong(self, differences: Float32Array) -> int | None:
        """The first of some steps' differences (S, V) that is beyond the tolerances."""
        most, median = self.tolerances.log_prob_max, _STEP_MEDIAN * self.tolerances.log_prob_median
        wrong = np.flatnonzero((differences.max(axis=-1) > most) | (np.median(differences, axis=-1) > median))
        return int(wrong[0]) if len(wrong) else None

    def whole(self, crops: Sequence[int]) -> Float32Array:
        """Log-probabilities (B, C - 1, V) along the reference's sequences, read in one call."""
        return self.step(self.encode(crops), self.reference.tokens[list(crops), :-1], crops)

    def alone(self, crop: int) -> Float32Array:
        """`whole` of one crop (C - 1, V), once."""
        if crop not in self._alone:
            self._alone[crop] = self.whole([crop])[0]
        return self._alone[crop]

    def by_steps(self, state: Any, crops: Sequence[int], start: int = 0) -> Float32Array:
        """The same from `start` on, one token a step, up to the end of the longest sequence."""
        stop = int(max(self.lengths[list(crops)]))
        tokens = self.reference.tokens[list(crops)]
        steps = [self.step(state, tokens[:, at : at + 1], crops) for at in range(start, stop)]
        return np.concatenate(steps, axis=1)


def probe_first_step(trial: Trial) -> str | None:
    """One crop alone, what follows `<bos>`: the encoder, and the decoder without a past."""
    got = {crop: trial.alone(crop) for crop in trial.probed}
    wrong = [crop for crop in got if trial.wrong_step(crop, got[crop]) == 0]
    if not wrong:
        return None
    if exchanged := _exchanged_columns(trial, got):
        return exchanged
    all_or_some = "for all crops" if len(wrong) == len(got) else f"for crops {wrong} of {list(got)}"
    worst = max(float(trial.differences(crop, got[crop])[0].max()) for crop in wrong)
    suspect = _suspect(trial, trial.alone(0)[0])
    cause = suspect or "image encoder, normalisation or token table; no known mistake gives these numbers"
    return f"log-probabilities are wrong from the first step on {all_or_some}, by up to {worst:.3g}: {cause}"


def _suspect(trial: Trial, got: Float32Array) -> str | None:
    """The known mistake that explains what follows `<bos>` for the first crop."""
    suspects, wanted = trial.reference.suspects, trial.reference.log_probs[0, 0]
    distances = {name: float(np.abs(got - made).mean()) for name, made in suspects.items()}
    if not distances or not np.isfinite(got).all():
        return None
    name = min(distances, key=lambda known: distances[known])
    return name if distances[name] < 0.2 * float(np.abs(got - wanted).mean()) else None


def _exchanged_columns(trial: Trial, got: Mapping[int, Float32Array]) -> str | None:
    """Whether two tokens of the vocabulary have changed places in what follows `<bos>`."""
    found = np.stack([log_probs[0] for log_probs in got.values()])
    wanted = np.stack([trial.reference.log_probs[crop, 0] for crop in got])
    most = trial.tolerances.log_prob_max
    columns = np.flatnonzero((np.abs(found - wanted) > most).any(axis=0))
    if len(columns) != 2 or np.abs(found[:, columns[::-1]] - wanted[:, columns]).max() > most:
        return None
    one, other = (_token_name(trial.reference, int(token)) for token in columns)
    return f"{one} and {other} are exchanged in the decoder's output"


def _token_name(reference: Reference, token: int) -> str:
    names = reference.attribute_names([token])
    return f"{names[0]!r}" if names else f"token {token}"


def probe_one_call(trial: Trial) -> str | None:
    """One crop alone, its whole sequence in one call: positions, and attention among the tokens of a step."""
    for crop in trial.probed:
        step = trial.wrong_step(crop, trial.alone(crop))
        if step:
            return (
                f"crop {crop} alone, its sequence read in one call, is wrong from step {step} on and right before: "
                "positions, the token table, or attention among the tokens of one step"
            )
    return None


def probe_steps(trial: Trial) -> str | None:
    """One crop alone, a token a step, in a fresh cache."""
    for crop in trial.probed:
        step = trial.wrong_step(crop, trial.by_steps(trial.encode([crop]), [crop])[0])
        if step is not None:
            return (
                f"crop {crop} alone, a token a step in a fresh cache, is wrong from step {step} on and right in one "
                "call: positions of later steps, or what the cache keeps of earlier ones"
            )
    return None


def probe_truncation(trial: Trial) -> str | None:
    """After other tokens were read and forgotten, nothing of them may be seen."""
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
                "the mask is too long: a forgotten cache slot is seen"
                if step == kept
                else "a stale cache slot: what is written again is not what is read"
            )
            return (
                f"crop {crop} is wrong from step {step} on only after {others.shape[1]} tokens were forgotten at "
                f"step {kept}: {why}"
            )
    return None


def _other_tokens(reference: Reference, crop: int, start: int) -> Int64Array:
    """Attributes (1, T) other than those the reference says from `start` on."""
    attributes = reference.log_probs.shape[-1] - FIRST_ATTRIBUTE
    said = reference.tokens[crop, start : start + _FORGOTTEN]
    others = [FIRST_ATTRIBUTE + (max(token, FIRST_ATTRIBUTE) - 2) % attributes for token in said.tolist()]
    return np.array([others], dtype=np.int64)


def probe_neighbours(trial: Trial) -> str | None:
    """Crops side by side: each is to be answered as it is alone."""
    crops = trial.probed
    got = trial.whole(crops)
    wrong = [row for row, crop in enumerate(crops) if trial.wrong_step(crop, got[row]) is not None]
    if not wrong:
        return None
    where = f"rows {wrong} of a batch of {len(crops)} are wrong, alone their crops are right"
    row = wrong[0]
    for other, crop in enumerate(crops):
        if other != row and trial.wrong_step(crop, got[row][:1]) is None:
            return f"{where}: row {row} is answered with the picture of row {other}, cross_kv of a neighbouring row"
    return f"{where}: rows are not kept apart"


def probe_ragged_rows(trial: Trial) -> str | None:
    """Rows of one batch at different positions, as in speculative decoding."""
    crops, tokens = trial.probed, trial.reference.tokens
    shortest = int(min(trial.lengths[crops]))
    state = trial.encode(crops)
    trial.step(state, tokens[crops, :shortest], crops)
    positions = np.array([shortest - row % shortest - 1 for row in range(len(crops))])
    state.truncate(positions)
    got = trial.step(state, tokens[crops, positions][:, None], crops)
    for row, crop in enumerate(crops):
        if trial.wrong_step(crop, got[row], int(positions[row])) is not None:
            return (
                f"row {row} of a batch whose rows are at positions {positions.tolist()} is wrong: "
                "positions or masks are not each row's own"
            )
    return None


def probe_reordering(trial: Trial) -> str | None:
    """Rows dropped, repeated and permuted, as beams are."""
    crops, tokens = trial.probed, trial.reference.tokens
    kept = max(1, int(min(trial.lengths[crops])) // 2)
    if kept == max(trial.lengths[crops]):
        return None
    state = trial.encode(crops)
    trial.step(state, tokens[crops, :kept], crops)
    rows = [len(crops) - 1, 0, 0][: trial.max_rows]
    state.reorder(np.array(rows))
    reordered = [crops[row] for row in rows]
    got = trial.by_steps(state, reordered, kept)
    for place, crop in enumerate(reordered):
        step = trial.wrong_step(crop, got[place], kept)
        if step is not None:
            return (
                f"after reordering to rows {rows}, row {place} is wrong from step {step} on: "
                "cache or cross_kv is not the row's own"
            )
    return None


def wrong_slots(size: int, wrong: Iterable[int], crops: Sequence[int]) -> str | None:
    """What to say of the slots that are wrong in a batch of `size`; `crops` are those in its slots."""
    slots = sorted(wrong)
    if not slots:
        return None
    if len(slots) == size > 1:
        return f"every slot of batch size {size} is wrong"
    if len(slots) > 1:
        named = f"slots {slots} are"
    else:
        named = f"slot {slots[0]}, the last, is" if slots[0] == size - 1 else f"slot {slots[0]} is"
    return f"{named} wrong in batches of {size}, with crop {crops[slots[0]]} in it: the profile of this size"
