"""Draft heads: what they draft, what a fit finds, which files are refused, and that no draft changes a token."""

from __future__ import annotations

import dataclasses
import io
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.backend import FakeBackend, FakeState

from seqpar_deploy.backends.base import StepOutput
from seqpar_deploy.bundle import DRAFT, TUNED_DRAFT, Bundle
from seqpar_deploy.decoding import DraftHead, Greedy, Speculative
from seqpar_deploy.decoding.choice import default_strategy, verifying
from seqpar_deploy.decoding.draft_fitting import (
    Answers,
    calls_by_position,
    calls_with_scores,
    fit_head,
    held_out_calls,
)
from seqpar_deploy.decoding.drafts import (
    check_drafts,
    continued,
    decode_head,
    encode_head,
    evidence,
    load_head,
    prior,
    save_head,
)
from seqpar_deploy.errors import BundleFormatError, StrategyError
from seqpar_deploy.vocab import EOS, FIRST_ATTRIBUTE

N = 6  # attributes
V = N + FIRST_ATTRIBUTE
CHANNELS = 9


def head_of(**changes: Any) -> DraftHead:
    made = DraftHead(
        weights=np.zeros((CHANNELS, N), np.float32),
        bias=np.array([1, -1, 1, -1, -1, 1], np.float32),
        chain=np.zeros((N, N), np.float32),
        constant=(3, 5, EOS),
        is_constant=False,
        calls=1.5,
        greedy_calls=4.0,
        crops=100,
    )
    return dataclasses.replace(made, **changes)


class Pooled(FakeState):
    def __init__(self, crops: Sequence[int], pooled: np.ndarray) -> None:
        super().__init__(crops)
        self.pooled = pooled

    def reorder(self, rows: np.ndarray) -> None:
        super().reorder(rows)
        self.pooled = self.pooled[rows]


class Watched(FakeBackend):
    """Remembers the tokens per row of every step."""

    def __init__(self, script: Any) -> None:
        super().__init__(script)
        self.widths: list[int] = []

    def step(self, state: FakeState, tokens: np.ndarray) -> StepOutput:
        self.widths.append(tokens.shape[1])
        return super().step(state, tokens)


def set_script(crop: int, tokens: Sequence[int]) -> np.ndarray:
    """A model of ordered sets: each attribute depends on the crop and on the attributes before it."""
    after = max([FIRST_ATTRIBUTE - 1, *tokens[1:]])
    scores = np.full(V, -20.0)
    rng = np.random.default_rng([crop, *tokens])
    scores[after + 1 :] = rng.normal(0, 1, V - after - 1)
    scores[EOS] = rng.normal(0, 1)
    return np.asarray(scores - np.logaddexp.reduce(scores), dtype=np.float32)


def any_script(crop: int, tokens: Sequence[int]) -> np.ndarray:
    scores = np.random.default_rng([crop, *tokens]).normal(0, 1, V)
    return np.asarray(scores - np.logaddexp.reduce(scores), dtype=np.float32)


def random_head(seed: int, **changes: Any) -> DraftHead:
    rng = np.random.default_rng(seed)
    arrays = {name: rng.normal(0, 1, shape).astype(np.float32) for name, shape in (("bias", N), ("chain", (N, N)))}
    return head_of(**arrays, weights=rng.normal(0, 1, (CHANNELS, N)).astype(np.float32), **changes)


DRAFTS: list[Any] = [None, (), (EOS,), (3, 4, 5, 6, 7, 8, EOS), (8, 8, 8), (2, 0, 1, 5), (4, 6, EOS), (3, 3, EOS)]


@pytest.mark.parametrize("script", [set_script, any_script])
@pytest.mark.parametrize("head", [None, random_head(1), random_head(2), random_head(3, is_constant=True)])
@pytest.mark.parametrize("crops", [1, 8])
def test_no_draft_changes_a_token(script: Any, head: DraftHead | None, crops: int) -> None:
    pooled = np.random.default_rng(5).normal(0, 1, (crops, CHANNELS)).astype(np.float32)
    expected = Greedy().generate(FakeBackend(script), Pooled(range(crops), pooled), max_steps=N)
    for shift in range(len(DRAFTS) if crops == 1 else 2):
        drafts = [DRAFTS[(row + shift) % len(DRAFTS)] for row in range(crops)]
        state = Pooled(range(crops), pooled)
        found = Speculative(head=head).generate(FakeBackend(script), state, max_steps=N, drafts=drafts)
        for one, wanted in zip(found, expected, strict=True):
            assert (one.tokens, one.log_probs, one.margin) == (wanted.tokens, wanted.log_probs, wanted.margin)
            np.testing.assert_array_equal(one.distributions, wanted.distributions)
            assert one.steps <= len(one.tokens)


