"""The comparison of two bundles: counts, order, and bundles that cannot be compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from fakes.results import label_set_of

from seqpar_deploy.errors import LabelSetError
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.serving.compare import KEPT, Comparer, check_same_attributes, measure_speed

NAMES = ("Female", "Hat", "Backpack")
LABEL_SET = label_set_of(NAMES)


def prediction(*probabilities: float, tokens: tuple[int, ...] | None = None) -> Prediction:
    """Yes from 0.6, no below 0.4, else unknown."""
    states = tuple("yes" if p >= 0.6 else "no" if p < 0.4 else "unknown" for p in probabilities)
    emitted = tuple(3 + i for i, state in enumerate(states) if state == "yes") if tokens is None else tokens
    return Prediction(
        attributes=tuple(NAMES[token - 3] for token in emitted),
        scores=(1.0,) * len(emitted),
        probabilities=np.array(probabilities, np.float32),
        states=states,  # type: ignore[arg-type]
        tokens=emitted,
        steps=1,
    )


def crop(value: int = 0) -> Crop:
    return np.full((4, 2, 3), value % 256, np.uint8)


def test_each_attribute_is_counted() -> None:
    old = [prediction(0.9, 0.1, 0.5), prediction(0.7, 0.2, 0.1), prediction(0.9, 0.9, 0.9), prediction(0, 0, 0)]
    new = [
        prediction(0.9, 0.1, 0.5),
        prediction(0.5, 0.2, 0.2),
        prediction(0.1, 0.9, 0.5),
        prediction(0, 0, 0, tokens=(4,)),
    ]
    comparer = Comparer(LABEL_SET)
    comparer.add(["a", "b"], [crop()] * 2, old[:2], new[:2])
    comparer.add([], [], [], [])
    comparer.add(["c", "d"], [crop()] * 2, old[2:], new[2:])
    result = comparer.result()
    assert (result.crops, result.sequences_differ, result.states_differ) == (4, 3, 2)
    female, hat, backpack = result.attributes
    assert (female.agreement, hat.agreement, backpack.agreement) == (0.5, 1.0, 0.75)
    assert (female.old_yes, female.new_yes, backpack.old_yes, backpack.new_yes) == (3, 1, 1, 0)
    assert female.mean_change == pytest.approx((0.2 + 0.8) / 4)
    assert female.largest_change == pytest.approx(0.8)
    assert backpack.mean_change == pytest.approx((0.1 + 0.4) / 4)
    assert result.agreement == pytest.approx(0.75)
    assert [(one.name, one.states) for one in result.changed] == [("c", ("Female", "Backpack")), ("b", ("Female",))]


def test_equal_predictions_agree() -> None:
    comparer = Comparer(LABEL_SET)
    assert comparer.result().agreement == 1
    same = [prediction(0.3, 0.5, 0.7)] * 5
    comparer.add(list("abcde"), [crop()] * 5, same, same)
    result = comparer.result()
    assert (result.agreement, result.sequences_differ, result.states_differ, result.changed) == (1, 0, 0, ())
    assert {attribute.mean_change for attribute in result.attributes} == {0}


def test_the_most_changed_crops_are_kept_and_no_more() -> None:
    comparer = Comparer(LABEL_SET)
    count = 3 * KEPT
    order = np.random.default_rng(0).permutation(count).tolist()
    for number in order:  # changes that flip no state, the larger the higher the number; two flip one
        change = prediction(0.3 if number in (7, 9) else 0.9, 0.9, 0.1 + 0.2 * number / count)
        comparer.add([str(number)], [crop(number)], [prediction(0.9, 0.9, 0.1)], [change])
    changed = comparer.result().changed
    expected = ["9", "7", *(str(number) for number in range(count - 1, count - KEPT + 1, -1))]
    assert [one.name for one in changed] == expected
    assert all(one.crop[0, 0, 0] == int(one.name) % 256 for one in changed)
    values = comparer.result().to_dict()
    assert values["changed"][0]["states"] == ["Female"]
    assert values["changed"][0]["old_tokens"] == [3, 4]


@pytest.mark.parametrize(
    ("names", "facts"),
    [
        (("Female", "Hat"), ("attribute 3", "Backpack", "missing", "(2)")),
        (("Hat", "Female", "Backpack"), ("attribute 1", "Female", "Hat")),
        (("Female", "Hat", "Bag"), ("attribute 3", "Backpack", "Bag")),
        ((*NAMES, "Scarf"), ("attribute 4", "missing", "Scarf")),
    ],
)
def test_other_attributes_are_refused(names: Sequence[str], facts: Sequence[str]) -> None:
    with pytest.raises(LabelSetError) as caught:
        check_same_attributes(LABEL_SET, label_set_of(names, "winter"))
    for fact in ("street (3)", "winter", *facts):
        assert fact in str(caught.value)
    check_same_attributes(LABEL_SET, dataclasses.replace(LABEL_SET, name="other"))


class Recorder:
    """Records the order of calls."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def predict(self, crops: Sequence[Crop]) -> list[Prediction]:
        self.calls.append(self.name * len(crops))
        return []


def test_recognizers_are_timed_in_turns_after_one_run_of_each() -> None:
    calls: list[str] = []
    progress: list[tuple[int, int]] = []
    both = [Recorder("a", calls), Recorder("b", calls)]
    rates = measure_speed(both, [crop(), crop()], runs=3, on_progress=lambda *call: progress.append(call))
    assert calls == ["aa", "bb", "aa", "bb", "bb", "aa", "aa", "bb"]
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert len(rates) == 2
    assert min(rates) > 0
