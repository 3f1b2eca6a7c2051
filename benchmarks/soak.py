"""Run looped cameras through everything for two hours: does memory grow, and does anything pile up?

    .venv/bin/python benchmarks/soak.py [--minutes 120] [--streams 4]

`seqpar video --config` watches the cameras, and has all outputs: MQTT with Home Assistant, webhook, Redis, kept people,
saved crops, retention, the live page and a zone. Its config file changes every minute. Beside it, the GStreamer element
runs in `gst-launch-1.0` on one more camera. mosquitto and redis-server are real, the receiver of the webhook is ours.
Processes are sampled every few seconds, and the result is written at once, so a run that ends early keeps its samples.
Slopes are of the last three quarters.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from demo_bundle import export_demo

from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine
from seqpar_deploy.video.gstreamer.installation import ELEMENT, examine, variables

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from video.sinks.real_servers import Mosquitto, free_port, redis_server  # noqa: E402
from video.sinks.receiver import Receiver  # noqa: E402
from video.stream_server import StreamServer  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "soak.json"
STREET = ROOT / "samples" / "vtest" / "street.mp4"
CHANGE_EVERY = 60.0  # seconds
STARTING = 120.0  # seconds until both processes have frames
ENDING = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120, help="length of the run; default: 120")
    parser.add_argument("--streams", type=int, default=4, help="number of cameras; default: 4")
    parser.add_argument("--every", type=float, default=10, help="seconds between samples; default: 10")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak(Path(folder), options)


def soak(folder: Path, options: argparse.Namespace) -> None:
    bundle = export_demo(folder / "bundle").path
    with contextlib.ExitStack() as stack:
        cameras = stack.enter_context(StreamServer())
        broker = stack.enter_context(Mosquitto(folder))
        redis = stack.enter_context(redis_server(folder))
        receiver = stack.enter_context(Receiver())
        config = Config(folder / "cameras.toml", bundle, cameras, options.streams)
        config.options |= {
            "mqtt": f"mqtt://127.0.0.1:{broker.port}",
            "home_assistant": True,
            "redis": f"redis://127.0.0.1:{redis}/0/events",
            "webhook": f"http://127.0.0.1:{receiver.port}/events",
        }
        config.write(extra=False)
        video = Process(stack, "video", [sys.executable, "-m", "seqpar_deploy", "video", "--config", str(config.path)])
        video.frames = lambda: scraped(config.port, "seqpar_source_frames_total")
        processes = [video]
        if examine().element:
            processes.append(element(stack, bundle, cameras))
        wait_for(lambda: all(process.frames() > 0 for process in processes), processes)
        sampled = Samples(options, processes, lambda: len(receiver.requests))
        sampled.run(config)
        for process in processes:
            process.end()
    values = sampled.result(events_of_receiver=len(receiver.requests))
    write_whole(options.out, (json.dumps(values, indent=2) + "\n").encode())
    print(json.dumps({key: value for key, value in values.items() if key not in ("looks", "machine")}, indent=2))


class Config:
    """The config file of the run, which changes: a camera comes and goes."""

    def __init__(self, path: Path, bundle: Path, cameras: StreamServer, streams: int) -> None:
        self.path, self.port = path, free_port()
        self.options: dict[str, object] = {
            "bundle": str(bundle),
            "serve": self.port,
            "keep_people": "people",
            "save_crops": "crops",
            "save_crops_most": 500,
            "retain": "1h",
        }
        self._cameras = {f"camera-{n}": cameras.url(clips=[STREET], camera=n) for n in range(streams)}
        self._extra = cameras.url(clips=[STREET], camera="extra")

    def write(self, *, extra: bool) -> None:
        lines = [f"{key} = {json.dumps(value)}" for key, value in self.options.items()]
        for name, address in {**self._cameras, **({"extra": self._extra} if extra else {})}.items():
            lines += [f"[cameras.{name}]", f'address = "{address}"']
            lines += [f"[cameras.{name}.zones.middle]", "points = [[0.2, 0.2], [0.8, 0.2], [0.8, 0.9], [0.2, 0.9]]"]
            lines += ["interval = 60.0"]
        write_whole(self.path, ("\n".join(lines) + "\n").encode())


class Process:
    """A process of the soak. `frames` returns its number of frames so far."""

    def __init__(self, stack: contextlib.ExitStack, name: str, command: list[str], **environment: str) -> None:
        self.name, self.frames = name, lambda: 0
        self.lines: list[str] = []  # the latest
        self._process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        stack.callback(self._process.kill)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        """Interrupt it, and wait until it has ended."""
        self._process.send_signal(2)
        self._process.wait(ENDING)
        self._reader.join()

    def look(self) -> dict[str, float]:
        """Return memory in MB, threads, open files and frames so far."""
        place = Path("/proc") / str(self._process.pid)
        lines = (place / "status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines if ":" in line)
        return {
            "resident_mb": int(status["VmRSS"].split()[0]) / 1e3,
            "threads": int(status["Threads"]),
            "files": len(os.listdir(place / "fd")),
            "frames": self.frames(),
        }

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines = [*self.lines[-50:], line]


def element(stack: contextlib.ExitStack, bundle: Path, cameras: StreamServer) -> Process:
    """Start the element on a camera of its own."""
    words = f"uridecodebin uri={cameras.url(clips=[STREET], camera='element')} ! videoconvert ! video/x-raw,format=RGB"
    words += f" ! {ELEMENT} bundle={bundle} detector=motion"
    words += " ! progressreport update-freq=1 do-query=false format=buffers ! fakesink sync=true"
    paths = {name: f"{value}:{os.environ.get(name, '')}".rstrip(":") for name, value in variables().items()}
    process = Process(stack, "element", ["gst-launch-1.0", *words.split()], **paths)

    def frames() -> int:
        found = re.findall(r"(\d+) buffers", "".join(process.lines))
        return int(found[-1]) if found else 0

    process.frames = frames
    return process


def scraped(port: int, name: str) -> int:
    """Return the sum of a metric over its labels, 0 before the server is up."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    except OSError:
        return 0
    return int(sum(float(value) for value in re.findall(rf"(?m)^{name}{{.*}} (\S+)$", text)))


