"""The probability of every attribute against a slow reference in float64, which follows the definition word by word."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from seqpar_deploy.calibration.probabilities import (
    attribute_probabilities,
    largest_changes,
    probabilities_of_many,
)
from seqpar_deploy.vocab import BOS, EOS, FIRST_ATTRIBUTE, PAD

N = 7  # attributes
INF = float("inf")


def slow(tokens: Sequence[int], log_probs: np.ndarray) -> list[float]:
    """The definition, one attribute and one sum at a time. Attributes count from 0."""
    p = [[math.exp(value) for value in row] for row in log_probs.tolist()]
    attributes = [token - FIRST_ATTRIBUTE for token in tokens]
    new = [s for s, a in enumerate(attributes) if a >= 0 and a not in attributes[:s]]
    end = min(new[-1] + 1, len(tokens) - 1) if new else 0
    return [one_slow(i, attributes, new, end, p) for i in range(log_probs.shape[1] - FIRST_ATTRIBUTE)]


def one_slow(i: int, attributes: list[int], new: list[int], end: int, p: list[list[float]]) -> float:
    answering = [s for s in new if attributes[s] >= i]
    step = answering[0] if answering else end
    greatest = max([a for a in attributes[:step] if a >= 0], default=-1)
    own = p[step][FIRST_ATTRIBUTE + i]
    others = [PAD, BOS, EOS]
    others += [FIRST_ATTRIBUTE + j for j in range(len(p[step]) - FIRST_ATTRIBUTE) if j >= i or j <= greatest]
    mass = math.fsum(p[step][token] for token in others)
    found = own / mass if mass else 0.0
    emitted = [s for s in new if attributes[s] == i]
    if emitted and max(attributes[: emitted[0]], default=-1) > i:  # out of order
        found = 1 - (1 - found) * (1 - p[emitted[0]][FIRST_ATTRIBUTE + i])
    return found


def random_log_probs(rng: np.random.Generator, steps: int, *, spread: float, attributes: int = N) -> np.ndarray:
    scores = rng.normal(0, spread, (steps, FIRST_ATTRIBUTE + attributes))
    return np.asarray(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True), dtype=np.float32)


def random_tokens(rng: np.random.Generator, attributes: int) -> list[int]:
    """Ordered, shuffled or with repeats and special tokens; with an `<eos>` at its end or without."""
    some = rng.permutation(attributes)[: rng.integers(0, attributes + 1)] + FIRST_ATTRIBUTE
    kind = rng.integers(0, 4)
    tokens = (sorted(some.tolist()), some.tolist(), rng.integers(0, FIRST_ATTRIBUTE + attributes, 9).tolist())[
        min(kind, 2)
    ]
    if kind == 3:
        tokens = [*sorted(some.tolist()), *rng.choice(np.append(some, PAD), 3).tolist()]
    return [*tokens, EOS] if rng.random() < 0.6 or not tokens else tokens


@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0, 30.0])
def test_it_equals_the_definition(spread: float) -> None:
    rng = np.random.default_rng(18)
    for _ in range(1000):
        attributes = int(rng.integers(1, N + 1))
        tokens = random_tokens(rng, attributes)
        log_probs = random_log_probs(rng, len(tokens), spread=spread, attributes=attributes)
        log_probs[rng.random(log_probs.shape) < 0.1] = -INF
        got = attribute_probabilities(tokens, log_probs)
        assert (got.dtype, got.shape) == (np.float32, (attributes,))
        np.testing.assert_allclose(got, slow(tokens, log_probs), rtol=0, atol=1e-6)
        assert np.all((got >= 0) & (got <= 1))


def case(tokens: Sequence[int], rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the probabilities of a sequence. Rows are probabilities of `<bos>`, `<eos>`, `<pad>` and attributes."""
    with np.errstate(divide="ignore"):
        return attribute_probabilities(tokens, np.log(np.array(rows), dtype=np.float32)).tolist()


A, B, C = FIRST_ATTRIBUTE, FIRST_ATTRIBUTE + 1, FIRST_ATTRIBUTE + 2
FIRST, SECOND = (0, 0.1, 0, 0.2, 0.6, 0.1), (0, 0.5, 0, 0.1, 0.1, 0.3)


