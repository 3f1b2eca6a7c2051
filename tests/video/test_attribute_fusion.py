from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes.predictions import predicted

from seqpar_deploy.calibration.maps import log_odds
from seqpar_deploy.calibration.thresholds import Limits, Thresholds
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.video.attribute_fusion import AttributeFusion
from seqpar_deploy.video.crop_selection import Candidate
from seqpar_deploy.video.follow import Follower
from seqpar_deploy.video.options import FusionOptions, LifetimeOptions
from seqpar_deploy.video.types import Box, Event, Frame, Person, Sighting, TrackedBox
from seqpar_deploy.vocab import LabelSet

BOX = Box(left=10, top=10, right=50, bottom=110)
IMAGE = np.zeros((200, 300, 3), np.uint8)


def frame(timestamp: float) -> Frame:
    return Frame(stream="a", index=round(10 * timestamp), timestamp=timestamp, image=IMAGE)


def candidate(timestamp: float, quality: float = 0.8, track_id: int = 1) -> Candidate:
    index = round(10 * timestamp)
    crop = np.full((4, 2, 3), index % 256, np.uint8)
    sighting = Sighting(frame=index, timestamp=timestamp, box=BOX)
    return Candidate(stream="a", track_id=track_id, sighting=sighting, crop=crop, quality=quality)


def says(**scores: float) -> Prediction:
    return predicted(scores, load_label_set("pa100k"))


def test_the_latest_tokens_of_a_track_draft_its_next_crop() -> None:
    fusion = AttributeFusion(load_label_set("pa100k"))
    fusion.observe(frame(1), [TrackedBox(track_id=track, box=BOX) for track in (1, 2)])
    both = [candidate(1, track_id=2), candidate(1, track_id=1)]
    assert fusion.drafts(both) == [None, None]
    for tokens in ((4, 1), (5, 6, 1)):
        fusion.add(both[0], dataclasses.replace(says(Hat=0.9), tokens=tokens))
        assert fusion.drafts(both) == [tokens, None]
    fusion.finish("a")
    assert fusion.drafts(both) == [None, None]


class Scene:
    """One person, who is asked about again and again."""

    def __init__(
        self, label_set: LabelSet, options: FusionOptions = FusionOptions(), thresholds: Thresholds | None = None
    ) -> None:
        self.fusion = AttributeFusion(label_set, options, thresholds=thresholds)
        self.seconds = 0.0

    def answer(self, quality: float = 0.8, **scores: float) -> list[Event]:
        self.seconds += 1
        ended = self.fusion.observe(frame(self.seconds), [TrackedBox(track_id=1, box=BOX)])
        return ended + self.fusion.add(candidate(self.seconds, quality), says(**scores))

    @property
    def person(self) -> Person:
        return self.fusion.people("a")[1]

    def state(self, name: str) -> str:
        return self.person.attributes[name].state

    def probability(self, name: str) -> float:
        return self.person.attributes[name].probability


@pytest.fixture
def scene(label_set: LabelSet) -> Scene:
    return Scene(label_set)


def test_a_clear_answer_is_believed(scene: Scene, label_set: LabelSet) -> None:
    (event,) = scene.answer(Hat=0.99, Trousers=0.95)
    assert event.kind == "appeared"
    assert list(event.person.attributes) == [attribute.name for attribute in label_set.attributes]
    states = {name: attribute.state for name, attribute in event.person.attributes.items()}
    assert [name for name, state in states.items() if state == "yes"] == ["Hat", "Trousers"]
    assert set(states.values()) == {"yes", "no"}
    assert set(event.changed) == set(states)
    assert event.person.attributes["Hat"].probability == pytest.approx(0.93, abs=0.03)


def test_a_poor_crop_leaves_things_unknown(scene: Scene) -> None:
    scene.answer(quality=0.01, Hat=0.7)
    assert {attribute.state for attribute in scene.person.attributes.values()} == {"unknown"}
    scene.answer(quality=0.9, Hat=0.97)
    assert scene.state("Hat") == "yes"


