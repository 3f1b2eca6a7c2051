"""Score simple baselines on the demo model's real people: the majority answer, and HOG with colour features.

    .venv/bin/python benchmarks/demo_baselines.py --people PEOPLE.csv

On the split `test` both learn from the split `train`, whose people the demo model was trained on too: this is like for
like. Then both are scored on five splits by group, whose test parts together are all people. The demo model is not:
it was trained on most of these people, and five trainings of it would take a day.

HOG and colours: OpenCV's default HOG of 64 x 128 pixels, and the mean and deviation of Lab colours in 4 x 12 cells;
standardised, reduced by PCA, and classified per attribute by logistic regression. Its regularisation and
the threshold on its probabilities are those with the best F1 in cross-validation on the training people alone.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from demo_model import RESULTS, write

from seqpar_deploy.datasets import Dataset, load_dataset
from seqpar_deploy.evaluation.fitting.maps import deal_groups
from seqpar_deploy.evaluation.metrics import compute_metrics

SPLITS, INNER = 5, 5
COMPONENTS = 200
PENALTIES = (30.0, 100.0, 300.0)
THRESHOLDS = np.linspace(0.2, 0.6, 17)
SCORES = ("ma", "accuracy", "precision", "recall", "f1")

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]
Chosen = npt.NDArray[np.bool_]
# From features, labels and groups of training people, and features of others, to answers for the others.
Baseline = Callable[[Floats, Labels, "tuple[str, ...]", Floats], Chosen]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=Path, required=True, help="CSV of real people, with groups")
    parser.add_argument("--out", type=Path, default=RESULTS / "demo-baselines.json", help="JSON file")
    options = parser.parse_args()
    parts = {split: load_dataset("pa100k", options.people, split) for split in ("train", "test")}
    features = {split: np.stack([of_crop(part.crop(row)) for row in range(len(part))]) for split, part in parts.items()}
    result: dict[str, Any] = {"what": "published scores; `splits`: mean, deviation and F1 of each of five splits"}
    baselines: dict[str, Baseline] = {"majority": majority, "hog_and_colour": hog_and_colour}
    for name, baseline in baselines.items():
        train, test = parts["train"], parts["test"]
        answers = baseline(features["train"], train.labels, groups_of(train), features["test"])
        found: dict[str, Any] = {"test": {"people": len(test), **scores(answers, test.labels)}}
        everyone = [np.concatenate([features[split] for split in parts])]
        labels = np.concatenate([part.labels for part in parts.values()])
        groups = tuple(group for part in parts.values() for group in groups_of(part))
        found["splits"] = five_splits(baseline, everyone[0], labels, groups)
        result[name] = found
        print(name, json.dumps(found), flush=True)
    write(options.out, result)


def five_splits(baseline: Baseline, features: Floats, labels: Labels, groups: tuple[str, ...]) -> dict[str, Any]:
    """Return the mean and the deviation of each score over five splits by group."""
    each = []
    for held in deal_groups(groups, SPLITS, seed=0):
        rest = ~held
        kept = tuple(group for group, keep in zip(groups, rest, strict=True) if keep)
        each.append(scores(baseline(features[rest], labels[rest], kept, features[held]), labels[held]))
    values = {score: [one[score] for one in each] for score in SCORES}
    return {
        "people": len(labels),
        "groups": len(set(groups)),
        "mean": {score: float(np.mean(found)) for score, found in values.items()},
        "deviation": {score: float(np.std(found, ddof=1)) for score, found in values.items()},
        "f1": values["f1"],
    }


def majority(_features: Floats, labels: Labels, _groups: tuple[str, ...], others: Floats) -> Chosen:
    """Answer for everyone what is true of more than half of the training people with a known label."""
    usual = (labels == 1).sum(axis=0) > (labels == 0).sum(axis=0)
    return np.broadcast_to(usual, (len(others), len(usual)))


def hog_and_colour(features: Floats, labels: Labels, groups: tuple[str, ...], others: Floats) -> Chosen:
    """Answer by logistic regression, tuned by cross-validation on the training people."""
    best = (-1.0, 0.0, 0.0)
    folds = deal_groups(groups, INNER, seed=0)
    for penalty in PENALTIES:
        probabilities = np.zeros(labels.shape)
        for held in folds:
            probabilities[held] = probabilities_of(features[~held], labels[~held], features[held], penalty)
        for threshold in THRESHOLDS:
            best = max(best, (compute_metrics(probabilities > threshold, labels).f1, penalty, float(threshold)))
    _, penalty, threshold = best
    return probabilities_of(features, labels, others, penalty) > threshold


def probabilities_of(features: Floats, labels: Labels, others: Floats, penalty: float) -> Floats:
    """Return the probability of each attribute of the others, (people, attributes)."""
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    inside = (features - mean) / scale
    values, vectors = np.linalg.eigh(inside @ inside.T)  # there are fewer people than features
    kept = np.flatnonzero(values > 1e-6 * values[-1])[-COMPONENTS:]
    axes = inside.T @ vectors[:, kept] / np.sqrt(values[kept])
    ours, theirs = with_constant(inside @ axes), with_constant((others - mean) / scale @ axes)
    found = np.zeros((len(others), labels.shape[1]))
    for attribute in range(labels.shape[1]):
        known = labels[:, attribute] >= 0
        weights = logistic_regression(ours[known], labels[known, attribute] == 1, penalty)
        found[:, attribute] = sigmoid(theirs @ weights)
    return found


def logistic_regression(features: Floats, yes: Chosen, penalty: float, steps: int = 12) -> Floats:
    """Return weights by Newton's method. The last feature is the constant, whose weight is not penalised."""
    ridge = np.full(features.shape[1], penalty)
    ridge[-1] = 1e-3
    weights = np.zeros(features.shape[1])
    for _ in range(steps):
        probability = sigmoid(features @ weights)
        slope = features.T @ (probability - yes) + ridge * weights
        curvature = (features.T * np.maximum(probability * (1 - probability), 1e-6)) @ features + np.diag(ridge)
        step = np.linalg.solve(curvature, slope)
        weights -= step
        if np.abs(step).max() < 1e-5:
            break
    return weights


def with_constant(features: Floats) -> Floats:
    return np.concatenate([features, np.ones((len(features), 1))], axis=1)


def sigmoid(x: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(x, -30, 30)))


@functools.cache
def hog() -> cv2.HOGDescriptor:
    return cv2.HOGDescriptor()  # 64 x 128 pixels, cells of 8, blocks of 16, 9 directions


def of_crop(crop: npt.NDArray[np.uint8]) -> Floats:
    """Return HOG, and the mean and deviation of colours in 4 x 12 cells, of a crop (h, w, 3)."""
    small = cv2.resize(crop, (64, 128), interpolation=cv2.INTER_AREA)
    colours = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)[4:124].astype(np.float64)  # 120 rows: 12 cells of 10
    cells = colours.reshape(12, 10, 4, 16, 3).transpose(0, 2, 4, 1, 3).reshape(12 * 4 * 3, -1)
    return np.concatenate([hog().compute(small).ravel().astype(np.float64), cells.mean(axis=1), cells.std(axis=1)])


def groups_of(dataset: Dataset) -> tuple[str, ...]:
    return dataset.groups or tuple(map(str, range(len(dataset))))


def scores(answers: Chosen, labels: Labels) -> dict[str, float]:
    metrics = compute_metrics(answers, labels)
    return {score: getattr(metrics, score) for score in SCORES}


if __name__ == "__main__":
    main()
