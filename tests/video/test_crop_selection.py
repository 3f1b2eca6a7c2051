from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from fakes.predictions import predicted

from seqpar_deploy.video.attribute_fusion import AttributeFusion
from seqpar_deploy.video.crop_selection import Candidate, CropSelector, uncertainty
from seqpar_deploy.video.options import SelectionOptions
from seqpar_deploy.video.types import Attribute, Box, Event, Frame, Person, Sighting, TrackedBox
from seqpar_deploy.vocab import LabelSet

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (400, 600, 3), dtype=np.uint8)
FPS = 10


def frame(index: int, stream: str = "a") -> Frame:
    return Frame(stream=stream, index=index, timestamp=index / FPS, image=IMAGE)


def at(track: int, left: float = 100, height: float = 100, top: float = 100) -> TrackedBox:
    return TrackedBox(track_id=track, box=Box(left=left, top=top, right=left + 0.4 * height, bottom=top + height))


def person(track: int, probability: float) -> Person:
    seen = Sighting(frame=0, timestamp=0, box=at(track).box)
    return Person(
        stream="a",
        track_id=track,
        first=seen,
        last=seen,
        best=seen,
        best_crop=IMAGE,
        attributes={"hat": Attribute(state="yes", probability=probability)},
        crops=1,
    )


def taken(selector: CropSelector, frames: int, *boxes: TrackedBox, probability: float | None = None) -> list[Candidate]:
    """What is taken while these people stand there."""
    people = {} if probability is None else {box.track_id: person(box.track_id, probability) for box in boxes}
    found = []
    for index in range(frames):
        selector.offer(frame(index), boxes, people)
        found += selector.take(8, index / FPS)
    return found


def test_a_good_crop_is_answered_at_once_with_what_the_frame_shows() -> None:
    (candidate,) = taken(CropSelector(), 1, at(7))
    assert (candidate.stream, candidate.track_id, candidate.sighting) == (
        "a",
        7,
        Sighting(frame=0, timestamp=0.0, box=at(7).box),
    )
    assert np.array_equal(candidate.crop, IMAGE[92:208, 97:143])
    assert candidate.quality == pytest.approx(1)


def test_a_poor_crop_is_answered_in_time_with_the_best_so_far() -> None:
    selector = CropSelector(SelectionOptions(max_latency=0.5))
    found = []
    for index, height in enumerate([20, 25, 22, 18, 18, 18]):
        assert not found
        selector.offer(frame(index), [at(1, height=height)], {})
        found += selector.take(8, index / FPS)
    assert [candidate.sighting.frame for candidate in found] == [1]


def test_the_interval_of_certain_people_grows() -> None:
    seconds = [candidate.sighting.timestamp for candidate in taken(CropSelector(), 700, at(1), probability=0.99)]
    gaps = np.diff(seconds)
    assert seconds[0] == 0
    assert gaps[0] == pytest.approx(1, abs=0.11)
    assert gaps[1:-1] / gaps[:-2] == pytest.approx(2, abs=0.25)
    assert gaps.max() <= 31
    assert len(taken(CropSelector(), 700, at(1), probability=0.5)) > 5 * len(seconds)


def question_times(*boxes: TrackedBox) -> list[float]:
    """When somebody in these boxes, one a frame, is asked about."""
    selector = CropSelector()
    found = []
    for index, box in enumerate(boxes):
        selector.offer(frame(index), [box], {1: person(1, 0.99)})
        found += selector.take(8, index / FPS)
    return [candidate.sighting.timestamp for candidate in found]


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
    selector = CropSelector(SelectionOptions(max_crops_per_second=2, max_latency=0.3))
    people = [at(track, left=50 * track) for track in range(10)]
    found = taken(selector, 200, *people, probability=0.6)
    assert {candidate.track_id for candidate in found[:10]} == set(range(10))
    assert max(candidate.sighting.timestamp for candidate in found[:10]) <= 0.3
    assert len(found) <= 2 * 20 + 2
    assert min(sum(candidate.track_id == track for candidate in found) for track in range(10)) >= 2


