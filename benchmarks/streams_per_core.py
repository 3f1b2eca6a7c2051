"""How many streams of 1080p and 25 frames per second does one core carry, at which rate of analysed frames?

    .venv/bin/python benchmarks/streams_per_core.py [--rates 5,10,25] [--bundle FOLDER]

Every stream is H.264 without B-frames at 4 Mbit/s, as of a usual camera, sent in real time by another process. The clip
is made from samples/vtest/street.mp4: enlarged 2.5 times and cut to size, so that people are some 220 pixels tall, with
each of its 10 frames per second shown two or three times, and the noise of a sensor in each. One process, pinned to one
core, decodes, detects with the built-in detector, tracks and recognises with the demo model. Its sinks are a JSON Lines
file and the live page without a viewer.

A number of streams is carried if, in the seconds measured after the warm-up, every stream is decoded at its full rate,
no frame is dropped, and 95 % of the analysed frames reach the sinks within --latency. For each rate, the number is
raised from an estimate until it is not carried. Run it on an idle machine of two cores or more: the server needs one.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "streams_per_core.json"
STREET = ROOT / "samples" / "vtest" / "street.mp4"
FPS = 25
DECODED = 0.97  # share of the frames sent that must be decoded
BIT_RATE = 4_000_000  # of 1080p, less for smaller frames
NOISE = 3.0  # grey levels (standard deviation)
GROUP = 50  # frames from one key frame to the next
FULL = 0.85  # share of the core from which the first estimate of the number of streams is


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One run in a child process.

    Attributes:
        core: Number of the core that the process is pinned to.
        urls: Addresses of the streams.
        bundle: Folder of the bundle.
        rate: Frames to analyse per second and stream.
        crops: Crops to recognise per second and stream.
        warm: Seconds before the measurement.
        seconds: Seconds of the measurement.
        folder: Folder for the events.
    """

    core: int
    urls: list[str]
    bundle: str
    rate: float
    crops: float
    warm: float
    seconds: float
    folder: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default="5,10,25", help="frames analysed per second and stream; default: 5,10,25")
    parser.add_argument("--crops", type=float, default=1.0, help="crops recognised per second and stream; default: 1")
    parser.add_argument("--latency", type=float, default=0.5, help="seconds from decoding to sinks; default: 0.5")
    parser.add_argument("--warm", type=float, default=10.0, help="seconds before a measurement; default: 10")
    parser.add_argument("--seconds", type=float, default=30.0, help="seconds of a measurement; default: 30")
    parser.add_argument("--most", type=int, default=32, help="streams at most; default: 32")
    parser.add_argument("--size", default="1920x1080", help="width and height of the frames; default: 1920x1080")
    parser.add_argument("--bundle", type=Path, help="bundle; default: export the demo model's")
    parser.add_argument("--core", type=int, help="number of the core to measure; default: the last one")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.trial:
        print(json.dumps(run(Trial(**json.loads(options.trial)))))
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options)


def measure(folder: Path, options: argparse.Namespace) -> None:
    """Measure each rate, and write the results so far after each one."""
    sys.path.insert(0, str(ROOT / "tests"))
    from demo_bundle import export_demo
    from video.stream_server import StreamServer

    from seqpar_deploy.files import write_whole
    from seqpar_deploy.machine import describe_machine

    cores = sorted(os.sched_getaffinity(0))
    core = cores[-1] if options.core is None else options.core
    bundle = options.bundle or export_demo(folder / "bundle").path
    width, height = map(int, options.size.split("x"))
    clip = make_clip(folder / "street.ts", (width, height))
    os.sched_setaffinity(0, set(cores) - {core} or {core})  # of this process and the server
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "cores": len(cores),
        "stream": {"size": [width, height], "fps": FPS, "codec": "h264", "megabit_per_second": megabits(clip)},
        "budget": {"latency_seconds": options.latency, "crops_per_second_and_stream": options.crops},
        "seconds": {"warm_up": options.warm, "measured": options.seconds},
        "rates": {},
    }
    with StreamServer() as server:
        for rate in map(float, options.rates.split(",")):

            def trial(streams: int, rate: float = rate) -> dict[str, Any]:
                # Cameras do not send their key frames at the same moment.
                late = [GROUP / FPS * number / streams for number in range(streams)]
                urls = [server.url(clips=[clip], late=f"{seconds:.3f}") for seconds in late]
                one = Trial(
                    core=core,
                    urls=urls,
                    bundle=str(bundle),
                    rate=rate,
                    crops=options.crops,
                    warm=options.warm,
                    seconds=options.seconds,
                    folder=str(folder),
                )
                values = in_child(one)
                values["carried"] = is_carried(values, options.latency)
                print(f"{rate:g} of {FPS} frames per second, {streams} streams:", json.dumps(values), flush=True)
                return values

            result["rates"][f"{rate:g}"] = search(trial, options.most)
            write_whole(options.out, (json.dumps(result, indent=2) + "\n").encode())
    print({rate: values["streams"] for rate, values in result["rates"].items()})


