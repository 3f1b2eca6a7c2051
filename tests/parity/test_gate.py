"""The parity check against scripted models: what it lets pass, and what it calls a breach."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence

import numpy as np
import pytest
from fakes.backend import FakeBackend

from seqpar_deploy.decoding import Greedy
from seqpar_deploy.errors import ParityError
from seqpar_deploy.parity.gate import check_parity, first_divergence
from seqpar_deploy.parity.probabilities import compare_probabilities, wrong_probability
from seqpar_deploy.parity.reference import Reference, reference_generations
from seqpar_deploy.parity.report import ParityReport
from seqpar_deploy.parity.tolerances import ParityTolerances
from seqpar_deploy.vocab import BOS, EOS, PAD

VOCABULARY = 8
LIMIT = 5  # attributes
SAID = [(3, 4), (), (7, 6, 5, 4, 3), (5,), (3, 5), (6, 7)]  # by the checkpoint, of each crop
TOLERANCES = ParityTolerances(log_prob_median=1e-4, log_prob_max=5e-2, tie_margin=1e-3)
TOKENS = ("greedy", "speculative", "beam")  # checks that compare tokens
CROPS = np.arange(len(SAID), dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)


def model(*, wrong_crop: int | None = None, ahead: float = 3.0, noise: float = 0.0) -> FakeBackend:
    """Says SAID; the token it emits scores `ahead` more than the next best, which is the following id.

    Of `wrong_crop` it says that next best, by as much.
    """

    def script(crop: int, tokens: Sequence[int]) -> np.ndarray:
        wanted = [*SAID[crop], EOS]
        token = wanted[min(len(tokens), len(wanted)) - 1]
        best, second = token, (token + 1) % VOCABULARY
        if crop == wrong_crop:
            best, second = second, best
        scores = np.full(VOCABULARY, -10.0)
        scores[best], scores[second] = 0.0, -ahead
        return np.asarray(scores - np.log(np.exp(scores).sum()) + noise, dtype=np.float32)

    return FakeBackend(script)


def reference(*, ahead: float = 3.0) -> Reference:
    return reference_generations(model(ahead=ahead), CROPS, max_steps=LIMIT, beams=range(len(SAID)))


def check(backend: FakeBackend, *, ahead: float = 3.0) -> ParityReport:
    return check_parity(backend, reference(ahead=ahead), TOLERANCES)


def test_the_reference_is_what_the_checkpoint_says() -> None:
    made = reference()
    assert made.tokens[0].tolist() == [BOS, 3, 4, EOS, PAD, PAD]
    assert made.tokens[2].tolist() == [BOS, 7, 6, 5, 4, 3]  # no <eos> within the limit
    assert made.lengths.tolist() == [3, 1, 5, 2, 3, 3]
    assert made.log_probs.shape == (len(SAID), LIMIT, VOCABULARY)
    assert made.log_probs[2].argmax(-1).tolist() == [7, 6, 5, 4, 3]
    assert made.sequence(3) == (5, EOS)
    assert [made.subset([2, 0]).sequence(crop) for crop in (0, 1)] == [made.sequence(2), made.sequence(0)]


def test_equals_pass_and_progress_is_told() -> None:
    told = []
    report = check_parity(model(), reference(), TOLERANCES, on_progress=lambda *done: told.append(done))
    assert told == [(4, 6), (6, 6)]
    assert (report.identical, report.divergences, report.log_prob_max) == (6, (), 0)
    assert report.require("nothing was written") is report
    values = json.loads(json.dumps(report.to_dict()))
    assert (values["passed"], values["ties"], values["breaches"]) == (True, 0, [])
    assert {"greedy", "speculative", "beam", "cache", "forgetting", "grouping"} <= {c["name"] for c in values["checks"]}


def test_another_token_is_a_breach() -> None:
    report = check(model(wrong_crop=3))
    (divergence,) = report.divergences
    assert (divergence.crop, divergence.step, divergence.wanted, divergence.got) == (3, 0, 5, 6)
    assert divergence.margin == pytest.approx(3.0, abs=1e-5)
    assert not divergence.tie
    assert report.identical == 5
    assert not report.to_dict()["passed"]
    assert "greedy: crop 3, step 0: token must be 5 as in the checkpoint, got 6 (margin 3)" in report.breaches
    assert report.to_dict()["identical_sets"] == 5
    with pytest.raises(ParityError, match=r"on fake: log-probabilities: log_prob_max.* \(and \d more\); do not use it"):
        report.require("do not use it")


def test_another_token_at_a_tie_passes() -> None:
    report = check(model(wrong_crop=3, ahead=5e-4), ahead=5e-4)
    assert [(divergence.crop, divergence.tie) for divergence in report.divergences] == [(3, True)]
    assert report.identical == 5
    assert report.require("nothing was written").log_prob_max == pytest.approx(5e-4, abs=1e-5)


@pytest.mark.parametrize(("margin", "breaches"), [(5e-4, 0), (0.5, 1)])
def test_other_beams_pass_where_the_checkpoints_search_was_as_close(margin: float, breaches: int) -> None:
    wanted = reference()
    assert wanted.beam(3) == wanted.sequence(3)
    assert wanted.beam_tokens is not None
    assert wanted.beam_margins is not None
    assert min(wanted.beam_margins) >= 0
    wanted.beam_tokens[3, 1:4] = 7, 7, EOS  # which the backend does not find, and scores otherwise
    wanted.beam_margins[3] = margin
    report = check_parity(model(), wanted, TOLERANCES)
    assert len(report.breaches) == breaches
    assert all(breach.startswith("beam: crop 3: ") for breach in report.breaches)
    assert all("(7, 7, 1), got (5, 1)" in breach for breach in report.breaches)
    (beam,) = (check for check in report.checks if check.name == "beam")
    assert beam.status == ("failed" if breaches else "passed")
    assert breaches or beam.detail == "5 of 6 sequences identical, 1 differ at a tie"


@pytest.mark.parametrize(
    ("noise", "breaches"),
    [
        (0.9e-4, []),
        (2e-4, ["log-probabilities: .*median .*0.0001, got 0.0002"]),
        (
            0.1,
            [
                "first step: .* all crops, .*0.1: .*image encoder",
                "log-probabilities: .*median .*0.0001, got 0.1; log_prob_max .*got 0.1",
            ],
        ),
        (float("nan"), ["finite: .*NaN .*log_probs", "first step: ", "log-probabilities: .*median .*got inf"]),
    ],
)
def test_log_probabilities_are_held_to_their_tolerances(noise: float, breaches: list[str]) -> None:
    found = [breach for breach in check(model(noise=noise)).breaches if not breach.startswith(TOKENS)]
    assert len(found) == len(breaches)
    assert all(re.match(pattern, breach) for breach, pattern in zip(found, breaches, strict=True))


def test_what_follows_a_sequences_end_does_not_count() -> None:
    """Log-probabilities after `<eos>` are of tokens nobody generates."""
    wanted = reference()
    changed = Reference(crops=wanted.crops, tokens=wanted.tokens, log_probs=wanted.log_probs.copy())
    for crop, length in enumerate(wanted.lengths):
        changed.log_probs[crop, length:] = 0
    assert check_parity(model(), changed, TOLERANCES).log_prob_max == 0


def test_a_token_far_from_the_best_two_is_no_tie() -> None:
    """The best two are as good as each other; what is said is a third."""
    wanted = reference(ahead=5e-4)
    step = first_divergence(wanted, 3, (4, EOS), TOLERANCES.tie_margin)
    assert step is not None
    assert (step.wanted, step.got, step.tie) == (5, 4, False)
    assert step.margin > 9


@pytest.mark.parametrize(("got", "step"), [((), 0), ((3,), 1), ((3, 4), 2), ((3, 4, EOS, 5), 3)])
def test_to_stop_early_or_late_is_a_divergence(got: tuple[int, ...], step: int) -> None:
    found = first_divergence(reference(), 0, got, TOLERANCES.tie_margin)
    assert found is not None
    assert (found.step, found.tie) == (step, False)
    assert first_divergence(reference(), 0, (3, 4, EOS), TOLERANCES.tie_margin) is None


def test_what_nothing_could_be_made_of_is_not_called_checked() -> None:
    """A model that ends every sequence at once: its cache is never read."""

    def script(_crop: int, _tokens: Sequence[int]) -> np.ndarray:
        return np.where(np.arange(VOCABULARY) == EOS, 0.0, -9.0).astype(np.float32)

    silent = reference_generations(FakeBackend(script), CROPS, max_steps=LIMIT)
    checks = {check.name: check for check in check_parity(FakeBackend(script), silent, TOLERANCES).checks}
    for name in ("cache", "forgetting", "positions", "reordering"):
        assert (checks[name].status, checks[name].detail) == ("skipped", "every sequence ends with its first token")


def test_probabilities_are_compared_where_tokens_are_equal() -> None:
    made = reference()
    report = check_parity(model(), made, TOLERANCES)
    assert report.probability_max == 0
    changed = dataclasses.replace(made, log_probs=made.log_probs.copy())
    (generation,) = Greedy().generate(model(), model().encode(CROPS[:1]), max_steps=LIMIT)  # (3, 4, EOS)
    for by, wrong in ((0.02, None), (0.2, 0)):
        changed.log_probs[0] = made.log_probs[0]
        changed.log_probs[0, 0, 4] += by  # a distribution of nearly 1 for 3, where 4 is the second best
        changed.log_probs[0, 1, 4] -= 20 * by
        found = wrong_probability(changed, 0, generation, TOLERANCES.log_prob_max)
        assert (found is None) == (wrong is None)
    line, compared, most = compare_probabilities(changed, [("greedy", 0, generation)], TOLERANCES.log_prob_max)
    assert line is not None
    assert re.match(r"crop 0, greedy: probability of '4' must be 0\.\d+ .*got 0\.\d+$", line)
    assert compared == 1
    assert most is not None
    assert most > TOLERANCES.log_prob_max / 2
    other = dataclasses.replace(generation, tokens=(3, 5, EOS))
    assert compare_probabilities(changed, [("greedy", 0, other)], 1e-9) == (None, 0, None)


def test_a_probability_that_is_no_number_is_wrong() -> None:
    made = reference()
    (generation,) = Greedy().generate(model(), model().encode(CROPS[:1]), max_steps=LIMIT)
    generation.distributions[0, 3] = np.nan
    found = wrong_probability(made, 0, generation, TOLERANCES.log_prob_max)
    assert found is not None
    assert np.isnan(found[2])
    line, _, most = compare_probabilities(made, [("greedy", 0, generation)], TOLERANCES.log_prob_max)
    assert line is not None
    assert "got nan" in line
    assert np.isnan(most)