def test_a_limit_leaves_the_rest_for_later() -> None:
    selector = CropSelector()
    selector.offer(frame(0), [at(track, left=50 * track) for track in range(5)], {})
    batches = [len(selector.take(2, 0)) for _ in range(4)]
    assert batches == [2, 2, 1, 0]


def test_who_left_unanswered_is_still_recognised() -> None:
    selector = CropSelector(SelectionOptions(max_latency=5))
    selector.offer(frame(0), [at(1, height=20)], {})
    selector.offer(frame(1), [], {})
    assert not selector.take(8, 0.1)
    selector.finish("a")
    assert [candidate.track_id for candidate in selector.take(8, 0.1)] == [1]
    assert not selector.take(8, math.inf)


def test_hidden_people_wait_until_they_can_be_seen() -> None:
    selector = CropSelector()
    hidden = [at(1), at(2, left=80, height=200, top=90)]
    selector.offer(frame(0), hidden, {})
    selector.offer(frame(9), hidden, {})
    assert [candidate.track_id for candidate in selector.take(8, 0.9)] == [2]
    selector.offer(frame(10), [at(1)], {})
    assert [candidate.track_id for candidate in selector.take(8, 1)] == [1]


def test_memory_is_bounded() -> None:
    selector = CropSelector(SelectionOptions(max_waiting=10, max_latency=1e9, good_quality=2))
    for index in range(3000):
        selector.offer(frame(index), [at(index)], {})
    assert sum(track.waiting is not None for track in selector._tracks.values()) <= 10
    assert len(selector._tracks) < 40


def test_streams_do_not_mix() -> None:
    selector = CropSelector()
    for stream in ("a", "b"):
        selector.offer(frame(0, stream), [at(1)], {})
    assert {candidate.stream for candidate in selector.take(8, 0)} == {"a", "b"}


def test_the_same_input_gives_the_same_choice() -> None:
    def run() -> list[tuple[int, int]]:
        rng = np.random.default_rng(3)
        selector = CropSelector(SelectionOptions(max_crops_per_second=3))
        found = []
        for index in range(200):
            boxes = [at(track, left=rng.uniform(0, 500), height=rng.uniform(20, 150)) for track in range(6)]
            selector.offer(frame(index), boxes, {})
            found += [(c.track_id, c.sighting.frame) for c in selector.take(2, index / FPS)]
        return found

    assert run() == run()


def test_uncertainty() -> None:
    assert uncertainty(person(1, 0.5)) == 1
    assert uncertainty(person(1, 1.0)) == uncertainty(person(1, 0.0)) == 0
    assert uncertainty(dataclasses.replace(person(1, 0.5), attributes={})) == 0


def test_with_fusion_everyone_appears_and_ends(label_set: LabelSet) -> None:
    """The loop of the pipeline, with people who come and go and a recogniser that is always one frame late."""
    selector, fusion = CropSelector(SelectionOptions(max_crops_per_second=1)), AttributeFusion(label_set)
    says = predicted({"Hat": 0.9, "Trousers": 0.95}, label_set)
    events: list[Event] = []
    late: list[Candidate] = []
    for index in range(100):
        here = [
            at(track, left=60 * track, height=20 if track % 2 else 90) for track in range(8) if index // 12 == track
        ]
        events += fusion.observe(frame(index), here)
        selector.offer(frame(index), here, fusion.people("a"))
        for candidate in late:
            events += fusion.add(candidate, says)
        late = selector.take(4, index / FPS)
    selector.finish("a")
    while late := [*late, *selector.take(4, 10)]:
        events += [event for candidate in late for event in fusion.add(candidate, says)]
        late = []
    events += fusion.finish("a")
    for track in range(8):
        kinds = [event.kind for event in events if event.person.track_id == track]
        assert (kinds[0], kinds[-1]) == ("appeared", "ended")
        assert kinds.count("appeared") == kinds.count("ended") == 1
    last = {event.person.track_id: event.person for event in events}
    assert all(someone.attributes["Hat"].state == "yes" for someone in last.values())
    assert all(someone.last.frame == 12 * track + 11 for track, someone in last.items())
