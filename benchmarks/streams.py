"""Run `seqpar video` on a stream whose server is killed again and again.

    .venv/bin/python benchmarks/streams.py [--kills 20] [--freezes 3] [--only http] [--seed 0]

The stream comes over HTTP (MPEG-TS with damaged packets), then over RTSP from Debian's GStreamer server. RTSP is
skipped if that server is not installed (tests/video/gst_rtsp_server.py lists its packages). The first connection also
contains a clip of another size. The server is killed and restarted, then frozen and thawed, while the script reads the
command's /metrics. At the end the command gets SIGTERM, and the script checks the files it wrote.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
from demo_bundle import export_demo

from seqpar_deploy.files import write_whole
from seqpar_deploy.machine import describe_machine

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from video import gst_rtsp_server  # noqa: E402
from video.clips import recode  # noqa: E402
from video.stream_server import StreamServer  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "streams.json"
STREET = ROOT / "samples" / "vtest" / "street.mp4"  # 10 s
SIZES = (768, 576), (384, 288)
DAMAGE = 0.01  # share of transport packets
FROZEN = 10.0  # seconds a server is frozen
SAID = {"lost": ": connection lost: ", "not back yet": ": not reconnected yet: ", "back": ": reconnected after "}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills of each server; default: 20")
    parser.add_argument("--freezes", type=int, default=3, help="freezes of each server; default: 3")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments; default: 0")
    parser.add_argument("--only", choices=("http", "rtsp_gstreamer"), help="measure one server; default: both")
    parser.add_argument("--out", type=Path, default=RESULT, help=f"JSON file; default: {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = export_demo(folder / "bundle").path
        values = json.loads(options.out.read_bytes()) if options.only and options.out.exists() else {}
        for kind, (server, url, facts) in servers(folder).items():
            if options.only in (None, kind):
                (folder / kind).mkdir()
                with server, Command(url, bundle, folder / kind) as command:
                    values[kind] = facts | drive(server, command, options)
                print(kind, json.dumps(values[kind], indent=2), flush=True)
        values |= {"date": datetime.date.today().isoformat(), "machine": describe_machine()}
        write_whole(options.out, (json.dumps(values, indent=2) + "\n").encode())


def servers(folder: Path) -> dict[str, tuple[StreamServer, str, dict[str, Any]]]:
    """Yield each server with its URL and its description."""
    http = StreamServer()
    clips = [recode(STREET, folder / f"{width}.ts", size=(width, height)) for width, height in SIZES]
    found = {"http": (http, http.url(clips=clips, damage=DAMAGE), {"damaged_transport_packets": DAMAGE})}
    if gst_rtsp_server.is_there():
        rtsp = gst_rtsp_server.GstRtspServer(
            *(recode(STREET, folder / f"{width}.h264", size=(width, height)) for width, height in SIZES)
        )
        found["rtsp_gstreamer"] = (rtsp, rtsp.url(), {"damaged_transport_packets": 0, "transport": "TCP"})
    else:
        print("Debian's GStreamer RTSP server is not installed; skipping rtsp_gstreamer", flush=True)
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """The source's values in /metrics at one time."""

    at: float
    frames: int
    dropped: int
    decode_errors: int
    reconnects: int
    back_off_seconds: float


