"""Predictions made by hand, for tests of what comes after the model."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from seqpar_deploy.calibration.thresholds import State
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.vocab import FIRST_ATTRIBUTE, LabelSet


def predicted(
    scores: Mapping[str, float], label_set: LabelSet | None = None, probabilities: Mapping[str, float] | None = None
) -> Prediction:
    """A prediction that emits the attributes in `scores`. Probabilities are the scores, 0.05 for the others."""
    names = [attribute.name for attribute in label_set.attributes] if label_set else []
    values = {**dict.fromkeys(names, 0.05), **scores, **(probabilities or {})}
    states: list[State] = ["yes" if name in scores else "no" for name in values]
    return Prediction(
        attributes=tuple(scores),
        scores=tuple(scores.values()),
        probabilities=np.array(list(values.values()), dtype=np.float32),
        states=tuple(states),
        tokens=tuple(FIRST_ATTRIBUTE + place for place, name in enumerate(values) if name in scores),
        steps=len(scores),
    )
