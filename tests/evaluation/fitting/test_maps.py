"""Fitted maps: they find the truth, keep the order, share what has few labels, and never see people held out."""

from __future__ import annotations

import numpy as np
import pytest

from seqpar_deploy.calibration.maps import log_odds, probability
from seqpar_deploy.errors import CalibrationError
from seqpar_deploy.evaluation.fitting.candidates import CANDIDATES
from seqpar_deploy.evaluation.fitting.maps import cross_fitted, deal_groups, fit_maps
from seqpar_deploy.evaluation.fitting.shrinkage import Parameters, Penalty, fit_shrunk

SLOPES, OFFSETS = np.array([0.4, 0.6, 1.2]), np.array([-0.5, 0.5, 0.0])


def people(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return probabilities of a decoder that is too sure of itself, labels, and groups of two."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 3, (count, 3))
    labels = (rng.random((count, 3)) < probability(SLOPES * odds + OFFSETS)).astype(np.int8)
    labels[rng.random(labels.shape) < 0.1] = -1
    return probability(odds).astype(np.float32), labels, [f"g{row // 2}" for row in range(count)]


def loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    limited = np.clip(probabilities.astype(np.float64), 1e-7, 1 - 1e-7)
    known = labels >= 0
    return float(-np.log(np.where(labels == 1, limited, 1 - limited))[known].mean())


def test_it_finds_the_maps_that_made_the_labels() -> None:
    fitted = fit_maps(*people(4000))
    np.testing.assert_allclose(fitted.maps.slopes, SLOPES, rtol=0.15)
    np.testing.assert_allclose(fitted.maps.offsets, OFFSETS, atol=0.15)
    assert fitted.own.all()


def test_the_fit_is_the_least_of_its_objective() -> None:
    probabilities, labels, _ = people(60)
    features, penalty = log_odds(probabilities)[:, :, None], Penalty(slope=3, offset=0.5)
    own = np.array([True, False, True])
    best = fit_shrunk(features, labels, own, penalty)

    def objective(maps: Parameters) -> float:
        odds = maps(features)
        losses = (np.logaddexp(0, odds) - (labels == 1) * odds)[labels >= 0].sum()
        fine = 3 * (maps.own[:, 0] ** 2).sum() + 0.5 * (maps.own[:, 1] ** 2).sum() + 0.01 * (maps.shared**2).sum()
        return float(losses + fine / 2)

    assert not best.own[1].any()
    for place in range(2):
        for size in (-1e-2, 1e-2):
            shared = best.shared.copy()
            shared[place] += size
            assert objective(Parameters(shared=shared, own=best.own)) > objective(best)
            for attribute in (0, 2):
                changed = best.own.copy()
                changed[attribute, place] += size
                assert objective(Parameters(shared=best.shared, own=changed)) > objective(best)


def test_attributes_with_few_labels_share_one_map() -> None:
    probabilities, labels, groups = people(200)
    for place, kept in ((0, 1), (1, 0)):  # all labels but nine of this value are removed
        some = np.flatnonzero(labels[:, place] == kept)
        labels[some[9:], place] = -1
    fitted = fit_maps(probabilities, labels, groups)
    assert fitted.own.tolist() == [False, False, True]
    assert fitted.maps.slopes[0] == fitted.maps.slopes[1] != fitted.maps.slopes[2]
    assert fitted.maps.offsets[0] == fitted.maps.offsets[1] != fitted.maps.offsets[2]


@pytest.mark.parametrize("labels_of", ["turned round", "no positive", "separable"])
def test_slopes_stay_above_zero_and_finite(labels_of: str) -> None:
    probabilities, labels, groups = people(100)
    if labels_of == "turned round":
        labels = np.where(labels >= 0, 1 - labels, -1).astype(np.int8)
    elif labels_of == "no positive":
        labels[:] = 0
    else:
        labels[:] = probabilities > 0.5
    fitted = fit_maps(probabilities, labels, groups)
    assert (fitted.maps.slopes > 0).all()
    assert np.isfinite(fitted.maps.slopes).all()
    assert np.isfinite(fitted.maps.offsets).all()
    assert loss(fitted.maps(probabilities), labels) < loss(probabilities, labels)


def test_held_out_probabilities_do_not_see_the_labels_of_their_group() -> None:
    probabilities, labels, groups = people(60)
    others = labels.copy()
    others[20:22] = np.where(labels[20:22] == 1, 0, 1)
    before, after = (cross_fitted(probabilities, some, groups) for some in (labels, others))
    np.testing.assert_array_equal(before[20:22], after[20:22])
    assert (before != after).any()


def test_every_group_is_held_out_once_and_whole() -> None:
    groups = [f"g{row % 13}" for row in range(50)]
    folds = deal_groups(groups, 10, seed=3)
    assert (np.sum(folds, axis=0) == 1).all()
    assert len(folds) == 10
    for held in folds:
        inside = {groups[row] for row in np.flatnonzero(held)}
        assert not inside & {groups[row] for row in np.flatnonzero(~held)}
    assert len(deal_groups(groups[:3], 10, seed=3)) == 3


def test_it_refuses_what_cannot_be_fitted() -> None:
    probabilities, labels, groups = people(20)
    with pytest.raises(CalibrationError, match="groups"):
        fit_maps(probabilities, labels, ["one"] * 20)
    with pytest.raises(CalibrationError, match="labels"):
        fit_maps(probabilities, np.full_like(labels, -1), groups)


@pytest.mark.parametrize("name", CANDIDATES)
def test_every_candidate_improves_on_the_decoder(name: str) -> None:
    probabilities, labels, groups = people(600)
    others, truth, _ = people(600, seed=1)
    calibrated = CANDIDATES[name](probabilities, labels, groups)(others)
    assert calibrated.shape == others.shape
    if name == "none":
        np.testing.assert_array_equal(calibrated, others)
    else:
        assert loss(calibrated, truth) < loss(others, truth)
