"""Choices of a model in native precision, and how far another precision shifts their margins.

The margin of a choice is the lead of the best token over the second, in log-probability. If a precision shifts it by
more, the choice may change. `fallback_margin` is the shift that nearly no choice exceeds.
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
from seqpar_deploy.decoding import Generation, Greedy
from seqpar_deploy.preprocess import Crop, prepare_batch
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.vocab import BOS, PAD

SHIFT_QUANTILE = 0.999  # share of all choices whose margin shifts by less than the fallback margin
_BATCH = 8  # crops per batch: only tokens and log-probabilities count here


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """Results of native precision on M crops."""

    generations: list[Generation]
    sequences: Int64Array  # (M, C): `<bos>`, the tokens, `<pad>`
    log_probs: Float32Array  # (M, C - 1, V), after each token of the sequences

    @property
    def is_choice(self) -> npt.NDArray[np.bool_]:
        """(M, C - 1): whether a token was chosen there; positions after `<eos>` are no choices."""
        lengths = np.array([len(generation.tokens) for generation in self.generations])
        return np.asarray(np.arange(self.log_probs.shape[1]) < lengths[:, None])


def prepare(bundle: Bundle, crops: Sequence[Crop]) -> Crop:
    """Raw crops as a batch of the bundle's input."""
    return prepare_batch(crops, image_size=bundle.dimensions.image_size, preprocessing=bundle.preprocessing)


def batch_size(backend: Backend[Any]) -> int:
    """Crops per batch, within the backend's limit."""
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
        # Finished rows have left the state, so the log-probabilities need another.
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
    """The shift of the margins along the reference's sequences that nearly no choice exceeds."""
    choices = np.argsort(reference.log_probs, axis=-1)[..., :-3:-1]
    shifts = np.abs(_margins(log_probs, choices) - _margins(reference.log_probs, choices))
    return float(np.quantile(shifts[reference.is_choice], SHIFT_QUANTILE))


def _margins(log_probs: Float32Array, choices: Int64Array) -> Float32Array:
    best, second = np.moveaxis(np.take_along_axis(log_probs, choices, axis=-1), -1, 0)
    return np.asarray(best - second, dtype=np.float32)
