"""Measure the parts of a crop's cost outside the model, each before and after what was done about it.

    .venv/bin/python benchmarks/crop_cost.py [--people FOLDER] [--only prepare,overlap,jpeg,video]

Variants are interleaved in changing order, and medians are given. `prepare`: a batch of crops with one thread and with
all cores. `overlap`: the demo model on each CPU runtime with nothing done ahead, with the next batch prepared, and with
the next batch prepared and encoded. `jpeg`: pictures of people of several sizes, decoded in full and as drafts,
and how many of the demo model's sequences differ. Its pictures are enlarged crops, so that drafts of photos, which have
finer detail, may differ more. `video`: a street video of 1920 x 1080 and larger, per frame: decoding, conversion to
RGB, and scaling down for the built-in detector in one step, halved first, and from the planes without RGB.

Run it on an idle machine: beside other work a variant with more threads seems faster than it is.
"""

from __future__ import annotations

import argparse
import datetime
import io
import itertools
import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from demo_bundle import ROOT, export_demo
from PIL import Image

from seqpar_deploy import Recognizer, read_image
from seqpar_deploy.ahead import map_ahead
from seqpar_deploy.backends import BackendName
from seqpar_deploy.cli.console import stage
from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.preprocess import Crop, Preprocessing, prepare, prepare_batch
from seqpar_deploy.resources import data_dir, sample_crops

RESULT = ROOT / "benchmarks" / "results" / "crop_cost.json"
PARTS = ("prepare", "overlap", "jpeg", "video")
BACKENDS: tuple[BackendName, ...] = ("onnxruntime", "openvino")
DRAFTS = {"full": 0, "1 input": 1, "2 inputs": 2, "4 inputs": 4}  # longer side of a draft at least, in model inputs
HEIGHTS = (256, 512, 1024, 2048)
FRAMES = ((1920, 1080), (3840, 2160))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=Path, help="folder of pictures of people; default: the sample crops")
    parser.add_argument("--bundle", type=Path, help="the demo model's fp32 bundle; default: export it")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each variant; default: 9")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts with commas; default: {','.join(PARTS)}")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "crop-cost", help="folder for the bundle")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    wanted = options.only.split(",")
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"--only must be of {', '.join(PARTS)}, got {', '.join(unknown)}")
    people = sorted(options.people.iterdir()) if options.people else sample_crops()
    random.seed(0)
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    if "prepare" in wanted:
        with stage("prepare"):
            result["prepare"] = measure_prepare(people, options.rounds)
    if "overlap" in wanted or "jpeg" in wanted:
        bundle = options.bundle or export_demo(options.work / "demo", progress=stage).path
        with stage("overlap and jpeg"):
            if "overlap" in wanted:
                result["overlap"] = measure_overlap(bundle, people, options.rounds)
            if "jpeg" in wanted:
                result["jpeg"] = measure_jpeg(bundle, people)
    if "video" in wanted:
        with stage("video"):
            result["video"] = [measure_video(*size, options.rounds) for size in FRAMES]
    result |= {"date": datetime.date.today().isoformat(), "machine": describe_machine()}
    write_whole(options.out, (json.dumps(result, indent=2) + "\n").encode())
    print(json.dumps({part: result[part] for part in wanted}, indent=2))


