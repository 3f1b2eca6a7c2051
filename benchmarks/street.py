"""Measure the whole pipeline on the street video: tracks, attributes, speed and latency.

    .venv/bin/python benchmarks/street.py vtest.avi [--runs 3] [--only tracks|speed]

It uses the built-in detector, ByteTracker and demo model, and measures at the sinks. With --only it writes no file.

Tracks: people found and identity switches are counted as in tracking.py. Each detected track is then compared with the
labels of the person that most of its matched boxes show: its attributes at the end, beside those of each of its crops
alone, and those of each labelled box that it covers. These are means over a track's crops, then over tracks. The people
of the split `train` were in the demo model's training set.

Speed: the file as fast as possible, the run of median speed; and the video as a live stream of 25 frames per second,
once with timestamps of 25 per second and once with its own, of 10 per second, played 2.5 times as fast. The server runs
on the same cores. Frames buffered while the stream connects arrive at once, and some are dropped; frames dropped later
count separately. Latencies are by the clock, from the decoding of the first frame with a track to the event.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any
from unittest import mock

import av
import numpy as np
import track_scores
import tracking
import video_ablation as ablation
from demo_bundle import export_demo
from tracking import Found

from seqpar_deploy import Recognizer
from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.video.attribute_fusion import AttributeFusion
from seqpar_deploy.video.crop_selection import Candidate
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.pipeline import Pipeline, Summary
from seqpar_deploy.video.sinks import Sinks
from seqpar_deploy.video.sinks.annotated import AnnotatedSink
from seqpar_deploy.video.sinks.jsonl import JsonlSink
from seqpar_deploy.video.sinks.report import ReportSink
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import SourceSpec, expand_sources
from seqpar_deploy.video.types import Box, Event, Frame, LooksAhead, Person, Sink, TrackedBox

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from video.stream_server import StreamServer  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "street.json"
RATE = 25  # frames a second of the live stream
CROWD = 7  # people


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path, help="vtest.avi")
    parser.add_argument("--runs", type=int, default=3, help="runs of the file; default: 3")
    parser.add_argument("--only", choices=("tracks", "speed"), help="measure one part and write nothing; default: both")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    labels = tracking.read_labels()
    result: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": describe_machine()}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        bundle = export_demo(folder / "bundle")
        with Recognizer.from_bundle(bundle.path) as recognizer:
            watch = Watch()
            summary = play(str(options.video), recognizer, watch)  # also warms up
            result |= {"frames": len(watch.found), "people_per_frame": crowds(labels, watch.found)}
            if options.only != "speed":
                result["crops"] = summary.crops
                result["tracks"] = agreement(options.video, labels, watch, recognizer)
            if options.only != "tracks":
                result["file"] = race(options.video, recognizer, folder, options.runs)
                result["live"] = live(options.video, recognizer, folder, labels)
    if options.only is None:
        write_whole(options.out, (json.dumps(result, indent=2) + "\n").encode())
    print(json.dumps({key: value for key, value in result.items() if key != "machine"}, indent=2))


class Watch:
    """A sink that keeps all frames and events, with the times of decoding, detection and events."""

    def __init__(self, most: int | None = None) -> None:
        self.found: Found = {}
        self.ended: dict[int, Person] = {}
        self.appeared: dict[int, tuple[Person, float]] = {}
        self.said: dict[int, list[Prediction]] = defaultdict(list)  # of the crops of each track
        self.decoded: dict[int, float] = {}  # when, by frame
        self.detecting: dict[int, float] = {}
        self.told: dict[int, float] = {}
        self.stop: Callable[[], None] = lambda: None  # after `most` frames
        self._most = most

    def frame(self, frame: Frame, boxes: Sequence[TrackedBox], _people: Mapping[int, Person]) -> None:
        self.told[frame.index] = time.monotonic()
        self.found[frame.index] = [(one.box, one.track_id) for one in boxes]
        if self._most is not None and frame.index + 1 >= self._most:
            self.stop()

    def event(self, event: Event) -> None:
        if event.kind == "appeared":
            self.appeared[event.person.track_id] = event.person, time.monotonic()
        elif event.kind == "ended":
            self.ended[event.person.track_id] = event.person

    def close(self) -> None:
        """Do nothing."""


class WatchedSource(Source):
    """A source that records the time at which each frame was decoded."""

    def __init__(self, spec: SourceSpec, watch: Watch) -> None:
        super().__init__(spec)
        self._watch = watch

    def __iter__(self) -> Iterator[Frame]:
        for frame in super().__iter__():
            self._watch.decoded[frame.index] = time.monotonic()
            yield frame


class WatchedDetector:
    """The built-in detector, which records the time at which each frame arrives."""

    def __init__(self, watch: Watch) -> None:
        self._detector, self._watch = open_detector(), watch

    def detect(self, frame: Frame) -> list[Box]:
        self._watch.detecting[frame.index] = time.monotonic()
        return self._detector.detect(frame)

    def look_ahead(self, frames: Iterable[Frame]) -> None:
        if isinstance(self._detector, LooksAhead):
            self._detector.look_ahead(frames)

    def close(self) -> None:
        self._detector.close()


class WatchedFusion(AttributeFusion):
    """An attribute fusion that keeps the prediction of each crop."""

    def __init__(self, watch: Watch, *rest: Any) -> None:
        super().__init__(*rest)
        self._watch = watch

    def add(self, candidate: Candidate, prediction: Prediction) -> list[Event]:
        self._watch.said[candidate.track_id].append(prediction)
        return super().add(candidate, prediction)


def play(place: str, recognizer: Recognizer, watch: Watch, sinks: Sequence[Sink] = ()) -> Summary:
    """Run a source through the pipeline into a Watch and other sinks."""
    source = WatchedSource(expand_sources([place])[0], watch)
    with contextlib.closing(WatchedDetector(watch)) as detector:
        watched = functools.partial(WatchedFusion, watch)
        with mock.patch("seqpar_deploy.video.follow.AttributeFusion", watched):
            pipeline = Pipeline([source], detector, recognizer, Sinks([*sinks, watch]))
        watch.stop = pipeline.request_stop
        return pipeline.run()


def crowds(labels: tracking.Labels, found: Found) -> dict[str, Any]:
    tracked, labelled = [len(boxes) for boxes in found.values()], [len(people) for people in labels.values()]
    return {
        "labelled_mean": round(statistics.mean(labelled), 2),
        "labelled_max": max(labelled),
        "tracked_mean": round(statistics.mean(tracked), 2),
        "tracked_max": max(tracked),
        f"share_of_frames_with_{CROWD}_tracked": round(statistics.mean(count >= CROWD for count in tracked), 3),
    }


# Tracks and attributes.


def agreement(video: Path, labels: tracking.Labels, watch: Watch, recognizer: Recognizer) -> dict[str, Any]:
    """Compare the sinks' results with the labels, by split."""
    label_set = recognizer.label_set
    right, splits = ablation.read_labels(label_set)
    alone, _ = ablation.recognise(ablation.read_scene(video), recognizer)
    rows = []
    for number, (person, frames, share) in sorted(assign(labels, watch.found).items()):
        if person not in right or number not in watch.ended:
            continue
        told, truth = watch.ended[number], right[person]

        def f1_of(prediction: Prediction, truth: Any = truth) -> float:
            return track_scores.f1(track_scores.encode(label_set, prediction.attributes), truth)

        fused, yes, decided = (
            track_scores.values(label_set, told, of)
            for of in (lambda a: a.probability >= 0.5, lambda a: a.state == "yes", lambda a: a.state != "unknown")
        )
        rows.append(
            {
                "track": number,
                "person": person,
                "split": splits[person],
                "share_of_its_boxes": share,
                "seconds": round(told.last.timestamp - told.first.timestamp, 1),
                "crops": told.crops,
                "f1_fused": track_scores.f1(fused, truth),
                "f1_unknown_as_no": track_scores.f1(yes, truth),
                "f1_decided": track_scores.f1(yes, truth, decided),
                "f1_its_crops": statistics.mean(map(f1_of, watch.said[number])),
                "f1_labelled_boxes": statistics.mean(f1_of(alone[person, frame]) for frame in frames),
            }
        )
    never = tracking.used(watch.found) - watch.ended.keys()
    return {
        split: tracking.recall(labels, watch.found, people)
        | tracking.identities(labels, watch.found, people)
        | compare([row for row in rows if row["split"] == split])
        for split, people in ((split, {p for p, s in splits.items() if s == split}) for split in track_scores.SPLITS)
    } | {
        "detected_tracks": len(tracking.used(watch.found)),
        "of_them_never_answered": len(never),
        "of_them_nobodys": len(watch.ended.keys() - {row["track"] for row in rows}),
        "each_track": [{key: round(v, 4) if isinstance(v, float) else v for key, v in row.items()} for row in rows],
    }


