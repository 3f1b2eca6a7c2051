"""Drawn scenes of a fixed camera, 10 frames per second: people, and changes of the picture that are nobody."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np

from seqpar_deploy.preprocess import Crop
from seqpar_deploy.video.detect.motion import MotionDetector
from seqpar_deploy.video.finding import Finder
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Box, Frame, TrackedBox

HEIGHT, WIDTH = 100, 26  # of a person
GROUND = np.random.default_rng(0).integers(90, 130, (288, 384, 3)).astype(np.uint8)

PICTURES = [(GROUND + np.random.default_rng(seed).integers(-3, 4, GROUND.shape)).astype(np.uint8) for seed in range(16)]

Draw = Callable[[Crop, int], object]  # draws into the picture of a frame


def person(image: Crop, centre: float, feet: float = 250, colour: tuple[int, int, int] = (200, 40, 40)) -> Box:
    """Draw a person into an image: a head on shoulders, legs apart."""
    left, top = round(centre - WIDTH / 2), round(feet - HEIGHT)
    for x0, y0, x1, y1 in ((8, 0, 18, 15), (2, 15, 24, 58), (0, 58, 11, 100), (15, 58, 26, 100)):
        image[max(0, top + y0) : max(0, top + y1), max(0, left + x0) : max(0, left + x1)] = colour
    return Box(left=left, top=top, right=left + WIDTH, bottom=top + HEIGHT)


def frames(draw: Draw, count: int, stream: str = "s") -> Iterator[Frame]:
    for index in range(count):
        image = PICTURES[index % len(PICTURES)].copy()
        draw(image, index)
        yield Frame(stream=stream, index=index, timestamp=index / 10, image=image)


def emitted(draw: Draw, count: int, *, live: bool) -> list[list[TrackedBox]]:
    """The boxes that sinks receive, by frame: of a stream, or of a recording, in which the detector looks ahead."""
    detector = MotionDetector()
    finder, shown = Finder(detector, ByteTracker()), []
    if not live:
        detector.look_ahead(itertools.islice(frames(draw, count), 300))
    for frame in frames(draw, count):
        finder.track(frame, finder.detect(frame))
        shown += list(finder.decided(wait=not live))
    shown += list(finder.decided(wait=False))
    assert [frame.index for frame, _ in shown] == list(range(count))
    return [boxes for _, boxes in shown]


def overlap(one: Box, other: Box) -> float:
    width = min(one.right, other.right) - max(one.left, other.left)
    height = min(one.bottom, other.bottom) - max(one.top, other.top)
    inside = max(0.0, width) * max(0.0, height)
    areas = sum((box.right - box.left) * (box.bottom - box.top) for box in (one, other))
    return inside / (areas - inside)