def interleaved(variants: Mapping[str, Callable[[], object]], rounds: int, per: int = 1) -> dict[str, float]:
    """Return the median milliseconds of each variant, divided by `per`, after one run of each as warm-up."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for round_ in range(rounds + 1):
        for name in random.sample(list(variants), len(variants)):
            start = time.perf_counter()
            variants[name]()
            if round_:
                taken[name].append(time.perf_counter() - start)
    return {name: round(1000 * float(np.median(of)) / per, 3) for name, of in taken.items()}


def measure_prepare(people: Sequence[Path], rounds: int) -> list[dict[str, Any]]:
    """Prepare batches of 224 x 224 pixels, of crops as they are and three times as large."""
    crops = [read_image(path) for path in random.sample(list(people), min(32, len(people)))]
    found = []
    for enlarged in (1, 3):
        large = [crop.repeat(enlarged, axis=0).repeat(enlarged, axis=1) for crop in crops]
        for size in (8, 32, 128):
            batch = (large * 10)[:size]

            def run(threads: int | None, batch: Sequence[Crop] = batch) -> object:
                return prepare_batch(batch, image_size=224, preprocessing=Preprocessing(), threads=threads)

            times = interleaved({"one thread": lambda: run(1), "all cores": lambda: run(None)}, rounds, size)
            found.append({"crops": size, "enlarged": enlarged, "milliseconds per crop": times})
    return found


def measure_overlap(bundle: Path, people: Sequence[Path], rounds: int) -> list[dict[str, Any]]:
    found = []
    for backend in BACKENDS:
        with Recognizer.from_bundle(bundle, backend=backend) as recognizer:
            for size in (1, 8, 32):
                count = max(12, 3 * size)
                chosen = (random.sample(list(people), min(count, len(people))) * count)[:count]
                crops = [read_image(path) for path in chosen]
                batches = [crops[start : start + size] for start in range(0, count, size)]
                times = interleaved(overlaps(recognizer, batches), rounds, count)
                found.append({"backend": backend, "batch": size, "milliseconds per crop, done ahead": times})
    return found


def overlaps(recognizer: Recognizer, batches: Sequence[Sequence[Crop]]) -> dict[str, Callable[[], object]]:
    backend, dimensions = recognizer.backend, recognizer.bundle.dimensions

    def prepared(batch: Sequence[Crop]) -> Crop:
        preprocessing = recognizer.bundle.preprocessing
        return prepare_batch(batch, image_size=dimensions.image_size, preprocessing=preprocessing)

    def encoded(batch: Sequence[Crop]) -> Any:
        return backend.encode(prepared(batch))

    def decode(state: Any) -> object:
        return recognizer.strategy.generate(backend, state, max_steps=dimensions.capacity - 1)

    return {
        "nothing": lambda: [decode(encoded(batch)) for batch in batches],
        "prepare": lambda: [decode(backend.encode(batch)) for batch in map_ahead(prepared, batches)],
        "prepare and encode": lambda: [decode(state) for state in map_ahead(encoded, batches)],
    }


def measure_jpeg(bundle: Path, people: Sequence[Path]) -> list[dict[str, Any]]:
    """Compare drafts with full pictures, of the tallest people in the folder."""
    pictures = [Image.fromarray(read_image(path)) for path in people]
    pictures = sorted(pictures, key=lambda picture: -picture.height)[:120]
    with Recognizer.from_bundle(bundle, backend="openvino") as recognizer:
        return [measure_drafts(recognizer, pictures, height) for height in HEIGHTS]


def measure_drafts(recognizer: Recognizer, pictures: Sequence[Image.Image], height: int) -> dict[str, Any]:
    size, preprocessing = recognizer.bundle.dimensions.image_size, recognizer.bundle.preprocessing
    files = []
    for picture in pictures:
        files.append(io.BytesIO())
        large = (round(picture.width * height / picture.height), height)
        picture.resize(large, Image.Resampling.LANCZOS).save(files[-1], "JPEG", quality=90)
    tokens: dict[str, list[tuple[int, ...]]] = {}
    times: dict[str, float] = {}
    for name, inputs in DRAFTS.items():
        taken, crops = [], []
        for file in files:
            start = time.thread_time()
            crop = decoded(file, inputs * size)
            prepare(crop, image_size=size, preprocessing=preprocessing)
            taken.append(time.thread_time() - start)
            crops.append(crop)
        times[name] = round(1000 * float(np.median(taken)), 2)
        tokens[name] = [prediction.tokens for prediction in recognizer.predict(crops)]
    changed = {
        name: sum(one != full for one, full in zip(of, tokens["full"], strict=True)) for name, of in tokens.items()
    }
    return {
        "height": height,
        "pictures": len(files),
        "processor milliseconds to decode and prepare": times,
        "sequences changed": changed,
    }


def decoded(file: io.BytesIO, draft_size: int) -> Crop:
    """Decode a JPEG as `read_image` does. `draft_size` 0 is the full size."""
    file.seek(0)
    with Image.open(file) as image:
        if draft_size:
            share = min(1.0, draft_size / max(image.size))
            image.draft(None, (math.ceil(image.width * share), math.ceil(image.height * share)))
        return np.array(image.convert("RGB"))


def measure_video(width: int, height: int, rounds: int) -> dict[str, Any]:
    import av
    import cv2

    from seqpar_deploy.video.detect.motion import WORKING_PIXELS, MotionDetector, scaled_down
    from seqpar_deploy.video.types import Frame

    cv2.setNumThreads(1)
    pictures, decoding = [], []
    with av.open(enlarged(data_dir("samples") / "vtest" / "street.mp4", width, height, frames=40)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        start = time.thread_time()
        for picture in container.decode(video=0):
            decoding.append(time.thread_time() - start)
            pictures.append(picture)
            start = time.thread_time()
    reformatter, smaller = (av.video.reformatter.VideoReformatter() for _ in range(2))
    images: list[Any] = [reformatter.reformat(picture, format="rgb24").to_ndarray() for picture in pictures]
    scale = math.sqrt(WORKING_PIXELS / (width * height))
    small = {"width": round(scale * width), "height": round(scale * height)}
    at = itertools.cycle(range(len(pictures)))
    times = interleaved(
        {
            "convert to RGB": lambda: reformatter.reformat(pictures[next(at)], format="rgb24", threads=1).to_ndarray(),
            "scale down in one step": lambda: cv2.resize(
                images[next(at)], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
            ),
            "scale down, halved first": lambda: scaled_down(cv2, images[next(at)], scale),
            "scale down the planes and convert": lambda: smaller.reformat(
                pictures[next(at)], format="rgb24", interpolation="AREA", threads=1, **small
            ).to_ndarray(),
        },
        3 * rounds,
    )
    detector = MotionDetector()
    start = time.thread_time()
    for index, image in enumerate(images):
        detector.detect(Frame(stream="s", index=index, timestamp=index / 10, image=image))
    times["detect, with scaling"] = round(1000 * (time.thread_time() - start) / len(images), 2)
    return {
        "width": width,
        "height": height,
        "milliseconds per frame": {"decode": round(1000 * float(np.median(decoding)), 3)} | times,
    }


def enlarged(video: Path, width: int, height: int, frames: int) -> io.BytesIO:
    """Return the first frames of a video, enlarged, as an H.264 file in memory."""
    import av

    file = io.BytesIO()
    with av.open(str(video)) as source, av.open(file, "w", format="mp4") as target:
        stream = target.add_stream("libx264", rate=10, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index, picture in enumerate(source.decode(video=0)):
            if index == frames:
                break
            large = picture.reformat(width, height, format="yuv420p", interpolation="BICUBIC")
            large.pts = None
            target.mux(stream.encode(large))
        target.mux(stream.encode())
    file.seek(0)
    return file


if __name__ == "__main__":
    main()
