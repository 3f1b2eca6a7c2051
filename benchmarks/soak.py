"""Run looped streams through the whole pipeline for an hour: does memory grow, and does latency stay the same?

    .venv/bin/python benchmarks/soak.py [--minutes 60] [--streams 4]

It runs the demo model with all sinks that write to this machine. The streams run at full speed, and sources drop frames
that arrive too fast. Memory, threads and open files are sampled every few seconds and written at once, so a run that
ends early keeps its samples. Slopes are of the last three quarters.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from demo_bundle import export_demo

from seqpar_deploy import Recognizer
from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.video.detect.opening import open_detector
from seqpar_deploy.video.pipeline import Pipeline
from seqpar_deploy.video.sinks import Sinks
from seqpar_deploy.video.sinks.jsonl import JsonlSink
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.preview import PreviewSink
from seqpar_deploy.video.sinks.report import ReportSink
from seqpar_deploy.video.sinks.server import WebServer, metrics_routes
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import expand_sources
from seqpar_deploy.video.types import Box, Event, Frame, Person, TrackedBox

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from video.stream_server import StreamServer  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "soak.json"
STREET = ROOT / "samples" / "vtest" / "street.mp4"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="length of the run; default: 60")
    parser.add_argument("--streams", type=int, default=4, help="number of streams; default: 4")
    parser.add_argument("--every", type=float, default=10, help="seconds between samples; default: 10")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak(Path(folder), options)


def soak(folder: Path, options: argparse.Namespace) -> None:
    bundle = export_demo(folder / "bundle")
    metrics, health, watch = Metrics(), Health(), Watch()
    looks: list[dict[str, float]] = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(StreamServer())
        recognizer = stack.enter_context(Recognizer.from_bundle(bundle.path))
        detector = WatchedDetector(open_detector(), watch)
        preview = PreviewSink()
        report = ReportSink(folder / "people.html")
        web = WebServer(preview.routes() | metrics_routes(metrics, health), port=0)
        stack.callback(web.close)
        names = [server.url(clips=[STREET], speed=0, camera=number) for number in range(options.streams)]
        sources = [Source(spec) for spec in expand_sources(names)]
        sinks = Sinks([JsonlSink(str(folder / "events.jsonl")), report, preview, watch], metrics=metrics)
        before = look(watch)
        pipeline = Pipeline(sources, detector, recognizer, sinks, metrics=metrics, health=health)
        running = threading.Thread(target=pipeline.run)
        running.start()
        end = time.monotonic() + 60 * options.minutes
        while time.monotonic() < end and running.is_alive():
            time.sleep(min(options.every, max(0.0, end - time.monotonic())))
            looks.append(look(watch))
            write_whole(options.out, (json.dumps(result(options, looks, before, None), indent=2) + "\n").encode())
        pipeline.stop()
        running.join()
        detector.close()
    after = look(watch)
    values = result(options, looks, before, after)
    write_whole(options.out, (json.dumps(values, indent=2) + "\n").encode())
    print(json.dumps({key: value for key, value in values.items() if key not in ("looks", "machine")}, indent=2))


class Watch:
    """A sink that counts frames and events, and measures the latency of each frame from its detection."""

    def __init__(self) -> None:
        self.frames = self.events = 0
        self.begun: dict[tuple[str, int], float] = {}
        self.latencies: list[float] = []

    def frame(self, frame: Frame, _boxes: Sequence[TrackedBox], _people: Mapping[int, Person]) -> None:
        self.frames += 1
        self.latencies.append(time.monotonic() - self.begun.pop((frame.stream, frame.index)))

    def event(self, _event: Event) -> None:
        self.events += 1

    def close(self) -> None:
        """Do nothing."""


class WatchedDetector:
    """A detector that records in a Watch the time at which each frame arrives."""

    def __init__(self, detector: Any, watch: Watch) -> None:
        self._detector, self._watch = detector, watch

    def detect(self, frame: Frame) -> list[Box]:
        self._watch.begun[frame.stream, frame.index] = time.monotonic()
        found: list[Box] = self._detector.detect(frame)
        return found

    def close(self) -> None:
        self._detector.close()


def look(watch: Watch) -> dict[str, float]:
    """Return memory in MB, threads, open files, frames so far, and the latency in ms since the last call."""
    lines = Path("/proc/self/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    since, watch.latencies = watch.latencies, []
    return {
        "seconds": time.monotonic(),
        "resident_mb": int(status["VmRSS"].split()[0]) / 1e3,
        "threads": int(status["Threads"]),
        "files": len(os.listdir("/proc/self/fd")),
        "frames": watch.frames,
        "events": watch.events,
        "latency_p50_ms": 1e3 * float(np.percentile(since, 50)) if since else 0.0,
        "latency_p99_ms": 1e3 * float(np.percentile(since, 99)) if since else 0.0,
    }


def result(
    options: argparse.Namespace, looks: list[dict[str, float]], before: dict[str, float], after: dict[str, float] | None
) -> dict[str, Any]:
    late = looks[len(looks) // 4 :]
    frames, resident = ([entry[key] for entry in late] for key in ("frames", "resident_mb"))
    slope = float(np.polyfit(frames, resident, 1)[0]) if len(set(frames)) > 2 else None
    half = len(late) // 2
    return {
        "what": "looped streams through the whole pipeline, as fast as taken; slopes of the last three quarters",
        "date": datetime.date.today().isoformat(),
        "machine": describe_machine(),
        "streams": options.streams,
        "minutes": (looks[-1]["seconds"] - before["seconds"]) / 60,
        "frames": looks[-1]["frames"],
        "events": looks[-1]["events"],
        "resident_mb_per_10000_frames": None if slope is None else 1e4 * slope,
        "threads": {"first": late[0]["threads"], "last": late[-1]["threads"]},
        "files": {"first": late[0]["files"], "last": late[-1]["files"]},
        "latency_p99_ms": {
            part: float(np.median([entry["latency_p99_ms"] for entry in entries]))
            for part, entries in (("first_half", late[:half] or late), ("second_half", late[half:]))
        },
        "before": before,
        "after": after,
        "looks": looks,
    }


if __name__ == "__main__":
    main()
