"""Crossings of three lines in the street clip, counted by eye, and by the pipeline.

The truth was counted on every tenth frame of samples/vtest/street.mp4 with the lines drawn in. People by their numbers
in samples/vtest/tracks.csv:

- `across`, from (390, 200) down to (390, 400), so "in" is to the left. In: 16 in red and blue, who walks behind the
  sign in frames 10 to 20, 21 with the paper at frame 59, 10 in black at frame 83. Out: 13, who is bald and passes
  behind the sign at frame 13, 17 in a leather jacket at frame 54, 16 again at frame 93.
- `path`, from (50, 260) to (320, 260), so "in" is down. In: 17 at frame 27, 16 at frame 41. Out: 19 in blue at frame
  27, 15 with fair hair at frame 76. Not: 21 and 10, who change the side beyond the right end.
- `road`, from (590, 240) to (590, 400), so "in" is to the left. In: 21 at frame 27. Out: 13 at frame 50, 17 at frame
  91. Not: 18 in red, who passes beyond the upper end, at a height of 182.
"""

from __future__ import annotations

import csv
import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from video.zones.scripted import Kept, Played

from seqpar_deploy.video.sinks.fan_out import Sinks
from seqpar_deploy.video.types import Box, Frame, TrackedBox
from seqpar_deploy.video.zones.settings import LineSettings, SceneSettings
from seqpar_deploy.video.zones.watcher import ZoneWatcher

VTEST = Path(__file__).parents[3] / "samples" / "vtest"
FIRST = 690  # frame of the whole video with which the clip begins
LINES = SceneSettings(
    lines={
        "across": LineSettings(points=((390, 200), (390, 400))),
        "path": LineSettings(points=((50, 260), (320, 260))),
        "road": LineSettings(points=((590, 240), (590, 400))),
    }
)
TRUTH = {
    ("across", "in"): {16, 21, 10},
    ("across", "out"): {13, 17, 16},
    ("path", "in"): {17, 16},
    ("path", "out"): {19, 15},
    ("road", "in"): {21},
    ("road", "out"): {13, 17},
}


def labelled() -> Iterator[tuple[int, dict[int, Box]]]:
    """The annotated boxes of every fifth frame."""
    found: dict[int, dict[int, Box]] = defaultdict(dict)
    with (VTEST / "tracks.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            edges = {edge: float(row[edge]) for edge in ("left", "top", "right", "bottom")}
            if 0 <= int(row["frame"]) - FIRST < 100:
                found[int(row["frame"]) - FIRST][int(row["track"])] = Box(**edges)
    return iter(sorted(found.items()))


def test_the_labelled_tracks_cross_as_counted_by_eye() -> None:
    played = Played(LINES)
    for frame, boxes in labelled():
        played.at(frame / 10, boxes, size=(576, 768))
    played.zones.close()
    crossed: dict[tuple[object, object], list[object]] = defaultdict(list)
    for direction, line, track, _ in played.found():
        crossed[line, direction].append(track)
    assert {place: sorted(tracks) for place, tracks in crossed.items()} == {
        place: sorted(tracks) for place, tracks in TRUTH.items()
    }


def _frames() -> Iterable[tuple[Frame, list[TrackedBox]]]:
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    from seqpar_deploy.video.detect.motion import MotionDetector
    from seqpar_deploy.video.finding import Finder
    from seqpar_deploy.video.sources.source import Source
    from seqpar_deploy.video.sources.spec import expand_sources
    from seqpar_deploy.video.sources.state import SourceOptions
    from seqpar_deploy.video.track import ByteTracker

    (spec,) = expand_sources([str(VTEST / "street.mp4")])
    detector = MotionDetector()
    with Source(spec, options=SourceOptions(), quiet=True) as ahead:
        detector.look_ahead(itertools.islice(ahead, 300))
    finder = Finder(detector, ByteTracker())
    with Source(spec, options=SourceOptions()) as source:
        for frame in source:
            finder.track(frame, finder.detect(frame))
            yield from finder.decided(wait=True)
    yield from finder.decided(wait=False)


@pytest.mark.slow
def test_detected_people_cross_as_counted_by_eye() -> None:
    kept = Kept()
    watcher = ZoneWatcher(Sinks([kept]), {"street": LINES})
    for frame, boxes in _frames():
        watcher.frame(frame, boxes, {})
    watcher.close()
    (across, path, road) = (one.people for one in kept.zones if one.kind == "counted")
    expected = {place: len(tracks) for place, tracks in TRUTH.items()}
    found = {("across", way): across[way] for way in across} | {("path", way): path[way] for way in path}
    assert found | {("road", way): road[way] for way in road} == expected
