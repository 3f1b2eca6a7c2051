"""Speculative greedy decoding: the same tokens as greedy decoding in fewer, wider decoder steps.

At small batches a step is bound by reading the decoder's weights, so a step of 16 tokens costs little more than a step
of one. Each step feeds the last accepted token and guesses for the tokens that follow. The model's outputs confirm the
guesses up to the first wrong one and correct that one.

The guesses come from drafts: those of the bundle's draft head (`drafts.py`), a sequence that the caller passes, for
example that of an earlier frame, or both. After a wrong guess, the rest is drafted again, behind the corrected token:
from the head, the caller's draft, and the model's own outputs of that step. Without drafts, or if the sequence is not
an ordered set, the outputs themselves are the next guesses (Jacobi iteration: Santilli et al., ACL 2023, "Accelerating
Transformer Inference for Translation via Parallel Decoding").

Each emitted token is the model's most probable one after the tokens before it, so the tokens equal those of greedy
decoding, whatever the drafts are. The number of steps depends on the drafts and the model.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from seqpar_deploy.backends.base import Backend, Float32Array, State
from seqpar_deploy.decoding.base import Draft, Generation, margins
from seqpar_deploy.decoding.drafts import DraftHead, Float64Array, continued, evidence, is_ascending, prior
from seqpar_deploy.decoding.greedy import Greedy
from seqpar_deploy.errors import StrategyError
from seqpar_deploy.vocab import BOS, EOS

# As in greedy decoding: finished rows are gathered away once they are this share of the batch.
_GATHER_AT = 0.25


@dataclasses.dataclass(frozen=True, kw_only=True)
class Speculative:
    """Decode greedily in fewer steps: guess several tokens per step, and keep those that the model confirms.

    The tokens equal those of `Greedy`. The speed-up depends on the drafts and the model, and is largest for batches of
    one crop. A `Recognizer` adds the bundle's draft head, if there is one.

    Attributes:
        window: Tokens per decoder step without drafts, shared among the rows of the batch, 1 or more. A draft is
            verified whole. Default: 16.
        head: Drafts sequences from the encoder's pooled image tokens. Default: None, no drafts of its own.
        largest_batch: Larger batches are decoded greedily, since wide steps pay at small batches only. Default: None,
            no limit.

    Raises:
        StrategyError: The window or the largest batch is less than 1.

    Examples:
        >>> recognizer = Recognizer.from_bundle("bundles/peta", strategy=Speculative(window=16))
    """

    window: int = 16
    head: DraftHead | None = None
    largest_batch: int | None = None

    def __post_init__(self) -> None:
        if self.window < 1:
            raise StrategyError(f"window must be 1 or more tokens, got {self.window}; the default is 16")
        if self.largest_batch is not None and self.largest_batch < 1:
            raise StrategyError(f"largest_batch must be 1 or more, got {self.largest_batch}; leave it out for no limit")

    def rows_per_crop(self) -> int:
        """Return 1."""
        return 1

    def generate(
        self, backend: Backend[State], state: State, *, max_steps: int, drafts: Sequence[Draft] | None = None
    ) -> list[Generation]:
        """Generate the greedy sequence of each row. See `Strategy.generate`."""
        if self.largest_batch is not None and len(state.lengths) > self.largest_batch:
            return Greedy().generate(backend, state, max_steps=max_steps)
        rows = sequences = self._start(state, drafts)
        while True:
            unfinished = [row for row in rows if not row.ended(max_steps)]
            longest = max(len(row.tokens) for row in unfinished)
            shared = max(1, self.window // len(rows))
            width = min(max(row.wanted(shared) for row in unfinished), max_steps - longest)
            fed = np.array([row.feed(width) for row in rows], dtype=np.int64)
            output = backend.step(state, fed)
            won_by = margins(output.log_probs)
            for place, row in enumerate(rows):
                if not row.ended(max_steps):
                    answers = output.next_token[place].tolist()
                    row.take(fed[place].tolist(), answers, output.log_probs[place], won_by[place].tolist())

            running = [place for place, row in enumerate(rows) if not row.ended(max_steps)]
            if not running:
                return [sequence.generation() for sequence in sequences]
            if len(rows) - len(running) >= _GATHER_AT * len(rows):
                state.reorder(np.array(running, dtype=np.int64))
                rows = [rows[place] for place in running]
            # Keep `<bos>` and all tokens but the last. The cache entries after them are of wrong guesses.
            # Finished rows that are still in the batch start over, so that they cannot outgrow the cache.
            kept = [0 if row.ended(max_steps) else len(row.tokens) for row in rows]
            state.truncate(np.array(kept, dtype=np.int64))

    def _start(self, state: State, drafts: Sequence[Draft] | None) -> list[_Sequence]:
        """Return an empty sequence per row, with its first guesses."""
        head, count = self.head, len(state.lengths)
        given = [None] * count if drafts is None else list(drafts)
        pooled = getattr(state, "pooled", None) if head is not None and not head.is_constant else None
        scores: Sequence[Float64Array | None] = [None] * count
        if head is not None and pooled is not None and head.fits(pooled):
            scores = list(head.scores(pooled))
        constant = head.constant if head is not None and head.is_constant else None
        chain = None if head is None else head.chain
        return [_Sequence(of_row, chain, draft or constant) for of_row, draft in zip(scores, given, strict=True)]


class _Sequence:
    """Hold the tokens that one row has emitted, and its guesses for the next ones.

    `scores` are the head's log-odds of each attribute, or None, and `draft` the caller's sequence, or None.
    """

    def __init__(self, scores: Float64Array | None, chain: Float32Array | None, draft: Draft) -> None:
        self.tokens: list[int] = []
        self._distributions: list[Float32Array] = []
        self._steps = 0
        self._margin = math.inf
        self._chain = chain if scores is not None else None
        self._draft = draft
        self._scores = scores
        self._guesses: list[int] = []
        self._is_drafted = self._is_ordered = scores is not None or draft is not None
        if scores is not None:
            if draft is not None:
                self._scores = scores + prior(draft, len(scores))
            self._guesses = continued(self._scores, self._chain)  # type: ignore[arg-type]
        elif draft is not None:
            self._guesses = list(draft)
        self._end_at_eos()

    def wanted(self, shared: int) -> int:
        """Return the tokens to feed: the last one and all guesses of a draft, or `shared` if there is no draft."""
        drafted = len(self._guesses) + 1 if self._is_drafted else 1
        return drafted if self._is_ordered else max(drafted, shared)

    def feed(self, width: int) -> list[int]:
        """Return the last token and `width - 1` guesses. If there are too few, the last value is repeated."""
        fed = [self.tokens[-1] if self.tokens else BOS, *self._guesses[: width - 1]]
        return fed + [fed[-1]] * (width - len(fed))

    def take(self, fed: list[int], answers: list[int], log_probs: Float32Array, margins: list[float]) -> None:
        """Emit the answers after a correct prefix of guesses: the first one, and one more per correct guess."""
        self._steps += 1
        right = 1
        while right < len(answers) and fed[right] == answers[right - 1] != EOS:
            right += 1
        self.tokens += answers[:right]
        self._distributions.append(log_probs[:right].copy())  # not a view: a backend may reuse its outputs
        self._margin = float(np.min([self._margin, *margins[:right]]))  # NaN stays NaN
        used = min(len(self._guesses) + 1, len(fed))
        if self.tokens[-1] == EOS:
            self._guesses = []
        elif self._is_drafted and is_ascending(self.tokens) and is_ascending(fed[1:used]):
            self._guesses = self._drafted_again(fed[:used], log_probs[:used])
        else:
            self._guesses, self._is_ordered = answers[right:], False
        if self._is_drafted:
            self._end_at_eos()

    def _drafted_again(self, fed: list[int], log_probs: Float32Array) -> list[int]:
        scores = evidence(fed, log_probs)
        if self._scores is not None:
            scores = scores + self._scores
        elif self._draft is not None:
            scores = scores + prior(self._draft, len(scores))
        return continued(scores, self._chain, self.tokens)

    def _end_at_eos(self) -> None:
        """Drop the guesses from `<eos>` on: it is never fed."""
        if EOS in self._guesses:
            del self._guesses[self._guesses.index(EOS) :]

    def ended(self, max_steps: int) -> bool:
        return bool(self.tokens) and (self.tokens[-1] == EOS or len(self.tokens) >= max_steps)

    def generation(self) -> Generation:
        distributions = np.concatenate(self._distributions)
        return Generation(
            tokens=tuple(self.tokens),
            log_probs=tuple(distributions[np.arange(len(self.tokens)), self.tokens].tolist()),
            steps=self._steps,
            margin=self._margin,
            distributions=distributions,
        )
