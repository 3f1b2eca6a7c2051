"""Whom a detected track is taken to show in benchmarks/street.py, on made-up boxes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import street
import tracking

from seqpar_deploy.video.types import Box


def edges(left: float) -> np.ndarray:
    return np.array([left, 0, left + 10, 30], dtype=float)


def box(left: float) -> Box:
    return Box(left=left, top=0, right=left + 10, bottom=30)


LABELS = {frame: [(1, 0, edges(0)), (2, 0, edges(50))] for frame in (0, 5, 10)}
# Detected track 8 shows person 1 and is swapped in frame 10, where 9 takes person 1 over; 7 is on nobody.
FOUND = {
    0: [(box(1), 8), (box(90), 7)],
    5: [(box(1), 8)],
    10: [(box(49), 8), (box(0), 9)],
    11: [(box(49), 8)],  # not labelled
}


def test_a_track_shows_whom_most_of_its_boxes_show() -> None:
    assert street.assign(LABELS, FOUND) == {8: (1, [0, 5], 2 / 3), 9: (1, [10], 1.0)}


def test_people_are_counted_by_split() -> None:
    assert tracking.identities(LABELS, FOUND, among={1}) == {"identity switches": 1, "fragments": 0}
    assert tracking.recall(LABELS, FOUND, among={1})["recall"] == 1.0
    assert tracking.recall(LABELS, FOUND, among={2})["recall"] == round(1 / 3, 4)
    both = tracking.score(LABELS, FOUND)
    assert (both["people found"], both["recall"], both["precision"]) == (1, round(4 / 6, 4), 0.8)
