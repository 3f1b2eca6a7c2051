"""Measure the people that sinks receive on the street clip and on other cuts of its video, as files and live.

    .venv/bin/python benchmarks/street_clip.py vtest.avi [--as before]

The clip is samples/vtest/street.mp4. Each other cut is 100 frames of OpenCV's vtest.avi, encoded like the clip. As a
file, a cut runs through the pipeline. As a live stream, a `Follower` gets its frames one by one. No model runs: every
prediction is empty. The built-in detector finds the people.

Boxes are matched with the labels in samples/vtest/tracks.csv as in tracking.py, but tracks 7 and 20, people of 40
pixels, count like all others. `false` counts boxes that overlap no label by IoU 0.1: nobody is there. Live results
leave out the first 5 s, in which the background is learned.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import tracking
from tracking import Found, Labels

from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.resources import data_dir, load_label_set
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.follow import Follower
from seqpar_deploy.video.pipeline import Pipeline
from seqpar_deploy.video.sinks import BaseSink
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import expand_sources
from seqpar_deploy.video.types import Event, Frame, Person, TrackedBox

RESULT = Path(__file__).parent / "results" / "street_clip.json"
CLIP, STARTS, LENGTH = 690, (0, 100, 200, 300, 400, 500, 600, 650), 100
WARM_UP = 50  # frames of a live stream
FIRST = 30  # frames: the first 3 s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="vtest.avi")
    parser.add_argument("--as", dest="name", default="after", help="key of the result in the JSON file; default: after")
    parser.add_argument(
        "--out", type=Path, default=RESULT, help="JSON file; default: benchmarks/results/street_clip.json"
    )
    options = parser.parse_args()
    labels = tracking.read_labels()
    tracking.IGNORED.clear()
    clips = {"clip": (CLIP, data_dir("samples") / "vtest" / "street.mp4")}
    with tempfile.TemporaryDirectory() as folder:
        for start in STARTS:
            clips[f"{start} to {start + LENGTH - 1}"] = start, cut(options.video, start, Path(folder) / f"{start}.mp4")
        rows = {name: measure(path, cut_labels(labels, start)) for name, (start, path) in clips.items()}
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    result[options.name] = {"cuts": rows, "all cuts": {kind: over_all(rows, kind) for kind in ("file", "live")}}
    result["machine"] = describe_machine()
    text = json.dumps(result, indent=2) + "\n"
    write_whole(options.out, text.encode())
    print(json.dumps(result[options.name], indent=2))


class Silent:
    """A Recognizer that emits no attribute."""

    label_set, thresholds = load_label_set("pa100k"), None

    def predict(self, crops: Sequence[Any], *, drafts: Any = None) -> list[Prediction]:
        count = len(self.label_set)
        nothing = Prediction(
            attributes=(),
            scores=(),
            probabilities=np.zeros(count, np.float32),
            states=("no",) * count,
            tokens=(),
            steps=0,
        )
        return [nothing for _ in crops]


class Keeper(BaseSink):
    """A sink that keeps the boxes of each frame, and the people."""

    def __init__(self) -> None:
        self.found: Found = {}
        self.people: set[int] = set()

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
        self.found[frame.index] = [(one.box, one.track_id) for one in boxes]

    def event(self, event: Event) -> None:
        self.people.add(event.person.track_id)


def measure(path: Path, labels: Labels) -> dict[str, Any]:
    (spec,) = expand_sources([str(path)])
    file, live = Keeper(), Keeper()
    detector: Any = open_detector()
    Pipeline([Source(spec)], detector, Silent(), file).run()  # type: ignore[arg-type]
    with Follower(Silent(), live.event) as follower:  # type: ignore[arg-type]
        for frame in Source(spec):
            live.frame(frame, *follower.update(frame))
    seen = [index for index, boxes in live.found.items() if boxes]
    first = {frame: people for frame, people in labels.items() if frame < FIRST}
    warm = {frame: people for frame, people in labels.items() if frame >= WARM_UP}
    return {
        "people labelled": len({track for people in labels.values() for track, _, _ in people}),
        "file": {"people": len(file.people)} | score(labels, file.found),
        "file, first 3 s": score(first, file.found),
        "live": {"people": len(live.people), "first frame": min(seen, default=None)} | score(warm, live.found),
    }


def score(labels: Labels, found: Found) -> dict[str, Any]:
    result = tracking.score(labels, found)
    overlaps = [of for _, _, of in tracking.matches(labels, found)]
    nobody = sum(int((of.max(axis=0) < 0.1).sum()) for of in overlaps if of.size)
    return {"boxes": result["boxes"], "precision": result["precision"], "recall": result["recall"], "false": nobody}


def over_all(rows: dict[str, Any], kind: str) -> dict[str, float]:
    of = [row[kind] for row in rows.values()]
    return {
        f"{name} {key}": round(how(row[key] for row in of), 4)
        for key in ("precision", "recall")
        for name, how in (("mean", statistics.mean), ("lowest", min))
    }


def cut_labels(labels: Labels, start: int) -> Labels:
    return {frame - start: people for frame, people in labels.items() if start <= frame < start + LENGTH}


def cut(video: Path, start: int, path: Path) -> Path:
    """Encode some frames of a video as H.264 with 10 frames per second."""
    with av.open(str(video)) as recorded, av.open(str(path), "w") as out:
        source = recorded.streams.video[0]
        stream = out.add_stream("libx264", rate=10, options={"crf": "23", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = source.width, source.height, "yuv420p"
        for number, picture in enumerate(recorded.decode(source)):
            if start <= number < start + LENGTH:
                encoded = picture.reformat(format="yuv420p")
                encoded.pts, encoded.time_base = number - start, Fraction(1, 10)
                out.mux(stream.encode(encoded))
            if number >= start + LENGTH:
                break
        out.mux(stream.encode())
    return path


if __name__ == "__main__":
    main()
