from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.backend import FakeBackend

from seqpar_deploy import Beam, Bundle, Greedy, Recognizer
from seqpar_deploy.backends import open_backend
from seqpar_deploy.calibration.maps import probability
from seqpar_deploy.calibration.probabilities import attribute_probabilities
from seqpar_deploy.calibration.thresholds import Limits, Thresholds
from seqpar_deploy.decoding import Generation, Speculative
from seqpar_deploy.errors import BackendError, BackendUnavailableError, ImageError, StrategyError
from seqpar_deploy.prediction import prediction_from_generation
from seqpar_deploy.preprocess import Crop, prepare_batch
from seqpar_deploy.recognizer import Fallback
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.vocab import BOS, EOS

pytestmark = pytest.mark.slow


def test_a_prediction_is_a_set_with_the_score_of_the_first_emission() -> None:
    label_set = load_label_set("pa100k")
    generation = Generation(
        tokens=(10, 3, 10, 2, 1),
        log_probs=(-0.5, -0.1, -3.0, -1.0, -0.2),
        steps=5,
        distributions=np.full((5, label_set.vocabulary_size), -4, np.float32),
    )
    prediction = prediction_from_generation(generation, label_set)
    assert prediction.attributes == ("Female", "Hat")
    assert prediction.scores == pytest.approx((np.exp(-0.1), np.exp(-0.5)))
    assert (prediction.tokens, prediction.steps) == (generation.tokens, 5)


PROBABILITY = 1e-5  # of the recipe's 2.5e-2: sums of float32 numbers in another order
STRATEGIES = [Greedy(), Beam(width=1), Beam(width=3), Speculative(), Speculative(window=1), Speculative(window=60)]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_results_do_not_depend_on_grouping(bundle_dir: Path, cpu_backend: str, crops: list[Crop], strategy) -> None:
    wanted = None
    for batch_size in (1, 3, 20):
        with Recognizer.from_bundle(
            bundle_dir, backend=cpu_backend, strategy=strategy, batch_size=batch_size
        ) as recognizer:
            predictions = recognizer.predict(crops)
        wanted = wanted or predictions
        assert [p.tokens for p in predictions] == [p.tokens for p in wanted]
        for got, want in zip(predictions, wanted, strict=True):
            np.testing.assert_allclose(got.scores, want.scores, atol=1e-4)
            np.testing.assert_allclose(got.probabilities, want.probabilities, atol=PROBABILITY)
            assert got.probabilities.base is None  # no view of a batch's arrays


def test_every_slot_of_a_batch(bundle_dir: Path, cpu_backend: str, crops: list[Crop]) -> None:
    with Recognizer.from_bundle(bundle_dir, backend=cpu_backend) as recognizer:
        alone = recognizer.predict(crops[:1])[0]
        for slot in range(5):
            batch = [*crops[1 : 1 + slot], crops[0], *crops[1 + slot : 5]]
            got = recognizer.predict(batch)[slot]
            assert got.tokens == alone.tokens
            np.testing.assert_allclose(got.probabilities, alone.probabilities, atol=PROBABILITY)


def test_strategies_agree(bundle_dir: Path, cpu_backend: str, crops: list[Crop]) -> None:
    bundle = Bundle.open(bundle_dir)
    backend = open_backend(bundle, cpu_backend)  # type: ignore[arg-type]
    greedy, *others = (
        Recognizer(bundle, backend, strategy=strategy).predict(crops)
        for strategy in (Greedy(), Beam(width=1), Speculative(window=5))
    )
    for predictions in others:
        assert [p.tokens for p in predictions] == [p.tokens for p in greedy]
        for got, wanted in zip(predictions, greedy, strict=True):
            np.testing.assert_allclose(got.probabilities, wanted.probabilities, atol=PROBABILITY)


