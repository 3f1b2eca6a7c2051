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
from seqpar_deploy.decoding import Generation, Speculative
from seqpar_deploy.errors import BackendError, BackendUnavailableError, ImageError, StrategyError
from seqpar_deploy.prediction import prediction_from_generation
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.recognizer import Fallback
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.vocab import EOS

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


@pytest.mark.parametrize("strategy", [Greedy(), Beam(width=1), Beam(width=3), Speculative()], ids=repr)
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


def test_every_slot_of_a_batch(bundle_dir: Path, cpu_backend: str, crops: list[Crop]) -> None:
    with Recognizer.from_bundle(bundle_dir, backend=cpu_backend) as recognizer:
        alone = recognizer.predict(crops[:1])[0].tokens
        for slot in range(5):
            batch = [*crops[1 : 1 + slot], crops[0], *crops[1 + slot : 5]]
            assert recognizer.predict(batch)[slot].tokens == alone


def test_strategies_agree(bundle_dir: Path, cpu_backend: str, crops: list[Crop]) -> None:
    bundle = Bundle.open(bundle_dir)
    backend = open_backend(bundle, cpu_backend)  # type: ignore[arg-type]
    tokens = [
        [p.tokens for p in Recognizer(bundle, backend, strategy=strategy).predict(crops)]
        for strategy in (Greedy(), Beam(width=1), Speculative(window=5))
    ]
    assert tokens[0] == tokens[1] == tokens[2]


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
    def tokens(**options: Any) -> list[tuple[int, ...]]:
        with Recognizer.from_bundle(int8_bundle_dir, backend=int8_backend, batch_size=8, **options) as recognizer:
            return [prediction.tokens for prediction in recognizer.predict(crops)]

    exact = tokens()
    assert tokens(compute_precision="int8", fallback_margin=0.0) != exact  # the random network is full of near-ties
    assert tokens(compute_precision="int8", fallback_margin=1.0) == exact
    assert tokens(compute_precision="int8", fallback_margin=1.0, strategy=Speculative()) == exact
    assert tokens(compute_precision="int8", fallback_margin=1.0, strategy=Beam(width=3)) == tokens(
        strategy=Beam(width=3)
    )
    with pytest.raises(StrategyError, match="fallback_margin"):
        tokens(compute_precision="int8")


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
