"""A stream whose frames change their size in mid-stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes.predictions import predicted

from seqpar_deploy.video import Box, Follower, Frame
from seqpar_deploy.video.privacy.veil import Veil

LEFT, RIGHT = (100, 200, 150, 350), (200, 400, 300, 700)  # two people who stand, in frames of 1280 x 720


def frame(index: int, scale: float, rng: np.random.Generator | None = None) -> Frame:
    size = (round(720 * scale), round(1280 * scale), 3)
    image = np.zeros(size, np.uint8) if rng is None else rng.integers(0, 256, size, np.uint8)
    return Frame(stream="gate", index=index, timestamp=index / 10, image=image)


def boxes(scale: float, *people: tuple[int, int, int, int]) -> list[Box]:
    edges = [[scale * value for value in person] for person in people]
    return [Box(left=left, top=top, right=right, bottom=bottom, score=0.9) for left, top, right, bottom in edges]


class Standing:
    """A detector that finds both people."""

    def detect(self, frame: Frame) -> list[Box]:
        return boxes(frame.image.shape[1] / 1280, LEFT, RIGHT)

    def close(self) -> None:
        pass


class Sees:
    thresholds = None

    def __init__(self, label_set: Any) -> None:
        self.label_set = label_set

    def predict(self, crops: Any, *, drafts: Any = None) -> Any:
        return [predicted({}, self.label_set) for _ in crops]


@pytest.mark.parametrize("wait", [False, True])
def test_nobody_takes_the_track_of_another_one(label_set: Any, wait: bool) -> None:
    seen: dict[int, dict[int, set[int]]] = {}
    frames = []
    with Follower(Sees(label_set), lambda _: None, detector=Standing()) as follower:
        followed = [
            one for index in range(40) for one in follower.follow(frame(index, 1.0 if index < 20 else 0.5), wait=wait)
        ]
        followed += follower.rest("gate")
    for one, tracked, _ in followed:
        frames.append(one.index)
        scale = one.image.shape[1] / 1280
        for each in tracked:
            person = min((LEFT, RIGHT), key=lambda edges: abs(edges[0] * scale - each.box.left))
            seen.setdefault(each.track_id, {}).setdefault(one.image.shape[1], set()).add(person[0])
            assert abs(person[0] * scale - each.box.left) < 2
    assert frames == list(range(40))
    assert len(seen) == 4
    for sizes in seen.values():  # a track has one person, in frames of one size
        assert len(sizes) == 1
        assert all(len(people) == 1 for people in sizes.values())


def test_somebody_who_is_missed_after_the_change_stays_blurred(rng: np.random.Generator) -> None:
    veil = Veil("people")
    veil.see(frame(0, 1.0), boxes(1.0, LEFT), ready=True)
    veil.shown(frame(0, 1.0), [])
    after = frame(1, 0.5, rng)
    veil.see(after, [], ready=True)
    at = np.s_[105:170, 52:73]
    assert (veil.shown(after, [])[at] != after.image[at]).any(axis=2).mean() > 0.9