def wait_for(true: Callable[[], bool], processes: list[Process]) -> None:
    deadline = time.monotonic() + STARTING
    while not true():
        for process in processes:
            if process.ended or time.monotonic() > deadline:
                sys.exit(f"{process.name} has no frame within {STARTING:g} s:\n{''.join(process.lines)}")
        time.sleep(0.5)


class Samples:
    """The samples of a run, and its result so far."""

    def __init__(self, options: argparse.Namespace, processes: list[Process], posted: Callable[[], int]) -> None:
        self._options, self._processes, self._posted = options, processes, posted
        self._looks: list[dict[str, Any]] = []
        self._changes = 0
        self._began = time.monotonic()

    def run(self, config: Config) -> None:
        """Sample until the time is over, and change the config file every minute."""
        for _ in self._times():
            if time.monotonic() - self._began > CHANGE_EVERY * (self._changes + 1):
                self._changes += 1
                config.write(extra=self._changes % 2 == 1)
            entry: dict[str, Any] = {"seconds": time.monotonic() - self._began}
            for process in self._processes:
                if process.ended:
                    sys.exit(f"{process.name} has ended:\n{''.join(process.lines)}")
                entry[process.name] = process.look()
            self._looks.append(entry)
            write_whole(self._options.out, (json.dumps(self.result(self._posted()), indent=2) + "\n").encode())

    def _times(self) -> Iterator[None]:
        end = self._began + 60 * self._options.minutes
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(self._options.every, left))
            yield

    def result(self, events_of_receiver: int) -> dict[str, Any]:
        return {
            "what": "looped cameras through seqpar video with all outputs, and the GStreamer element; slopes of the "
            "last three quarters",
            "date": datetime.date.today().isoformat(),
            "machine": describe_machine(),
            "streams": self._options.streams,
            "minutes": self._looks[-1]["seconds"] / 60,
            "changes": self._changes,
            "webhook_posts": events_of_receiver,
            "processes": {process.name: growth([look[process.name] for look in self._looks])
                          for process in self._processes},
            "looks": self._looks,
        }  # fmt: skip


def growth(looks: list[dict[str, float]]) -> dict[str, Any]:
    """Return what a process did, and how its memory, threads and files grew over the last three quarters."""
    late = looks[len(looks) // 4 :]
    frames, resident = ([entry[key] for entry in late] for key in ("frames", "resident_mb"))
    slope = float(np.polyfit(frames, resident, 1)[0]) if len(set(frames)) > 2 else None
    return {
        "frames": looks[-1]["frames"],
        "resident_mb_per_10000_frames": None if slope is None else 1e4 * slope,
        "resident_mb": {"first": resident[0], "last": resident[-1]},
        "threads": {"first": late[0]["threads"], "last": late[-1]["threads"]},
        "files": {"first": late[0]["files"], "last": late[-1]["files"]},
    }


if __name__ == "__main__":
    main()
