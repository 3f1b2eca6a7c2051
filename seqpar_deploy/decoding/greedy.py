"""Greedy decoding: the most probable token at each step. The published scores use it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from seqpar_deploy.backends.base import Backend, Float32Array, GreedyBackend, Int64Array, State, StepOutput
from seqpar_deploy.decoding.base import Draft, Generation, margins
from seqpar_deploy.vocab import BOS, EOS, PAD

# Finished rows stay in the batch until they are this share of it. Then the running rows are gathered. A gather copies
# megabytes per row and costs about half a step, too much to do for each finished row.
_GATHER_AT = 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Greedy:
    """Decode greedily: take the most probable token at each step, until `<eos>` or the length limit.

    This is the default strategy, and the one of the published scores.

    Examples:
        >>> recognizer = Recognizer.from_bundle("bundles/peta", strategy=Greedy())
    """

    def rows_per_crop(self) -> int:
        """Return 1."""
        return 1

    def generate(
        self, backend: Backend[State], state: State, *, max_steps: int, drafts: Sequence[Draft] | None = None
    ) -> list[Generation]:
        """Generate the greedy sequence of each row. See `Strategy.generate`."""
        if isinstance(backend, GreedyBackend):
            return _generations(backend.greedy(state, stop=EOS, max_steps=max_steps))
        crops = len(state.lengths)
        tokens = np.full((crops, max_steps), PAD, dtype=np.int64)
        distributions: Float32Array = np.empty((crops, max_steps, 0), dtype=np.float32)  # until V is known
        steps = np.zeros(crops, dtype=np.int64)
        margin = np.full(crops, np.inf, dtype=np.float32)

        crop_of_row = np.arange(crops)
        next_token = np.full(crops, BOS, dtype=np.int64)
        running = np.ones(crops, dtype=bool)
        for step in range(max_steps):
            output = backend.step(state, next_token[:, None])
            next_token = output.next_token[:, 0]
            live = crop_of_row[running]
            tokens[live, step] = next_token[running]
            log_probs = output.log_probs[running, 0]
            if step == 0:
                distributions = np.empty((crops, max_steps, log_probs.shape[-1]), dtype=np.float32)
            distributions[live, step] = log_probs
            margin[live] = np.minimum(margin[live], margins(log_probs))
            steps[live] += 1

            running = running & (next_token != EOS)
            if not running.any():
                break
            if np.count_nonzero(~running) >= _GATHER_AT * len(running) and step + 1 < max_steps:
                rows = np.flatnonzero(running)
                state.reorder(rows)
                crop_of_row, next_token, running = crop_of_row[rows], next_token[rows], running[rows]

        return [
            _generation(tokens[crop, : steps[crop]], distributions[crop, : steps[crop]], float(margin[crop]))
            for crop in range(crops)
        ]


def _generations(output: StepOutput) -> list[Generation]:
    """Cut each row after its `<eos>`."""
    generations = []
    for tokens, log_probs in zip(output.next_token, output.log_probs, strict=True):
        ends = np.flatnonzero(tokens == EOS)
        steps = int(ends[0]) + 1 if len(ends) else len(tokens)
        generations.append(_generation(tokens[:steps], log_probs[:steps], float(margins(log_probs[:steps]).min())))
    return generations


def _generation(tokens: Int64Array, distributions: Float32Array, margin: float) -> Generation:
    return Generation(
        tokens=tuple(tokens.tolist()),
        log_probs=tuple(distributions[np.arange(len(tokens)), tokens].tolist()),
        steps=len(tokens),
        margin=margin,
        distributions=distributions.copy(),  # a view would keep those of the whole batch
    )
