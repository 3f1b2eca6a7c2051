"""Compare counts of line crossings in the street video with those of its labelled tracks.

    .venv/bin/python benchmarks/zones.py vtest.avi [--out FILE]

The video is OpenCV's sample; samples/vtest/tracks.csv labels all people in every 5th frame. 25 straight lines lie
through the places where people walk. The error is the sum of the differences of both counts, over lines and directions,
as a share of the labelled crossings. The labelled tracks are counted with margin 0.1 and without a moment to hold,
because they are exact to some pixels and 0.5 s apart.

Detected tracks are those that sinks receive: of a file, with the look ahead, and of a live stream. They are counted
with each pair of `margin` and `hold` (settings.py), and by the line of `supervision`, with one anchor at the feet and
thresholds of 1 to 8 frames. The video has 10 frames per second.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.resources import data_dir
from seqpar_deploy.video.detect.motion import MotionDetector
from seqpar_deploy.video.finding import Finder
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import expand_sources
from seqpar_deploy.video.sources.state import SourceOptions
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Box
from seqpar_deploy.video.zones.geometry import Point, feet
from seqpar_deploy.video.zones.passages import Line

RESULT = Path(__file__).parent / "results" / "zones.json"
RATE = 10.0  # frames per second
ROWS = 576  # of a frame
LOST = 2.0  # seconds without a box after which a track ends
MARGINS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3)
HOLDS = (0.0, 0.2, 0.3, 0.5, 0.8)
LINES: list[tuple[Point, Point]] = [
    *(((x, 150.0), (x, 420.0)) for x in map(float, range(150, 701, 50))),
    *(((50.0, y), (720.0, y)) for y in (220.0, 240.0, 260.0, 280.0, 300.0, 320.0, 350.0)),
    *(((x, 200.0), (x + 200, 400.0)) for x in (100.0, 250.0, 400.0)),
    *(((x + 200, 200.0), (x, 400.0)) for x in (100.0, 250.0, 400.0)),
]

Tracks = dict[int, list[tuple[int, Box]]]  # track: frames and boxes
Counts = Counter[str]  # by direction


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="vtest.avi")
    parser.add_argument("--out", type=Path, default=RESULT, help="JSON file; default: benchmarks/results/zones.json")
    options = parser.parse_args()
    expected = [crossings(labelled(), line, margin=0.1, hold=0.0) for line in LINES]
    total = sum(counts.total() for counts in expected)
    result: dict[str, Any] = {"lines": len(LINES), "labelled crossings": total}
    for kind in ("file", "live"):
        tracks = detected(options.video, live=kind == "live")
        result[kind] = {
            "error by margin and hold": {
                f"{margin:g}": {
                    f"{hold:g} s": error(expected, lambda line: crossings(tracks, line, margin=margin, hold=hold))  # noqa: B023
                    for hold in HOLDS
                }
                for margin in MARGINS
            },
            "error of supervision's line, by threshold": {
                f"{frames}": error(expected, lambda line: of_supervision(tracks, line, frames))  # noqa: B023
                for frames in (1, 2, 3, 5, 8)
            },
        }
    result["versions"] = {
        name: importlib.metadata.version(name) for name in ("opencv-python", "trackers", "supervision")
    }
    result["machine"] = describe_machine()
    text = json.dumps(result, indent=2) + "\n"
    write_whole(options.out, text.encode())
    print(text)


def labelled() -> Tracks:
    tracks: Tracks = defaultdict(list)
    with (data_dir("samples") / "vtest" / "tracks.csv").open() as file:
        for row in csv.DictReader(file):
            box = Box(**{edge: float(row[edge]) for edge in ("left", "top", "right", "bottom")})
            tracks[int(row["track"])].append((int(row["frame"]), box))
    return tracks


def detected(video: Path, *, live: bool) -> Tracks:
    """Return the boxes that sinks receive, by track."""
    (spec,) = expand_sources([str(video)], live=False)
    detector = MotionDetector()
    if not live:
        with Source(spec, options=SourceOptions(), quiet=True) as ahead:
            detector.look_ahead(itertools.islice(ahead, 300))
    finder = Finder(detector, ByteTracker())
    tracks: Tracks = defaultdict(list)

    def keep(found: Iterable[Any]) -> None:
        for frame, boxes in found:
            for one in boxes:
                tracks[one.track_id].append((frame.index, one.box))

    with Source(spec, options=SourceOptions()) as source:
        for frame in source:
            finder.track(frame, finder.detect(frame))
            keep(finder.decided(wait=not live))
    keep(finder.decided(wait=False))
    return tracks


def crossings(tracks: Tracks, ends: tuple[Point, Point], *, margin: float, hold: float) -> Counts:
    """Count the crossings of all tracks as `ZoneWatcher` does."""
    counts: Counts = Counter()
    for track, sightings in tracks.items():
        line = Line(ends, margin=margin, hold=hold)
        before = sightings[0][0]
        found = []
        for frame, box in sightings:
            if (frame - before) / RATE > LOST:
                found.append(line.end(track))
            before = frame
            found.append(line.step(track, feet(box, ROWS), box.bottom - box.top, frame / RATE))
        found.append(line.end(track))
        counts.update(one.direction for one in found if one)
    return counts


def of_supervision(tracks: Tracks, ends: tuple[Point, Point], frames: int) -> Counts:
    """Count the crossings as supervision's LineZone does. It names directions the other way round."""
    import supervision as sv

    line = sv.LineZone(
        sv.Point(*ends[0]),
        sv.Point(*ends[1]),
        triggering_anchors=[sv.Position.BOTTOM_CENTER],
        minimum_crossing_threshold=frames,
    )
    by_frame: dict[int, list[tuple[int, Box]]] = defaultdict(list)
    for track, sightings in tracks.items():
        for frame, box in sightings:
            by_frame[frame].append((track, box))
    for frame in range(max(by_frame) + 1):
        people = by_frame.get(frame, [])
        edges = [(box.left, box.top, box.right, box.bottom) for _, box in people]
        line.trigger(
            sv.Detections(
                xyxy=np.array(edges, dtype=np.float64).reshape(-1, 4),
                tracker_id=np.array([track for track, _ in people], dtype=int),
            )
        )
    return Counter({"in": line.out_count, "out": line.in_count})


def error(expected: Sequence[Counts], count: Callable[[tuple[Point, Point]], Counts]) -> float:
    wrong = 0
    for line, counts in zip(LINES, expected, strict=True):
        found = count(line)
        wrong += sum(abs(found[way] - counts[way]) for way in ("in", "out"))
    return round(wrong / sum(counts.total() for counts in expected), 4)


if __name__ == "__main__":
    main()
