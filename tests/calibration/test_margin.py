"""The margin of a probability: a smaller change of the decoder's log-odds never changes a state, fallback included."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from fakes.backend import FakeBackend

from seqpar_deploy.calibration.maps import LogisticMaps, log_odds, probability
from seqpar_deploy.calibration.thresholds import Thresholds
from seqpar_deploy.decoding import Generation, Greedy, Speculative, Strategy
from seqpar_deploy.prediction import prediction_from_generation, smallest_margin
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.vocab import EOS, FIRST_ATTRIBUTE

LABEL_SET = load_label_set("pa100k")
N = len(LABEL_SET)
STEPS = 9


def random_thresholds(rng: np.random.Generator) -> Thresholds:
    """Half of them with a single threshold, the rest with an unknown between two; some are never yes or never no."""
    yes = rng.uniform(0.05, 0.95, N)
    no = np.where(rng.random(N) < 0.5, yes, yes * rng.uniform(0, 1, N))
    yes[rng.random(N) < 0.1], no[rng.random(N) < 0.1] = np.inf, -np.inf
    return Thresholds(yes=yes, no=no, exclusive=LABEL_SET.exclusive)


def random_maps(rng: np.random.Generator) -> LogisticMaps:
    return LogisticMaps(slopes=np.exp(rng.normal(0, 0.5, N)), offsets=rng.normal(0, 0.5, N))


def test_a_smaller_change_of_log_odds_changes_no_state() -> None:
    rng = np.random.default_rng(18)
    changed = 0
    for _ in range(500):
        thresholds, maps = random_thresholds(rng), random_maps(rng)
        odds = rng.normal(0, 3, N)
        margin = thresholds.margin(maps(probability(odds)), maps.slopes)
        for factor in (0.99, 5):
            for _ in range(5):
                moved = odds + factor * margin * rng.choice([-1, 1], N)
                same = thresholds.states(maps(probability(moved))) == thresholds.states(maps(probability(odds)))
                assert same or factor > 1
                changed += not same
    assert changed > 500  # larger ones do


def test_exclusive_attributes_do_not_change_places_within_the_margin() -> None:
    (group, *_) = LABEL_SET.exclusive
    yes, no = np.full(N, np.inf), np.full(N, -np.inf)
    yes[list(group)] = 0.3
    thresholds = Thresholds(yes=yes, no=no, exclusive=LABEL_SET.exclusive)
    odds = np.full(N, -3.0)
    odds[list(group)[:2]] = 1.0, 1.3  # both reach the threshold, far from it
    margin = thresholds.margin(probability(odds), np.ones(N))
    assert margin == pytest.approx(0.15, abs=1e-6)
    for by, best in ((0.14, 1), (0.16, 0)):
        moved = odds.copy()
        moved[list(group)[:2]] += by, -by
        states = thresholds.states(probability(moved))
        assert [states[place] for place in group[:2]] == (["no", "yes"] if best else ["yes", "no"])


def script(noise: float) -> FakeBackend:
    """A model whose log-probabilities are moved by up to `noise`, in a direction per crop, step and token."""

    def scripted(crop: int, tokens: Sequence[int]) -> np.ndarray:
        seed = [crop, *tokens]
        scores = np.random.default_rng(seed).normal(0, 2, FIRST_ATTRIBUTE + N)
        scores[EOS] += 0.5 * len(tokens)
        scores[[0, 2]] = -12  # <bos> and <pad>
        scores -= np.logaddexp.reduce(scores)
        moved = np.random.default_rng([7, *seed]).choice([-1, 1], len(scores)) * noise
        return np.asarray(scores + moved, dtype=np.float32)

    return FakeBackend(scripted)


def generations(backend: FakeBackend, strategy: Strategy, crops: Sequence[int]) -> list[Generation]:
    batch = np.array(crops, dtype=np.uint8)[:, None, None, None]
    return strategy.generate(backend, backend.encode(batch), max_steps=STEPS)


@pytest.mark.parametrize("strategy", [Greedy(), Speculative(window=40)], ids=repr)
@pytest.mark.parametrize("calibrated", [False, True])
def test_what_is_not_run_again_has_the_tokens_and_states_of_native_precision(
    strategy: Strategy, calibrated: bool
) -> None:
    """Log-odds of attributes in order move by twice the noise at most, those of others by four times."""
    rng = np.random.default_rng(5)
    margin = 0.02
    crops = range(200)
    native = generations(script(0), strategy, crops)
    quick = generations(script(0.99 * margin / 4), strategy, crops)
    kept = different = 0
    for _ in range(20):
        thresholds = random_thresholds(rng)
        maps = random_maps(rng) if calibrated else None
        for got, wanted in zip(quick, native, strict=True):
            predictions = [
                prediction_from_generation(one, LABEL_SET, maps=maps, thresholds=thresholds) for one in (got, wanted)
            ]
            same = predictions[0].states == predictions[1].states and got.tokens == wanted.tokens
            if smallest_margin(got, maps, thresholds) >= margin:
                kept += 1
                assert same
            different += not same
    assert kept > 200
    assert different > 20  # which the fallback finds


def test_a_probability_that_is_no_number_is_in_doubt() -> None:
    (generation,) = generations(script(0), Greedy(), [3])
    thresholds = Thresholds(yes=np.full(N, 0.5), no=np.full(N, 0.5))
    generation.distributions[0, FIRST_ATTRIBUTE] = np.nan
    assert not smallest_margin(generation, None, thresholds) >= 0


def test_log_odds_of_certain_probabilities_are_finite() -> None:
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()


def test_states_of_one_person_are_those_of_many() -> None:
    rng = np.random.default_rng(2)
    names = {1: "yes", 0: "no", -1: "unknown"}
    for _ in range(50):
        thresholds = random_thresholds(rng)
        probabilities = rng.choice(np.append(rng.random(9), np.nan), (20, N)).astype(np.float32)  # with equal ones
        expected = [tuple(names[code] for code in row) for row in thresholds.codes(probabilities).tolist()]
        assert [thresholds.states(row) for row in probabilities] == expected