def test_one_crop_among_many_does_not_change_a_belief(scene: Scene) -> None:
    for _ in range(5):
        scene.answer(Hat=0.95)
    assert scene.answer(Backpack=0.9) == []
    assert (scene.state("Hat"), scene.state("Backpack")) == ("yes", "no")


def test_labels_do_not_flicker(label_set: LabelSet) -> None:
    """Said every second time, an attribute keeps its state once it has one."""
    changes = {}
    for sure, keep in ((0.6, 0.5), (0.55, 0.55)):
        scene = Scene(label_set, FusionOptions(sure=sure, keep=keep, base_rate=0.5))
        scene.answer(Hat=0.9)
        said = [scene.answer(Trousers=0.9, Hat=0.9 if turn % 2 else 0.12) for turn in range(30)]
        changes[keep] = sum("Hat" in event.changed for events in said for event in events)
    assert changes[0.5] <= 1 < changes[0.55]


def test_a_belief_can_change_after_long(scene: Scene) -> None:
    for _ in range(200):
        scene.answer(Hat=0.95, LongSleeve=0.9)
    events = [event for _ in range(60) for event in scene.answer(LongSleeve=0.9)]
    assert scene.state("Hat") == "no"
    assert {event.changed for event in events} == {("Hat",)}
    assert len(events) <= 2  # by way of unknown at most


def test_one_yes_in_an_exclusive_group(scene: Scene) -> None:
    scene.answer(LongSleeve=0.3, ShortSleeve=0.8)
    assert (scene.state("ShortSleeve"), scene.state("LongSleeve")) == ("yes", "no")
    scene.answer(LongSleeve=0.8, ShortSleeve=0.8)  # about as probable: no reason to change
    assert (scene.state("ShortSleeve"), scene.state("LongSleeve")) == ("yes", "no")
    for _ in range(6):
        scene.answer(LongSleeve=0.95)
    assert (scene.state("ShortSleeve"), scene.state("LongSleeve")) == ("no", "yes")
    assert scene.probability("ShortSleeve") + scene.probability("LongSleeve") <= 1
    scene.answer(HandBag=0.9, Backpack=0.9)
    for _ in range(8):
        scene.answer(HandBag=0.9, Backpack=0.9, LongSleeve=0.95)
    assert (scene.state("HandBag"), scene.state("Backpack")) == ("yes", "yes")


def test_crops_of_a_track_are_not_independent_witnesses(label_set: LabelSet) -> None:
    """N equal crops move the log-odds away from the base rate by the factor N / (1 + (N - 1) c)."""
    prior = float(log_odds(np.float64(0.2)))
    for correlation, factor in ((0.0, 10.0), (0.25, 10 / 3.25), (1.0, 1.0)):
        scene = Scene(label_set, FusionOptions(correlation=correlation, prior_weight=1e-9))
        for _ in range(10):
            scene.answer(quality=1, Hat=0.3)
        odds = float(log_odds(np.float64(scene.probability("Hat"))))
        assert odds == pytest.approx(prior + factor * (float(log_odds(np.float64(0.3))) - prior), abs=2e-3)


def test_one_crop_keeps_its_probability_and_many_do_not_count_the_base_rate_again(label_set: LabelSet) -> None:
    scene = Scene(label_set, FusionOptions(prior_weight=1e-9))
    scene.answer(Hat=0.2, Backpack=0.4)
    assert scene.probability("Backpack") == pytest.approx(0.4, abs=1e-3)
    for _ in range(9):
        scene.answer(Hat=0.2, Backpack=0.4)
    assert scene.probability("Hat") == pytest.approx(0.2, abs=1e-3)  # the base rate: no evidence at all
    assert scene.probability("Backpack") > 0.5


