"""Beam search, with the published code's rules for scores, `<eos>` and termination."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seqpar_deploy.backends.base import Backend, Float32Array, Int64Array, State
from seqpar_deploy.decoding.base import Draft, Generation
from seqpar_deploy.errors import StrategyError
from seqpar_deploy.vocab import BOS, EOS

MAX_WIDTH = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beam:
    """Decode with beam search: keep the most probable sequences of each crop.

    As published, the score of a sequence is its summed log-probability divided by `length ** length_penalty`. The
    length includes `<bos>` and excludes `<eos>`. A width of 1 with a penalty of 0 is greedy decoding.

    Attributes:
        width: Beams per crop, 1 to 64, and at most half the vocabulary. Default: 3.
        length_penalty: The exponent of the length. Default: 0, no penalty.

    Raises:
        StrategyError: The width is out of range.

    Examples:
        >>> recognizer = Recognizer.from_bundle("bundles/peta", strategy=Beam(width=5))
    """

    width: int = 3
    length_penalty: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.width <= MAX_WIDTH:
            raise StrategyError(f"beam width must be 1 to {MAX_WIDTH}, got {self.width}; the default is 3")

    def rows_per_crop(self) -> int:
        """Return `width`."""
        return self.width

    def generate(
        self, backend: Backend[State], state: State, *, max_steps: int, drafts: Sequence[Draft] | None = None
    ) -> list[Generation]:
        """Generate the best sequence of each row. See `Strategy.generate`.

        Raises:
            StrategyError: The width is more than half the vocabulary.
        """
        width = self.width
        searches = [_Search(width, self.length_penalty) for _ in range(len(state.lengths))]
        open_crops = list(range(len(searches)))  # crops in the batch, in row order

        # The first step has one row per crop. Its best candidates fill the beams.
        tokens: Int64Array = np.full(len(searches), BOS, dtype=np.int64)
        for step in range(max_steps):
            output = backend.step(state, tokens[:, None])
            log_probs = output.log_probs[:, 0].copy()  # (rows, V); a backend may reuse its outputs
            if 2 * width > log_probs.shape[1]:
                raise StrategyError(
                    f"beam width must be at most {log_probs.shape[1] // 2}, half of this bundle's vocabulary, "
                    f"got {width}; use a smaller width"
                )

            rows_per_crop = 1 if step == 0 else width
            rows: list[int] = []
            still_open: list[int] = []
            for place, crop in enumerate(open_crops):
                first_row = place * rows_per_crop
                beams = searches[crop].advance(log_probs[first_row : first_row + rows_per_crop])
                if beams is not None:
                    rows.extend(first_row + beam for beam in beams)
                    still_open.append(crop)
            open_crops = still_open
            if not open_crops:
                break
            tokens = np.array([beam[-1] for crop in open_crops for beam in searches[crop].tokens], dtype=np.int64)
            if step + 1 < max_steps:
                state.reorder(np.array(rows, dtype=np.int64))
        return [search.best() for search in searches]


@dataclasses.dataclass(frozen=True)
class _Hypothesis:
    score: float
    tokens: tuple[int, ...]
    distributions: tuple[Float32Array, ...]  # (V,) of each token


class _Search:
    """Hold the beams and finished hypotheses of one crop."""

    def __init__(self, width: int, length_penalty: float) -> None:
        self._width = width
        self._length_penalty = length_penalty
        self._finished: list[_Hypothesis] = []  # worst first, at most `width`
        self._done = False
        self._steps = 0
        self._scores: Float32Array = np.zeros(1, dtype=np.float32)  # summed log-probability of each beam
        self.tokens: list[tuple[int, ...]] = [()]
        self._distributions: list[tuple[Float32Array, ...]] = [()]

    def advance(self, log_probs: Float32Array) -> list[int] | None:
        """Extend the beams by one token, given the log-probabilities (beams, V) that follow each beam.

        Returns the old beam that each new beam continues, or None if the crop is done.
        """
        self._steps += 1
        sums = self._scores[:, None] + log_probs  # (beams, V), float32 as published
        candidates = np.argsort(-sums, axis=None, kind="stable")[: 2 * self._width]
        beams, ids = np.unravel_index(candidates, sums.shape)
        best_running = self._normalised(float(sums.flat[candidates[0]]), self._steps)

        kept: list[tuple[int, int]] = []
        for rank, (beam, token) in enumerate(zip(beams.tolist(), ids.tolist(), strict=True)):
            if token != EOS:
                kept.append((beam, token))
            elif rank < self._width:
                self._finish(beam, float(sums[beam, token]), (EOS,), (log_probs[beam],))
            if len(kept) == self._width:
                break
        if len(self._finished) == self._width and self._finished[0].score >= best_running:
            self._done = True
            return None

        self._scores = np.array([sums[beam, token] for beam, token in kept], dtype=np.float32)
        old_tokens, old_distributions = self.tokens, self._distributions
        self.tokens = [(*old_tokens[beam], token) for beam, token in kept]
        self._distributions = [(*old_distributions[beam], log_probs[beam]) for beam, _ in kept]
        return [beam for beam, _ in kept]

    def best(self) -> Generation:
        """Return the best hypothesis. Beams that reach the length limit count as finished."""
        if not self._done:
            for beam, score in enumerate(self._scores.tolist()):
                self._finish(beam, score, (), ())
        best = self._finished[-1]
        distributions = np.array(best.distributions)
        return Generation(
            tokens=best.tokens,
            log_probs=tuple(distributions[np.arange(len(best.tokens)), best.tokens].tolist()),
            steps=self._steps,
            distributions=distributions,
        )

    def _finish(
        self, beam: int, score: float, tokens: tuple[int, ...], distributions: tuple[Float32Array, ...]
    ) -> None:
        tokens_before = self.tokens[beam]
        hypothesis = _Hypothesis(
            self._normalised(score, len(tokens_before) + 1),
            tokens_before + tokens,
            self._distributions[beam] + distributions,
        )
        # Ties follow the published code: a new hypothesis must beat the worst, and of equal ones the latest is best.
        full = len(self._finished) == self._width
        if full and hypothesis.score <= self._finished[0].score:
            return
        place = sum(held.score <= hypothesis.score for held in self._finished)
        self._finished.insert(place, hypothesis)
        del self._finished[: 1 if full else 0]

    def _normalised(self, score: float, length: int) -> float:
        return float(score / length**self._length_penalty)