def test_backends_agree(bundle_dir: Path, crops: list[Crop]) -> None:
    first, second = (
        Recognizer.from_bundle(bundle_dir, backend=name).predict(crops) for name in ("onnxruntime", "openvino")
    )
    assert [p.tokens for p in first] == [p.tokens for p in second]
    for got, wanted in zip(second, first, strict=True):
        np.testing.assert_allclose(got.probabilities, wanted.probabilities, atol=PROBABILITY)


@pytest.mark.parametrize("strategy", STRATEGIES, ids=repr)
def test_probabilities_are_those_along_the_sequence(
    bundle_dir: Path, cpu_backend: str, crops: list[Crop], strategy
) -> None:
    """The sequence that was found, fed in one call: of a beam too, all steps are those of the best hypothesis."""
    bundle = Bundle.open(bundle_dir)
    backend = open_backend(bundle, cpu_backend)  # type: ignore[arg-type]
    for start in range(0, 6, 3):
        batch = crops[start : start + 3]
        prepared = prepare_batch(batch, image_size=32, preprocessing=bundle.preprocessing)
        for row, prediction in enumerate(Recognizer(bundle, backend, strategy=strategy).predict(batch)):
            fed = np.array([[BOS, *prediction.tokens[:-1]]])
            log_probs = backend.step(backend.encode(prepared[row : row + 1]), fed).log_probs[0]
            wanted = attribute_probabilities(prediction.tokens, log_probs)
            np.testing.assert_allclose(prediction.probabilities, wanted, atol=PROBABILITY)


def test_threads_share_one_recognizer(bundle_dir: Path, cpu_backend: str, crops: list[Crop]) -> None:
    with Recognizer.from_bundle(bundle_dir, backend=cpu_backend) as recognizer:
        wanted = [p.tokens for p in recognizer.predict(crops)]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda i: recognizer.predict([crops[i % 20]])[0].tokens, range(80)))
    assert answers == wanted * 4


def test_fp16_runs_on_cpus(fp16_bundle_dir: Path, bundle_dir: Path, cpu_backend: str, crops: list[Crop]) -> None:
    with Recognizer.from_bundle(fp16_bundle_dir, backend=cpu_backend) as half:
        assert len(half.predict(crops)) == 20
    golden = Bundle.open(bundle_dir).golden()
    backend = open_backend(half.bundle, cpu_backend)  # type: ignore[arg-type]
    log_probs = backend.step(backend.encode(golden["crops"]), golden["tokens"][:, :-1]).log_probs
    assert np.median(np.abs(log_probs - golden["log_probs"])) < 2e-2


def test_close_choices_are_rechecked_exactly(int8_bundle_dir: Path, int8_backend: str, crops: list[Crop]) -> None:
    label_set = Bundle.open(int8_bundle_dir).label_set
    limits = Thresholds.from_limits(label_set, {}, Limits(yes=0.6, no=0.2))

    def tokens(**options: Any) -> list[tuple[tuple[int, ...], tuple[str, ...]]]:
        """Return tokens and states."""
        options = {"backend": int8_backend, "batch_size": 8, "thresholds": limits} | options
        with Recognizer.from_bundle(int8_bundle_dir, **options) as recognizer:
            return [(prediction.tokens, prediction.states) for prediction in recognizer.predict(crops)]

    exact = tokens()
    assert tokens(compute_precision="int8", fallback_margin=0.0) != exact  # the random network is full of near-ties
    assert tokens(compute_precision="int8", fallback_margin=1.0) == exact
    assert tokens(compute_precision="int8", fallback_margin=1.0, strategy=Speculative()) == exact
    assert tokens(compute_precision="int8", fallback_margin=1.0, strategy=Beam(width=3)) == tokens(
        strategy=Beam(width=3)
    )
    with pytest.raises(StrategyError, match="fallback_margin"):
        tokens(compute_precision="int8")


