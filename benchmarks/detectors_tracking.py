"""Trackers on kept detections of the street video, for detectors.py. A trial takes seconds, as no detector runs."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tracking
from tracking import Found

from seqpar_deploy.files import write_whole
from seqpar_deploy.video import track
from seqpar_deploy.video.detect.onnx import OnnxOptions
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.evidence import overlap
from seqpar_deploy.video.finding import Finder
from seqpar_deploy.video.track import ByteTracker, TrackOptions
from seqpar_deploy.video.types import Box, Frame, LooksAhead, TrackedBox, Tracker

Kept = list[list[Box]]  # boxes of each frame
SETS = (("motion", 0.0), ("nanodet", 0.25), ("nanodet", 0.4), ("nanodet", 0.5), ("centernet", 0.25), ("ssdlite", 0.4))


Item = TypeVar("Item")


def progress(items: Iterable[Item], title: str) -> Iterator[Item]:
    """Yield the items, and print how many were begun."""
    listed = list(items)
    for number, item in enumerate(listed, 1):
        print(f"\r{title}: {number} of {len(listed)}", end="", file=sys.stderr, flush=True)
        yield item
    print(file=sys.stderr)


def detect(path: Path, video: Path, detector: str, options: OnnxOptions) -> Kept:
    """Detect people in each frame, or read what was kept."""
    if not path.is_file():
        opened = open_detector(detector, options=options)
        if isinstance(opened, LooksAhead):
            opened.look_ahead(itertools.islice(tracking.frames(video), tracking.AHEAD))
        rows = [
            [dataclasses.astuple(box) for box in opened.detect(frame)]
            for frame in progress(frames(str(video)), f"detections of {path.stem}")
        ]
        opened.close()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(rows).encode())
    return read(path)


def read(path: Path) -> Kept:
    names = [field.name for field in dataclasses.fields(Box)]
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [[Box(**dict(zip(names, values, strict=True))) for values in of_frame] for of_frame in rows]


@functools.lru_cache(maxsize=1)
def frames(video: str) -> Sequence[Frame]:
    """Return all frames, 1 GB."""
    return list(tracking.frames(Path(video)))


class Recorded:
    """A detector that returns kept boxes of a least score."""

    def __init__(self, kept: Kept, threshold: float) -> None:
        self._kept, self._threshold = kept, threshold

    def detect(self, frame: Frame) -> list[Box]:
        return [box for box in self._kept[frame.index] if box.score >= self._threshold]

    def close(self) -> None:
        """Do nothing."""


def follow(
    kept: Kept, threshold: float, video: Path, tracker: Callable[[], Tracker] = ByteTracker, every: int = 1
) -> tuple[Found, Found]:
    """Return detected people, and those emitted from a file, of every so manieth frame."""
    finder = Finder(Recorded(kept, threshold), tracker())
    detected: Found = {}
    emitted: Found = {}
    for frame in frames(str(video))[::every]:
        boxes = finder.detect(frame)
        detected[frame.index] = [(box, 0) for box in boxes]
        finder.track(frame, boxes)
        emitted |= {
            seen.index: [(one.box, one.track_id) for one in people] for seen, people in finder.decided(wait=True)
        }
    emitted |= {seen.index: [(one.box, one.track_id) for one in people] for seen, people in finder.decided(wait=False)}
    return detected, emitted


def scores(labels: tracking.Labels, found: tuple[Found, Found]) -> dict[str, Any]:
    """Return recall and precision of the detector, and of the people emitted, whose identity switches are counted."""
    detected, emitted = (tracking.score(labels, one) for one in found)
    return {
        "detected": {name: detected[name] for name in ("recall", "precision")},
        "emitted": {name: emitted[name] for name in ("recall", "precision")} | tracking.identities(labels, found[1]),
    }


class Library:
    """Another tracker of `trackers`, with DIoU and the stream's timestamps as ByteTracker has."""

    def __init__(self, name: str, **options: Any) -> None:
        import supervision
        import trackers

        self._detections, self._timestamp = supervision.Detections, -1.0
        self._tracker = getattr(trackers, name)(lost_track_buffer=60, frame_rate=track.KALMAN_RATE, **options)

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        self._timestamp = max(frame.timestamp, self._timestamp + 0.001)
        edges = [(box.left, box.top, box.right, box.bottom) for box in boxes]
        found = self._detections(
            xyxy=np.array(edges, dtype=np.float32).reshape(-1, 4),
            confidence=np.array([box.score for box in boxes], dtype=np.float32),
            data={"row": np.arange(len(boxes))},
        )
        tracked = self._tracker.update(found, timestamp=self._timestamp)
        if not len(tracked):
            return []
        pairs = zip(tracked.tracker_id.tolist(), tracked.data["row"].tolist(), strict=True)
        return [TrackedBox(track_id=track_id + 1, box=boxes[row]) for track_id, row in pairs if track_id >= 0]