class Command:
    """A running `seqpar video` with all outputs on this machine, its log lines and its metrics over time."""

    def __init__(self, url: str, bundle: Path, folder: Path) -> None:
        self.events, self.annotated, self.report = (folder / name for name in ("e.jsonl", "out.mkv", "people.html"))
        outputs = ["--events", self.events, "--annotate", self.annotated, "--report", self.report, "--serve", "0"]
        words = [Path(sys.executable).parent / "seqpar", "video", url, "--bundle", bundle, *outputs]
        self._words = [str(word) for word in words]
        self.lines: list[tuple[float, str]] = []
        self.samples: list[Sample] = []
        self.sizes: list[list[int]] = []  # each when it changed
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._listen, self._watch)]

    def __enter__(self) -> Command:
        self.process = subprocess.Popen(self._words, stderr=subprocess.PIPE, text=True)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join()

    def said(self, words: str, since: float = 0.0) -> list[float]:
        """Return the times of the log lines with these words."""
        return [at for at, line in list(self.lines) if words in line and at >= since]

    def _listen(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append((time.monotonic(), line.rstrip("\n")))
            print(line, end="", flush=True)

    def _watch(self) -> None:
        wait_for(lambda: bool(self.said("/metrics and /healthz at ")), 60)
        address = self.lines[0][1].split()[-1]
        while self.process.poll() is None:
            with contextlib.suppress(OSError):  # it may have ended
                text = urllib.request.urlopen(f"{address}metrics", timeout=5).read().decode()
                shown = dict(re.findall(r"^seqpar_source_(\w+?)(?:_total)?{.*} (\S+)$", text, re.MULTILINE))
                if shown:
                    values = {key: float(value) if "back_off" in key else int(value) for key, value in shown.items()}
                    self.samples.append(Sample(at=time.monotonic(), **values))  # type: ignore[arg-type]
                seen = json.loads(urllib.request.urlopen(f"{address}people.json", timeout=5).read())
                if seen and seen[0]["size"] != (self.sizes or [None])[-1]:
                    self.sizes.append(seen[0]["size"])
            time.sleep(0.1)


def drive(server: StreamServer, command: Command, options: argparse.Namespace) -> dict[str, Any]:
    rng = random.Random(options.seed)
    wait_for(lambda: bool(command.samples) and command.samples[-1].frames > 0, 60)
    time.sleep(13)  # the first clip, and some of the second
    sizes = list(command.sizes)
    told: list[bytes] = []  # the events before each outage
    rounds: list[Round] = []
    for number in range(options.kills + options.freezes):
        told.append(command.events.read_bytes())
        if number < options.kills:
            rounds.append(outage(command, server.kill, rng.uniform(0.2, 6), server.start))
        else:
            rounds.append(outage(command, server.freeze, FROZEN, server.thaw))
        time.sleep(rng.uniform(1, 4))
    last, asked = command.samples[-1], time.monotonic()
    command.process.send_signal(signal.SIGTERM)
    code = command.process.wait(60)
    ended = time.monotonic() - asked
    time.sleep(0.5)  # until its last words are heard
    killed, frozen = rounds[: options.kills], rounds[options.kills :]
    pictures = [one.picture for one in killed]
    return {
        "kills": options.kills,
        "sizes_until_first_kill": sizes,
        "seconds_away": [round(one.away, 2) for one in killed],
        "seconds_from_return_to_picture": [round(picture, 2) for picture in pictures],
        "median": round(statistics.median(pictures), 2),
        "worst": round(max(pictures), 2),
        "seconds_from_return_to_frames_in_metrics": [round(one.metered, 2) for one in killed],
        "worst_in_metrics": round(max(one.metered for one in killed), 2),
        "highest_back_off_in_metrics": [round(one.back_off, 2) for one in killed],
        "frozen": [
            {"seconds_away": one.away, "seconds_from_return_to_picture": round(one.picture, 2)} for one in frozen
        ],
        "frames": last.frames,
        "dropped": last.dropped,
        "decode_errors": last.decode_errors,
        "reconnects": last.reconnects,
        "lines": {what: len(command.said(words)) for what, words in SAID.items()},
        "other_lines": sum(not any(words in line for words in SAID.values()) for _, line in command.lines),
        "events": events(command.events, told),
        "end": {"signal": "SIGTERM", "exit_code": code, "seconds": round(ended, 2), **files(command)},
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """An outage: seconds `away`, until log and /metrics showed the reconnection, and the highest back-off before."""

    away: float
    picture: float
    metered: float
    back_off: float


def outage(command: Command, begin: Callable[[], None], away: float, end: Callable[[], None]) -> Round:
    before = command.samples[-1]
    began = time.monotonic()
    begin()
    time.sleep(away)
    end()
    returned = time.monotonic()

    def metered() -> Iterator[Sample]:
        for sample in list(command.samples):
            if sample.at > returned and sample.reconnects > before.reconnects and sample.frames > before.frames:
                yield sample

    wait_for(lambda: bool(command.said(SAID["back"], began)) and next(metered(), None) is not None, 30)
    back = next(metered())
    return Round(
        away=away,
        picture=command.said(SAID["back"], began)[0] - returned,
        metered=back.at - returned,
        back_off=max(sample.back_off_seconds for sample in list(command.samples) if began < sample.at <= back.at),
    )


def events(path: Path, told: list[bytes]) -> dict[str, Any]:
    """Check that the events before each outage and the end of each track are in the file."""
    content = path.read_bytes()
    kinds: dict[str, set[int]] = {}
    for line in content.splitlines():
        event = json.loads(line)
        kinds.setdefault(event["event"], set()).add(event["track_id"])
    return {
        "events": content.count(b"\n"),
        "outages_before_which_all_is_kept": sum(content.startswith(before) for before in told),
        "told_before_the_last_outage": told[-1].count(b"\n"),
        "people": len(kinds["appeared"]),
        "people_without_an_end": len(set().union(*kinds.values()) - kinds["ended"]),
    }


def files(command: Command) -> dict[str, Any]:
    """Check that the files are complete: pictures in the video, and people in the report."""
    with av.open(str(command.annotated)) as container:
        seconds = [float(picture.time or 0) for picture in container.decode(video=0)]
    page = command.report.read_text()
    return {
        "frames_in_summary": int(re.findall(r"crops .* (\d+) frames", " ".join(line for _, line in command.lines))[-1]),
        "pictures_in_annotated_video": len(seconds),
        "seconds_of_annotated_video": round(seconds[-1] - seconds[0], 1),
        "report_is_whole": page.startswith("<!doctype html>") and page.rstrip().endswith("</html>"),
        "people_in_report": page.count("<article "),
    }


def wait_for(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise SystemExit(f"seqpar video must react within {seconds:g} s, got no reaction; see the log above")
        time.sleep(0.01)


if __name__ == "__main__":
    main()
