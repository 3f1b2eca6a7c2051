"""Annotated pictures: the person, and attributes that look as certain as they are."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.predictions import predicted

from seqpar_deploy.annotate import UNCERTAIN_BELOW, annotate, split_by_score
from seqpar_deploy.prediction import Prediction


def prediction(**scores: float) -> Prediction:
    return predicted(scores)


def blue(crop: np.ndarray, **scores: float) -> int:
    """Number of pixels in the colour of a certain attribute's bar."""
    picture = np.asarray(annotate(crop, prediction(**scores))).astype(int)
    return int(((picture[..., 2] - picture[..., 0]) > 60).sum())


@pytest.fixture
def crop() -> np.ndarray:
    return np.full((120, 50, 3), 128, np.uint8)


def test_a_low_score_does_not_look_like_a_finding(crop: np.ndarray) -> None:
    sure, guess = blue(crop, Hat=0.97), blue(crop, Hat=0.27)
    assert sure > 500
    assert guess == 0
    assert blue(crop, Hat=0.97, Backpack=0.27) == sure


def test_uncertain_attributes_are_apart() -> None:
    sure, uncertain = split_by_score(prediction(Female=0.99, HandBag=UNCERTAIN_BELOW, Hat=0.27, Boots=float("nan")))
    assert [name for name, _ in sure] == ["Female", "HandBag"]
    assert [name for name, _ in uncertain] == ["Hat", "Boots"]


@pytest.mark.parametrize("size", [(120, 50), (50, 120), (1, 400), (400, 1)])
@pytest.mark.parametrize("scores", [[], [0.9], [0.2], [0.0, 1.0] * 20])
def test_everything_fits_in_the_picture(size: tuple[int, int], scores: list[float]) -> None:
    named = {f"attribute {index} {'x' * 60}": score for index, score in enumerate(scores)}
    picture = np.asarray(annotate(np.zeros((*size, 3), np.uint8), prediction(**named)))
    paper = picture[0, 0]
    assert (picture[-8:] == paper).all()
    assert (picture[:, -8:] == paper).all()
