"""Strategies against a scripted model: what they emit, and what work they ask for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from fakes.backend import FakeBackend, FakeState

from seqpar_deploy.backends.base import Int64Array, StepOutput
from seqpar_deploy.decoding import Beam, Generation, Greedy, Speculative, Strategy
from seqpar_deploy.errors import StrategyError
from seqpar_deploy.vocab import BOS, EOS

VOCABULARY = 9
LIMIT = 6  # attributes


def log_probs_of(scores: dict[int, float]) -> np.ndarray:
    """Log-probabilities (V,) from a few probabilities; the rest share what is left."""
    rest = (1 - sum(scores.values())) / (VOCABULARY - len(scores))
    probabilities = np.full(VOCABULARY, max(rest, 1e-9))
    for token, probability in scores.items():
        probabilities[token] = probability
    return np.log(probabilities).astype(np.float32)


def says(*sequences: Sequence[int]) -> FakeBackend:
    """A model that says sequence c of crop c, with probability 0.9 a token, and `<eos>` after its end."""

    def script(crop: int, tokens: Sequence[int]) -> np.ndarray:
        wanted = [*sequences[crop], EOS]
        # After a wrong prefix the model says something else: strategies must never build on one.
        right = list(tokens[1:]) == wanted[: len(tokens) - 1]
        return log_probs_of({wanted[len(tokens) - 1] if right and len(tokens) <= len(wanted) else 8: 0.9})

    return FakeBackend(script)


def run(strategy: Strategy, backend: FakeBackend, crops: int, limit: int = LIMIT) -> list[Generation]:
    batch = np.arange(crops, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    return strategy.generate(backend, backend.encode(batch), max_steps=limit)


STRATEGIES = [
    Greedy(),
    Beam(width=1),
    Beam(width=3),
    Speculative(window=1),
    Speculative(window=5),
    Speculative(window=64),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_emits_what_the_model_says(strategy: Strategy) -> None:
    said = [(3, 5, 4), (), (7,), (3, 4, 5, 6, 7)]
    generations = run(strategy, says(*said), len(said))
    assert [generation.tokens for generation in generations] == [(*sequence, EOS) for sequence in said]
    for generation in generations:
        assert generation.log_probs == pytest.approx([np.log(0.9)] * len(generation.tokens), abs=1e-6)
        # A beam search may look on after its best hypothesis has ended.
        assert 1 <= generation.steps <= (LIMIT if isinstance(strategy, Beam) else len(generation.tokens))


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_stops_at_the_length_limit_where_no_eos_comes(strategy: Strategy) -> None:
    said = [(3, 4, 5, 6, 7, 3, 4, 5), (4, 4, 4, 4, 4, 4, 4)]
    generations = run(strategy, says(*said), len(said))
    assert [generation.tokens for generation in generations] == [sequence[:LIMIT] for sequence in said]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_results_do_not_depend_on_the_batch(strategy: Strategy) -> None:
    said = [(3, 5, 4), (), (7,), (3, 4, 5, 6, 7, 8), (4, 4)]
    together = run(strategy, says(*said), len(said))
    apart = [run(strategy, says(sequence), 1)[0] for sequence in said]
    assert [generation.tokens for generation in together] == [generation.tokens for generation in apart]


class Reuses(FakeBackend):
    """Returns each step's outputs in the memory of the last step's, as a device may."""

    memory = np.empty(0, dtype=np.float32)

    def step(self, state: FakeState, tokens: Int64Array) -> StepOutput:
        self.memory[:] = np.nan  # nobody may still read it
        output = super().step(state, tokens)
        if self.memory.size < output.log_probs.size:
            self.memory = np.empty(output.log_probs.size * 8, dtype=np.float32)
        log_probs = self.memory[: output.log_probs.size].reshape(output.log_probs.shape)
        log_probs[:] = output.log_probs
        return StepOutput(log_probs, output.next_token)


def random_script(crop: int, tokens: Sequence[int]) -> np.ndarray:
    scores = np.random.default_rng([crop, *tokens]).normal(0, 1, VOCABULARY)
    return np.asarray(scores - np.logaddexp.reduce(scores), dtype=np.float32)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_distributions_are_those_of_each_tokens_step(strategy: Strategy) -> None:
    backend = Reuses(random_script)
    for crop, generation in enumerate(run(strategy, backend, 5, limit=12)):
        fed = [BOS, *generation.tokens]
        expected = [random_script(crop, fed[: place + 1]) for place in range(len(generation.tokens))]
        assert np.array_equal(generation.distributions, expected)
        assert generation.log_probs == tuple(row[token] for row, token in zip(expected, generation.tokens, strict=True))
        # They keep no larger array alive.
        owner = generation.distributions if generation.distributions.base is None else generation.distributions.base
        assert owner.size == len(generation.tokens) * VOCABULARY
        assert generation.distributions.dtype == np.float32


def test_distributions_of_a_device_are_copied() -> None:
    class OnDevice(FakeBackend):
        def greedy(self, state: FakeState, *, stop: int, max_steps: int) -> StepOutput:
            self.output = np.full((len(state.lengths), max_steps, VOCABULARY), -9, dtype=np.float32)
            self.output[:, :, stop] = 0
            return StepOutput(self.output, self.output.argmax(axis=-1))

    backend = OnDevice(random_script)
    generations = run(Greedy(), backend, 2)
    backend.output[:] = np.nan
    for generation in generations:
        assert generation.tokens == (EOS,)
        assert generation.distributions.tolist() == [[0 if token == EOS else -9 for token in range(VOCABULARY)]]
        assert generation.distributions.base is None


def test_greedy_lets_go_of_finished_rows() -> None:
    said = [(), (), (3,), (3, 4, 5, 6, 7, 3)]
    backend = says(*said)
    run(Greedy(), backend, len(said))
    # Two of four end in the first step and are dropped; then one of two; the last goes on alone.
    assert backend.row_steps == [4, 2, 1, 1, 1, 1]


def test_greedy_keeps_a_few_finished_rows_rather_than_gather_for_each() -> None:
    said = [()] + [(3, 4)] * 7
    backend = says(*said)
    run(Greedy(), backend, len(said))
    assert backend.row_steps == [8, 8, 8]


def test_speculation_takes_fewer_steps_when_guesses_are_right() -> None:
    # A model that says the same whatever came before confirms each of its guesses.
    backend = FakeBackend(lambda crop, tokens: log_probs_of({EOS if len(tokens) > 5 else 3 + len(tokens) % 3: 0.9}))
    speculated = run(Speculative(window=8), backend, 1, limit=20)[0]
    assert speculated.tokens == (4, 5, 3, 4, 5, EOS)
    assert speculated.steps == 2


def test_beam_finds_what_greedy_misses() -> None:
    def script(crop: int, tokens: Sequence[int]) -> np.ndarray:
        after = tuple(tokens[1:])
        if after == ():
            return log_probs_of({3: 0.5, 4: 0.4})
        if after == (3,):
            return log_probs_of({5: 0.4, 6: 0.35})
        if after == (4,):
            return log_probs_of({7: 0.95})
        return log_probs_of({EOS: 0.99})

    assert run(Greedy(), FakeBackend(script), 1)[0].tokens == (3, 5, EOS)
    best = run(Beam(width=2), FakeBackend(script), 1)[0]
    assert best.tokens == (4, 7, EOS)
    assert best.log_probs == pytest.approx(np.log([0.4, 0.95, 0.99]), abs=1e-6)


def test_eos_in_the_first_step_ends_a_beam_only_within_the_first_ranks() -> None:
    # `<eos>` ranks third: with two beams it ends none.
    third = FakeBackend(
        lambda crop, tokens: log_probs_of({3: 0.4, 4: 0.3, EOS: 0.2} if len(tokens) == 1 else {EOS: 0.9})
    )
    assert run(Beam(width=2), third, 1)[0].tokens == (3, EOS)
    first = FakeBackend(lambda crop, tokens: log_probs_of({EOS: 0.6, 4: 0.3} if len(tokens) == 1 else {EOS: 0.9}))
    assert run(Beam(width=2), first, 1)[0].tokens == (EOS,)


def test_length_penalty_divides_scores_by_length() -> None:
    def script(crop: int, tokens: Sequence[int]) -> np.ndarray:
        if len(tokens) == 1:
            return log_probs_of({EOS: 0.5, 3: 0.45})
        return log_probs_of({EOS if len(tokens) > 3 else 3: 0.9})

    assert run(Beam(width=2), FakeBackend(script), 1)[0].tokens == (EOS,)
    assert run(Beam(width=2, length_penalty=2.0), FakeBackend(script), 1)[0].tokens == (3, 3, 3, EOS)


def test_finished_crops_leave_the_beam_search() -> None:
    backend = says((), (3, 4))
    run(Beam(width=2), backend, 2)
    assert backend.row_steps[0] == 2  # one row a crop while there is only `<bos>`
    assert max(backend.row_steps[1:]) <= 4


@pytest.mark.parametrize("width", [0, -1, 65])
def test_beam_width_out_of_range(width: int) -> None:
    with pytest.raises(StrategyError, match=f"beam width must be 1 to 64, got {width}"):
        Beam(width=width)


def test_beam_wider_than_the_vocabulary() -> None:
    with pytest.raises(StrategyError, match=r"beam width .*at most 4,.* got 5"):
        run(Beam(width=5), says((3,)), 1)


def test_window_out_of_range() -> None:
    with pytest.raises(StrategyError, match=r"window .*got 0"):
        Speculative(window=0)


def test_the_fake_counts_from_bos() -> None:
    backend = says((3,))
    state = backend.encode(np.zeros((1, 2, 2, 3), np.uint8))
    backend.step(state, np.array([[BOS, 3]]))
    assert state.lengths.tolist() == [2]
    state.truncate(np.array([1]))
    assert state.tokens == [[BOS]]
