"""Scores equal the published formulas, re-stated here one cell at a time, and a hand-worked example."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pytest

from seqpar_deploy.datasets.base import NO, UNKNOWN, YES, Labels
from seqpar_deploy.errors import DatasetError
from seqpar_deploy.evaluation.metrics import Metrics, compute_metrics

EPSILON = 1e-20
Predicted = npt.NDArray[np.bool_]


def share(part: float, whole: float) -> float:
    return part / (whole + EPSILON)


def f1_of(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall + EPSILON)


def published(predicted: Predicted, labels: Labels) -> dict[str, float | list[float]]:
    """The published formulas for labels without unknowns, with sets instead of matrices."""
    people, attributes = labels.shape
    recalls_yes, recalls_no, label_f1s = [], [], []
    for a in range(attributes):
        truth = {m for m in range(people) if labels[m, a] == YES}
        said = {m for m in range(people) if predicted[m, a]}
        everyone = set(range(people))
        recalls_yes.append(share(len(truth & said), len(truth)))
        recalls_no.append(share(len(everyone - truth - said), len(everyone - truth)))
        label_f1s.append(f1_of(share(len(truth & said), len(said)), recalls_yes[-1]))
    accuracies, precisions, recalls, f1s = [], [], [], []
    for m in range(people):
        truth = {a for a in range(attributes) if labels[m, a] == YES}
        said = {a for a in range(attributes) if predicted[m, a]}
        accuracies.append(share(len(truth & said), len(truth | said)))
        precisions.append(share(len(truth & said), len(said)))
        recalls.append(share(len(truth & said), len(truth)))
        f1s.append(f1_of(precisions[-1], recalls[-1]))
    mas = [(yes + no) / 2 for yes, no in zip(recalls_yes, recalls_no, strict=True)]
    return {
        "ma": sum(mas) / attributes,
        "accuracy": sum(accuracies) / people,
        "precision": sum(precisions) / people,
        "recall": sum(recalls) / people,
        "f1": sum(f1s) / people,
        "attribute recall_yes": recalls_yes,
        "attribute recall_no": recalls_no,
        "attribute ma": mas,
        "attribute f1": label_f1s,
    }


def as_dict(metrics: Metrics) -> dict[str, float | list[float]]:
    overall = {name: getattr(metrics, name) for name in ("ma", "accuracy", "precision", "recall", "f1")}
    each = {
        f"attribute {name}": [getattr(attribute, name) for attribute in metrics.attributes]
        for name in ("recall_yes", "recall_no", "ma", "f1")
    }
    return {**overall, **each}


def check(predicted: Predicted, labels: Labels) -> Metrics:
    metrics = compute_metrics(predicted, labels)
    wanted = published(predicted, labels)
    for name, value in as_dict(metrics).items():
        assert value == pytest.approx(wanted[name], abs=1e-9, rel=0), name
    return metrics


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.9])
def test_random_labels_score_as_published(rate: float, rng: np.random.Generator) -> None:
    for people, attributes in [(1, 1), (3, 26), (200, 35), (57, 2)]:
        labels = (rng.random((people, attributes)) < rate).astype(np.int8)
        check(rng.random((people, attributes)) < rate, labels)
        check((labels == YES) ^ (rng.random(labels.shape) < 0.1), labels)


NOBODY, EVERYBODY = np.zeros((4, 3), np.int8), np.ones((4, 3), np.int8)


@pytest.mark.parametrize("labels", [NOBODY, EVERYBODY, np.eye(4, 3, dtype=np.int8)], ids=["no", "all", "one each"])
@pytest.mark.parametrize("predicted", [NOBODY, EVERYBODY, np.eye(4, 3, 1)], ids=["no", "all", "one each"])
def test_edge_cases_score_as_published(predicted: npt.NDArray[np.float64], labels: Labels) -> None:
    check(predicted.astype(bool), labels)


def test_what_the_published_formulas_say_of_nothing() -> None:
    nothing = compute_metrics(NOBODY.astype(bool), NOBODY)
    assert (nothing.ma, nothing.accuracy, nothing.precision, nothing.recall, nothing.f1) == (0.5, 0, 0, 0, 0)
    everything = compute_metrics(EVERYBODY.astype(bool), EVERYBODY)
    assert (everything.ma, everything.accuracy, everything.f1) == (0.5, 1, 1)
    assert everything.attributes[0].recall_no == 0


def test_a_hand_worked_example() -> None:
    labels = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1]], np.int8)
    predicted = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]], np.bool_)
    metrics = compute_metrics(predicted, labels)
    # Attribute 0: all right. 1: yes 1 of 1, no 1 of 2. 2: yes 1 of 3, no 0 of 0.
    assert [a.ma for a in metrics.attributes] == pytest.approx([1, 3 / 4, 1 / 6])
    assert [a.f1 for a in metrics.attributes] == pytest.approx([1, 2 / 3, 1 / 2])
    assert [(a.known, a.positives, a.predicted) for a in metrics.attributes] == [(3, 1, 1), (3, 1, 2), (3, 3, 1)]
    # Person 0: 1 in common of 2 said, 2 true, 3 in all. 1: 2, 2, 2, 2. 2: said nothing.
    assert metrics.accuracy == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert metrics.precision == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert metrics.recall == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert metrics.f1 == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert metrics.ma == pytest.approx(23 / 36)


def test_f1_is_the_mean_over_people_not_the_f1_of_the_means() -> None:
    labels = np.array([[1, 1, 1, 1], [1, 0, 0, 0]], np.int8)
    predicted = np.array([[1, 0, 0, 0], [1, 1, 1, 1]], np.bool_)
    assert compute_metrics(predicted, labels).f1 == pytest.approx(0.4)  # the F1 of the means would be 0.625


def test_unknown_cells_count_neither_in_the_label_nor_in_the_prediction(rng: np.random.Generator) -> None:
    labels = (rng.random((40, 8)) < 0.4).astype(np.int8)
    predicted = rng.random((40, 8)) < 0.4
    hidden = rng.random((40, 8)) < 0.3
    labels[hidden] = UNKNOWN
    metrics = compute_metrics(predicted, labels)
    assert metrics == compute_metrics(predicted ^ hidden, labels)

    # Over people, an unknown cell is as good as one that is neither there nor said.
    instance = published(predicted & ~hidden, np.where(hidden, NO, labels))
    for name in ("accuracy", "precision", "recall", "f1"):
        assert getattr(metrics, name) == pytest.approx(instance[name], abs=1e-12)
    # Over one attribute, it is as if the person were not there.
    for a, attribute in enumerate(metrics.attributes):
        seen = ~hidden[:, a]
        alone = compute_metrics(predicted[seen, a : a + 1], labels[seen, a : a + 1])
        assert attribute == alone.attributes[0]
        assert attribute.known == seen.sum()


def test_attributes_and_people_of_whom_nothing_is_known_take_part_in_no_mean() -> None:
    labels = np.array([[1, 0, 1], [0, 1, 1], [0, 0, 1]], np.int8)
    predicted = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]], np.bool_)
    wider = np.pad(labels, ((0, 1), (0, 1)), constant_values=UNKNOWN)
    metrics = compute_metrics(np.pad(predicted, ((0, 1), (0, 1)), constant_values=True), wider)
    narrow = compute_metrics(predicted, labels)
    assert dataclasses.replace(metrics, attributes=metrics.attributes[:3]) == narrow
    assert metrics.attributes[3].known == 0


def test_integers_predict_as_booleans_do() -> None:
    labels = np.eye(3, dtype=np.int8)
    assert compute_metrics(np.eye(3, dtype=np.int64), labels) == compute_metrics(np.eye(3, dtype=np.bool_), labels)


@pytest.mark.parametrize(
    ("predicted", "labels", "message"),
    [
        (np.zeros((2, 3), bool), np.zeros((2, 4), np.int8), r"got \(2, 3\) and \(2, 4\)"),
        (np.zeros(3, bool), np.zeros(3, np.int8), r"attributes.* got \(3,\)"),
        (np.zeros((2, 3), bool), np.full((2, 3), UNKNOWN, np.int8), "2 x 3"),
    ],
)
def test_what_cannot_be_scored_is_refused(predicted: Predicted, labels: Labels, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        compute_metrics(predicted, labels)