@pytest.mark.parametrize(
    ("tokens", "rows", "expected"),
    [
        # Attributes up to the first token are answered by the first step, the rest by the <eos>.
        ((B, EOS), (FIRST, SECOND), (0.2, 0.6 / 0.8, 0.3)),
        ((EOS,), (FIRST,), (0.2, 0.6 / 0.8, 0.1 / 0.2)),
        ((C,), (FIRST,), (0.2, 0.6 / 0.8, 0.1 / 0.2)),  # the steps run out
        ((B,), (FIRST,), (0.2, 0.6 / 0.8, 0.1 / 0.2)),
        ((B, B), (FIRST, SECOND), (0.2, 0.6 / 0.8, 0.3)),  # no <eos>: the repeat is the end
        ((B, B, B, C, EOS), (FIRST, FIRST, FIRST, SECOND, FIRST), (0.2, 0.75, 0.3)),  # repeats answer nothing
        ((PAD, B, EOS), (SECOND, FIRST, SECOND), (0.2, 0.75, 0.3)),  # nor do special tokens
        ((EOS, B, EOS), (SECOND, FIRST, SECOND), (0.2, 0.75, 0.3)),
        ((C, A, EOS), (FIRST, SECOND, FIRST), (1 - 0.8 * 0.9, 0.75, 0.5)),  # A had two chances
        ((C, A, B, A), (FIRST, SECOND, FIRST, SECOND), (1 - 0.8 * 0.9, 1 - 0.25 * 0.4, 0.5)),
        ((B, A), (FIRST, SECOND), (1 - 0.8 * 0.9, 0.75, 0.3)),
        ((EOS,), ((0, 0, 0, 1, 0, 0),), (1, 0, 0)),  # B and C: nothing is left, so 0
    ],
)
def test_by_hand(tokens: Sequence[int], rows: Sequence[Sequence[float]], expected: Sequence[float]) -> None:
    assert case(tokens, rows) == pytest.approx(list(expected), abs=1e-6)


def test_what_follows_the_end_is_not_read() -> None:
    log_probs = random_log_probs(np.random.default_rng(0), 5, spread=1)
    tokens = (A, C, A, A, A)
    changed = log_probs.copy()
    changed[3:] = np.nan
    assert attribute_probabilities(tokens, changed).tolist() == attribute_probabilities(tokens, log_probs).tolist()


@pytest.mark.parametrize("bad", [np.nan, INF, 1e30])
def test_numbers_that_are_none_stay_so_without_a_warning(bad: float) -> None:
    log_probs = np.full((2, FIRST_ATTRIBUTE + N), bad, np.float32)
    for tokens in ((A, EOS), (C, A)):
        assert np.isnan(attribute_probabilities(tokens, log_probs)).all()


def test_one_number_that_is_none_spoils_those_it_has_a_part_in() -> None:
    log_probs = random_log_probs(np.random.default_rng(0), 2, spread=1)
    log_probs[1, C] = np.nan
    got = attribute_probabilities((A, EOS), log_probs)
    assert np.isnan(got).tolist() == [False, True, True] + [False] * (N - 3)  # A was answered before, the others skip C


def test_nothing_is_certain_of_no_mass() -> None:
    got = attribute_probabilities((EOS,), np.full((1, FIRST_ATTRIBUTE + N), -INF, np.float32))
    assert got.tolist() == [0.0] * N


def test_an_error_of_log_probabilities_moves_a_probability_by_no_more() -> None:
    """The bound that the parity gate relies on: half the error, and all of it for an attribute out of order."""
    rng = np.random.default_rng(3)
    for error in (1e-3, 0.1, 1.0):
        for _ in range(300):
            tokens = random_tokens(rng, N)
            log_probs = random_log_probs(rng, len(tokens), spread=2)
            scores = log_probs + rng.choice([-0.5, 0.5], log_probs.shape) * error
            # A distribution again: normalising adds at most error / 2.
            moved = (scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)).astype(np.float32)
            most = float(np.abs(moved - log_probs).max())
            changes = np.abs(attribute_probabilities(tokens, moved) - attribute_probabilities(tokens, log_probs))
            assert np.all(changes <= largest_changes(tokens, N, most) + 1e-6)


def test_a_batch_has_the_probabilities_of_each_sequence() -> None:
    rng = np.random.default_rng(4)
    tokens = [random_tokens(rng, N) for _ in range(30)]
    sequences = [(some, random_log_probs(rng, len(some), spread=2)) for some in tokens]
    for expected, got in zip(sequences, probabilities_of_many(sequences), strict=True):
        assert got.tolist() == attribute_probabilities(*expected).tolist()