@pytest.mark.parametrize("script", [set_script, any_script])
def test_a_right_draft_takes_one_call(script: Any) -> None:
    for crop in range(20):
        wanted = Greedy().generate(FakeBackend(script), FakeState([crop]), max_steps=N)[0].tokens
        backend = FakeBackend(script)
        (found,) = Speculative().generate(backend, FakeState([crop]), max_steps=N, drafts=[wanted])
        # A sequence that does not end is as long as the limit, which one call cannot reach with its last answer.
        assert found.steps == len(backend.row_steps) == 1, (wanted, found.tokens)


def test_one_wrong_attribute_takes_one_more_call() -> None:
    wanted = [3, 4, 6, 8, EOS]

    def script(crop: int, tokens: Sequence[int]) -> np.ndarray:
        after = max([FIRST_ATTRIBUTE - 1, *tokens[1:]])
        probabilities, rest = np.full(V, 1e-9), 1.0
        for token in range(after + 1, V):
            chance = 0.9 if token in wanted else 0.1
            probabilities[token], rest = rest * chance, rest * (1 - chance)
        probabilities[EOS] = rest
        return np.asarray(np.log(probabilities), dtype=np.float32)

    for draft in [(3, 4, 5, 6, 8, EOS), (3, 4, 8, EOS), (4, 6, 8, EOS), (3, 4, 6, EOS), (3, 4, 6, 7, 8, EOS)]:
        (found,) = Speculative().generate(FakeBackend(script), FakeState([0]), max_steps=N, drafts=[draft])
        assert (found.tokens, found.steps) == (tuple(wanted), 2), draft


def test_larger_batches_are_decoded_greedily() -> None:
    strategy = Speculative(head=random_head(1), largest_batch=2)
    for crops, widest in ((2, True), (3, False)):
        backend = Watched(set_script)
        strategy.generate(backend, Pooled(range(crops), np.zeros((crops, CHANNELS), np.float32)), max_steps=N)
        assert (max(backend.widths) > 1) == widest
    with pytest.raises(StrategyError, match="largest_batch"):
        Speculative(largest_batch=0)


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_pooled_features_that_are_not_finite_do_not_stop_decoding(spoil: float) -> None:
    pooled = np.full((1, CHANNELS), spoil, np.float32)
    (found,) = Speculative(head=random_head(1)).generate(FakeBackend(set_script), Pooled([3], pooled), max_steps=N)
    assert found.tokens == Greedy().generate(FakeBackend(set_script), FakeState([3]), max_steps=N)[0].tokens


def test_the_chain_adds_to_later_attributes_only() -> None:
    chain = np.zeros((N, N), np.float32)
    chain[0, 3] = 5  # attribute 0 brings attribute 3
    scores = np.array([1.0, -1, -1, -2, -1, -1])
    assert continued(scores, None) == [3, EOS]
    assert continued(scores, chain) == [3, 6, EOS]
    assert continued(scores, chain, [3]) == [6, EOS]
    assert continued(scores, chain, [3, 8]) == [EOS]
    assert continued(scores - 5, chain, [5]) == [EOS]


def test_evidence_is_read_at_the_step_that_decides() -> None:
    log_probs = np.full((2, V), -9, np.float32)
    log_probs[0, 4], log_probs[1, 7] = 0, 0  # after <bos> comes 4; after 5 comes 7
    odds = evidence([0, 5], log_probs)
    assert [FIRST_ATTRIBUTE + int(place) for place in np.flatnonzero(odds > 0)] == [4, 7]
    assert np.isfinite(evidence([0, 5], np.full((2, V), np.nan, np.float32))).all()


def answers_of(crops: int, *, ordered: bool = True) -> Answers:
    """Answers of a linear model, or of one that says the same sequence of repeats to everyone."""
    rng = np.random.default_rng(7)
    weights = rng.normal(0, 3, (CHANNELS, N))
    pooled = rng.normal(0, 1, (crops, CHANNELS)).astype(np.float32)
    odds = np.clip(pooled @ weights, -8, 8)
    tokens = [(*(np.flatnonzero(row > 0) + FIRST_ATTRIBUTE).tolist(), EOS) for row in odds]
    return Answers(
        pooled=pooled, tokens=tokens if ordered else [(5, 4, 4, 5, 4, 5)] * crops, odds=odds, places=list(range(crops))
    )


def test_a_fit_drafts_what_the_model_says() -> None:
    head = fit_head(answers_of(400))
    assert head is not None
    assert not head.is_constant
    fresh = answers_of(500).rows(range(400, 500))
    assert held_out_calls(head, fresh) < 1.7 < head.greedy_calls
    assert head.calls == pytest.approx(held_out_calls(head, fresh), abs=0.3)
    assert head.draft(fresh.pooled)[0][-1] == EOS


def test_a_fit_of_sequences_that_are_no_sets_is_constant() -> None:
    head = fit_head(answers_of(60, ordered=False))
    assert head is not None
    assert head.is_constant
    assert (head.calls, head.constant) == (1.0, (5, 4, 4, 5, 4, 5))
    assert head.draft(np.zeros((2, CHANNELS), np.float32)) == [head.constant] * 2


def test_few_crops_give_no_head() -> None:
    assert fit_head(answers_of(39)) is None


