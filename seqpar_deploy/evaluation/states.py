"""Scores of a model's probabilities, and of the states at its thresholds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqpar_deploy.calibration.sidecar import Calibration
from seqpar_deploy.calibration.thresholds import Thresholds
from seqpar_deploy.datasets import Dataset
from seqpar_deploy.datasets.base import YES
from seqpar_deploy.decoding import Generation
from seqpar_deploy.evaluation.generate import attributes_of, probabilities_of
from seqpar_deploy.evaluation.metrics import Metrics, compute_metrics
from seqpar_deploy.evaluation.probability_metrics import ProbabilityMetrics, compute_probability_metrics
from seqpar_deploy.evaluation.probability_table import format_attribute_probabilities, format_probabilities
from seqpar_deploy.vocab import LabelSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateScores:
    """Hold the scores of probabilities and of the states that they give.

    Attributes:
        kind: `calibrated` or `uncalibrated`.
        metrics: The scores of the probabilities, with coverage and error of the states.
        states: The published metrics of the states. `unknown` counts as not predicted.
        has_thresholds: Whether the states come from thresholds. If not, they are the emitted attributes.
    """

    kind: str
    metrics: ProbabilityMetrics
    states: Metrics
    has_thresholds: bool

    def to_dict(self, label_set: LabelSet) -> dict[str, Any]:
        """Return the scores as plain values for JSON."""
        values = self.metrics.to_dict()
        names = [attribute.name for attribute in label_set.attributes]
        values["attributes"] = dict(zip(names, values["attributes"], strict=True))
        thresholds = "given" if self.has_thresholds else "none: the states are the emitted attributes"
        states = {"thresholds": thresholds, "ma": self.states.ma, "f1": self.states.f1}
        return {"calibrated": self.kind == "calibrated", "states": states, **values}

    def text(self, label_set: LabelSet) -> str:
        """Format the scores of each attribute, then those over all."""
        text = f"{format_attribute_probabilities(self.metrics, label_set)}\n\n"
        text += format_probabilities(self.metrics, calibrated=self.kind == "calibrated")
        if self.has_thresholds:
            text += f"\n  states at the thresholds: mA {100 * self.states.ma:.2f}, F1 {100 * self.states.f1:.2f}"
        return text


def score_states(
    generations: Sequence[Generation], dataset: Dataset, calibration: Calibration | None, thresholds: Thresholds | None
) -> StateScores:
    """Score the probabilities, calibrated if possible, and the states, which without thresholds are those emitted."""
    probabilities = probabilities_of(generations)
    if calibration is not None:
        probabilities = calibration.maps(probabilities)
        thresholds = thresholds or calibration.thresholds(dataset.label_set)
    emitted = attributes_of(generations, len(dataset.label_set)).astype(np.int8)
    states = emitted if thresholds is None else thresholds.codes(probabilities)
    return StateScores(
        kind="uncalibrated" if calibration is None else "calibrated",
        metrics=compute_probability_metrics(probabilities, dataset.labels, states=states, groups=dataset.groups),
        states=compute_metrics(states == YES, dataset.labels),
        has_thresholds=thresholds is not None,
    )
