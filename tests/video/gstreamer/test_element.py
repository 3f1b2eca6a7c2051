"""The element in real pipelines: gst-launch-1.0 and the system's Python, on the street clip and on live sources."""

from __future__ import annotations

import csv
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli.run import run
from video.gstreamer import gst

from seqpar_deploy import Recognizer
from seqpar_deploy.resources import data_dir
from seqpar_deploy.video import Follower, Frame
from seqpar_deploy.video.detect.motion import MotionDetector
from seqpar_deploy.video.types import Box, Event, Person, TrackedBox

pytestmark = [pytest.mark.heavy, pytest.mark.usefixtures("element_runs")]

SAMPLES = data_dir("samples") / "vtest"
FIRST, FRAMES = 690, 100  # of the street clip in the whole video
WIDTH, HEIGHT = 384, 288  # half of the clip's, so that the pixels of all frames stay small
DECODED = (
    f"filesrc location={SAMPLES / 'street.mp4'} ! qtdemux ! h264parse ! avdec_h264 max-threads=1 ! "
    f"videoconvert ! videoscale ! video/x-raw,format=RGB,width={WIDTH},height={HEIGHT}"
)
SNOW = f"videotestsrc pattern=snow num-buffers={{}} ! video/x-raw,format=RGB,width={WIDTH},height={HEIGHT}"

Numbered = tuple[float, float, float, float, float, int]  # a box, its score and its track


@pytest.fixture
def element(bundle_dir: Path) -> str:
    """The element with a tiny bundle. One thread and runtime, so that two processes compute the same."""
    return f"seqparattributes name=attributes bundle={bundle_dir} backend=onnxruntime threads=1"


def labelled_boxes() -> list[list[Numbered]]:
    """Everyone in each frame of the clip, between the labelled frames on straight lines."""
    tracks: dict[int, dict[int, list[float]]] = defaultdict(dict)
    with (SAMPLES / "tracks.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            tracks[int(row["track"])][int(row["frame"]) - FIRST] = [
                float(row[edge]) / 2 for edge in ("left", "top", "right", "bottom")
            ]
    frames: list[list[Numbered]] = [[] for _ in range(FRAMES)]
    for track, rows in sorted(tracks.items()):
        places = sorted(rows)
        for index in range(max(0, places[0]), min(FRAMES, places[-1] + 1)):
            edges = [round(float(np.interp(index, places, [rows[place][k] for place in places]))) for k in range(4)]
            frames[index].append((edges[0], edges[1], edges[2], edges[3], 0.9, track))
    return frames


class Given:
    """Detector and tracker of a Follower, for the boxes that the test's element attaches."""

    def __init__(self, frames: list[list[Numbered]]) -> None:
        self._frames = frames

    def detect(self, frame: Frame) -> list[Box]:
        return [
            Box(left=left, top=top, right=min(right, WIDTH), bottom=min(bottom, HEIGHT), score=score)
            for left, top, right, bottom, score, _ in self._frames[frame.index]
        ]

    def update(self, frame: Frame, boxes: Sequence[Box]) -> list[TrackedBox]:
        numbers = [number for *_, number in self._frames[frame.index]]
        return [TrackedBox(track_id=number, box=box) for number, box in zip(numbers, boxes, strict=True)]

    def close(self) -> None:
        pass


Expected = list[tuple[list[TrackedBox], dict[int, Person]]]


def followed(pixels: Path, bundle: Path, **parts: Any) -> tuple[Expected, list[Event]]:
    """What a Follower makes of the very frames that the element received."""
    images = np.fromfile(pixels, np.uint8).reshape(-1, HEIGHT, WIDTH, 3)
    events: list[Event] = []
    with (
        Recognizer.from_bundle(bundle, backend="onnxruntime", threads=1) as recognizer,
        Follower(recognizer, events.append, **parts) as follower,
    ):
        frames = [
            follower.update(Frame(stream="street", index=index, timestamp=index / 10, image=image))
            for index, image in enumerate(images)
        ]
    return frames, events