def test_calls_are_counted() -> None:
    assert calls_by_position((3, 4, EOS), (3, 4, EOS)) == 1
    assert calls_by_position((3, 5, EOS), (3, 4, EOS)) == 2
    assert calls_by_position((3, 4), (3, 4, EOS)) == 1
    assert calls_by_position((7, 7, 7), (3, 4, EOS)) == 3
    scores, chain = np.array([1.0, 1, -1, -1, -1, -1]), np.zeros((N, N), np.float32)
    assert calls_with_scores(scores, chain, (3, 4, EOS)) == 1
    assert calls_with_scores(scores, chain, (3, EOS)) == 1 + 0
    assert calls_with_scores(scores, chain, (4, 7, EOS)) == 3
    assert calls_with_scores(scores, chain, (3, 3, 3)) == 3


def test_files_are_read_back() -> None:
    head = random_head(4, constant=(3, EOS), is_constant=True, calls=2.5)
    back = decode_head(encode_head(head, "abc"), attributes=N, source="x", bundle="abc")
    assert (back.constant, back.is_constant, back.calls, back.crops) == ((3, EOS), True, 2.5, 100)
    np.testing.assert_array_equal(back.weights, head.weights)


def npz(**changes: Any) -> bytes:
    content = io.BytesIO(encode_head(head_of()))
    with np.load(content) as arrays:
        values = {**arrays, **changes}
    out = io.BytesIO()
    np.savez(out, **{name: value for name, value in values.items() if value is not None})
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "damaged"),
        (encode_head(head_of())[:200], "damaged"),
        (npz(format=2), "format"),
        (npz(bundle=np.str_("other")), "bundle"),
        (npz(weights=None), "weights is missing"),
        (npz(constant=None), "constant is missing"),
        (npz(weights=np.zeros((CHANNELS, N + 1), np.float32)), "weights"),
        (npz(chain=np.zeros((N, N))), "chain"),
        (npz(bias=np.full(N, np.nan, np.float32)), "finite"),
        (npz(weights=np.full((CHANNELS, N), np.inf, np.float32)), "finite"),
        (npz(constant=np.array([3, V])), "constant"),
        (npz(constant=np.array([], np.int64)), "constant"),
        (npz(calls=np.nan), "calls"),
        (npz(greedy_calls=99.0), "greedy_calls"),
        (npz(bias=np.array([object()], dtype=object)), "damaged"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(content: bytes, named: str) -> None:
    with pytest.raises(BundleFormatError, match=named) as caught:
        decode_head(content, attributes=N, source="draft.npz")
    assert "\n" not in str(caught.value)


def test_a_head_of_another_label_set_is_refused() -> None:
    with pytest.raises(BundleFormatError, match="7 attributes"):
        decode_head(encode_head(head_of()), attributes=7, source="draft.npz")


@pytest.mark.parametrize(
    ("drafts", "named"), [([None], "2"), ([None, (3, V)], r"drafts\[1\]"), ([(-1,), None], r"drafts\[0\]")]
)
def test_drafts_are_checked(drafts: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        check_drafts(drafts, 2, V)
    check_drafts([None, (3, EOS)], 2, V)


def test_the_default_strategy_speculates_where_drafts_pay() -> None:
    backend: Any = FakeBackend(set_script)
    assert default_strategy(backend, None) == Greedy()
    assert default_strategy(backend, head_of(calls=3.0, greedy_calls=4.0)) == Greedy()
    chosen = default_strategy(backend, head_of(calls=1.5, greedy_calls=6.0))
    assert isinstance(chosen, Speculative)
    assert chosen.largest_batch is not None
    assert chosen.head is not None
    assert verifying(chosen) == Speculative()
    assert verifying(Greedy()) == Greedy()

    class OnDevice(FakeBackend):
        def greedy(self, state: Any, *, stop: int, max_steps: int) -> Any: ...

    assert default_strategy(OnDevice(set_script), head_of(calls=1.5, greedy_calls=6.0)) == Greedy()  # type: ignore


def test_prior_prefers_the_draft() -> None:
    odds = prior((3, 8, EOS), N)
    assert (odds > 0).tolist() == [True, False, False, False, False, True]


def test_a_tuned_head_replaces_the_exported_one(
    bundle_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = Bundle.open(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    n = len(bundle.label_set)
    shapes = {"weights": (4, n), "bias": (n,), "chain": (n, n)}
    head = head_of(**{name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
    assert load_head(bundle) is None
    assert save_head(bundle, head) == bundle.path / TUNED_DRAFT
    found = load_head(bundle)
    assert found is not None
    assert found.calls == head.calls
    for spoilt in (b"no archive", encode_head(head, "of another bundle")):
        (bundle.path / TUNED_DRAFT).write_bytes(spoilt)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert load_head(bundle) is None
        assert len(caplog.records) == 1
        assert TUNED_DRAFT in caplog.text
    assert DRAFT not in bundle.manifest["files"]
