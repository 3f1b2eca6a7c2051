"""Greedy decoding that checks guesses: the same tokens in fewer, wider decoder steps.

A step at a small batch is bound by reading the decoder's weights, so that a step of 16 tokens costs little more than a
step of one. Each step feeds the last token known to be right, and guesses for those that follow. What the model answers
confirms a first part of the guesses, corrects the first wrong one, and serves as the guesses of the next step (Jacobi
iteration: Santilli et al., ACL 2023, "Accelerating Transformer Inference for Translation via Parallel Decoding").

Each emitted token is the model's own choice after the tokens before it, so the result is greedy decoding's; how many
steps it takes depends on the model.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from seqpar_deploy.backends.base import Backend, State
from seqpar_deploy.decoding.base import Generation, margins
from seqpar_deploy.errors import StrategyError
from seqpar_deploy.vocab import BOS, EOS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speculative:
    """Greedy decoding, `window` tokens a step, shared among the rows of the batch."""

    window: int = 16

    def __post_init__(self) -> None:
        if self.window < 1:
            raise StrategyError(f"window is {self.window}, wanted 1 or more")

    def rows_per_crop(self) -> int:
        return 1

    def generate(self, backend: Backend[State], state: State, *, max_steps: int) -> list[Generation]:
        sequences = [_Sequence() for _ in state.lengths]
        rows = sequences
        while True:
            longest = max(len(row.tokens) for row in rows)
            width = min(max(1, self.window // len(rows)), max_steps - longest)
            fed = np.array([row.feed(width) for row in rows], dtype=np.int64)
            output = backend.step(state, fed)
            won_by = margins(output.log_probs)
            for place, row in enumerate(rows):
                answers = output.next_token[place]
                emitted = output.log_probs[place, np.arange(width), answers]
                row.take(fed[place, 1:].tolist(), answers.tolist(), emitted.tolist(), won_by[place].tolist())

            running = [place for place, row in enumerate(rows) if not row.ended(max_steps)]
            if not running:
                return [sequence.generation() for sequence in sequences]
            if len(running) < len(rows):
                state.reorder(np.array(running, dtype=np.int64))
                rows = [rows[place] for place in running]
            # `<bos>` and all but the last token have been read; what was fed after them was wrong.
            state.truncate(np.array([len(row.tokens) for row in rows], dtype=np.int64))


class _Sequence:
    """What one row has emitted, and its guesses of what follows."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.log_probs: list[float] = []
        self._guesses: list[int] = []
        self._steps = 0
        self._margin = math.inf

    def feed(self, width: int) -> list[int]:
        """The last token and `width - 1` guesses; where there are none left, the last one again."""
        fed = [self.tokens[-1] if self.tokens else BOS, *self._guesses[: width - 1]]
        return fed + [fed[-1]] * (width - len(fed))

    def take(self, guesses: list[int], answers: list[int], log_probs: list[float], margins: list[float]) -> None:
        """Emit the answers whose guessed prefix was right: always the first, and one more for each right guess."""
        self._steps += 1
        right = 1
        while right < len(answers) and guesses[right - 1] == answers[right - 1] != EOS:
            right += 1
        self.tokens += answers[:right]
        self.log_probs += log_probs[:right]
        self._margin = float(np.min([self._margin, *margins[:right]]))  # NaN stays NaN
        self._guesses = answers[right:]

    def ended(self, max_steps: int) -> bool:
        return self.tokens[-1] == EOS or len(self.tokens) >= max_steps

    def generation(self) -> Generation:
        return Generation(
            tokens=tuple(self.tokens), log_probs=tuple(self.log_probs), steps=self._steps, margin=self._margin
        )
