from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from seqpar_deploy.recognizer import Prediction
from seqpar_deploy.video.attribute_fusion import Fusion
from seqpar_deploy.video.crop_selection import Candidate, Chooser, ChooserOptions, uncertainty
from seqpar_deploy.video.types import Attribute, Box, Event, Frame, Person, TrackedBox
from seqpar_deploy.vocab import LabelSet

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (400, 600, 3), dtype=np.uint8)
FPS = 10


def frame(index: int, stream: str = "a") -> Frame:
    return Frame(stream=stream, index=index, seconds=index / FPS, image=IMAGE)


def at(track: int, left: float = 100, height: float = 100, top: float = 100) -> TrackedBox:
    return TrackedBox(track=track, box=Box(left=left, top=top, right=left + 0.4 * height, bottom=top + height))


def person(track: int, probability: float) -> Person:
    box = at(track).box
    return Person(
        stream="a",
        track=track,
        first_seconds=0,
        last_seconds=0,
        first_frame=0,
        last_frame=0,
        box=box,
        attributes={"hat": Attribute(state="yes", probability=probability)},
        crops=1,
        best=IMAGE,
        best_frame=0,
        best_seconds=0,
        best_box=box,
    )


def taken(chooser: Chooser, frames: int, *boxes: TrackedBox, probability: float | None = None) -> list[Candidate]:
    """What is taken while these people stand there."""
    people = {} if probability is None else {box.track: person(box.track, probability) for box in boxes}
    found = []
    for index in range(frames):
        chooser.offer(frame(index), boxes, people)
        found += chooser.take(8, index / FPS)
    return found


def test_a_good_crop_is_answered_at_once_with_what_the_frame_shows() -> None:
    (candidate,) = taken(Chooser(), 1, at(7))
    assert (candidate.stream, candidate.track, candidate.frame, candidate.seconds) == ("a", 7, 0, 0.0)
    assert np.array_equal(candidate.crop, IMAGE[92:208, 97:143])
    assert candidate.quality == pytest.approx(1)


def test_a_poor_crop_is_answered_in_time_with_the_best_so_far() -> None:
    chooser = Chooser(ChooserOptions(max_latency=0.5))
    found = []
    for index, height in enumerate([20, 25, 22, 18, 18, 18]):
        assert not found
        chooser.offer(frame(index), [at(1, height=height)], {})
        found += chooser.take(8, index / FPS)
    assert [candidate.frame for candidate in found] == [1]


def test_who_is_certain_is_asked_ever_more_rarely() -> None:
    seconds = [candidate.seconds for candidate in taken(Chooser(), 700, at(1), probability=0.99)]
    gaps = np.diff(seconds)
    assert seconds[0] == 0
    assert gaps[0] == pytest.approx(1, abs=0.11)
    assert gaps[1:-1] / gaps[:-2] == pytest.approx(2, abs=0.25)
    assert gaps.max() <= 31
    assert len(taken(Chooser(), 700, at(1), probability=0.5)) > 5 * len(seconds)


def question_times(*boxes: TrackedBox) -> list[float]:
    """When somebody in these boxes, one a frame, is asked about."""
    chooser = Chooser()
    found = []
    for index, box in enumerate(boxes):
        chooser.offer(frame(index), [box], {1: person(1, 0.99)})
        found += chooser.take(8, index / FPS)
    return [candidate.seconds for candidate in found]


def test_a_better_crop_brings_the_next_question_forward() -> None:
    assert question_times(*[at(1, height=40)] * 11) == [0, 1]
    assert question_times(*[at(1, height=40)] * 3, *[at(1, height=90)] * 8) == [0, 0.5]


def test_turning_round_brings_the_next_question_forward() -> None:
    steps = [*range(20), *range(20, -20, -1)]
    there_and_on = [at(1, left=100 + 5 * step) for step in range(60)]
    there_and_back = [at(1, left=100 + 5 * step) for step in steps]
    on, back = question_times(*there_and_on), question_times(*there_and_back)
    assert on[:2] == back[:2] == [0, 1]
    assert on[2] == pytest.approx(3, abs=0.11)
    assert 2 < back[2] < 2.95


def test_the_budget_holds_and_first_answers_go_before() -> None:
    chooser = Chooser(ChooserOptions(max_crops_per_second=2, max_latency=0.3))
    people = [at(track, left=50 * track) for track in range(10)]
    found = taken(chooser, 200, *people, probability=0.6)
    assert {candidate.track for candidate in found[:10]} == set(range(10))
    assert max(candidate.seconds for candidate in found[:10]) <= 0.3
    assert len(found) <= 2 * 20 + 2
    assert min(sum(candidate.track == track for candidate in found) for track in range(10)) >= 2


