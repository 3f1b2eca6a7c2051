"""Measure detection and tracking on the street video: recall, precision, identity switches, time per frame.

Emitted boxes are those that sinks receive from a file: the detector looks ahead, and frames wait until it is known who
is a person. Detected and tracked boxes are of the same run, before that.

    .venv/bin/python benchmarks/tracking.py vtest.avi [--detector motion|DETECTOR.onnx|BOXES.jsonl]

The video is OpenCV's sample; samples/vtest/tracks.csv labels all people in every 5th frame. Tracks 7 and 20, people of
40 pixels, count neither as found nor as missed. The result is written for the built-in detector only, or with --out.

A labelled box is found if a box overlaps it by IoU 0.5 or more, one to one. A person (a labelled track) is found if at
least half of their boxes are. Identity switches are changes of the number that a labelled person's found boxes have;
fragments are the times they are lost and found again. The built-in detector's constants were chosen on this video, so
other videos have lower scores.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import itertools
import json
import time
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.resources import data_dir
from seqpar_deploy.video.detect.opening import MOTION, open_detector
from seqpar_deploy.video.finding import Finder
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Box, Frame, LooksAhead, TrackedBox

RESULT = Path(__file__).parent / "results" / "tracking.json"
IGNORED = {7, 20}
FOUND = 0.5  # IoU
AHEAD = 300  # frames, as in the pipeline

Edges = npt.NDArray[np.float64]
Found = dict[int, list[tuple[Box, int]]]  # frame: boxes and their tracks
Labels = dict[int, list[tuple[int, int, Edges]]]  # frame: track, occlusion, edges


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="vtest.avi")
    parser.add_argument(
        "--detector", default=MOTION, help=f"{MOTION}, an ONNX file or a JSON Lines file of boxes; default: {MOTION}"
    )
    parser.add_argument("--out", type=Path, help="JSON file; default: benchmarks/results/tracking.json")
    options = parser.parse_args()
    detected, tracked, emitted, cost = run(options.video, options.detector)
    labels = read_labels()
    result = {
        "detector": options.detector,
        "detected": score(labels, detected),
        **{
            stage: score(labels, found) | identities(labels, found) | {"track numbers used": len(used(found))}
            for stage, found in (("tracked", tracked), ("emitted", emitted))
        },
        "milliseconds_per_frame": cost,
        "versions": {name: importlib.metadata.version(name) for name in ("opencv-python", "trackers", "av")},
        "machine": describe_machine(),
    }
    text = json.dumps(result, indent=2) + "\n"
    if options.out or options.detector == MOTION:
        write_whole(options.out or RESULT, text.encode())
    print(text)


def run(video: Path, name: str) -> tuple[Found, Found, Found, dict[str, Any]]:
    """Detect, track and emit people in each frame. Return all three, and the times."""
    detector = open_detector(name)
    tracker = Watched()
    finder = Finder(detector, tracker)
    detected: Found = {}
    emitted: Found = {}
    times: dict[str, list[float]] = {"detect": [], "track": []}
    start = time.process_time()
    if isinstance(detector, LooksAhead):
        detector.look_ahead(itertools.islice(frames(video), AHEAD))
    ahead = time.process_time() - start
    processor_seconds = 0.0
    for frame in frames(video):
        processor, start = time.process_time(), time.perf_counter()
        boxes = finder.detect(frame)
        between = time.perf_counter()
        processor_seconds += time.process_time() - processor
        finder.track(frame, boxes)
        emitted |= {
            seen.index: [(one.box, one.track_id) for one in people] for seen, people in finder.decided(wait=True)
        }
        times["track"].append(1000 * (time.perf_counter() - between))
        times["detect"].append(1000 * (between - start))
        detected[frame.index] = [(box, 0) for box in boxes]
    emitted |= {seen.index: [(one.box, one.track_id) for one in people] for seen, people in finder.decided(wait=False)}
    detector.close()
    cost: dict[str, Any] = {
        stage: {"median": round(float(np.median(of)), 2), "95th percentile": round(float(np.percentile(of, 95)), 2)}
        for stage, of in times.items()
    }
    cost["detect"]["mean processor time of all cores"] = round(1000 * processor_seconds / len(detected), 2)
    cost["look ahead, processor time of all cores"] = round(1000 * ahead)
    return detected, tracker.tracked, emitted, cost


class Watched(ByteTracker):
    """The tracker, which keeps all tracks."""

    def __init__(self) -> None:
        super().__init__()
        self.tracked: Found = {}

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        people = super().update(frame, boxes)
        self.tracked[frame.index] = [(one.box, one.track_id) for one in people]
        return people


def frames(video: Path) -> Iterator[Frame]:
    with av.open(str(video)) as container:
        for index, picture in enumerate(container.decode(video=0)):
            seconds = float(picture.time if picture.time is not None else index / 10)
            yield Frame(stream="vtest", index=index, timestamp=seconds, image=picture.to_ndarray(format="rgb24"))


def read_labels() -> Labels:
    labels: Labels = defaultdict(list)
    with (data_dir("samples") / "vtest" / "tracks.csv").open() as file:
        for row in csv.DictReader(file):
            edges = np.array([float(row[edge]) for edge in ("left", "top", "right", "bottom")])
            labels[int(row["frame"])].append((int(row["track"]), int(row["occlusion"]), edges))
    return labels


def matches(labels: Labels, found: Found) -> Iterator[tuple[int, dict[int, int], Edges]]:
    """Yield for each labelled frame its index, the matched box of each label, and all overlaps."""
    for frame, people in labels.items():
        overlaps = overlap(np.array([edges for _, _, edges in people]), edges_of(found.get(frame, [])))
        pairs = zip(*linear_sum_assignment(-np.where(overlaps >= FOUND, overlaps, 0)), strict=True)
        yield frame, {int(row): int(column) for row, column in pairs if overlaps[row, column] >= FOUND}, overlaps


def score(labels: Labels, found: Found) -> dict[str, Any]:
    """Return recall and precision of boxes, and the number of people found."""
    right, wrong = 0, 0
    for frame, of, overlaps in matches(labels, found):
        ignored = [place for place, (track, _, _) in enumerate(labels[frame]) if track in IGNORED]
        right += len(of.keys() - set(ignored))
        for column in set(range(overlaps.shape[1])) - set(of.values()):
            wrong += not any(overlaps[place, column] > 0.1 for place in ignored)
    return recall(labels, found) | {"precision": round(right / max(1, right + wrong), 4)}


def recall(labels: Labels, found: Found, among: Container[int] | None = None) -> dict[str, Any]:
    """Return boxes and people found, of all labelled tracks, or of those in `among`."""
    hits: dict[int, list[bool]] = defaultdict(list)
    visible: list[bool] = []
    for frame, of, _ in matches(labels, found):
        for place, (track, occlusion, _) in enumerate(labels[frame]):
            if counts(track, among):
                hits[track].append(place in of)
                visible += [place in of] if occlusion < 2 else []
    shares = {track: float(np.mean(of_track)) for track, of_track in sorted(hits.items())}
    boxes = sum(map(len, hits.values()))
    return {
        "people": len(hits),
        "people found": sum(share >= 0.5 for share in shares.values()),
        "people found in 80 % of frames": sum(share >= 0.8 for share in shares.values()),
        "boxes": boxes,
        "recall": round(sum(map(sum, hits.values())) / boxes, 4),
        "recall, less than half hidden": round(float(np.mean(visible)), 4),
        "recall of each track": {str(track): round(share, 2) for track, share in shares.items()},
    }


def identities(labels: Labels, found: Found, among: Container[int] | None = None) -> dict[str, int]:
    """Return identity switches and fragments of all labelled people, or of those in `among`."""
    numbers: dict[int, list[int | None]] = defaultdict(list)
    for frame, of, _ in matches(labels, found):
        for place, (track, _, _) in enumerate(labels[frame]):
            if counts(track, among):
                numbers[track].append(found[frame][of[place]][1] if place in of else None)
    switches = fragments = 0
    for seen in numbers.values():
        known = [number for number in seen if number is not None]
        switches += sum(one != other for one, other in itertools.pairwise(known))
        starts = sum(now is not None and before is None for before, now in zip([None, *seen], seen, strict=False))
        fragments += max(0, starts - 1)
    return {"identity switches": switches, "fragments": fragments}


def counts(track: int, among: Container[int] | None) -> bool:
    return track not in IGNORED and (among is None or track in among)


def used(found: Found) -> set[int]:
    """Return the IDs of tracks."""
    return {number for boxes in found.values() for _, number in boxes}


def edges_of(found: list[tuple[Box, int]]) -> Edges:
    edges = [(box.left, box.top, box.right, box.bottom) for box, _ in found]
    return np.array(edges, dtype=np.float64).reshape(-1, 4)


def overlap(some: Edges, others: Edges) -> Edges:
    """Return the intersection over union, (N, M)."""
    start = np.maximum(some[:, None, :2], others[None, :, :2])
    end = np.minimum(some[:, None, 2:], others[None, :, 2:])
    inside = np.clip(end - start, 0, None).prod(axis=-1)
    areas = (some[:, 2:] - some[:, :2]).prod(axis=1)[:, None] + (others[:, 2:] - others[:, :2]).prod(axis=1)[None]
    return np.asarray(inside / (areas - inside))


if __name__ == "__main__":
    main()
