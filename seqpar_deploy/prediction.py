"""From a generated sequence to a prediction: attributes, scores, probabilities and states of one crop."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqpar_deploy.calibration.maps import LogisticMaps
from seqpar_deploy.calibration.probabilities import attribute_probabilities, probabilities_of_many
from seqpar_deploy.calibration.thresholds import State, Thresholds
from seqpar_deploy.decoding import Generation
from seqpar_deploy.vocab import FIRST_ATTRIBUTE, LabelSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """Hold the attributes recognised on one crop.

    Attributes:
        attributes: Names, in the label set's order.
        scores: Probability of each of `attributes` when it was generated, 0 to 1, given those generated before it.
        probabilities: Probability of every attribute of the label set, 0 to 1, float32 (n,). Calibrated if the bundle
            has a calibration, see `calibration/probabilities.py` for the value before.
        states: `yes`, `no` or `unknown` for every attribute of the label set, from `probabilities` and the thresholds.
            Without thresholds, `yes` for `attributes` and `no` for the others.
        tokens: Token ids in the order generated, with the `<eos>` if there is one.
        steps: Decoder steps that the sequence took.
    """

    attributes: tuple[str, ...]
    scores: tuple[float, ...]
    probabilities: npt.NDArray[np.float32] = dataclasses.field(compare=False)
    states: tuple[State, ...]
    tokens: tuple[int, ...]
    steps: int


def prediction_values(prediction: Prediction, label_set: LabelSet) -> dict[str, Any]:
    """Return a prediction as values for JSON, with the names of the label set. Numbers have six decimals."""
    names = [attribute.name for attribute in label_set.attributes]
    return {
        "attributes": [
            {"name": name, "score": round(score, 6)}
            for name, score in zip(prediction.attributes, prediction.scores, strict=True)
        ],
        "probabilities": {
            name: round(probability, 6)
            for name, probability in zip(names, prediction.probabilities.tolist(), strict=True)
        },
        "states": dict(zip(names, prediction.states, strict=True)),
        "tokens": prediction.tokens,
        "steps": prediction.steps,
    }


def smallest_margin(generation: Generation, maps: LogisticMaps | None, thresholds: Thresholds | None) -> float:
    """Return the smallest change of log-probabilities or log-odds that may change a token or a state.

    NaN if an output is NaN. Without thresholds, states follow from the tokens.
    """
    if thresholds is None:
        return generation.margin
    probabilities = attribute_probabilities(generation.tokens, generation.distributions)
    slopes = np.ones(len(probabilities)) if maps is None else maps.slopes
    calibrated = probabilities if maps is None else maps(probabilities)
    return float(np.minimum(generation.margin, thresholds.margin(calibrated, slopes)))  # NaN stays NaN


def prediction_from_generation(
    generation: Generation,
    label_set: LabelSet,
    *,
    maps: LogisticMaps | None = None,
    thresholds: Thresholds | None = None,
) -> Prediction:
    """Convert a generated sequence to a prediction. An attribute that was emitted twice keeps its first score."""
    return predictions_from_generations([generation], label_set, maps=maps, thresholds=thresholds)[0]


def predictions_from_generations(
    generations: Sequence[Generation],
    label_set: LabelSet,
    *,
    maps: LogisticMaps | None = None,
    thresholds: Thresholds | None = None,
) -> list[Prediction]:
    """Convert the sequences of a batch, one or more, to predictions. See `prediction_from_generation`."""
    probabilities = probabilities_of_many([(one.tokens, one.distributions) for one in generations])
    if maps is not None:
        probabilities = maps(probabilities)
    rows = zip(generations, probabilities, strict=True)
    return [_prediction(generation, row.copy(), label_set, thresholds) for generation, row in rows]


def _prediction(
    generation: Generation,
    probabilities: npt.NDArray[np.float32],
    label_set: LabelSet,
    thresholds: Thresholds | None,
) -> Prediction:
    log_prob_of: dict[int, float] = {}
    for token, log_prob in zip(generation.tokens, generation.log_probs, strict=True):
        if token >= FIRST_ATTRIBUTE:
            log_prob_of.setdefault(token, log_prob)
    tokens = sorted(log_prob_of)
    states: tuple[State, ...]
    if thresholds is None:
        emitted = {token - FIRST_ATTRIBUTE for token in tokens}
        states = tuple("yes" if place in emitted else "no" for place in range(len(label_set)))
    else:
        states = thresholds.states(probabilities)
    return Prediction(
        attributes=tuple(label_set.attributes[token - FIRST_ATTRIBUTE].name for token in tokens),
        scores=tuple(math.exp(min(0.0, log_prob_of[token])) for token in tokens),
        probabilities=probabilities,
        states=states,
        tokens=generation.tokens,
        steps=generation.steps,
    )