def test_better_crops_count_more(scene: Scene) -> None:
    scene.answer(quality=0.9, Hat=0.9)
    scene.answer(quality=0.1, Hat=0.1)
    assert scene.state("Hat") == "yes"


def test_no_single_crop_outweighs_the_others(label_set: LabelSet) -> None:
    found = []
    for score in (0.95, 1.0):
        scene = Scene(label_set)
        scene.answer(Hat=score)
        found.append(scene.probability("Hat"))
    assert found[0] == found[1]


def test_a_missing_probability_contributes_nothing(scene: Scene) -> None:
    scene.answer(Hat=0.9, LongSleeve=0.9, ShortSleeve=math.nan, Backpack=math.nan, Back=math.nan)
    assert (scene.state("Backpack"), scene.probability("Backpack")) == ("unknown", 0.5)
    assert [scene.state(name) for name in ("LongSleeve", "ShortSleeve", "Back")] == ["yes", "no", "unknown"]
    before = scene.probability("Hat")
    scene.answer(Hat=math.nan)
    assert scene.probability("Hat") == before


def thresholds_of(label_set: LabelSet, **limits: Limits) -> Thresholds:
    return Thresholds.from_limits(label_set, limits, Limits(yes=0.5, no=0.5))


def test_thresholds_decide_states(label_set: LabelSet) -> None:
    limits = {"Hat": Limits(yes=0.97, no=0.5), "Backpack": Limits(yes=0.15, no=0.1), "Glasses": Limits()}
    scene = Scene(label_set, thresholds=thresholds_of(label_set, **limits))
    scene.answer(quality=1, Hat=0.9, Backpack=0.3, Glasses=0.95)
    assert [scene.state(name) for name in ("Hat", "Backpack", "Glasses")] == ["unknown", "yes", "unknown"]
    for _ in range(10):
        scene.answer(quality=1, Hat=0.9, Backpack=0.3, Glasses=0.95)
    assert [scene.state(name) for name in ("Hat", "Backpack", "Glasses")] == ["yes", "yes", "unknown"]


def test_a_follower_takes_the_thresholds_of_its_recognizer(label_set: LabelSet) -> None:
    class Still:
        def detect(self, frame: Frame) -> list[Box]:
            return [BOX]

        def close(self) -> None:
            """Do nothing."""

    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    for thresholds, expected in ((None, "yes"), (thresholds_of(label_set, Hat=Limits(yes=0.99, no=0.01)), "unknown")):
        recognizer: Any = SimpleNamespace(
            label_set=label_set,
            thresholds=thresholds,
            predict=lambda crops, drafts: [says(Hat=0.9) for _ in crops],
        )
        events: list[Event] = []
        with Follower(recognizer, events.append, detector=Still()) as follower:
            for index in range(20):
                follower.update(Frame(stream="a", index=index, timestamp=index / 10, image=image))
        assert {event.person.attributes["Hat"].state for event in events} == {expected}


def test_thresholds_of_a_half_are_the_usual_rule(label_set: LabelSet) -> None:
    rng = np.random.default_rng(0)
    one, other = Scene(label_set), Scene(label_set, thresholds=thresholds_of(label_set))
    for _ in range(60):
        scores = dict(zip(("Hat", "Backpack", "LongSleeve", "ShortSleeve"), rng.random(4).tolist(), strict=True))
        for scene in (one, other):
            scene.answer(**scores)
        assert one.person.attributes == other.person.attributes


def test_thresholds_have_hysteresis(label_set: LabelSet) -> None:
    """A state begins beyond its threshold and holds until the threshold is crossed."""
    scene = Scene(label_set, FusionOptions(prior_weight=1e-9), thresholds_of(label_set, Front=Limits(yes=0.8, no=0.2)))
    states = []
    for score in (0.82, 0.9, 0.82, 0.79, 0.19, 0.1, 0.19, 0.21):  # momentary: the latest crop decides
        scene.answer(quality=1, Front=score)
        states.append(scene.state("Front"))
    assert states == ["unknown", "yes", "yes", "unknown", "unknown", "no", "no", "unknown"]


