"""The scripts behind the demo model's card: their scores are the published ones, and baselines learn what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_the_scores_of_a_bootstrap_sample_are_the_published_ones(rng: np.random.Generator) -> None:
    import demo_trimming

    from seqpar_deploy.evaluation.metrics import compute_metrics

    labels = rng.integers(-1, 2, size=(40, 6)).astype(np.int8)
    labels[3], labels[:, 5] = -1, -1  # nobody and nothing known
    said = rng.integers(0, 2, size=(40, 6)).astype(np.int8)
    times = rng.integers(0, 3, size=40)
    drawn = np.repeat(np.arange(40), times)
    weights = np.stack([np.ones(40), times.astype(float)])
    expected = [compute_metrics(said, labels), compute_metrics(said[drawn], labels[drawn])]
    assert demo_trimming.f1(said, labels, weights) == pytest.approx([one.f1 for one in expected])
    assert demo_trimming.ma(said, labels, weights) == pytest.approx([one.ma for one in expected])


def test_people_of_a_group_are_drawn_together() -> None:
    import demo_trimming

    weights = demo_trimming.drawn_weights(("a", "b", "a", "c"))
    assert (weights[:, 0] == weights[:, 2]).all()
    assert (weights[:, 0] != weights[:, 1]).any()
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()


def test_baselines_learn_from_the_known_labels(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cv2")
    import demo_baselines

    monkeypatch.setattr(demo_baselines, "PENALTIES", (1.0,))  # for 80 people of 8 features
    features = rng.normal(size=(120, 8))
    labels = np.stack([features[:, 0] > 0, features[:, 1] > 0.5], axis=1).astype(np.int8)
    labels[::5, 0] = -1
    groups = tuple(map(str, range(80)))
    answers = demo_baselines.hog_and_colour(features[:80], labels[:80], groups, features[80:])
    known = labels[80:] >= 0
    assert (answers == (labels[80:] == 1))[known].mean() > 0.85
    assert demo_baselines.majority(features[:80], labels[:80], groups, features[80:])[0].tolist() == [
        bool((labels[:80, 0] == 1).sum() > (labels[:80, 0] == 0).sum()),
        False,
    ]


def test_features_of_a_crop_tell_colours_apart() -> None:
    pytest.importorskip("cv2")
    import demo_baselines

    red, blue = np.zeros((90, 30, 3), np.uint8), np.zeros((90, 30, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    one, other = demo_baselines.of_crop(red), demo_baselines.of_crop(blue)
    assert one.shape == (3780 + 2 * 4 * 12 * 3,)
    assert not np.allclose(one, other)
    assert np.allclose(one[:3780], other[:3780])  # neither has edges
