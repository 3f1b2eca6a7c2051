"""Measure crop selection and attribute fusion on the labelled people of OpenCV's sample video (samples/vtest).

    .venv/bin/python benchmarks/video_ablation.py vtest.avi

The labelled boxes replace detector and tracker, at every 5th frame, twice per second. The demo model answers at once.
F1 is the mean over tracks at their end; unknown labels count neither in the label nor in the prediction. Because there
are few tracks, each policy runs from each of the first eight frames, so that it selects other crops; the result is the
mean. The demo model was trained on crops of the split `train`.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from demo_bundle import export_demo

from seqpar_deploy import Recognizer
from seqpar_deploy.datasets.base import UNKNOWN, Labels
from seqpar_deploy.evaluation.metrics import compute_metrics
from seqpar_deploy.files import write_whole
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.resources import data_dir
from seqpar_deploy.video.attribute_fusion import AttributeFusion
from seqpar_deploy.video.crop_selection import Candidate, CropSelector
from seqpar_deploy.video.options import FusionOptions, SelectionOptions
from seqpar_deploy.video.quality import cut_out, quality
from seqpar_deploy.video.types import Attribute, Box, Frame, Person, Sighting, TrackedBox
from seqpar_deploy.vocab import LabelSet

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "video-ablation.json"
SPLITS = ("held_out", "train")
STARTS = range(8)
VIEWS = {"front": "Front", "side": "Side", "back": "Back"}

Scene = list[tuple[Frame, list[TrackedBox], dict[int, str]]]  # frame, boxes, and labelled views by track
Answers = dict[tuple[int, int], Prediction]  # of (track, frame)
Said = npt.NDArray[np.bool_]
Take = Callable[[Frame, list[TrackedBox], dict[int, Person]], list[Candidate]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="vtest.avi")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    scene = read_scene(options.video)
    with tempfile.TemporaryDirectory() as folder:
        bundle = export_demo(Path(folder) / "demo")
        with Recognizer.from_bundle(bundle.path) as recognizer:
            label_set = recognizer.bundle.label_set
            answers, seconds = recognise(scene, recognizer)
    labels, splits = read_labels(label_set)
    judge = Judge(label_set, labels, splits, answers)
    result = {
        "boxes": sum(len(boxes) for _, boxes, _ in scene),
        "tracks": {split: sum(s == split for s in splits.values()) for split in SPLITS},
        "recogniser_seconds_per_crop": round(seconds, 4),
        "single_crop": {split: judge.single(scene, split) for split in SPLITS},
        "policies": {
            name: mean([judge.run(scene[start:], take(), fusion) for start in STARTS])
            for name, (take, fusion) in policies().items()
        },
    }
    write_whole(options.out, (json.dumps(result, indent=2) + "\n").encode())
    show(result)


def read_scene(video: Path) -> Scene:
    rows = defaultdict(list)
    with (data_dir("samples") / "vtest" / "tracks.csv").open() as file:
        for row in csv.DictReader(file):
            rows[int(row["frame"])].append(row)
    scene: Scene = []
    with av.open(str(video)) as container:
        for index, decoded in enumerate(container.decode(video=0)):
            if index % 5:
                continue
            frame = Frame(stream="vtest", index=index, timestamp=index / 10, image=decoded.to_ndarray(format="rgb24"))
            boxes = [
                TrackedBox(track_id=int(row["track"]), box=Box(**{edge: float(row[edge]) for edge in EDGES}))
                for row in rows[index]
            ]
            scene.append((frame, boxes, {int(row["track"]): row["view"] for row in rows[index] if row["view"]}))
    return scene


EDGES = ("left", "top", "right", "bottom")


def read_labels(label_set: LabelSet) -> tuple[dict[int, Labels], dict[int, str]]:
    """Return labels (n,) and split of each labelled track."""
    labels, splits = {}, {}
    with (data_dir("samples") / "vtest" / "labels.csv").open() as file:
        for row in csv.DictReader(file):
            if row["split"] in SPLITS:
                track = int(row["track"])
                values = [int(row[phrase]) if row[phrase] else UNKNOWN for phrase in label_set.phrases]
                labels[track], splits[track] = np.array(values, dtype=np.int8), row["split"]
    return labels, splits


def recognise(scene: Scene, recognizer: Recognizer) -> tuple[Answers, float]:
    """Return the prediction of each box, and the seconds per crop."""
    where = [(tracked, frame) for frame, boxes, _ in scene for tracked in boxes]
    start = time.perf_counter()
    predictions = recognizer.predict([cut_out(frame.image, tracked.box) for tracked, frame in where])
    spent = (time.perf_counter() - start) / len(where)
    keys = [(tracked.track_id, frame.index) for tracked, frame in where]
    return dict(zip(keys, predictions, strict=True)), spent


def policies() -> dict[str, tuple[Callable[[], Take], FusionOptions]]:
    """Return our policy, the alternatives, and our policy without one part each."""
    usual = FusionOptions()
    made: dict[str, tuple[Callable[[], Take], FusionOptions]] = {
        "every box": (lambda: every(1), usual),
        "every 3rd box of a track": (lambda: every(3), usual),
        "every 8th box of a track": (lambda: every(8), usual),
        "every 20th box of a track": (lambda: every(20), usual),
        "first box only": (lambda: every(10**6), usual),
        "chooser": (lambda: selected(SelectionOptions()), usual),
        "chooser, at most 1 crop a second": (lambda: selected(SelectionOptions(max_crops_per_second=1)), usual),
        "chooser, first answers at once": (lambda: selected(SelectionOptions(max_latency=0)), usual),
    }
    for what, options in {
        "absent counts like emitted": FusionOptions(absent_weight=1.0),
        "no prior": FusionOptions(prior_weight=1e-6),
        "no hysteresis": FusionOptions(sure=0.51, keep=0.51),
        "views never fade": FusionOptions(moment=1e9),
    }.items():
        made[f"chooser, {what}"] = (lambda: selected(SelectionOptions()), options)
    return made


def every(n: int) -> Take:
    """Select the first box of a track, and each n-th box after it."""
    seen: dict[int, int] = defaultdict(int)

    def take(frame: Frame, boxes: list[TrackedBox], people: dict[int, Person]) -> list[Candidate]:
        chosen = []
        for tracked in boxes:
            if seen[tracked.track_id] % n == 0:
                chosen.append(candidate(frame, tracked, boxes))
            seen[tracked.track_id] += 1
        return chosen

    return take


def selected(options: SelectionOptions) -> Take:
    made = CropSelector(options)

    def take(frame: Frame, boxes: list[TrackedBox], people: dict[int, Person]) -> list[Candidate]:
        made.offer(frame, boxes, people)
        return made.take(limit=64, now=frame.timestamp)

    return take


def candidate(frame: Frame, tracked: TrackedBox, boxes: list[TrackedBox]) -> Candidate:
    crop = cut_out(frame.image, tracked.box)
    others = [other.box for other in boxes if other is not tracked]
    return Candidate(
        stream=frame.stream,
        track_id=tracked.track_id,
        sighting=Sighting(frame=frame.index, timestamp=frame.timestamp, box=tracked.box),
        crop=crop,
        quality=quality(crop, tracked.box, others, frame.image.shape[:2]),
    )


class Judge:
    """Runs a policy and scores the attributes of each labelled track at its end."""

    def __init__(
        self, label_set: LabelSet, labels: dict[int, Labels], splits: dict[int, str], answers: Answers
    ) -> None:
        self._label_set, self._labels, self._splits, self._answers = label_set, labels, splits, answers

    def single(self, scene: Scene, split: str) -> dict[str, float]:
        """Return F1 of single crops (mean over boxes, then tracks) and of each track's best crop."""
        scores, best = [], []
        for track in self._tracks(split):
            crops = [candidate(f, t, boxes) for f, boxes, _ in scene for t in boxes if t.track_id == track]
            f1 = [self._f1(self._said(crop), track) for crop in crops]
            scores.append(statistics.mean(f1))
            best.append(f1[max(range(len(crops)), key=lambda place: crops[place].quality)])
        return {"f1_mean_crop": round(statistics.mean(scores), 4), "f1_best_quality": round(statistics.mean(best), 4)}

    def run(self, scene: Scene, take: Take, options: FusionOptions) -> dict[str, Any]:
        fusion = AttributeFusion(self._label_set, options)
        ended: dict[int, Person] = {}
        calls: dict[int, list[Candidate]] = defaultdict(list)
        first: dict[int, float] = {}
        views: dict[str, int] = defaultdict(int)
        changes, spent = 0, 0.0
        for frame, boxes, labelled in scene:
            events = fusion.observe(frame, boxes)
            start = time.process_time()
            chosen = take(frame, boxes, fusion.people(frame.stream))
            spent += time.process_time() - start
            for one in chosen:
                calls[one.track_id].append(one)
                events += fusion.add(one, self._answers[one.track_id, one.sighting.frame])
            for event in events:
                if event.kind == "appeared":
                    first[event.person.track_id] = frame.timestamp - event.person.first.timestamp
                if event.kind == "ended":
                    ended[event.person.track_id] = event.person
                changes += event.kind == "changed"
            people = fusion.people(frame.stream)
            for track, view in labelled.items():
                if self._splits.get(track) == "held_out":
                    views[held_view(people.get(track), VIEWS[view])] += 1
        ended |= {event.person.track_id: event.person for event in fusion.finish("vtest")}
        return {
            "calls": sum(map(len, calls.values())),
            "people_covered": len(ended),
            "seconds_to_first_median": statistics.median(first.values()),
            "seconds_to_first_max": max(first.values()),
            "changed_events": changes,
            "view_held_out": dict(views),
            "milliseconds_per_frame": round(1e3 * spent / len(scene), 3),
            **{split: self._score(split, ended, calls) for split in SPLITS},
        }

    def _score(self, split: str, ended: dict[int, Person], calls: dict[int, list[Candidate]]) -> dict[str, float]:
        tracks = self._tracks(split)
        guess = {t: self._values(ended[t], lambda a: a.probability >= 0.5) for t in tracks}
        yes = {t: self._values(ended[t], lambda a: a.state == "yes") for t in tracks}
        decided = {t: self._values(ended[t], lambda a: a.state != "unknown") for t in tracks}
        known = {t: self._labels[t] != UNKNOWN for t in tracks}
        wrong = sum(((yes[t] != self._labels[t]) & decided[t] & known[t]).sum() for t in tracks)
        count = sum(len(calls[t]) for t in tracks)
        f1 = statistics.mean(self._f1(guess[t], t) for t in tracks)
        return {
            "calls": count,
            "f1_mean_chosen_crop": mean_of_means([[self._f1(self._said(c), t) for c in calls[t]] for t in tracks]),
            "f1_fused": round(f1, 4),
            "f1_unknown_as_no": round(statistics.mean(self._f1(yes[t], t) for t in tracks), 4),
            "f1_decided": round(statistics.mean(self._f1(yes[t], t, decided[t]) for t in tracks), 4),
            "share_decided": round(
                float(sum((decided[t] & known[t]).sum() for t in tracks) / sum(known[t].sum() for t in tracks)), 4
            ),
            "decided_wrong": int(wrong),
            "f1_per_call": round(f1 / count, 5),
            "tracks_below_mean_crop": sum(self._f1(guess[t], t) < self._mean_crop(t) - 1e-9 for t in tracks),
        }

    def _mean_crop(self, track: int) -> float:
        said = [self._encode(p.attributes) for (t, _), p in self._answers.items() if t == track]
        return statistics.mean(self._f1(one, track) for one in said)

    def _tracks(self, split: str) -> list[int]:
        return [track for track, of in self._splits.items() if of == split]

    def _said(self, one: Candidate) -> Said:
        return self._encode(self._answers[one.track_id, one.sighting.frame].attributes)

    def _encode(self, names: tuple[str, ...]) -> Said:
        return encode(self._label_set, names)

    def _values(self, person: Person, of: Callable[[Attribute], bool]) -> Said:
        return values(self._label_set, person, of)

    def _f1(self, said: Said, track: int, among: Said | None = None) -> float:
        return f1(said, self._labels[track], among)


