"""Measure how much a reduced precision or trimming shifts the margins of tokens and the log-odds of probabilities.

The margin of a token is its lead over the second best, in log-probability. A token may change if its margin shifts by
more than that. A state may change if the log-odds of its probability shift by more than their distance to a
threshold. The fallback margin is the shift that 99.9 % of the tokens, and 99.9 % of the probabilities, do not exceed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends import Backend
from seqpar_deploy.backends.base import Float32Array, Int64Array
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.calibration.maps import log_odds
from seqpar_deploy.calibration.probabilities import attribute_probabilities
from seqpar_deploy.calibration.sidecar import load_calibration
from seqpar_deploy.decoding import Generation, Greedy
from seqpar_deploy.prediction import prediction_from_generation, smallest_margin
from seqpar_deploy.preprocess import Crop, CropBatch, Trimming, batches_by_columns, columns_read, prepare_batch
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

    def of(self, rows: Sequence[int]) -> Reference:
        """Return the results of some crops."""
        some = list(rows)
        return Reference(
            generations=[self.generations[row] for row in some],
            sequences=self.sequences[some],
            log_probs=self.log_probs[some],
        )

    @property
    def is_choice(self) -> npt.NDArray[np.bool_]:
        """Whether a token was generated at each position, (M, C - 1). False after `<eos>`."""
        lengths = np.array([len(generation.tokens) for generation in self.generations])
        return np.asarray(np.arange(self.log_probs.shape[1]) < lengths[:, None])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """Hold M crops as a model reads them.

    Attributes:
        squares: The crops with all their padding, uint8 (M, H, H, 3).
        columns: The patch columns that are read of each crop, 0 for all of a model that is not trimmed.
        trimming: How the crops are trimmed, or None.
    """

    squares: CropBatch
    columns: tuple[int, ...]
    trimming: Trimming | None

    def __len__(self) -> int:
        return len(self.squares)

    def batch(self, rows: Sequence[int]) -> CropBatch:
        """Return crops of one width, (B, H, W, 3)."""
        squares = self.squares[list(rows)]
        if self.trimming is None:
            return squares
        return np.ascontiguousarray(self.trimming.trim(squares, self.columns[rows[0]]))

    def batches(self, size: int) -> Iterator[tuple[list[int], CropBatch]]:
        """Yield rows of one width, at most `size`, with their crops."""
        for rows in batches_by_columns(self.columns, size):
            yield rows, self.batch(rows)


def prepare(bundle: Bundle, crops: Sequence[Crop], trimming: Trimming | None = None) -> Prepared:
    """Prepare raw crops as the bundle reads them, or trimmed if it reads all padding and `trimming` is given."""
    trimming = bundle.trimming or trimming
    return Prepared(
        squares=prepare_batch(crops, image_size=bundle.dimensions.image_size, preprocessing=bundle.preprocessing),
        columns=tuple(columns_read(crop, trimming, bundle.preprocessing) for crop in crops),
        trimming=trimming,
    )


def batch_size(backend: Backend[Any]) -> int:
    """Return the crops per batch, within the backend's limit."""
    return min(_BATCH, backend.max_rows or _BATCH)


def make_reference(bundle: Bundle, backend: Backend[Any], prepared: Prepared, on_progress: OnProgress) -> Reference:
    """Decode greedily in native precision."""
    found: dict[int, Generation] = {}
    sequences = np.full((len(prepared), bundle.dimensions.capacity), PAD, dtype=np.int64)
    sequences[:, 0] = BOS
    log_probs = _room_for_log_probs(bundle, prepared)
    for rows, crops in prepared.batches(batch_size(backend)):
        generations = Greedy().generate(backend, backend.encode(crops), max_steps=bundle.dimensions.capacity - 1)
        for row, generation in zip(rows, generations, strict=True):
            found[row] = generation
            sequences[row, 1 : 1 + len(generation.tokens)] = generation.tokens
        # Finished rows were removed from the state, so the log-probabilities need a new one.
        log_probs[rows] = backend.step(backend.encode(crops), sequences[rows, :-1]).log_probs
        on_progress(len(found), len(prepared))
    return Reference(generations=in_order(found), sequences=sequences, log_probs=log_probs)


def decode_along(
    bundle: Bundle, backend: Backend[Any], prepared: Prepared, reference: Reference, on_progress: OnProgress
) -> tuple[list[Generation], Float32Array]:
    """Return greedy generations, and the log-probabilities (M, C - 1, V) along the reference's sequences."""
    found: dict[int, Generation] = {}
    log_probs = _room_for_log_probs(bundle, prepared)
    for rows, crops in prepared.batches(batch_size(backend)):
        state = backend.encode(crops)
        log_probs[rows] = backend.step(state, reference.sequences[rows, :-1]).log_probs
        state.truncate(np.zeros_like(state.lengths))
        generations = Greedy().generate(backend, state, max_steps=bundle.dimensions.capacity - 1)
        found |= zip(rows, generations, strict=True)
        on_progress(len(found), len(prepared))
    return in_order(found), log_probs


def in_order(found: Mapping[int, Generation]) -> list[Generation]:
    """Return generations in the order of their rows."""
    return [found[row] for row in sorted(found)]


def _room_for_log_probs(bundle: Bundle, prepared: Prepared) -> Float32Array:
    d = bundle.dimensions
    return np.empty((len(prepared), d.capacity - 1, d.vocabulary), dtype=np.float32)


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


def differences(
    bundle: Bundle, found: Sequence[Generation], reference: Reference, margin: float | None
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Compare with the reference, crop by crop.

    Returns:
        Whether tokens differ, or states if the bundle has a calibration, (M,), and whether the fallback re-runs the
            crop, (M,).
    """
    calibration = load_calibration(bundle)
    maps = None if calibration is None else calibration.maps
    thresholds = None if calibration is None else calibration.thresholds(bundle.label_set)

    def result(generation: Generation) -> tuple[object, object]:
        prediction = prediction_from_generation(generation, bundle.label_set, maps=maps, thresholds=thresholds)
        return prediction.tokens, prediction.states

    pairs = zip(found, reference.generations, strict=True)
    different = np.array([result(got) != result(wanted) for got, wanted in pairs])
    low = [margin is not None and not smallest_margin(one, maps, thresholds) >= margin for one in found]
    return different, np.array(low)


def _margins(log_probs: Float32Array, choices: Int64Array) -> Float32Array:
    best, second = np.moveaxis(np.take_along_axis(log_probs, choices, axis=-1), -1, 0)
    return np.asarray(best - second, dtype=np.float32)
