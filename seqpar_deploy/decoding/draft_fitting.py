"""Fit a draft head on a bundle's own answers to crops, without labels, torch or more than NumPy.

The targets are the log-odds of the probabilities that the decoder gives each attribute, which say more per crop than
its tokens do. A ridge regression predicts them from the pooled image tokens and from the attributes emitted before.
Log-odds, the chain and 1,000 crops reach 1.8 calls on real people; tokens without the chain 2.0.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from seqpar_deploy.backends.base import Backend, Float32Array
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.calibration.maps import log_odds
from seqpar_deploy.calibration.probabilities import probabilities_of_many
from seqpar_deploy.decoding.base import Generation
from seqpar_deploy.decoding.drafts import LIMIT, DraftHead, Float64Array, continued, is_ascending
from seqpar_deploy.decoding.greedy import Greedy
from seqpar_deploy.errors import BackendError
from seqpar_deploy.preprocess import Crop, prepare_by_columns
from seqpar_deploy.progress import OnProgress
from seqpar_deploy.vocab import EOS, FIRST_ATTRIBUTE

LEAST_CROPS = 40  # fewer crops give no draft head: a fold would be too small to hold anything out
_BATCH = 8
_CHUNK = 4 * _BATCH  # crops that are sorted by width at a time
_FOLDS = 5
_CHAIN_RIDGE = 1.0
_RIDGES = (1 / 6, 1 / 2, 2.0)  # per pooled channel; the best one by held-out calls is used


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answers:
    """Hold a model's answers to M crops.

    Attributes:
        pooled: Pooled image tokens, float32 (M, 3d).
        tokens: The greedy sequence of each crop.
        odds: Log-odds of each attribute's probability, float64 (M, n).
        places: Place of each crop among those that were passed. Crops of one width come together.
    """

    pooled: Float32Array
    tokens: list[tuple[int, ...]]
    odds: Float64Array
    places: list[int]

    def rows(self, rows: Sequence[int]) -> Answers:
        """Return some of the crops."""
        return Answers(
            pooled=self.pooled[rows],
            tokens=[self.tokens[row] for row in rows],
            odds=self.odds[rows],
            places=[self.places[row] for row in rows],
        )


def collect_answers(
    bundle: Bundle,
    backend: Backend[Any],
    crops: Iterable[Crop],
    *,
    most: int,
    seconds: float = float("inf"),
    least: int = 0,
    on_progress: OnProgress = lambda _done, _total: None,
) -> Answers | None:
    """Decode crops greedily until there are `most`, or `seconds` have passed and there are `least`.

    Args:
        bundle: The bundle.
        backend: The bundle, open on a backend in native precision.
        crops: Raw crops, uint8 (h, w, 3), as many as are needed.
        most: The largest number of crops.
        seconds: Time budget. Default: no limit.
        least: Crops that are decoded even if they take longer. Default: 0.
        on_progress: Called with crops done and crops in total.

    Returns:
        The answers, or None if the encoder returns no pooled image tokens or there are no crops.
    """
    pooled: list[Float32Array] = []
    generations: list[Generation] = []
    places: list[int] = []
    taken = 0  # crops before this chunk
    end = time.monotonic() + seconds
    crops = itertools.islice(crops, most)
    size = min(_BATCH, backend.max_rows or _BATCH)
    while chunk := list(itertools.islice(crops, _CHUNK)):
        for rows, prepared in prepare_by_columns(
            chunk,
            size,
            trimming=bundle.trimming,
            image_size=bundle.dimensions.image_size,
            preprocessing=bundle.preprocessing,
        ):
            state = backend.encode(prepared)
            if (found := getattr(state, "pooled", None)) is None:
                return None
            pooled.append(np.array(found, dtype=np.float32))
            generations += Greedy().generate(backend, state, max_steps=bundle.dimensions.capacity - 1)
            places += [taken + row for row in rows]
            on_progress(len(generations), most)
            if time.monotonic() > end and len(generations) >= least:
                return _answers(pooled, generations, places)
        taken += len(chunk)
    return _answers(pooled, generations, places) if generations else None


def _answers(pooled: list[Float32Array], generations: list[Generation], places: list[int]) -> Answers:
    probabilities = probabilities_of_many([(one.tokens, one.distributions) for one in generations])
    odds = np.clip(log_odds(probabilities), -LIMIT, LIMIT)
    tokens = [one.tokens for one in generations]
    answers = Answers(pooled=np.concatenate(pooled), tokens=tokens, odds=odds, places=places)
    if not (np.isfinite(answers.pooled).all() and np.isfinite(odds).all()):
        raise BackendError(
            "the model's outputs must be finite to fit drafts on, got NaN or infinity; run seqpar parity"
        )
    return answers


def fit_head(answers: Answers) -> DraftHead | None:
    """Fit a draft head, and count its decoder calls on held-out crops.

    Folds are runs of consecutive crops, because neighbours may show the same person.

    Returns:
        The head, or None if there are fewer than 40 crops.
    """
    crops = len(answers.tokens)
    if crops < LEAST_CROPS:
        return None
    folds = [fold.tolist() for fold in np.array_split(np.arange(crops), _FOLDS)]
    channels = answers.pooled.shape[1]
    calls = {ridge: [0] * crops for ridge in _RIDGES}
    constant_calls = [0] * crops
    for fold in folds:
        held = set(fold)
        rest = answers.rows([row for row in range(crops) if row not in held])
        tested = answers.rows(fold)
        constant = most_frequent(rest.tokens)
        for row, tokens in zip(fold, tested.tokens, strict=True):
            constant_calls[row] = calls_by_position(constant, tokens)
        for ridge in _RIDGES:
            weights, bias, chain = _fit(rest, ridge * channels)
            for row, scores, tokens in zip(fold, tested.pooled @ weights + bias, tested.tokens, strict=True):
                calls[ridge][row] = calls_with_scores(scores, chain, tokens)
    best = min(_RIDGES, key=lambda ridge: np.mean(calls[ridge]))
    weights, bias, chain = _fit(answers, best * channels)
    by_scores, by_constant = float(np.mean(calls[best])), float(np.mean(constant_calls))
    return DraftHead(
        weights=weights,
        bias=bias,
        chain=chain,
        constant=most_frequent(answers.tokens),
        is_constant=by_constant < by_scores,
        calls=min(by_scores, by_constant),
        greedy_calls=float(np.mean([len(tokens) for tokens in answers.tokens])),
        crops=crops,
    )


def held_out_calls(head: DraftHead, answers: Answers) -> float:
    """Return the mean decoder calls per crop of a head that was fitted on other crops."""
    if head.is_constant:
        return float(np.mean([calls_by_position(head.constant, tokens) for tokens in answers.tokens]))
    rows = zip(head.scores(answers.pooled), answers.tokens, strict=True)
    return float(np.mean([calls_with_scores(scores, head.chain, tokens) for scores, tokens in rows]))


def most_frequent(sequences: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the most frequent sequence, of equally frequent ones the first."""
    return Counter(sequences).most_common(1)[0][0]


