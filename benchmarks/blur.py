"""Measure what blurring costs per frame, and how many people it covers with a detector.

    .venv/bin/python benchmarks/blur.py [--video vtest.avi] [--detector motion|DETECTOR.onnx|BOXES.jsonl]

Cost: variants are interleaved in changing order, and medians are given: heads, whole people, and the whole frame.
People are 500 pixels tall at 1080 rows, and have a place of their own each. Run it on an idle machine.

Cover, with --video: the street video of benchmarks/tracking.py, whose people are labelled in every 5th frame. A head is
the middle of the upper sixth of a labelled box. It is covered if at least 95 % of it is blurred. Given are the shares
of heads that are covered by what the detector finds in the frame, and by what is blurred, which also has what it found
a moment ago, and the share of each frame that is blurred.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tracking

from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.video.detect.opening import MOTION, open_detector
from seqpar_deploy.video.finding import Finder
from seqpar_deploy.video.privacy.blur import Blur, Hidden, blurred, place_of, wholly_blurred
from seqpar_deploy.video.privacy.veil import Veil
from seqpar_deploy.video.track import ByteTracker
from seqpar_deploy.video.types import Box, LooksAhead, Readiness

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "blur.json"
TALL, WIDE = 500 / 1080, 190 / 1080  # of a person, in heights of the frame


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1920x1080", help="width and height of the frame; default: 1920x1080")
    parser.add_argument("--people", type=int, default=6, help="people in the frame; default: 6")
    parser.add_argument("--rounds", type=int, default=60, help="runs of each variant; default: 60")
    parser.add_argument("--video", type=Path, help="vtest.avi, to measure cover too; default: cost only")
    parser.add_argument("--detector", default=MOTION, help=f"detector of --video; default: {MOTION}")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    width, height = map(int, options.size.split("x"))
    random.seed(0)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    lefts = np.linspace(0.02 * width, 0.98 * width - WIDE * height, options.people)
    top = 0.3 * height
    people = [
        Hidden(box=Box(left=left, top=top, right=left + WIDE * height, bottom=top + TALL * height))
        for left in lefts.tolist()
    ]
    times = interleaved(
        {
            "copy of the frame": lambda: np.array(image),
            "heads": lambda: blurred(image, people, "heads"),
            "people": lambda: blurred(image, people, "people"),
            "whole frame": lambda: wholly_blurred(image),
        },
        options.rounds,
    )
    place = place_of(people[0], "people", image.shape[:2])
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    if options.video:
        covers = result.setdefault("cover", {})
        covers[Path(options.detector).stem] = {
            blur: cover(options.video, options.detector, blur) for blur in ("heads", "people")
        }
    result |= {
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "frame": [width, height],
        "people": options.people,
        "person": [round(WIDE * height), round(TALL * height)],
        "cells of a person": [
            int((place.right - place.left) / place.cell),
            int((place.bottom - place.top) / place.cell),
        ],
        "milliseconds per frame": times,
    }
    write_whole(options.out, (json.dumps(result, indent=2) + "\n").encode())
    print(json.dumps(result, indent=2))


def cover(video: Path, name: str, blur: Blur) -> dict[str, float]:
    """Return the shares of labelled heads that are covered."""
    detector, labels = open_detector(name), tracking.read_labels()
    finder, veil = Finder(detector, ByteTracker()), Veil(blur)
    if isinstance(detector, LooksAhead):
        detector.look_ahead(itertools.islice(tracking.frames(video), tracking.AHEAD))
    found, hidden, area = [], [], []
    for frame in tracking.frames(video):
        boxes = finder.detect(frame)
        ready = not isinstance(detector, Readiness) or detector.ready(frame.stream)
        veil.see(frame, boxes, ready=ready)
        size = frame.image.shape[:2]
        whole = place_of(Hidden(box=Box(left=0, top=0, right=size[1], bottom=size[0])), blur, size)
        places = veil.places(size) or ([] if ready else [whole])
        own = [place_of(Hidden(box=box), blur, size) for box in boxes]
        veil.shown(frame, [])
        masks = []
        for some in (own, places):
            mask = np.zeros(size, dtype=bool)
            for place in some:
                mask[place.top : place.bottom, place.left : place.right] = True
            masks.append(mask)
        area.append(masks[1].mean())
        for track, _, (left, top, right, bottom) in labels.get(frame.index, []):
            if track in tracking.IGNORED:
                continue
            middle, tall = (left + right) / 2, bottom - top
            rows = slice(round(top), max(round(top) + 1, round(top + tall / 6)))
            columns = slice(max(0, round(middle - tall / 12)), round(middle + tall / 12))
            found.append(masks[0][rows, columns].mean() >= 0.95)
            hidden.append(masks[1][rows, columns].mean() >= 0.95)
    detector.close()
    return {
        "heads": len(found),
        "covered by the frame's boxes": round(float(np.mean(found)), 4),
        "covered": round(float(np.mean(hidden)), 4),
        "share of the frame": round(float(np.mean(area)), 4),
    }


def interleaved(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each variant, after one run of each as warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name in random.sample(list(variants), len(variants)):
            start = time.perf_counter()
            variants[name]()
            if round_:
                taken[name].append(time.perf_counter() - start)
    return {name: round(1000 * float(np.median(of)), 2) for name, of in taken.items()}


if __name__ == "__main__":
    main()