def test_a_limit_leaves_the_rest_for_later() -> None:
    chooser = Chooser()
    chooser.offer(frame(0), [at(track, left=50 * track) for track in range(5)], {})
    batches = [len(chooser.take(2, 0)) for _ in range(4)]
    assert batches == [2, 2, 1, 0]


def test_who_left_unanswered_is_still_recognised() -> None:
    chooser = Chooser(ChooserOptions(max_latency=5))
    chooser.offer(frame(0), [at(1, height=20)], {})
    chooser.offer(frame(1), [], {})
    assert not chooser.take(8, 0.1)
    chooser.finish("a")
    assert [candidate.track for candidate in chooser.take(8, 0.1)] == [1]
    assert not chooser.take(8, math.inf)


def test_hidden_people_wait_until_they_can_be_seen() -> None:
    chooser = Chooser()
    hidden = [at(1), at(2, left=80, height=200, top=90)]
    chooser.offer(frame(0), hidden, {})
    chooser.offer(frame(9), hidden, {})
    assert [candidate.track for candidate in chooser.take(8, 0.9)] == [2]
    chooser.offer(frame(10), [at(1)], {})
    assert [candidate.track for candidate in chooser.take(8, 1)] == [1]


def test_memory_is_bounded() -> None:
    chooser = Chooser(ChooserOptions(max_waiting=10, max_latency=1e9, good=2))
    for index in range(3000):
        chooser.offer(frame(index), [at(index)], {})
    assert sum(track.waiting is not None for track in chooser._tracks.values()) <= 10
    assert len(chooser._tracks) < 40


def test_streams_do_not_mix() -> None:
    chooser = Chooser()
    for stream in ("a", "b"):
        chooser.offer(frame(0, stream), [at(1)], {})
    assert {candidate.stream for candidate in chooser.take(8, 0)} == {"a", "b"}


def test_the_same_input_gives_the_same_choice() -> None:
    def run() -> list[tuple[int, int]]:
        rng = np.random.default_rng(3)
        chooser = Chooser(ChooserOptions(max_crops_per_second=3))
        found = []
        for index in range(200):
            boxes = [at(track, left=rng.uniform(0, 500), height=rng.uniform(20, 150)) for track in range(6)]
            chooser.offer(frame(index), boxes, {})
            found += [(c.track, c.frame) for c in chooser.take(2, index / FPS)]
        return found

    assert run() == run()


def test_uncertainty() -> None:
    assert uncertainty(person(1, 0.5)) == 1
    assert uncertainty(person(1, 1.0)) == uncertainty(person(1, 0.0)) == 0
    assert uncertainty(dataclasses.replace(person(1, 0.5), attributes={})) == 0


def test_with_fusion_everyone_appears_and_ends(label_set: LabelSet) -> None:
    """The loop of the pipeline, with people who come and go and a recogniser that is always one frame late."""
    chooser, fusion = Chooser(ChooserOptions(max_crops_per_second=1)), Fusion(label_set)
    says = Prediction(attributes=("Hat", "Trousers"), scores=(0.9, 0.95), tokens=(), steps=3)
    events: list[Event] = []
    late: list[Candidate] = []
    for index in range(100):
        here = [
            at(track, left=60 * track, height=20 if track % 2 else 90) for track in range(8) if index // 12 == track
        ]
        events += fusion.seen(frame(index), here)
        chooser.offer(frame(index), here, fusion.people("a"))
        for candidate in late:
            events += fusion.add(candidate, says)
        late = chooser.take(4, index / FPS)
    chooser.finish("a")
    while late := [*late, *chooser.take(4, 10)]:
        events += [event for candidate in late for event in fusion.add(candidate, says)]
        late = []
    events += fusion.finish("a")
    for track in range(8):
        kinds = [event.kind for event in events if event.person.track == track]
        assert (kinds[0], kinds[-1]) == ("appeared", "ended")
        assert kinds.count("appeared") == kinds.count("ended") == 1
    last = {event.person.track: event.person for event in events}
    assert all(someone.attributes["Hat"].state == "yes" for someone in last.values())
    assert all(someone.last_frame == 12 * track + 11 for track, someone in last.items())