def calls_with_scores(scores: Float64Array, chain: Float32Array, tokens: Sequence[int]) -> int:
    """Return the decoder calls that a sequence takes if each wrong draft is continued from the scores.

    `Speculative` also uses the model's outputs after a wrong guess, so it takes fewer.
    """
    calls, right = 0, 0
    while right < len(tokens):
        calls += 1
        emitted = tokens[:right]
        if not is_ascending(emitted):
            return calls + len(tokens) - right  # one by one, at worst
        guesses = continued(scores, chain, emitted)
        right += _agreeing(guesses, tokens[right:]) + 1
        if right and tokens[right - 1 : right] == (EOS,):
            break
    return calls


def calls_by_position(draft: Sequence[int], tokens: Sequence[int]) -> int:
    """Return the decoder calls that a sequence takes if a draft is kept after each wrong guess, by position."""
    wrong = sum(a != b for a, b in itertools.zip_longest(draft[: len(tokens)], tokens))
    last_is_wrong = len(draft) < len(tokens) or draft[len(tokens) - 1] != tokens[-1]
    return max(1, int(wrong + 1 - last_is_wrong))


def _agreeing(guesses: Sequence[int], tokens: Sequence[int]) -> int:
    """Return the number of guesses before the first wrong one. A right `<eos>` is the answer to the last guess."""
    agreeing = 0
    for guess, token in zip(guesses, tokens, strict=False):
        if guess != token or guess == EOS:
            break
        agreeing += 1
    return agreeing


def _fit(answers: Answers, ridge: float) -> tuple[Float32Array, Float32Array, Float32Array]:
    """Return weights (3d, n), bias (n,) and chain (n, n) of a ridge regression.

    Attribute i has the pooled channels and the emitted attributes before i as inputs. All attributes share one
    factorisation of the channels, since the attributes before i are eliminated from it (Schur complement).
    """
    pooled = answers.pooled.astype(np.float64)
    mean, scale = pooled.mean(axis=0), pooled.std(axis=0) + 1e-6
    x = (pooled - mean) / scale
    n = answers.odds.shape[1]
    emitted = np.zeros((len(x), n))
    for row, tokens in enumerate(answers.tokens):
        emitted[row, [token - FIRST_ATTRIBUTE for token in tokens if token >= FIRST_ATTRIBUTE]] = 1
    share, level = emitted.mean(axis=0), answers.odds.mean(axis=0)
    y, z = answers.odds - level, emitted - share
    # (3d, 2n): the regressions of targets and of emitted attributes on the channels alone.
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += ridge
    of_targets, of_emitted = np.hsplit(np.linalg.solve(gram, x.T @ np.hstack([y, z])), 2)
    left = z.T @ (z - x @ of_emitted)
    left[np.diag_indices_from(left)] += _CHAIN_RIDGE
    right = z.T @ (y - x @ of_targets)
    chain = np.zeros((n, n))
    for i in range(1, n):
        chain[:i, i] = np.linalg.solve(left[:i, :i], right[:i, i])
    weights = (of_targets - of_emitted @ chain) / scale[:, None]
    bias = level - share @ chain - mean @ weights
    return weights.astype(np.float32), bias.astype(np.float32), chain.astype(np.float32)
