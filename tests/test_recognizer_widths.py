"""A recogniser whose model reads crops of several widths: order, batches, errors and an early end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqpar_deploy import Beam, Bundle, Greedy, Recognizer, Speculative
from seqpar_deploy.backends import open_backend
from seqpar_deploy.decoding.draft_fitting import collect_answers
from seqpar_deploy.errors import BackendError, ImageError
from seqpar_deploy.preprocess import Crop

pytestmark = pytest.mark.slow

SHAPES = ((90, 24), (60, 60), (96, 30), (40, 90), (120, 36), (80, 70), (64, 16), (33, 31), (90, 20), (50, 50), (99, 25))
NARROW = (0, 2, 4, 6, 8, 10)  # of these, the crops that keep 2 of 4 columns


class Recording:
    """A backend that keeps the shape of every batch, and fails at one of them."""

    def __init__(self, backend: Any, fails_at: int | None = None) -> None:
        self._backend, self.fails_at = backend, fails_at
        self.batches: list[tuple[int, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def encode(self, crops: Crop) -> Any:
        self.batches.append(crops.shape)
        if len(self.batches) - 1 == self.fails_at:
            raise BackendError("out of memory")
        return self._backend.encode(crops)


@pytest.fixture(scope="module")
def people() -> list[Crop]:
    rng = np.random.default_rng(2)
    return [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]


@pytest.fixture
def trimmed(bundle_dir: Path) -> Bundle:
    """The tiny bundle, redefined."""
    return dataclasses.replace(Bundle.open(bundle_dir), padding="trimmed", columns=(2, 4))


@pytest.mark.parametrize("strategy", [Greedy(), Beam(width=2), Speculative()], ids=repr)
def test_predictions_keep_their_order_and_equal_those_one_by_one(
    trimmed: Bundle, cpu_backend: Any, people: list[Crop], strategy: Any
) -> None:
    with Recognizer(trimmed, open_backend(trimmed, cpu_backend), strategy=strategy) as recognizer:
        alone = [recognizer.predict([crop])[0] for crop in people]
    assert len({one.tokens for one in alone}) > 3
    for size in (1, 2, 3, 16):
        backend = Recording(open_backend(trimmed, cpu_backend))
        with Recognizer(trimmed, backend, strategy=strategy, batch_size=size) as recognizer:
            found = recognizer.predict(people)
            again = list(recognizer.predict_iter(people[::-1]))
        assert [one.tokens for one in found] == [one.tokens for one in alone]
        assert [one.tokens for one in again] == [one.tokens for one in alone[::-1]]
        for one, wanted in zip(found, alone, strict=True):
            np.testing.assert_allclose(one.probabilities, wanted.probabilities, atol=1e-5)
        assert max(rows for rows, *_ in backend.batches) <= size
        assert {shape[1:] for shape in backend.batches} == {(32, 16, 3), (32, 32, 3)}
        narrow = sum(rows for rows, _, width, _ in backend.batches if width == 16)
        assert narrow == 2 * len(NARROW)


def test_answers_to_fit_drafts_on_name_their_crops(trimmed: Bundle, people: list[Crop]) -> None:
    backend = open_backend(trimmed, "onnxruntime")
    with Recognizer(trimmed, backend, strategy=Greedy()) as recognizer:
        answers = collect_answers(trimmed, backend, people, most=len(people))
        assert answers is not None
        assert answers.places != sorted(answers.places) == list(range(len(people)))
        alone = [recognizer.predict([people[place]])[0].tokens for place in answers.places]
    assert answers.tokens == alone


def test_trimmed_crops_are_read_otherwise_than_whole_ones(
    trimmed: Bundle, bundle_dir: Path, people: list[Crop]
) -> None:
    """Or the other tests here would pass if nothing was trimmed."""
    results = []
    for bundle in (trimmed, Bundle.open(bundle_dir)):
        with Recognizer(bundle, open_backend(bundle, "onnxruntime")) as recognizer:
            results.append(recognizer.predict(people))
    same = [bool(np.allclose(a.probabilities, b.probabilities, atol=1e-5)) for a, b in zip(*results, strict=True)]
    assert [row for row, one in enumerate(same) if not one] == list(NARROW)


def test_predictions_are_yielded_as_soon_as_those_before_them_are_done(trimmed: Bundle, people: list[Crop]) -> None:
    backend = Recording(open_backend(trimmed, "onnxruntime"))
    with Recognizer(trimmed, backend, batch_size=2) as recognizer:
        wanted = [one.tokens for one in recognizer.predict(people)]
        backend.batches.clear()
        predictions = recognizer.predict_iter(people)
        first = next(predictions)
        assert len(backend.batches) == 1
        second = next(predictions)
        assert len(backend.batches) == 2
        predictions.close()  # the caller goes on with something else
        assert [first.tokens, second.tokens] == wanted[:2]
        assert [one.tokens for one in recognizer.predict(people)] == wanted


@pytest.mark.parametrize("fails_at", [0, 1, 3])
def test_an_error_of_a_batch_is_raised_after_the_predictions_before_it(
    trimmed: Bundle, people: list[Crop], fails_at: int
) -> None:
    with Recognizer(trimmed, open_backend(trimmed, "onnxruntime"), batch_size=2) as recognizer:
        wanted = [one.tokens for one in recognizer.predict(people)]
    backend = Recording(open_backend(trimmed, "onnxruntime"), fails_at)
    with Recognizer(trimmed, backend, batch_size=2) as recognizer:
        found: list[tuple[int, ...]] = []
        with pytest.raises(BackendError, match="out of memory"):
            found.extend(one.tokens for one in recognizer.predict_iter(people))
        assert found == wanted[: len(found)]
        assert len(found) == (0, 1, None, 5)[fails_at]
        assert [one.tokens for one in recognizer.predict(people)] == wanted  # nothing of the last call is left


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), None])
def test_a_bad_crop_is_named_before_any_batch(trimmed: Bundle, people: list[Crop], bad: Any) -> None:
    backend = Recording(open_backend(trimmed, "onnxruntime"))
    with (
        Recognizer(trimmed, backend) as recognizer,
        pytest.raises(ImageError, match=r"crops\[3\]"),
    ):
        recognizer.predict([*people[:3], bad, *people[3:]])
    assert backend.batches == []
