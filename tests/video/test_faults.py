"""`seqpar video`, when a disk is full, a broker dead or a stream gone: what is not concerned is whole."""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from video.rtsp_server import RtspServer
from video.sinks.broker import Broker
from video.stream_server import StreamServer

from seqpar_deploy.resources import data_dir

pytestmark = pytest.mark.slow

STREET = data_dir("samples") / "vtest" / "street.mp4"  # 100 pictures in 10 s
_FILES = ("--annotate", "out.mp4", "--report", "people.html")
_SMALL = 500_000  # bytes of a file, for want of a small disk


def command(bundle_dir: Path, *words: object) -> list[str]:
    return [str(word) for word in (Path(sys.executable).parent / "seqpar", "video", *words, "--bundle", bundle_dir)]


def pictures(path: Path) -> int:
    """How many a player shows, which goes on where one is torn."""
    shown = 0
    with av.open(str(path)) as container:
        for packet in container.demux(video=0):
            try:
                shown += len(packet.decode())
            except av.error.InvalidDataError:
                assert path.stat().st_size == _SMALL
    return shown


def people(events: Path) -> set[int]:
    """Everyone in the events, each of whom has an end."""
    told = [json.loads(line) for line in events.read_text().splitlines()]
    everyone = {event["track_id"] for event in told}
    assert {event["track_id"] for event in told if event["event"] == "ended"} == everyone
    return everyone


def people_in_report(path: Path) -> int:
    page = path.read_text()
    assert page.rstrip().endswith("</html>")
    return page.count("<article ")


def lines_of(said: str, name: str) -> list[str]:
    return [line for line in said.splitlines() if name in line and ": " in line]


def _on_a_small_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (_SMALL, _SMALL))


def test_a_full_disk_and_a_broker_that_never_answers_cost_themselves_alone(bundle_dir: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        broker = f"127.0.0.1:{free.getsockname()[1]}"
    outputs = [*_FILES, "--events", "e.jsonl", "--mqtt", f"mqtt://{broker}"]
    done = subprocess.run(
        command(bundle_dir, STREET, *outputs),
        capture_output=True, text=True, check=False, cwd=tmp_path, preexec_fn=_on_a_small_disk,
    )  # fmt: skip
    assert done.returncode == 2
    assert "2 of 4 outputs" in done.stderr.splitlines()[-1]
    (line,) = lines_of(done.stderr, "annotated video")
    assert "cannot be written: File too large; it ends at " in line
    assert 10 < pictures(tmp_path / "out.mp4") < 100
    began, ended = lines_of(done.stderr, "mqtt broker")
    assert "does not answer" in began
    assert "events were not delivered" in ended
    assert people_in_report(tmp_path / "people.html") == len(people(tmp_path / "e.jsonl")) > 5


def test_sigterm_ends_a_live_run_with_whole_files_though_its_broker_died(bundle_dir: Path, tmp_path: Path) -> None:
    events = tmp_path / "e.jsonl"
    with StreamServer() as server, Broker() as broker:
        outputs = [*_FILES, "--events", events, "--mqtt", f"mqtt://127.0.0.1:{broker.port}"]
        words = command(bundle_dir, server.url(clips=[STREET], speed=3, damage=0.01), *outputs)
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
            assert broker.wait(1, 60)
            broker.__exit__()
            wait_for(lambda: events.read_text().count('"ended"') > 1)
            said = ended_by(process, signal.SIGTERM)
    assert "it is gone" in lines_of(said, "mqtt broker")[0]
    assert pictures(tmp_path / "out.mp4") == tracked(said) > 10
    assert people_in_report(tmp_path / "people.html") == len(people(events)) > 1


def test_ctrl_c_ends_a_live_run_that_hangs_with_whole_files_though_its_disk_is_full(
    bundle_dir: Path, tmp_path: Path
) -> None:
    with StreamServer() as server:
        words = command(bundle_dir, server.url(clips=[STREET], speed=3), *_FILES, "--events", "/dev/full")
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
            wait_for(lambda: (tmp_path / "out.mp4").exists() and (tmp_path / "out.mp4").stat().st_size > 100_000)
            server.freeze()
            time.sleep(0.5)  # until what was sent is read
            said = ended_by(process, signal.SIGINT)
    began, ended = lines_of(said, "events in /dev/full")
    assert "No space left on device; retrying" in began
    assert "events missed" in ended
    assert pictures(tmp_path / "out.mp4") == tracked(said) > 10
    assert people_in_report(tmp_path / "people.html") > 1


@pytest.mark.parametrize(("transport", "refused"), [("udp", "tcp"), ("tcp", "udp")])
def test_the_transport_of_rtsp_is_an_option(
    bundle_dir: Path, live_clip: Path, tmp_path: Path, transport: str, refused: str
) -> None:
    out = tmp_path / "out.mp4"
    with RtspServer() as camera:
        address = camera.url(clip=live_clip, speed=4, **{refused: "400"})
        words = command(bundle_dir, address, "--rtsp-transport", transport, "--annotate", out)
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            wait_for(lambda: out.exists() and out.stat().st_size > 0)
            said = ended_by(process, signal.SIGINT)
    assert "connect" not in said
    assert tracked(said) > 0


@pytest.mark.parametrize("address", ["rtsp", "RTSP"])
def test_a_transport_that_the_camera_refuses_is_not_replaced(
    bundle_dir: Path, live_clip: Path, tmp_path: Path, address: str
) -> None:
    with RtspServer() as camera:
        camera_url = camera.url(clip=live_clip, tcp="461").replace("rtsp", address, 1)
        words = command(bundle_dir, camera_url, "--rtsp-transport", "tcp", "--events", tmp_path / "e.jsonl")
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            line = next(line for line in process.stderr if "cannot connect" in line)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert "over TCP" in line
    assert process.returncode == 130


def ended_by(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """What it said in all."""
    process.send_signal(number)
    asked = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert time.monotonic() - asked < 10
    return said


def tracked(said: str) -> int:
    """Frames, from the summary."""
    return int(re.findall(r" crops .* (\d+) frames", said)[-1])


def wait_for(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)
