"""Measure crop selection and attribute fusion on the labelled people of OpenCV's sample video (samples/vtest).

    .venv/bin/python benchmarks/video_ablation.py vtest.avi [--people labels.csv]

With --people, everything is measured a second time with probabilities calibrated on the split `test` of these people,
whom the demo model has not seen. People, crops and labels of the video are not used for it.

The labelled boxes replace detector and tracker, at every 5th frame, twice per second. The demo model answers at once.
F1 is the mean over tracks at their end; unknown labels count neither in the label nor in the prediction. Because there
are few tracks, each policy runs from each of the first eight frames, so that it selects other crops; the result is the
mean. The demo model was trained on crops of the split `train`.

The expected calibration error (ECE, 15 bins) is that of the fused probabilities of all labelled attributes, and flicker
is the number of changed events per track. `mean of scores` is the rule of fusion_baselines.py. The correlation between
crops of a track is that of their log-odds, given attribute and label: the variance between tracks over the whole.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from demo_bundle import export_demo
from fusion_baselines import MeanOfScores
from track_scores import SPLITS, Answers, Judge, Scene, Take, candidate, mean

from seqpar_deploy import Recognizer
from seqpar_deploy.calibration.maps import LogisticMaps
from seqpar_deploy.datasets.base import UNKNOWN, Labels
from seqpar_deploy.datasets.table import load_table
from seqpar_deploy.evaluation.fitting.data import groups_of
from seqpar_deploy.evaluation.fitting.maps import fit_maps
from seqpar_deploy.files import write_whole
from seqpar_deploy.resources import data_dir
from seqpar_deploy.video.attribute_fusion import AttributeFusion
from seqpar_deploy.video.crop_selection import Candidate, CropSelector
from seqpar_deploy.video.options import FusionOptions, SelectionOptions
from seqpar_deploy.video.quality import cut_out
from seqpar_deploy.video.types import Box, Frame, Person, TrackedBox
from seqpar_deploy.vocab import LabelSet

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "video-ablation.json"
STARTS = range(8)

Policy = tuple[Callable[[], Take], type[AttributeFusion], FusionOptions]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="vtest.avi")
    parser.add_argument("--people", type=Path, help="table of labelled people to calibrate on; default: none")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    scene = read_scene(options.video)
    maps: dict[str, LogisticMaps | None] = {"uncalibrated": None}
    with tempfile.TemporaryDirectory() as folder:
        bundle = export_demo(Path(folder) / "demo")
        with Recognizer.from_bundle(bundle.path) as recognizer:
            label_set = recognizer.label_set
            answers, seconds = recognise(scene, recognizer)
            if options.people:
                maps["calibrated"] = fit(options.people, recognizer)
    _, splits = read_labels(label_set)
    result = {
        "boxes": sum(len(boxes) for _, boxes, _ in scene),
        "tracks": {split: sum(s == split for s in splits.values()) for split in SPLITS},
        "recogniser_seconds_per_crop": round(seconds, 4),
        **{name: measure(scene, label_set, calibrated(answers, these)) for name, these in maps.items()},
    }
    write_whole(options.out, (json.dumps(result, indent=2) + "\n").encode())
    show(result)


def fit(people: Path, recognizer: Recognizer) -> LogisticMaps:
    """Fit the maps of a calibration, as `seqpar calibrate` does."""
    dataset = load_table(str(people), recognizer.label_set, "test")
    predictions = recognizer.predict([dataset.crop(row) for row in range(len(dataset))])
    probabilities = np.array([prediction.probabilities for prediction in predictions])
    return fit_maps(probabilities, dataset.labels, groups_of(dataset)).maps


def calibrated(answers: Answers, maps: LogisticMaps | None) -> Answers:
    if maps is None:
        return answers
    return {key: dataclasses.replace(one, probabilities=maps(one.probabilities)) for key, one in answers.items()}


def measure(scene: Scene, label_set: LabelSet, answers: Answers) -> dict[str, Any]:
    labels, splits = read_labels(label_set)
    judge = Judge(label_set, labels, splits, answers)
    return {
        "single_crop": {split: judge.single(scene, split) for split in SPLITS},
        "correlation": {split: judge.correlation(split) for split in SPLITS},
        "policies": {
            name: mean([judge.run(scene[start:], take(), make(label_set, options)) for start in STARTS])
            for name, (take, make, options) in policies().items()
        },
    }


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


def policies() -> dict[str, Policy]:
    """Return our policy, the alternatives, and our policy with one part changed each."""
    usual = FusionOptions()
    takes: dict[str, Callable[[], Take]] = {
        "chooser": lambda: selected(SelectionOptions()),
        "every box": lambda: every(1),
        "every 3rd box of a track": lambda: every(3),
        "every 8th box of a track": lambda: every(8),
        "every 20th box of a track": lambda: every(20),
        "first box only": lambda: every(10**6),
        "chooser, at most 1 crop a second": lambda: selected(SelectionOptions(max_crops_per_second=1)),
        "chooser, first answers at once": lambda: selected(SelectionOptions(max_latency=0)),
    }
    made: dict[str, Policy] = {name: (take, AttributeFusion, usual) for name, take in takes.items()}
    for name in ("chooser", "every box", "every 8th box of a track"):
        made[f"{name}, mean of scores"] = (takes[name], MeanOfScores, usual)
    for what, options in {
        "independent crops": FusionOptions(correlation=0),
        "one witness": FusionOptions(correlation=1),
        "no base rate": FusionOptions(base_rate=0.5),
        "no crop limit": FusionOptions(crop_limit=1 - 1e-6),
        "no prior": FusionOptions(prior_weight=1e-6),
        "no hysteresis": FusionOptions(sure=0.51, keep=0.51),
        "views never fade": FusionOptions(moment=1e9),
    }.items():
        made[f"chooser, {what}"] = (takes["chooser"], AttributeFusion, options)
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


def show(result: dict[str, Any]) -> None:
    for line in lines(result):
        print(line)


def lines(result: dict[str, Any]) -> Iterator[str]:
    for kind in ("uncalibrated", "calibrated"):
        if kind not in result:
            continue
        yield f"{kind}: single crops: {result[kind]['single_crop']}, correlation {result[kind]['correlation']}"
        for name, values in result[kind]["policies"].items():
            yield f"{kind}: {name}"
            for key, value in values.items():
                yield f"    {key}: {value}"


if __name__ == "__main__":
    main()
