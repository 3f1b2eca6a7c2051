"""Drafts through `step`, as plainly as they can be verified: the strategy of the package may do it better."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqpar_deploy.decoding.base import Draft
from seqpar_deploy.vocab import BOS, EOS, FIRST_ATTRIBUTE


@dataclasses.dataclass(frozen=True)
class Verified:
    """The tokens of a row, and the steps they took."""

    tokens: tuple[int, ...]
    steps: int


@dataclasses.dataclass(frozen=True)
class Drafted:
    """Feeds all of each row's draft at once, and goes on from the first wrong token with the rest behind it."""

    def rows_per_crop(self) -> int:
        return 1

    def generate(
        self, backend: Any, state: Any, *, max_steps: int, drafts: Sequence[Draft] | None = None
    ) -> list[Verified]:
        said: list[list[int]] = [[] for _ in state.lengths]
        left = [list(draft or ()) for draft in drafts or [None] * len(said)]
        rows, steps, done = list(range(len(said))), 0, {}
        while True:
            longest = max(len(said[row]) for row in rows)
            width = min(1 + max(len(left[row]) for row in rows), max_steps - longest)
            fed = [[*(said[row][-1:] or [BOS]), *left[row], *[BOS] * width][:width] for row in rows]
            output, steps = backend.step(state, np.array(fed, dtype=np.int64)), steps + 1
            for row, guesses, answers in zip(rows, fed, output.next_token.tolist(), strict=True):
                right = 1
                while right < min(width, 1 + len(left[row])) and guesses[right] == answers[right - 1] != EOS:
                    right += 1
                said[row] += answers[:right]
                left[row] = left[row][right:]
            ended = {row for row in rows if said[row][-1] == EOS or len(said[row]) >= max_steps}
            done |= {row: Verified(tuple(said[row]), steps) for row in ended}
            if len(ended) == len(rows):
                return [done[row] for row in range(len(said))]
            if ended:
                state.reorder(np.array([place for place, row in enumerate(rows) if row not in ended]))
                rows = [row for row in rows if row not in ended]
            state.truncate(np.array([len(said[row]) for row in rows], dtype=np.int64))


def draw_draft(tokens: tuple[int, ...], choose: random.Random) -> Draft:
    """A draft of a sequence: right, wrong in one place, too short or too long, empty, or none."""
    kind = choose.choice(("right", "wrong", "short", "long", "empty", "none"))
    if kind == "none":
        return None
    if kind == "wrong":
        place = choose.randrange(len(tokens))
        other = FIRST_ATTRIBUTE + (tokens[place] + 1) % 3
        return (*tokens[:place], other, *tokens[place + 1 :])
    return {"right": tokens, "short": tokens[: len(tokens) // 2], "long": (*tokens, *tokens), "empty": ()}[kind]