def compare(dumped: list[dict[str, Any]], expected: Expected, *, given: bool) -> int:
    """Compare the metadata of each frame with the people of a Follower. Returns the number of people compared."""
    assert len(dumped) == len(expected) == FRAMES
    compared = 0
    for line, (boxes, people) in zip(dumped, expected, strict=True):
        regions = [
            {structure[""]: structure for structure in reversed(region["structures"])} | region
            for region in line["regions"]
        ]
        found = {region["object_id"]["id"]: region for region in regions if "object_id" in region}
        assert given or len(found) == len(regions)
        assert {one.track_id for one in boxes} <= set(found)
        for one in boxes:
            region, person = found[one.track_id], people.get(one.track_id)
            left, top, width, _ = region["place"]
            assert (left, top) == (int(one.box.left), int(one.box.top))
            assert abs(left + width - one.box.right) <= 1
            assert region["label"] == "person"
            assert ("seqpar" in region) == (person is not None)
            if person is None:
                continue
            compared += 1
            fields = region["seqpar"]
            assert (fields["track-id"], fields["crops"]) == (one.track_id, person.crops)
            for name, attribute in person.attributes.items():
                field = name.replace("&", "_")
                assert fields[f"{field}-state"] == attribute.state
                assert fields[f"{field}-probability"] == pytest.approx(attribute.probability, abs=1e-6)
            labels = [each["label"] for each in region["structures"] if each[""] == "seqpar-attribute"]
            assert labels == list(person.labels)
    return compared


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("ids", [True, False])
def test_given_regions_equal_a_follower(
    ids: bool, element: str, bundle_dir: Path, registry: Path, tmp_path: Path
) -> None:
    frames = labelled_boxes()
    boxes, lines, pixels = tmp_path / "boxes.json", tmp_path / "lines.jsonl", tmp_path / "pixels"
    given = frames if ids else [[(*box[:5], 0) for box in frame] for frame in frames]
    boxes.write_text(json.dumps(given), encoding="utf-8")
    done = gst.launch(
        f"{DECODED} ! giveregions file={boxes} ! {element} sync=true ! dumpregions file={lines} pixels={pixels} ! "
        "fakesink",
        registry,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    detector = Given(frames)
    parts: dict[str, Any] = {"tracker": lambda: detector} if ids else {}
    expected, _ = followed(pixels, bundle_dir, detector=detector, **parts)
    assert compare(read_lines(lines), expected, given=True) > 200


def test_regions_of_ours_equal_a_follower(element: str, bundle_dir: Path, registry: Path, tmp_path: Path) -> None:
    lines, pixels = tmp_path / "lines.jsonl", tmp_path / "pixels"
    end = f"dumpregions file={lines} pixels={pixels} ! fakesink"
    said = gst.run(registry, "run", f"{DECODED} ! {element} stream=street detector=motion sync=true ! {end}")
    expected, events = followed(pixels, bundle_dir, detector=MotionDetector())
    assert compare(read_lines(lines), expected, given=False) > 50
    assert said[-1]["kind"] == "end"
    shown = [line["event"] for line in said if line["kind"] == "event"]
    assert [(one["event"], one["track_id"], one["changed"]) for one in shown] == [
        (event.kind, event.person.track_id, list(event.changed)) for event in events
    ]
    assert {one["stream"] for one in shown} == {"street"}
    assert {one["event"] for one in shown} >= {"appeared", "ended"}


@pytest.mark.parametrize("form", ["NV12", "I420", "BGRx"])
def test_other_formats_find_the_same_people(form: str, element: str, registry: Path, tmp_path: Path) -> None:
    counts = []
    for name in ("RGB", form):
        lines = tmp_path / f"{name}.jsonl"
        source = DECODED.replace("format=RGB", f"format={name}")
        done = gst.launch(
            f"{source} ! {element} detector=motion sync=true ! dumpregions file={lines} ! fakesink", registry
        )
        assert done.returncode == 0, done.stderr
        counts.append(sum(len(line["regions"]) for line in read_lines(lines)))
    assert counts[1] == pytest.approx(counts[0], rel=0.1)


def test_a_model_that_waits_holds_no_frame(element: str, registry: Path, tmp_path: Path) -> None:
    """The model answers after the last frame has passed. If a frame waited for it, the pipeline would stand still."""
    lines, count = tmp_path / "lines.jsonl", 60
    said = gst.run(
        registry,
        "held",
        count,
        f"{SNOW.format(count).replace('pattern', 'is-live=true pattern')},framerate=20/1 ! giveregions ! "
        f"{element} max-latency=0 frame-budget=500 ! dumpregions file={lines} ! fakesink name=end sync=true",
    )
    frames = said[-1]
    assert frames["passed"] == count
    assert frames["meanwhile"] > count / 2  # passed while the model was in its first batch
    assert frames["closed"] == 1
    assert {line["kind"] for line in said} == {"event", "end", "frames"}
    assert next(line["event"]["event"] for line in said if line["kind"] == "event") == "appeared"
    tracked = [
        line
        for line in read_lines(lines)
        if any(one[""] == "object_id" for r in line["regions"] for one in r["structures"])
    ]
    assert len(tracked) > count / 2  # the regions carry their track meanwhile


def test_twenty_starts_and_stops_leave_nothing(element: str, registry: Path) -> None:
    source = f"{SNOW.format(30)},framerate=10/1 ! giveregions"
    for mode in ("sync=true", "max-latency=0"):
        runs = gst.run(registry, "cycles", 20, f"{source} ! {element} {mode} ! fakesink sync=false")
        assert len(runs) == 20
        assert {(run["errors"], run["elements"], run["recognizers"]) for run in runs} == {(0, 0, 0)}
        assert all(run["events"] for run in runs) or mode != "sync=true"
        steady = runs[5:]
        # Threads of GLib's pools come and go. One that stays per run would be 14 more.
        assert max(run["threads"] for run in steady) - min(run["threads"] for run in steady) <= 4
        assert max(run["files"] for run in steady) - min(run["files"] for run in steady) <= 4
        # A recognizer that stays takes 5 MB and more per run, 15 runs 75.
        assert steady[-1]["megabytes"] - steady[0]["megabytes"] < 30


def test_two_elements_share_a_recognizer(element: str, registry: Path) -> None:
    source = f"{SNOW.format(30)},framerate=10/1 ! giveregions"
    branches = " ".join(
        f"{source} ! {element.replace('=attributes', f'={name}')} sync=true ! fakesink" for name in ("left", "right")
    )
    said = gst.run(registry, "together", branches)
    assert [line["count"] for line in said if line["kind"] == "open"] == [1, 0]
    assert {line["source"] for line in said if line["kind"] == "event"} == {"left", "right"}
    assert {line["event"]["stream"] for line in said if line["kind"] == "event"} == {"left", "right"}


def test_a_flush_ends_the_tracks_and_numbers_continue(element: str, registry: Path) -> None:
    said = gst.run(registry, "seek", f"{DECODED} ! giveregions ! {element} sync=true ! fakesink name=end sync=false")
    ended = [line["track"] for line in said if line["kind"] == "event" and line["event"]["event"] == "ended"]
    assert said[-1]["kind"] == "end"
    assert ended == sorted(set(ended))
    assert len(ended) >= 2


def test_caps_change_in_the_middle(element: str, registry: Path) -> None:
    """Sizes and formats follow each other. The change of size ends the tracks."""
    sources = " ".join(
        f"{SNOW.format(20).replace('RGB', form).replace(str(WIDTH), str(width))},framerate=10/1 ! c."
        for form, width in (("RGB", 320), ("NV12", 320), ("BGRA", 322), ("I420", 641))
    )
    said = gst.run(registry, "run", f"concat name=c ! giveregions ! {element} sync=true ! fakesink {sources}")
    assert said[-1]["kind"] == "end"
    assert len([line for line in said if line["kind"] == "event" and line["event"]["event"] == "ended"]) == 3


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("", "bundle=FOLDER"),
        ("bundle=/nowhere", "/nowhere"),
        ("bundle={bundle} backend=tpu", "tpu"),
        ("bundle={bundle} detector=nobody", "nobody"),
        ("bundle={bundle} thresholds=/nowhere.toml", "/nowhere.toml"),
    ],
)
def test_what_cannot_start_is_one_line(options: str, word: str, bundle_dir: Path, registry: Path) -> None:
    options = options.format(bundle=bundle_dir)
    (error,) = gst.run(registry, "run", f"{SNOW.format(5)} ! seqparattributes {options} ! fakesink")
    assert error["kind"] == "error"
    assert word in error["text"]
    assert "\n" not in error["text"]
    assert "Traceback" not in error["debug"]


def test_frames_of_a_gpu_are_refused_with_the_converter(element: str, registry: Path) -> None:
    caps = "video/x-raw(memory:NVMM),format=NV12,width=320,height=240,framerate=30/1"
    source = f"fakesrc num-buffers=3 sizetype=fixed sizemax=115200 format=time ! {caps}"
    said = gst.run(registry, "run", f"{source} ! {element} ! fakesink")
    assert said[0]["kind"] == "error"
    assert "nvvideoconvert" in said[0]["text"]
    # A converter before it chooses the system's memory by itself.
    assert gst.run(registry, "run", f"{SNOW.format(5)} ! videoconvert ! {element} ! fakesink")[-1]["kind"] == "end"


def test_seqpar_gst_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"/usr/bin:{os.environ['PATH']}")  # as without an activated environment
    assert "found with" in run("seqpar", "gst").stdout