def test_the_view_is_that_of_the_latest_crop(scene: Scene) -> None:
    for _ in range(5):
        scene.answer(Front=0.95, Hat=0.9)
    (event,) = scene.answer(Back=0.95, Hat=0.9)
    assert event.kind == "changed"
    assert event.changed == ("Front", "Back")
    assert (scene.state("Front"), scene.state("Back")) == ("no", "yes")
    scene.fusion.observe(frame(scene.seconds + 6), [TrackedBox(track_id=1, box=BOX)])
    assert (scene.state("Back"), scene.state("Hat")) == ("unknown", "yes")


def test_the_best_crop_is_kept(scene: Scene) -> None:
    scene.answer(quality=0.5, Hat=0.9)
    scene.answer(quality=0.9, Hat=0.9)
    scene.answer(quality=0.8, Hat=0.9)
    scene.answer(quality=0.9, Hat=0.4)
    assert (scene.person.best.frame, scene.person.best.timestamp, scene.person.crops) == (20, 2.0, 4)
    assert scene.person.best_crop[0, 0, 0] == 20


def test_a_life(scene: Scene) -> None:
    scene.answer(Hat=0.95)
    scene.answer(Hat=0.95)
    assert scene.fusion.observe(frame(3.5), []) == []
    (event,) = scene.fusion.observe(frame(4.5), [])
    assert (event.kind, event.changed) == ("ended", ())
    assert (event.person.first.timestamp, event.person.last.timestamp, event.person.crops) == (1, 2, 2)
    assert (event.person.first.frame, event.person.last.frame, event.person.last.box) == (10, 20, BOX)
    assert scene.fusion.people("a") == {}
    assert scene.fusion.add(candidate(2), says(Hat=0.9)) == []  # too late


def test_who_left_before_the_answer_appears_and_ends(label_set: LabelSet) -> None:
    fusion = AttributeFusion(label_set)
    fusion.observe(frame(0), [TrackedBox(track_id=1, box=BOX), TrackedBox(track_id=2, box=BOX)])
    assert fusion.observe(frame(3), []) == []
    events = fusion.add(candidate(0), says(Hat=0.95))
    assert [event.kind for event in events] == ["appeared", "ended"]
    assert fusion.observe(frame(40), []) == []  # the other one was given up
    assert fusion.add(candidate(0, track_id=2), says(Hat=0.95)) == []


def test_lifetime_options_count(label_set: LabelSet) -> None:
    fusion = AttributeFusion(label_set, lifetime=LifetimeOptions(leave_after=5, give_up_after=6))
    fusion.observe(frame(0), [TrackedBox(track_id=1, box=BOX), TrackedBox(track_id=2, box=BOX)])
    fusion.add(candidate(0), says(Hat=0.95))
    assert fusion.observe(frame(4.9), []) == []
    assert [event.kind for event in fusion.observe(frame(5.1), [])] == ["ended"]
    assert fusion.unrecognized == 0
    fusion.observe(frame(6.1), [])
    assert fusion.unrecognized == 1


def test_the_end_of_a_stream(label_set: LabelSet) -> None:
    fusion = AttributeFusion(label_set)
    fusion.observe(frame(0), [TrackedBox(track_id=1, box=BOX), TrackedBox(track_id=2, box=BOX)])
    fusion.add(candidate(0), says(Hat=0.95))
    assert [(event.kind, event.person.track_id) for event in fusion.finish("a")] == [("ended", 1)]
    assert fusion.finish("a") == []


def test_groups_of_the_moment_are_declared() -> None:
    def momentary(name: str) -> list[str]:
        return [group for group, of in load_label_set(name).groups.items() if of.momentary]

    assert momentary("pa100k") == ["view"]
    assert momentary("msp60k") == ["view", "action", "motion"]
    assert momentary("peta") == []