def search(trial: Any, most: int) -> dict[str, Any]:
    """Return the greatest number of streams that is carried, and all trials by their number of streams."""
    trials = {1: trial(1)}
    streams = 1
    if trials[1]["carried"]:
        streams = max(1, min(most, int(FULL / max(trials[1]["cores_used"], 0.01))))
    while True:
        if streams not in trials:
            trials[streams] = trial(streams)
        if trials[streams]["carried"]:
            if streams == most or (streams + 1 in trials and not trials[streams + 1]["carried"]):
                break
            streams += 1
        elif streams == 1:
            streams = 0
            break
        else:
            streams -= 1
    return {"streams": streams, "trials": {str(number): trials[number] for number in sorted(trials)}}


def is_carried(values: Mapping[str, Any], latency: float) -> bool:
    """Return whether all streams were decoded in full and analysed in time."""
    late = values["latency"]["p95"]
    return values["dropped"] == 0 and values["decoded_share"] >= DECODED and late is not None and late <= latency


def in_child(one: Trial) -> dict[str, Any]:
    command = [sys.executable, __file__, "--trial", json.dumps(dataclasses.asdict(one))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    limit = one.warm + one.seconds + 120
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit, env=environment)
    if done.returncode:
        raise SystemExit(f"the run of {len(one.urls)} streams failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(one: Trial) -> dict[str, Any]:
    """Run the pipeline, and return what it did in the measured seconds."""
    os.sched_setaffinity(0, {one.core})  # before libraries count the cores
    import numpy as np

    from seqpar_deploy import Recognizer
    from seqpar_deploy.video import SelectionOptions, VideoOptions
    from seqpar_deploy.video.detect.opencv import limit_threads
    from seqpar_deploy.video.detect.opening import open_detector
    from seqpar_deploy.video.pipeline import Pipeline
    from seqpar_deploy.video.sinks import BaseSink, JsonlSink, PreviewSink, Sinks
    from seqpar_deploy.video.sources.source import Source
    from seqpar_deploy.video.sources.spec import expand_sources
    from seqpar_deploy.video.sources.state import SourceOptions
    from seqpar_deploy.video.types import Event, Frame, Person, TrackedBox

    class Watch(BaseSink):
        """Latency of each frame, and what was in it."""

        def __init__(self) -> None:
            self.latencies: list[float] = []
            self.boxes = self.events = 0

        def frame(self, frame: Frame, boxes: Sequence[TrackedBox], people: Mapping[int, Person]) -> None:
            assert frame.received is not None
            self.latencies.append(time.monotonic() - frame.received)
            self.boxes += len(boxes)

        def event(self, event: Event) -> None:
            self.events += 1

    limit_threads(1)
    watch = Watch()
    specs = expand_sources(one.urls, live=True)
    sources = [Source(spec, options=SourceOptions(max_fps=one.rate)) for spec in specs]
    recognizer = Recognizer.from_bundle(one.bundle, threads=1)
    recognizer.predict([np.zeros((256, 128, 3), np.uint8)] * 4)
    selection = SelectionOptions(max_crops_per_second=one.crops * len(sources))
    sinks = Sinks([JsonlSink(str(Path(one.folder) / "events.jsonl")), PreviewSink(), watch])
    pipeline = Pipeline(sources, open_detector(), recognizer, sinks, options=VideoOptions(selection=selection))
    summary: list[Any] = []
    running = threading.Thread(target=lambda: summary.append(pipeline.run()))
    running.start()

    def look() -> dict[str, Any]:
        stats = [source.stats for source in sources]
        return {
            "at": time.monotonic(),
            "cpu": time.process_time(),
            "decoded": [each.frames for each in stats],
            "dropped": sum(each.dropped for each in stats),
            "seen": len(watch.latencies),
            "boxes": watch.boxes,
            "events": watch.events,
        }

    try:
        time.sleep(one.warm)
        before = look()
        time.sleep(one.seconds)
        after = look()
    finally:
        pipeline.stop()
        running.join(60)
    recognizer.close()
    latencies = sorted(watch.latencies[before["seen"] : after["seen"]])
    stages = summary[0].stages if summary else {}
    return figures(before, after, latencies, len(sources)) | {
        "crops": summary[0].crops if summary else None,
        "ms_per_call": {name: round(1e3 * took / times, 2) for name, (times, took) in stages.items()},
        "resident_mb": round(resident_mb()),
    }


def figures(
    before: Mapping[str, Any], after: Mapping[str, Any], latencies: Sequence[float], streams: int
) -> dict[str, Any]:
    """Return the differences between two looks, as rates."""
    seconds = after["at"] - before["at"]
    shares = [(b - a) / (FPS * seconds) for a, b in zip(before["decoded"], after["decoded"], strict=True)]
    return {
        "cores_used": round((after["cpu"] - before["cpu"]) / seconds, 3),
        "decoded_share": round(min(shares), 3),
        "dropped": after["dropped"] - before["dropped"],
        "analysed_per_second_and_stream": round(len(latencies) / seconds / streams, 2),
        "latency": {f"p{share}": quantile(latencies, share / 100) for share in (50, 95, 100)},
        "people_per_frame": round((after["boxes"] - before["boxes"]) / max(1, len(latencies)), 2),
        "events": after["events"] - before["events"],
    }


def quantile(ordered: Sequence[float], share: float) -> float | None:
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4) if ordered else None


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE") / 1e6)


