"""The config file of `seqpar video`: validated with key paths, and weaker than the command line."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("av")
from cli.run import run
from video.clips import make_clip

from seqpar_deploy.cli.video.cameras import CameraOpener
from seqpar_deploy.cli.video.config import parse_config, read_config
from seqpar_deploy.cli.video.request import VideoRequest
from seqpar_deploy.errors import VideoError
from seqpar_deploy.video.cameras.settings import example

CAMERA = '\n[cameras.gate]\naddress = "0"\n'


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    lines = ({"frame": at, "boxes": [[10 + at, 10, 40 + at, 90]]} for at in range(20))
    (folder / "walk.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return make_clip(folder / "walk.mp4", frames=20)


@pytest.mark.parametrize(
    ("content", "place", "expected"),
    [
        ("max_latency = -1", "max_latency", ">= 0"),
        ("serve = 70000", "serve", "65535"),
        ('backend = "gpu"', "backend", "openvino"),
        ("monitor = 1", "monitor", "true or false"),
        ('sources = ["a.mp4"]', "sources", "unknown"),
        ("dry_run = true", "dry_run", "unknown"),
        ('report = ""', "report", "not empty"),
        ('[cameras.gate]\naddr = "0"', "cameras.gate.addr", "unknown"),
        ("[cameras.gate]\nlive = true", "cameras.gate.address", "missing"),
        ('[cameras.gate]\naddress = "0"\ndetector_threshold = 2', "cameras.gate.detector_threshold", "<= 1"),
        ('[cameras.gate]\naddress = "0"\nfps = 0', "cameras.gate.fps", "> 0"),
        ('[cameras.gate]\naddress = "0"\nzones.hall.points = [[0, 0]]', "cameras.gate.zones.hall", "corners"),
        ('[cameras."a/b"]\naddress = "0"', "cameras.a/b", "name"),
        ("[cameras.-gate]\naddress = '0'", "cameras.-gate", "without - or . first"),
        ("max_latency = ", "", "TOML"),
    ],
)
def test_a_fault_is_named_with_its_key_path(content: str, place: str, expected: str) -> None:
    with pytest.raises(VideoError) as error:
        parse_config((content + "\n").encode(), Path("mine.toml"))
    (line,) = str(error.value).splitlines()
    assert line.startswith("mine.toml")
    assert place in line
    assert expected in line


def test_a_password_is_not_in_the_errors_or_the_representation() -> None:
    address = "rtsp://admin:hunter2@gate/1"
    config = parse_config(f'[cameras.gate]\naddress = "{address}"\n'.encode(), Path("mine.toml"))
    assert config.cameras["gate"].address == address
    assert "hunter2" not in repr(config)


def test_every_setting_of_the_example_is_valid() -> None:
    uncommented = re.sub(r"^# (?=\w+ = |\[)", "", example(), flags=re.MULTILINE)
    config = parse_config(uncommented.encode(), Path("cameras.toml"))
    assert {"bundle", "events", "max_crops_per_second", "mqtt"} <= set(config.options)
    assert config.cameras["gate"].detector_threshold == 0.25
    assert config.cameras["gate"].scene.lines["door"].points == ((0.2, 0.6), (0.8, 0.6))
    assert parse_config(example().encode(), Path("cameras.toml")).cameras["gate"].fps is None


def test_files_belong_to_the_folder_of_the_config_file(tmp_path: Path) -> None:
    content = (
        'bundle = "b"\nevents = "-"\nreport = "/var/r.html"\ndetector = "motion"\n[cameras.gate]\naddress = "a.mp4"'
    )
    (tmp_path / "mine.toml").write_text(content + '\ndetector = "d.onnx"\nthresholds = "t.toml"\n')
    config = read_config(tmp_path / "mine.toml")
    assert config.options == {
        "bundle": tmp_path / "b",
        "events": "-",
        "report": Path("/var/r.html"),
        "detector": "motion",
    }
    gate = config.cameras["gate"]
    assert (gate.address, gate.detector, gate.thresholds) == tuple(
        str(tmp_path / name) for name in ("a.mp4", "d.onnx", "t.toml")
    )


def test_the_default_folder_of_uncertain_crops_is_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("keep_uncertain = 3\n")
    request = read_config(tmp_path / "mine.toml").over(VideoRequest(sources=[]))
    assert request.uncertain_folder == tmp_path / "uncertain-crops"


def test_addresses_that_are_no_files_stay_as_they_are(tmp_path: Path) -> None:
    for address in ("rtsp://gate/1", "2", "${GATE}", "/dev/video0"):
        content = f'[cameras.gate]\naddress = "{address}"\n'.encode()
        assert parse_config(content, tmp_path / "mine.toml").cameras["gate"].address == address


def test_an_option_of_the_command_line_wins_also_with_its_default() -> None:
    config = parse_config(f"max_latency = 2.0\nmax_crops_per_second = 3{CAMERA}".encode(), Path("mine.toml"))
    request = config.over(VideoRequest(max_latency=0.5, given=frozenset({"max_latency", "config"})))
    assert (request.max_latency, request.max_crops_per_second) == (0.5, 3.0)


def test_init_writes_an_example_and_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("seqpar", "video", "--init")
    assert read_config(tmp_path / "cameras.toml").cameras
    (tmp_path / "cameras.toml").write_text("mine")
    assert "cameras.toml" in run("seqpar", "video", "--init", code=2).error
    assert (tmp_path / "cameras.toml").read_text() == "mine"
    run("seqpar", "video", "--init", "--config", "other.toml")
    assert (tmp_path / "other.toml").read_text() == example()


def test_sources_are_of_the_command_line_or_of_the_file(tmp_path: Path, bundle_dir: Path, clip: Path) -> None:
    (tmp_path / "c.toml").write_text(f'[cameras.gate]\naddress = "{clip}"\n')
    words = ["-b", bundle_dir, "--config", tmp_path / "c.toml"]
    assert "omit" in run("seqpar", "video", clip, *words, code=2).error
    (tmp_path / "c.toml").write_text("max_latency = 1.0\n")
    assert "sources" in run("seqpar", "video", *words, code=2).error
    assert "cannot be read" in run("seqpar", "video", "--config", tmp_path / "none.toml", code=2).error


@pytest.mark.slow
def test_recorded_cameras_have_names_detectors_and_outputs_of_the_file(
    tmp_path: Path, bundle_dir: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("YARD", str(clip))
    (tmp_path / "c.toml").write_text(
        f'bundle = "{bundle_dir}"\nevents = "events.jsonl"\ndetector = "{clip.with_suffix(".jsonl")}"\n'
        f'[cameras.gate]\naddress = "{clip}"\n[cameras.yard]\naddress = "${{YARD}}"\ndetector = "motion"\n'
    )
    assert "40 frames" in run("seqpar", "video", "--config", tmp_path / "c.toml").stderr
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert {event["stream"] for event in events} == {"gate"}  # in yard, the motion detector finds nobody
    dry = run("seqpar", "video", "--config", tmp_path / "c.toml", "--dry-run")
    assert all(f"source {name}: " in dry.stdout for name in ("gate", "yard"))


def test_cameras_are_all_live_or_all_recorded(tmp_path: Path, bundle_dir: Path, clip: Path) -> None:
    (tmp_path / "c.toml").write_text(
        f'[cameras.gate]\naddress = "{clip}"\n[cameras.yard]\naddress = "{clip}"\nlive = true\n'
    )
    error = run("seqpar", "video", "-b", bundle_dir, "--config", tmp_path / "c.toml", code=2).error
    assert "gate" in error
    assert "yard" in error


def test_a_fault_of_a_camera_names_it(tmp_path: Path, bundle_dir: Path, clip: Path) -> None:
    for settings, word in (
        (f'address = "{clip}"\ndetector = "none.onnx"', "none.onnx"),
        ('address = "no.mp4"', "no.mp4"),
    ):
        (tmp_path / "c.toml").write_text(f"[cameras.yard]\n{settings}\n")
        error = run("seqpar", "video", "-b", bundle_dir, "--config", tmp_path / "c.toml", code=2).error
        assert "cameras.yard" in error
        assert word in error


def test_a_dry_run_checks_the_settings_of_each_camera(tmp_path: Path, bundle_dir: Path, clip: Path) -> None:
    (tmp_path / "bad.toml").write_text("Nobody = 0.3\n")
    for name, word in (("none.toml", "none.toml"), ("bad.toml", "format")):
        (tmp_path / "c.toml").write_text(f"[cameras.yard]\naddress = '{clip}'\nthresholds = '{name}'\n")
        done = run("seqpar", "video", "-b", bundle_dir, "--config", tmp_path / "c.toml", "--dry-run", code=2)
        (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
        assert "cameras.yard" in error
        assert word in error


def test_sources_beside_cameras_are_refused_by_a_dry_run_too(tmp_path: Path, bundle_dir: Path, clip: Path) -> None:
    (tmp_path / "c.toml").write_text(f"[cameras.yard]\naddress = '{clip}'\n")
    for more in ([], ["--dry-run"]):
        done = run("seqpar", "video", clip, "-b", bundle_dir, "--config", tmp_path / "c.toml", *more, code=2)
        assert "error: sources must be SOURCES or the cameras of" in done.stderr


def test_a_camera_is_read_as_its_settings_say(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text(
        "max_fps = 2\n[cameras.gate]\naddress = 'rtsp://gate/1'\nrtsp_transport = 'udp'\nhwaccel = 'auto'\n"
        "[cameras.yard]\naddress = 'rtsp://yard/1'\nmax_fps = 5\n"
    )
    config = read_config(tmp_path / "c.toml")
    opener = CameraOpener(request=config.over(VideoRequest(sources=[])), threads=1)
    gate, yard = (opener.source_options(settings) for settings in config.cameras.values())
    assert (gate.rtsp_transport, gate.hwaccel, gate.max_fps) == ("udp", "auto", 2)
    assert (yard.rtsp_transport, yard.hwaccel, yard.max_fps) == ("auto", "none", 5)


@pytest.mark.slow
def test_cameras_change_by_request_with_the_token_while_it_runs(tmp_path: Path, bundle_dir: Path, clip: Path) -> None:
    config, token = tmp_path / "c.toml", "0123456789abcdef0123"
    (tmp_path / "token").write_text(token)
    config.write_text(
        f'bundle = "{bundle_dir}"\nevents = "e.jsonl"\nserve = 0\nserve_token = "token"\n\n'
        f'[cameras.gate]  # mine\naddress = "{clip}"\nlive = true\n'
    )
    command = [str(Path(sys.executable).with_name("seqpar")), "video", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "http://" in line)
            url = re.search(r"http://\S+/", line)[0]  # type: ignore[index]

            def post(path: str, body: str = "", **headers: str) -> tuple[int, str]:
                request = urllib.request.Request(f"{url}config/{path}", body.encode(), headers, method="POST")
                try:
                    with urllib.request.urlopen(request, timeout=30) as answer:
                        return answer.status, answer.read().decode()
                except urllib.error.HTTPError as error:
                    return error.code, error.read().decode()

            bearer = {"Authorization": f"Bearer {token}"}
            settings = f'address = "{clip}"\nlive = true\n'
            assert post("cameras/yard", settings)[0] == 401
            deadline = time.monotonic() + 60  # until the run has started
            while (answer := post("cameras/yard", settings, **bearer))[0] == 409:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert answer == (200, "added yard\n")
            assert post("cameras/yard", "addr = 1", **bearer)[0] == 409

            def shows(*names: str) -> None:
                """Wait until the live page has these streams."""
                shown: object = None
                while shown != sorted(names):
                    assert time.monotonic() < deadline, shown
                    time.sleep(0.1)
                    with urllib.request.urlopen(f"{url}people.json", timeout=30) as answer:
                        shown = sorted(one["stream"] for one in json.load(answer))

            shows("gate", "yard")
            assert post("cameras/gate/remove", **bearer) == (200, "removed gate\n")
            shows("yard")
            assert post("reload", **bearer) == (200, "no camera changed\n")
            assert list(read_config(config).cameras) == ["yard"]
        finally:
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
            assert process.wait(60) == 130
    assert "Traceback" not in rest
