"""What every decoding strategy takes and gives."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np

from seqpar_deploy.backends.base import Backend, Float32Array, State


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """One generated sequence.

    `tokens` are the ids after `<bos>`, with the `<eos>` if one ended it. `log_probs[i]` is the log-probability
    `tokens[i]` was emitted with, given the ones before it. `steps` counts the decoder steps its crop took part in.
    `margin` is by how much the closest of its choices was won, as a difference of log-probabilities: what moves them by
    less leaves the tokens as they are. 0 where that is not known, as with beam search.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    steps: int
    margin: float = 0.0


def margins(log_probs: Float32Array) -> Float32Array:
    """How far the best of V choices is ahead of the second: log-probabilities (..., V) -> (...)."""
    second, best = np.moveaxis(np.partition(log_probs, -2, axis=-1)[..., -2:], -1, 0)
    return np.asarray(best - second, dtype=np.float32)


class Strategy(Protocol):
    """Turns encoded crops into one generated sequence each."""

    def generate(self, backend: Backend[State], state: State, *, max_steps: int) -> list[Generation]:
        """Generate at most `max_steps` tokens for every row of a fresh `state`, and use the state up."""
        ...

    def rows_per_crop(self) -> int:
        """Rows of a decoder batch that one crop takes."""
        ...
