"""The protocol and the result type of all decoding strategies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from seqpar_deploy.backends.base import Backend, Float32Array, State

Draft = tuple[int, ...] | None
"""Tokens that may follow `<bos>`, with the `<eos>`, guessed in advance. None: no guess."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """Hold one generated sequence.

    Attributes:
        tokens: Token ids after `<bos>`, with the `<eos>` if it was generated.
        log_probs: Log-probability of each token, given those before it.
        steps: Decoder steps that the crop took part in.
        margin: The smallest difference in log-probability between a chosen token and the second best. A numerical error
            below it cannot change the tokens. Default: 0, for strategies that do not compute it, such as beam search.
        distributions: Log-probabilities of all tokens at the step of each token, float32 (tokens, V). They own their
            memory: a backend may reuse its outputs in the next step.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    steps: int
    margin: float = 0.0
    distributions: Float32Array = dataclasses.field(repr=False, compare=False)


def margins(log_probs: Float32Array) -> Float32Array:
    """Return the margin of the best token over the second best: log-probabilities (..., V) -> (...)."""
    second, best = np.moveaxis(np.partition(log_probs, -2, axis=-1)[..., -2:], -1, 0)
    return np.asarray(best - second, dtype=np.float32)


class Strategy(Protocol):
    """Generate one sequence per encoded crop. Implement this protocol to add a strategy."""

    def generate(
        self, backend: Backend[State], state: State, *, max_steps: int, drafts: Sequence[Draft] | None = None
    ) -> list[Generation]:
        """Generate one sequence per row of a state.

        Args:
            backend: The backend that made the state.
            state: A fresh state. It cannot be used afterwards.
            max_steps: The largest number of tokens per sequence.
            drafts: A draft per row, which may be wrong: it can save steps, and never changes tokens. Strategies may
                ignore it. Default: none.

        Returns:
            One sequence per row, in the same order.
        """
        ...

    def rows_per_crop(self) -> int:
        """Return the number of decoder rows per crop."""
        ...