def test_probabilities_near_a_threshold_are_rechecked(bundle_dir: Path) -> None:
    """The quick model says 5, then ends. The odds of attribute 9 at the end are minus a crop's shade, in hundredths."""

    def quick(crop: int, tokens: Sequence[int]) -> np.ndarray:
        scores = np.full(29, -20.0, dtype=np.float32)
        scores[5 if len(tokens) == 1 else EOS] = 0
        if len(tokens) > 1:
            scores[9] = -crop / 100
        return scores

    def exact(_crop: int, tokens: Sequence[int]) -> np.ndarray:
        return np.where(np.arange(29) == (12 if len(tokens) == 1 else EOS), 0, -20).astype(np.float32)

    bundle = Bundle.open(bundle_dir)
    name = bundle.label_set.attributes[9 - 3].name
    at = float(probability(np.array(-1.0)))
    shades = [np.full((32, 32, 3), shade, np.uint8) for shade in (60, 94, 96, 100, 104, 106, 200)]
    for limits, again in (
        ({name: Limits(yes=at, no=at)}, [96, 100, 104]),
        ({name: Limits(yes=0.9, no=at)}, [96, 100, 104]),
        ({name: Limits(yes=0.9)}, []),
        ({}, []),
    ):
        thresholds = Thresholds.from_limits(bundle.label_set, limits, Limits())
        fallback = Fallback(FakeBackend(exact), 0.05)
        with Recognizer(bundle, FakeBackend(quick), fallback=fallback, thresholds=thresholds) as recognizer:
            predictions = recognizer.predict(shades)
        assert [int(crop.flat[0]) for crop, p in zip(shades, predictions, strict=True) if p.tokens[0] == 12] == again


def test_only_close_choices_are_rechecked(bundle_dir: Path, crops: list[Crop]) -> None:
    """Each of two models says one token; how far the quick one is sure of it is a crop's shade, in hundredths."""

    def scripted(token: int) -> FakeBackend:
        def script(crop: int, tokens: Sequence[int]) -> np.ndarray:
            scores = np.full(29, -20.0, dtype=np.float32)
            scores[token if len(tokens) == 1 else EOS] = 0
            scores[token + 1] = -crop / 100
            return scores

        return FakeBackend(script)

    quick, exact = scripted(5), scripted(9)
    shades = [np.full((32, 32, 3), shade, np.uint8) for shade in (10, 40, 60, 49, 50)]
    with Recognizer(Bundle.open(bundle_dir), quick, fallback=Fallback(exact, 0.5)) as recognizer:
        assert [prediction.tokens[0] for prediction in recognizer.predict(shades)] == [9, 9, 5, 9, 5]
    assert exact.row_steps[0] == 3


def test_a_margin_that_is_no_number_is_in_doubt(bundle_dir: Path) -> None:
    def script(_crop: int, tokens: Sequence[int]) -> np.ndarray:
        scores = np.full(29, np.nan if len(tokens) == 2 else -9.0, dtype=np.float32)
        scores[5 if len(tokens) == 1 else EOS] = 0
        return scores

    def sound(_crop: int, tokens: Sequence[int]) -> np.ndarray:
        return np.where(np.arange(29) == (9 if len(tokens) == 1 else EOS), 0, -9).astype(np.float32)

    for strategy in (Greedy(), Speculative(window=1)):
        fallback = Fallback(FakeBackend(sound), 0.5)
        with Recognizer(
            Bundle.open(bundle_dir), FakeBackend(script), strategy=strategy, fallback=fallback
        ) as recognizer:
            (prediction,) = recognizer.predict([np.zeros((32, 32, 3), np.uint8)])
        assert prediction.tokens == (9, EOS)


@pytest.mark.parametrize("fallback_margin", [-1.0, float("nan")])
def test_fallback_margin_is_a_number(int8_bundle_dir: Path, fallback_margin: float) -> None:
    with pytest.raises(StrategyError, match="fallback_margin must be 0 or more"):
        Recognizer.from_bundle(int8_bundle_dir, compute_precision="int8", fallback_margin=fallback_margin)


def test_no_crops_and_bad_crops(bundle_dir: Path, crops: list[Crop]) -> None:
    with Recognizer.from_bundle(bundle_dir) as recognizer:
        assert recognizer.predict([]) == []
        with pytest.raises(ImageError, match=r"crops\[1\] .*dtype .*float64"):
            recognizer.predict([crops[0], np.zeros((4, 4, 3))])  # type: ignore[list-item]


