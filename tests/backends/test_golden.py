"""The exported graphs equal the published code on every CPU runtime, within the same bounds as the eager network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import GOLDEN_NAMES, Golden

from seqpar_deploy.backends import open_backend
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.decoding import Beam, Greedy, Speculative

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("name", GOLDEN_NAMES)]


@pytest.fixture
def expected(name: str, golden: Callable[[str], Golden]) -> Golden:
    return golden(name)


@pytest.fixture
def backend(name: str, golden_bundle: Callable[[str], Bundle], cpu_backend: str) -> object:
    return open_backend(golden_bundle(name), cpu_backend)


def test_teacher_forced_log_probs_in_one_step_of_many_tokens(backend, expected: Golden) -> None:
    state = backend.encode(expected.expected["images"].numpy())
    log_probs = backend.step(state, expected.expected["teacher_tokens"].numpy()).log_probs
    difference = np.abs(log_probs - expected.expected["teacher_log_probs_f64"].numpy())
    assert np.median(difference) <= 1e-4
    assert difference.max() <= 5e-2


def test_teacher_forced_log_probs_step_by_step_through_the_cache(backend, expected: Golden) -> None:
    # One row holds <pad> tokens at its end: their keys must stay masked for every later step.
    state = backend.encode(expected.expected["images"].numpy())
    tokens = expected.expected["teacher_tokens"].numpy()
    steps = [backend.step(state, tokens[:, t : t + 1]).log_probs for t in range(tokens.shape[1])]
    difference = np.abs(np.concatenate(steps, axis=1) - expected.expected["teacher_log_probs_f64"].numpy())
    assert np.median(difference) <= 1e-4
    assert difference.max() <= 5e-2


def test_generated_sequences(backend, expected: Golden) -> None:
    images = expected.expected["images"].numpy()
    for width in expected.beam_widths:
        generations = Beam(width=width).generate(backend, backend.encode(images), max_steps=len(expected.label_set))
        assert [generation.tokens for generation in generations] == expected.sequences(width), f"beam width {width}"


@pytest.mark.parametrize("strategy", [Greedy(), Speculative(window=1), Speculative(window=7), Speculative(window=64)])
def test_greedy_and_speculative_decoding_agree(backend, expected: Golden, strategy) -> None:
    images = expected.expected["images"].numpy()
    generations = strategy.generate(backend, backend.encode(images), max_steps=len(expected.label_set))
    assert [generation.tokens for generation in generations] == expected.sequences(1)