def megabits(clip: Path) -> float:
    import av

    with av.open(str(clip)) as container:
        seconds = sum(packet.size > 0 for packet in container.demux(video=0)) / FPS
    return round(8 * clip.stat().st_size / seconds / 1e6, 2)


def make_clip(path: Path, size: tuple[int, int]) -> Path:
    """Write the street at 25 frames per second in another size, as a camera would send it."""
    import av
    import cv2
    import numpy as np

    width, height = size
    rng = np.random.default_rng(0)
    noise = [rng.normal(0, NOISE, (height, width, 1)).astype(np.int16) for _ in range(7)]
    with av.open(str(STREET)) as street:
        frames = [frame.to_ndarray(format="rgb24") for frame in street.decode(video=0)]
    scale = max(width / frames[0].shape[1], height / frames[0].shape[0])
    whole = max(width, round(frames[0].shape[1] * scale)), max(height, round(frames[0].shape[0] * scale))
    left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
    rate = int(BIT_RATE * width * height / (1920 * 1080))
    options = {"preset": "veryfast", "bf": "0", "g": str(GROUP), "maxrate": str(rate), "bufsize": str(rate)}
    with av.open(str(path), "w", format="mpegts") as out:
        stream = out.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", rate
        for number in range(int(FPS * len(frames) / 10)):
            street_frame = frames[int(number * 10 / FPS)]
            large = cv2.resize(street_frame, whole, interpolation=cv2.INTER_CUBIC)[top:, left:][:height, :width]
            image = np.clip(large + noise[number % len(noise)], 0, 255).astype(np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        out.mux(stream.encode(None))
    return path


if __name__ == "__main__":
    main()