def encode(label_set: LabelSet, names: tuple[str, ...]) -> Said:
    """Return the attributes of a prediction, (n,) in the label set's order."""
    return np.array([attribute.name in names for attribute in label_set.attributes])


def values(label_set: LabelSet, person: Person, of: Callable[[Attribute], bool]) -> Said:
    """Return the attributes of a person, (n,) in the label set's order."""
    return np.array([of(person.attributes[attribute.name]) for attribute in label_set.attributes])


def f1(said: Said, labels: Labels, among: Said | None = None) -> float:
    """Return F1 of one person's labelled attributes, or of those in `among`."""
    counted = labels if among is None else np.where(among, labels, UNKNOWN)
    return compute_metrics(said[None], counted[None]).f1 if (counted != UNKNOWN).any() else 0.0


def mean(runs: list[Any]) -> Any:
    """Return the mean of results of one structure."""
    if isinstance(runs[0], dict):
        return {key: mean([run.get(key, 0) for run in runs]) for key in {key: None for run in runs for key in run}}
    return round(statistics.mean(runs), 4)


def held_view(person: Person | None, label: str) -> str:
    if person is None:
        return "not answered"
    held = [view for view in VIEWS.values() if person.attributes[view].state == "yes"]
    return ("right" if held[0] == label else "wrong") if held else "unknown"


def mean_of_means(values: list[list[float]]) -> float:
    return round(statistics.mean(statistics.mean(row) for row in values if row), 4)


def show(result: dict[str, Any]) -> None:
    for line in lines(result):
        print(line)


def lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"single crops: {result['single_crop']}"
    for name, values in result["policies"].items():
        yield name
        for key, value in values.items():
            yield f"    {key}: {value}"


if __name__ == "__main__":
    main()