def drafting(crop: int, tokens: Sequence[int]) -> np.ndarray:
    """Crop c has the attributes c and c + 1."""
    following = [3 + crop, 4 + crop, EOS][min(len(tokens) - 1, 2)]
    return np.where(np.arange(29) == following, -0.1, -9).astype(np.float32)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_drafts_follow_their_crops(bundle_dir: Path, batch_size: int) -> None:
    shades = [np.full((32, 32, 3), shade, np.uint8) for shade in (7, 1, 5, 3, 2)]
    right = [(3 + int(crop[0, 0, 0]), 4 + int(crop[0, 0, 0]), EOS) for crop in shades]
    bundle = Bundle.open(bundle_dir)
    with Recognizer(bundle, FakeBackend(drafting), strategy=Speculative(), batch_size=batch_size) as recognizer:
        found = recognizer.predict(shades, drafts=right)
        assert [(one.tokens, one.steps) for one in found] == [(tokens, 1) for tokens in right]
        wrong = recognizer.predict(shades, drafts=right[::-1])
        assert [one.tokens for one in wrong] == right
        assert max(one.steps for one in wrong) > 1
        some = recognizer.predict(shades, drafts=[None, *right[1:]])
        assert some[0].steps > 1 == some[1].steps


@pytest.mark.parametrize(
    ("drafts", "named"), [([(3, EOS)], "2, got 1"), ([None, (3, 29)], r"drafts\[1\]"), ([(-1,), None], r"drafts\[0\]")]
)
def test_drafts_that_cannot_be_are_refused(bundle_dir: Path, drafts: Any, named: str) -> None:
    shades = [np.full((32, 32, 3), shade, np.uint8) for shade in (7, 1)]
    with (
        Recognizer(Bundle.open(bundle_dir), FakeBackend(drafting)) as recognizer,
        pytest.raises(StrategyError, match=named) as caught,
    ):
        recognizer.predict(shades, drafts=drafts)
    assert "\n" not in str(caught.value)


def test_a_re_run_verifies_the_tokens_of_reduced_precision(bundle_dir: Path) -> None:
    exact = FakeBackend(drafting)
    with Recognizer(
        Bundle.open(bundle_dir), FakeBackend(drafting), strategy=Speculative(), fallback=Fallback(exact, 1e9)
    ) as recognizer:
        recognizer.predict([np.full((32, 32, 3), shade, np.uint8) for shade in (7, 1, 5)])
    assert exact.row_steps == [3]


def test_a_closed_recognizer_says_so(bundle_dir: Path, crops: list[Crop]) -> None:
    recognizer = Recognizer.from_bundle(bundle_dir)
    recognizer.close()
    recognizer.close()
    with pytest.raises(BackendError, match="is closed"):
        recognizer.predict(crops)


def test_unknown_and_missing_backends(bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendUnavailableError, match=r"auto, tensorrt, .* got 'tpu'"):
        Recognizer.from_bundle(bundle_dir, backend="tpu")  # type: ignore[arg-type]
    with pytest.raises(BackendUnavailableError, match=r"seqpar-deploy\[cuda\]"):
        Recognizer.from_bundle(bundle_dir, backend="onnxruntime-cuda")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install 'seqpar-deploy\[openvino\]'"):
        Recognizer.from_bundle(bundle_dir, backend="openvino")


def test_the_cache_does_not_overflow(bundle_dir: Path, cpu_backend: str) -> None:
    bundle = Bundle.open(bundle_dir)
    backend = open_backend(bundle, cpu_backend)  # type: ignore[arg-type]
    state = backend.encode(np.zeros((1, 32, 32, 3), np.uint8))
    backend.step(state, np.full((1, 27), 3))
    with pytest.raises(BackendError, match=r"27 tokens.* got 28"):
        backend.step(state, np.array([[3]]))
