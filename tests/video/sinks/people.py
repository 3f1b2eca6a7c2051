"""Made-up people and frames."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.video.types import Attribute, Box, Event, Frame, Person, Sighting, State, TrackedBox

PHRASES = load_label_set("pa100k").phrases
SIZE = (576, 768)


def attributes(
    yes: Sequence[str] = (), unknown: Sequence[str] = (), names: Sequence[str] = PHRASES
) -> dict[str, Attribute]:
    def one(name: str) -> Attribute:
        state: State = "yes" if name in yes else "unknown" if name in unknown else "no"
        return Attribute(state=state, probability={"yes": 0.93, "unknown": 0.5, "no": 0.04}[state])

    return {name: one(name) for name in names}


def person(
    track: int = 1, *, crop: Crop | None = None, stream: str = "street", at: float = 1.0, **other: Any
) -> Person:
    """Seen from `at` for three seconds, best one second on."""
    box = Box(left=100.0 + 40 * track, top=200.0, right=135.0 + 40 * track, bottom=290.0, score=0.9)
    values: dict[str, Any] = {
        "stream": stream,
        "track_id": track,
        "first": Sighting(frame=round(10 * at), timestamp=at, box=box),
        "last": Sighting(frame=round(10 * at) + 30, timestamp=at + 3, box=box),
        "best": Sighting(frame=round(10 * at) + 10, timestamp=at + 1, box=box),
        "best_crop": np.full((90, 35, 3), 40 + track % 200, np.uint8) if crop is None else crop,
        "attributes": attributes(("female", "backpack"), ("hat",)),
        "crops": 4,
    }
    return Person(**values | other)


def event(kind: Any = "appeared", who: Person | None = None, changed: tuple[str, ...] = ("female",)) -> Event:
    return Event(kind=kind, person=who or person(), changed=changed)


def frame(
    index: int = 0, *, stream: str = "street", timestamp: float | None = None, size: tuple[int, int] = SIZE
) -> Frame:
    """Grey, with a bright bar whose place tells the frame's number."""
    image = np.full((*size, 3), 120, np.uint8)
    image[:40, (index * 7) % size[1] :][:, :6] = 250
    return Frame(stream=stream, index=index, timestamp=index / 10 if timestamp is None else timestamp, image=image)


def boxes(*people: Person) -> list[TrackedBox]:
    return [TrackedBox(track_id=one.track_id, box=one.last.box) for one in people]


def moved(who: Person, right: float) -> Person:
    box = who.last.box
    box = dataclasses.replace(box, left=box.left + right, right=box.right + right)
    return dataclasses.replace(who, last=dataclasses.replace(who.last, box=box))
