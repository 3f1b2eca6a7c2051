"""Speculative greedy decoding: the same tokens as greedy decoding in fewer, wider decoder steps.

At small batches a step is bound by reading the decoder's weights, so a step of 16 tokens costs little more than a step
of one. Each step feeds the last accepted token and guesses for the tokens that follow. The model's outputs confirm the
guesses up to the first wrong one, correct that one, and become the guesses of the next step (Jacobi iteration: Santilli
et al., ACL 2023, "Accelerating Transformer Inference for Translation via Parallel Decoding").

Each emitted token is the model's most probable one after the tokens before it, so the tokens equal those of greedy
decoding. The number of steps depends on the model.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from seqpar_deploy.backends.base import Backend, Float32Array, State
from seqpar_deploy.decoding.base import Generation, margins
from seqpar_deploy.errors import StrategyError
from seqpar_deploy.vocab import BOS, EOS


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speculative:
    """Decode greedily in fewer steps: guess several tokens per step, and keep those that the model confirms.

    The tokens equal those of `Greedy`. The speed-up depends on the model, and is largest for batches of one crop.

    Attributes:
        window: Tokens per decoder step, shared among the rows of the batch, 1 or more. Default: 16.

    Raises:
        StrategyError: The window is less than 1.

    Examples:
        >>> recognizer = Recognizer.from_bundle("bundles/peta", strategy=Speculative(window=16))
    """

    window: int = 16

    def __post_init__(self) -> None:
        if self.window < 1:
            raise StrategyError(f"window must be 1 or more tokens, got {self.window}; the default is 16")

    def rows_per_crop(self) -> int:
        """Return 1."""
        return 1

    def generate(self, backend: Backend[State], state: State, *, max_steps: int) -> list[Generation]:
        """Generate the greedy sequence of each row. See `Strategy.generate`."""
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
                row.take(fed[place, 1:].tolist(), answers.tolist(), output.log_probs[place], won_by[place].tolist())

            running = [place for place, row in enumerate(rows) if not row.ended(max_steps)]
            if not running:
                return [sequence.generation() for sequence in sequences]
            if len(running) < len(rows):
                state.reorder(np.array(running, dtype=np.int64))
                rows = [rows[place] for place in running]
            # Keep `<bos>` and all tokens but the last. The cache entries after them are of wrong guesses.
            state.truncate(np.array([len(row.tokens) for row in rows], dtype=np.int64))


class _Sequence:
    """Hold the tokens that one row has emitted, and its guesses for the next ones."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self._distributions: list[Float32Array] = []
        self._guesses: list[int] = []
        self._steps = 0
        self._margin = math.inf

    def feed(self, width: int) -> list[int]:
        """Return the last token and `width - 1` guesses. If there are too few, the last value is repeated."""
        fed = [self.tokens[-1] if self.tokens else BOS, *self._guesses[: width - 1]]
        return fed + [fed[-1]] * (width - len(fed))

    def take(self, guesses: list[int], answers: list[int], log_probs: Float32Array, margins: list[float]) -> None:
        """Emit the answers after a correct prefix of guesses: the first one, and one more per correct guess."""
        self._steps += 1
        right = 1
        while right < len(answers) and guesses[right - 1] == answers[right - 1] != EOS:
            right += 1
        self.tokens += answers[:right]
        self._distributions.append(log_probs[:right].copy())  # not a view: a backend may reuse its outputs
        self._margin = float(np.min([self._margin, *margins[:right]]))  # NaN stays NaN
        self._guesses = answers[right:]

    def ended(self, max_steps: int) -> bool:
        return self.tokens[-1] == EOS or len(self.tokens) >= max_steps

    def generation(self) -> Generation:
        distributions = np.concatenate(self._distributions)
        return Generation(
            tokens=tuple(self.tokens),
            log_probs=tuple(distributions[np.arange(len(self.tokens)), self.tokens].tolist()),
            steps=self._steps,
            margin=self._margin,
            distributions=distributions,
        )
