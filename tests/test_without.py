"""The boundary that keeps attributes out: the rest is as before, and nothing tells of them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from fakes.predictions import predicted

from seqpar_deploy import Recognizer, WithoutAttributes
from seqpar_deploy.calibration.thresholds import Limits, Thresholds
from seqpar_deploy.decoding.base import Draft
from seqpar_deploy.errors import LabelSetError, StrategyError
from seqpar_deploy.prediction import Prediction, prediction_values
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.video.attribute_fusion import AttributeFusion
from seqpar_deploy.vocab import EOS, FIRST_ATTRIBUTE, Attribute, Group, LabelSet
from seqpar_deploy.without import Boundary

LABELS = LabelSet(
    name="own",
    attributes=tuple(
        Attribute(name=name, phrase=name.lower(), group=group)
        for name, group in (
            ("Hat", "head"),
            ("Female", "gender"),
            ("AgeUnder18", "age"),
            ("Age18-60", "age"),
            ("Bag[big]", "attach"),
        )
    ),
    groups={"head": Group(), "gender": Group(), "age": Group(exclusive=True), "attach": Group()},
)
CROP = np.zeros((4, 4, 3), np.uint8)


class Scripted:
    """A recognizer whose predictions are given, and that keeps the drafts."""

    label_set = LABELS

    def __init__(self, *predictions: Prediction, thresholds: Thresholds | None = None) -> None:
        self._predictions, self.thresholds = list(predictions), thresholds
        self.drafts: list[Sequence[Draft] | None] = []
        self.closed = False

    def predict(self, crops: Sequence[Crop], *, drafts: Sequence[Draft] | None = None) -> list[Prediction]:
        return list(self.predict_iter(crops, drafts=drafts))

    def predict_iter(self, crops: Sequence[Crop], *, drafts: Sequence[Draft] | None = None) -> Iterator[Prediction]:
        self.drafts.append(drafts)
        for _ in crops:
            yield self._predictions.pop(0)

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def a_prediction(*names: str) -> Prediction:
    return predicted({name: 0.5 + place / 100 for place, name in enumerate(names)}, LABELS)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["female"], ("Female",)),
        (["AGE*", "female"], ("Female", "AgeUnder18", "Age18-60")),
        (["bag[big]"], ("Bag[big]",)),  # a name comes before a pattern
        (["?at"], ("Hat",)),
        ([], ()),
    ],
)
def test_patterns_name_attributes_in_any_case(patterns: list[str], names: tuple[str, ...]) -> None:
    assert LABELS.matching(patterns) == names


def test_a_pattern_that_matches_nothing_lists_the_names() -> None:
    with pytest.raises(LabelSetError, match=r"'femal'.*Hat, Female, AgeUnder18") as caught:
        WithoutAttributes(Scripted(), ["hat", "femal"])
    assert "\n" not in str(caught.value)
    with pytest.raises(LabelSetError, match="all 5"):
        WithoutAttributes(Scripted(), ["*"])


def test_a_prediction_is_as_if_the_attributes_were_unknown() -> None:
    full = a_prediction("Hat", "Female", "Age18-60", "Bag[big]")
    recognizer = WithoutAttributes(Scripted(full), ["female", "age*"])
    (found,) = recognizer.predict([CROP])
    assert [one.name for one in recognizer.label_set.attributes] == ["Hat", "Bag[big]"]
    assert set(recognizer.label_set.groups) == {"head", "attach"}
    assert found.attributes == ("Hat", "Bag[big]")
    assert found.scores == (full.scores[0], full.scores[3])
    assert found.probabilities.tolist() == [full.probabilities[0], full.probabilities[4]]
    assert found.states == ("yes", "yes")
    assert found.tokens == (FIRST_ATTRIBUTE, FIRST_ATTRIBUTE + 1)
    assert set(prediction_values(found, recognizer.label_set)["states"]) == {"Hat", "Bag[big]"}


def test_nothing_tells_whether_a_removed_attribute_was_emitted() -> None:
    one, other = a_prediction("Hat"), a_prediction("Hat", "Female", "Age18-60")
    recognizer = WithoutAttributes(Scripted(one, other), ["female", "age*"])
    first, second = recognizer.predict([CROP, CROP])
    assert first == second  # tokens and steps too
    assert (first.probabilities == second.probabilities).all()


def test_thresholds_are_those_of_the_rest() -> None:
    limits = {one.name: Limits(yes=0.1 * place, no=0.05) for place, one in enumerate(LABELS.attributes, 1)}
    scripted = Scripted(thresholds=Thresholds.from_limits(LABELS, limits, Limits()))
    recognizer = WithoutAttributes(scripted, ["Female", "Age18-60"])
    assert recognizer.thresholds is not None
    assert recognizer.thresholds.yes == pytest.approx([0.1, 0.3, 0.5])
    assert recognizer.thresholds.exclusive == ()
    AttributeFusion(recognizer.label_set, thresholds=recognizer.thresholds)  # they fit each other
    assert WithoutAttributes(Scripted(), ["Hat"]).thresholds is None


def test_drafts_are_translated_back_to_what_the_model_said() -> None:
    full = a_prediction("Hat", "Female", "Bag[big]")
    scripted = Scripted(full, full, full)
    recognizer = WithoutAttributes(scripted, ["Female"])
    (found,) = recognizer.predict([CROP])
    recognizer.predict([CROP, CROP], drafts=[found.tokens, (FIRST_ATTRIBUTE + 2, EOS)])
    assert scripted.drafts == [None, [full.tokens, (FIRST_ATTRIBUTE + 3, EOS)]]


def test_wrong_drafts_are_refused_by_the_vocabulary_that_is_shown() -> None:
    recognizer = WithoutAttributes(Scripted(), ["Female"])
    with pytest.raises(StrategyError, match="from 0 to 6, got 7"):
        recognizer.predict([CROP], drafts=[(7,)])
    with pytest.raises(StrategyError, match="one entry per crop"):
        recognizer.predict([CROP], drafts=[])


def test_memory_does_not_grow_with_the_crops() -> None:
    many = LabelSet(
        name="many",
        attributes=tuple(Attribute(name=f"a{n}", phrase=f"p{n}", group="g") for n in range(12)),
        groups={"g": Group()},
    )
    boundary = Boundary(many, ["a0"])
    for number in range(2000):
        names = [f"a{n + 1}" for n in range(11) if number >> n & 1]
        boundary.prediction(predicted(dict.fromkeys(names, 0.5), many))
    assert len(boundary._sequences) <= 1024


def test_what_is_left_of_an_exclusive_group_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    WithoutAttributes(Scripted(), ["age18-60"])
    assert "AgeUnder18" in caplog.text
    assert "Age18-60" not in caplog.text
    caplog.clear()
    WithoutAttributes(Scripted(), ["age*", "female"])
    assert not caplog.messages


def test_it_closes_the_recognizer() -> None:
    scripted = Scripted()
    with WithoutAttributes(scripted, ["Hat"]):
        pass
    assert scripted.closed


@pytest.mark.slow
def test_the_rest_of_a_bundles_predictions_is_unchanged(bundle_dir: Path, crops: list[Crop]) -> None:
    with Recognizer.from_bundle(bundle_dir) as recognizer:
        before = recognizer.predict(crops)
        names = [one.name for one in recognizer.label_set.attributes]
        removed = next(name for one in before for name in one.attributes)  # one that the model emits
        limited = WithoutAttributes(recognizer, [removed])
        after = limited.predict(crops)
        again = limited.predict(crops, drafts=[one.tokens for one in after])
    assert again == after
    for old, new in zip(before, after, strict=True):
        assert new.attributes == tuple(name for name in old.attributes if name != removed)
        kept = [place for place, name in enumerate(names) if name != removed]
        assert (new.probabilities == old.probabilities[kept]).all()
        named = [limited.label_set.attribute(token) for token in new.tokens]
        assert {one.name for one in named if one} == set(new.attributes)