def assign(labels: tracking.Labels, found: Found) -> dict[int, tuple[int, list[int], float]]:
    """Return the labelled person of each detected track, with the frames and their share of all matched frames.

    It is the person of most of the track's matched boxes.
    """
    shows: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for frame, of, _ in tracking.matches(labels, found):
        for place, column in of.items():
            shows[found[frame][column][1]].append((labels[frame][place][0], frame))
    assigned = {}
    for number, seen in shows.items():
        [(person, times)] = Counter(who for who, _ in seen).most_common(1)
        assigned[number] = person, [frame for who, frame in seen if who == person], times / len(seen)
    return assigned


def compare(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare tracks with single crops of the same people. Each track counts once."""
    scores = [key for key in rows[0] if key.startswith("f1_")]
    lose = [row["track"] for row in rows if row["f1_fused"] < row["f1_its_crops"] - 1e-9]
    means = {key: round(statistics.mean(row[key] for row in rows), 4) for key in scores}
    return {"detected tracks": len(rows), **means, "tracks that lose against their crops": lose}


# What it costs, and how soon it comes.


def race(video: Path, recognizer: Recognizer, folder: Path, runs: int) -> dict[str, Any]:
    """Run the file at full speed, with and without annotated video. Return the run of median speed of each."""
    found: dict[str, list[dict[str, Any]]] = {"events and report": [], "annotated video too": []}
    for _ in range(runs):
        for name, done in found.items():
            with tempfile.TemporaryDirectory(dir=folder) as out:
                sinks: list[Sink] = [JsonlSink(Path(out) / "events.jsonl"), ReportSink(Path(out) / "people.html")]
                if name == "annotated video too":
                    sinks.append(AnnotatedSink(expand_sources([str(video)])[0].name, Path(out) / "street.mp4"))
                watch, processor = Watch(), time.process_time()
                summary = play(str(video), recognizer, watch, sinks)
                done.append(costs(summary, watch, time.process_time() - processor))
    rate = "frames_per_second"
    return {
        name: {f"{rate}_of_each_run": [run[rate] for run in done], **sorted(done, key=lambda run: run[rate])[runs // 2]}
        for name, done in found.items()
    }


def costs(summary: Summary, watch: Watch, processor_seconds: float) -> dict[str, Any]:
    """Return a run's speed, its speed in crowded frames, and the time per stage."""
    frames = sum(summary.frames.values())
    starts = sorted(watch.detecting.items())
    crowded = [
        after - before for (index, before), (_, after) in itertools.pairwise(starts) if len(watch.found[index]) >= CROWD
    ]
    return {
        "frames_per_second": round(frames / summary.seconds, 1),
        f"frames_per_second_with_{CROWD}_or_more": round(1 / statistics.mean(crowded), 1) if crowded else None,
        "cores_used": round(processor_seconds / summary.seconds, 2),
        "crops": summary.crops,
        "stages": stages(summary),
    }


def stages(summary: Summary) -> dict[str, Any]:
    frames = sum(summary.frames.values())
    return {
        name: {
            "entered": times,
            "milliseconds_each": round(1e3 * seconds / times, 2),
            "milliseconds_per_frame": round(1e3 * seconds / frames, 2),
        }
        for name, (times, seconds) in summary.stages.items()
    }


def live(video: Path, recognizer: Recognizer, folder: Path, labels: tracking.Labels) -> dict[str, Any]:
    """Play the video as a stream of 25 frames per second. Return dropped frames, and latencies of people and frames."""
    result = {}
    with StreamServer() as server:
        for name, stamps in (("stamps of 25 a second", RATE), ("stamps of 10 a second", 10)):
            clip = folder / f"street-{stamps}.ts"
            count = transcode(video, clip, stamps)
            watch, processor = Watch(count), time.process_time()
            sinks = [JsonlSink(folder / "live.jsonl"), ReportSink(folder / "live.html")]
            summary = play(server.url(clips=[clip], speed=RATE / stamps), recognizer, watch, sinks)
            spent = time.process_time() - processor
            first = [(person, at) for person, at in watch.appeared.values() if person.first.frame < count]
            video_found = {frame: boxes for frame, boxes in watch.found.items() if frame < count}
            result[name] = {
                "frames": len(video_found),
                "dropped": sum(summary.dropped.values()),
                "dropped_after_the_first_second": dropped_later(watch),
                "cores_used": round(spent / summary.seconds, 2),
                "seconds_to_first_attributes": spread([at - watch.decoded[person.first.frame] for person, at in first]),
                "stream_seconds_to_first_attributes": spread(
                    [person.last.timestamp - person.first.timestamp for person, _ in first]
                ),
                "seconds_from_decoding_to_sinks": spread([at - watch.decoded[i] for i, at in watch.told.items()]),
                "seconds_from_first_label_to_first_attributes": from_label(labels, watch, count),
                **{key: tracking.recall(labels, video_found)[key] for key in ("people", "people found", "recall")},
                **tracking.identities(labels, video_found),
                "stages": stages(summary),
            }
    return result


def dropped_later(watch: Watch) -> int:
    """Count frames dropped more than 1 s after the first. Earlier drops are of frames buffered while connecting."""
    begun = min(watch.decoded.values())
    last = max(watch.detecting)
    return sum(at - begun > 1 and index not in watch.detecting for index, at in watch.decoded.items() if index <= last)


def from_label(labels: tracking.Labels, watch: Watch, count: int) -> dict[str, float]:
    """Return seconds from the first labelled box of each person who walks in to the person's first event."""
    came: dict[int, float] = {}
    for number, (person, _, _) in assign(labels, watch.found).items():
        if number in watch.appeared and watch.appeared[number][0].first.frame < count:
            came[person] = min(came.get(person, np.inf), watch.appeared[number][1])
    begins = {who: frame for frame in sorted(labels, reverse=True) for who, _, _ in labels[frame]}
    walked_in = {who: frame for who, frame in begins.items() if frame > 0 and who not in tracking.IGNORED}
    return spread([came[who] - watch.decoded[frame] for who, frame in walked_in.items() if who in came])


def spread(values: list[float]) -> dict[str, float]:
    return {
        "count": len(values),
        "median": round(float(np.median(values)), 3),
        "95th percentile": round(float(np.percentile(values, 95)), 3),
        "max": round(max(values), 3),
    }


def transcode(video: Path, clip: Path, stamps: int) -> int:
    """Encode as H.264 in a transport stream with timestamps of a given rate. Return the number of frames."""
    count = 0
    with av.open(str(video)) as recorded, av.open(str(clip), "w", format="mpegts") as out:
        source = recorded.streams.video[0]
        stream = out.add_stream("libx264", rate=stamps, options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = source.width, source.height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, stamps)
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = RATE, 0
        for count, picture in enumerate(recorded.decode(source), 1):
            encoded = picture.reformat(format="yuv420p")
            encoded.pts, encoded.time_base = count - 1, stream.codec_context.time_base
            out.mux(stream.encode(encoded))
        out.mux(stream.encode())
    return count


if __name__ == "__main__":
    main()
