"""What every decoding strategy takes and gives."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from seqpar_deploy.backends.base import Backend, State


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """One generated sequence.

    `tokens` are the ids after `<bos>`, with the `<eos>` if one ended it. `log_probs[i]` is the log-probability
    `tokens[i]` was emitted with, given the ones before it. `steps` counts the decoder steps its crop took part in.
    """

    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    steps: int


class Strategy(Protocol):
    """Turns encoded crops into one generated sequence each."""

    def generate(self, backend: Backend[State], state: State, *, max_steps: int) -> list[Generation]:
        """Generate at most `max_steps` tokens for every row of a fresh `state`, and use the state up."""
        ...

    def rows_per_crop(self) -> int:
        """Rows of a decoder batch that one crop takes."""
        ...