class WithoutDuplicates(ByteTracker):
    """ByteTracker that drops the lower-scoring of two boxes before tracking."""

    def __init__(self, most: float, options: TrackOptions) -> None:
        super().__init__(options)
        self._most = most

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        kept: list[Box] = []
        for box in sorted(boxes, key=lambda one: -one.score):
            if all(overlap(box, other) <= self._most for other in kept):
                kept.append(box)
        return super().update(frame, kept)


class AtRate(ByteTracker):
    """ByteTracker with another Kalman rate."""

    def __init__(self, rate: float, options: TrackOptions) -> None:
        usual, track.KALMAN_RATE = track.KALMAN_RATE, rate
        super().__init__(options)
        track.KALMAN_RATE = usual


def tried() -> dict[str, tuple[Callable[[], Tracker], int]]:
    """Return what was tried, and the frames that it takes: all, or every 5th (2 per second)."""
    from trackers.utils.iou import DIoU, IoU

    def byte(**options: Any) -> Callable[[], Tracker]:
        return lambda: ByteTracker(TrackOptions(**options))

    boxes = TrackOptions(colours=0)
    return {
        "boxes only (before)": (byte(colours=0), 1),
        **{f"boxes only, high_score {score}": (byte(colours=0, high_score=score), 1) for score in (0.4, 0.6, 0.7)},
        **{f"boxes only, Kalman rate {rate}": (functools.partial(AtRate, rate, boxes), 1) for rate in (5, 7, 20, 30)},
        **{f"boxes only, confirmed_after {n}": (byte(colours=0, confirmed_after=n), 1) for n in (1, 3, 5)},
        **{f"boxes only, lost_after {n}": (byte(colours=0, lost_after=n), 1) for n in (1, 5)},
        **{f"boxes only, min_similarity {n}": (byte(colours=0, min_similarity=n), 1) for n in (-0.5, 0.1)},
        **{
            f"boxes only, duplicates above {n}": (functools.partial(WithoutDuplicates, n, boxes), 1) for n in (0.4, 0.5)
        },
        "SORT": (lambda: Library("SORTTracker", minimum_iou_threshold=0.1), 1),
        "OC-SORT": (lambda: Library("OCSORTTracker", minimum_iou_threshold=0.1), 1),
        "BoT-SORT without camera motion": (lambda: Library("BoTSORTTracker", enable_cmc=False, iou=DIoU()), 1),
        "C-BIoU": (lambda: Library("CBIoUTracker"), 1),
        "ByteTrack with IoU 0.1": (lambda: Library("ByteTrackTracker", iou=IoU(), minimum_iou_threshold=0.1), 1),
        **{f"colours {weight}": (byte(colours=weight), 1) for weight in (0.3, 0.6, 1.0, 1.5, 2.0, 2.5)},
        **{f"colours 2, high_score {score}": (byte(high_score=score), 1) for score in (0.55, 0.6, 0.7)},
        "colours 2, lost_after 5": (byte(lost_after=5), 1),
        "boxes only, 2 frames per second": (byte(colours=0), 5),
        "colours 2, 2 frames per second": (byte(), 5),
    }


def trials(kept: dict[str, Kept], video: Path) -> dict[str, Any]:
    """Return emitted recall, precision and identity switches of all that was tried, by detector and threshold."""
    labels = tracking.read_labels()
    result: dict[str, Any] = {}
    for name, (tracker, every) in progress(tried().items(), "trials"):
        counted = {frame: people for frame, people in labels.items() if frame % every == 0}
        result[name] = {}
        for detector, threshold in SETS:
            try:
                found = follow(kept[detector], threshold, video, tracker, every)
            except (TypeError, ValueError) as error:
                result[name] = {"failed": str(error)[:200]}
                break
            title = detector if detector == "motion" else f"{detector} {threshold}"
            result[name][title] = scores(counted, found)["emitted"]
    return result
