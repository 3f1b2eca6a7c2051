"""A scripted backend: tests and examples decode with it without a model, and it counts the work it was asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from seqpar_deploy.backends.base import Float32Array, Int64Array, StepOutput

Script = Callable[[int, Sequence[int]], Float32Array]


class FakeState:
    """Remembers each row's crop and the tokens it was fed."""

    def __init__(self, crops: Sequence[int]) -> None:
        self.crops = list(crops)
        self.tokens: list[list[int]] = [[] for _ in crops]

    @property
    def lengths(self) -> Int64Array:
        return np.array([len(tokens) for tokens in self.tokens], dtype=np.int64)

    def truncate(self, lengths: Int64Array) -> None:
        self.tokens = [tokens[:length] for tokens, length in zip(self.tokens, lengths, strict=True)]

    def reorder(self, rows: Int64Array) -> None:
        self.crops = [self.crops[row] for row in rows]
        self.tokens = [list(self.tokens[row]) for row in rows]


class FakeBackend:
    """Answers with `script(crop, tokens) -> log_probs (V,)`, where `crop` is the value of the crop's first byte.

    `row_steps` counts the rows of every step, which is what a real backend spends time on.
    """

    name = "fake"
    max_rows = None
    device = "cpu"

    def __init__(self, script: Script) -> None:
        self._script = script
        self.row_steps: list[int] = []

    def encode(self, crops: npt.NDArray[np.uint8]) -> FakeState:
        return FakeState([int(crop.flat[0]) for crop in crops])

    def step(self, state: FakeState, tokens: Int64Array) -> StepOutput:
        self.row_steps.append(len(tokens))
        answers: list[list[Float32Array]] = []
        for row, new in enumerate(tokens):
            answers.append([])
            for token in new:
                state.tokens[row].append(int(token))
                answers[row].append(self._script(state.crops[row], state.tokens[row]))
        log_probs = np.array(answers, dtype=np.float32)
        return StepOutput(log_probs, log_probs.argmax(axis=-1))

    def close(self) -> None:
        """Nothing to release."""
