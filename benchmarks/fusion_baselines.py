"""Earlier rules of attribute fusion, to compare with in video_ablation.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.prediction import Prediction
from seqpar_deploy.video.attribute_fusion import AttributeFusion, confidence
from seqpar_deploy.video.crop_selection import Candidate
from seqpar_deploy.vocab import FIRST_ATTRIBUTE

ABSENT = 0.05  # probability that a crop contributes for an attribute that was not emitted
ABSENT_WEIGHT = 0.4  # weight of such a crop relative to one with the attribute


class MeanOfScores(AttributeFusion):
    """The rule before probabilities: the mean score, weighted by crop quality and model confidence."""

    def _learn(self, track: Any, candidate: Candidate, prediction: Prediction) -> None:
        trust = candidate.quality * confidence(prediction) ** 2
        if track.best is None or trust > track.trust:
            track.best, track.trust = candidate, trust
        probability = np.full(len(self._label_set), ABSENT)
        weight = np.full(len(self._label_set), ABSENT_WEIGHT * trust)
        for name, score in zip(prediction.attributes, prediction.scores, strict=True):
            place = self._label_set.token(name) - FIRST_ATTRIBUTE
            probability[place], weight[place] = score, trust
        kept = np.minimum(1.0, self._options.memory / np.maximum(track.weight, 1e-9))
        kept[self._momentary] = 0.0
        track.weight = kept * track.weight + weight
        track.evidence = kept * track.evidence + weight * probability

    def _probabilities(self, track: Any) -> npt.NDArray[np.float64]:
        prior = self._options.prior_weight
        mean: npt.NDArray[np.float64] = (track.evidence + prior * 0.5) / (track.weight + prior)
        return mean
