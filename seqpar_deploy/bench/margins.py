"""Measure how much a reduced precision shifts the margins of a model's tokens and the log-odds of its probabilities.

The margin of a token is its lead over the second best, in log-probability. A token may change if a precision shifts its
margin by more than that. A state may change if the log-odds of its probability shift by more than their distance to a
threshold. The fallback margin is the shift that 99.9 % of the tokens, and 99.9 % of the probabilities, do not exceed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends import Backend
from seqpar_deploy.backends.base import Float32Array, Int64Array
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.calibration.maps import log_odds
from seqpar_deploy.calibration.probabilities import attribute_probabilities
from seqpar_deploy.decoding import Generation, Greedy
from seqpar_deploy.preprocess import Crop, prepare_batch
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.vocab import BOS, PAD

SHIFT_QUANTILE = 0.999  # share of all tokens whose margin shifts by less than the fallback margin
DOUBTFUL = (0.01, 0.99)  # probabilities that count: thresholds lie there, and the log-odds of the others shift more
_BATCH = 8  # crops per batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shifts:
    """Hold the shifts that 99.9 % of the cases do not exceed.

    Attributes:
        tokens: Shift of a token's margin.
        log_odds: Shift of the log-odds of an attribute's probability between 0.01 and 0.99. 0 if there is none.
    """

    tokens: float
    log_odds: float

    @property
    def margin(self) -> float:
        """The fallback margin, which covers both."""
        return max(self.tokens, self.log_odds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """Hold the results of native precision on M crops."""

    generations: list[Generation]
    sequences: Int64Array  # (M, C): `<bos>`, the tokens, `<pad>`
    log_probs: Float32Array  # (M, C - 1, V), after each token of the sequences

    @property
    def is_choice(self) -> npt.NDArray[np.bool_]:
        """Whether a token was generated at each position, (M, C - 1). False after `<eos>`."""
        lengths = np.array([len(generation.tokens) for generation in self.generations])
        return np.asarray(np.arange(self.log_probs.shape[1]) < lengths[:, None])


def prepare(bundle: Bundle, crops: Sequence[Crop]) -> Crop:
    """Prepare raw crops as a batch of the bundle's input."""
    return prepare_batch(crops, image_size=bundle.dimensions.image_size, preprocessing=bundle.preprocessing)


def batch_size(backend: Backend[Any]) -> int:
    """Return the crops per batch, within the backend's limit."""
    return min(_BATCH, backend.max_rows or _BATCH)


def make_reference(bundle: Bundle, backend: Backend[Any], prepared: Crop, on_progress: OnProgress) -> Reference:
    """Decode greedily in native precision."""
    generations: list[Generation] = []
    sequences = np.full((len(prepared), bundle.dimensions.capacity), PAD, dtype=np.int64)
    sequences[:, 0] = BOS
    log_probs: list[Float32Array] = []
    for start in range(0, len(prepared), batch_size(backend)):
        rows = slice(start, start + batch_size(backend))
        state = backend.encode(prepared[rows])
        generations += Greedy().generate(backend, state, max_steps=bundle.dimensions.capacity - 1)
        for row, generation in enumerate(generations[start:], start):
            sequences[row, 1 : 1 + len(generation.tokens)] = generation.tokens
        # Finished rows were removed from the state, so the log-probabilities need a new one.
        log_probs.append(backend.step(backend.encode(prepared[rows]), sequences[rows, :-1]).log_probs)
        on_progress(len(generations), len(prepared))
    return Reference(generations=generations, sequences=sequences, log_probs=np.concatenate(log_probs))


def decode_along(
    bundle: Bundle, backend: Backend[Any], prepared: Crop, reference: Reference, on_progress: OnProgress
) -> tuple[list[Generation], Float32Array]:
    """Return greedy generations, and the log-probabilities (M, C - 1, V) along the reference's sequences."""
    generations: list[Generation] = []
    log_probs: list[Float32Array] = []
    for start in range(0, len(prepared), batch_size(backend)):
        rows = slice(start, start + batch_size(backend))
        state = backend.encode(prepared[rows])
        log_probs.append(backend.step(state, reference.sequences[rows, :-1]).log_probs)
        state.truncate(np.zeros_like(state.lengths))
        generations += Greedy().generate(backend, state, max_steps=bundle.dimensions.capacity - 1)
        on_progress(len(generations), len(prepared))
    return generations, np.concatenate(log_probs)


def fallback_margin(log_probs: Float32Array, reference: Reference) -> float:
    """Return the fallback margin, see `measure_shifts`."""
    return measure_shifts(log_probs, reference).margin


def measure_shifts(log_probs: Float32Array, reference: Reference) -> Shifts:
    """Compare log-probabilities (M, C - 1, V) along the reference's sequences with those of native precision."""
    choices = np.argsort(reference.log_probs, axis=-1)[..., :-3:-1]
    shifts = np.abs(_margins(log_probs, choices) - _margins(reference.log_probs, choices))
    of_odds = []
    for generation, native, reduced in zip(reference.generations, reference.log_probs, log_probs, strict=True):
        expected, got = (attribute_probabilities(generation.tokens, rows) for rows in (native, reduced))
        doubtful = (expected > DOUBTFUL[0]) & (expected < DOUBTFUL[1])
        of_odds.append(np.abs(log_odds(got) - log_odds(expected))[doubtful])
    odds = np.concatenate(of_odds)
    return Shifts(
        tokens=float(np.quantile(shifts[reference.is_choice], SHIFT_QUANTILE)),
        log_odds=float(np.quantile(odds, SHIFT_QUANTILE)) if len(odds) else 0.0,
    )


def _margins(log_probs: Float32Array, choices: Int64Array) -> Float32Array:
    best, second = np.moveaxis(np.take_along_axis(log_probs, choices, axis=-1), -1, 0)
    return np.asarray(best - second, dtype=np.float32)
