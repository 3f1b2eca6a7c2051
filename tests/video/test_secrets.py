"""No output shows a password, wherever it stands in an address and however it is written."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

pytest.importorskip("av")
pytest.importorskip("paho.mqtt")
from cli.run import run, unchanged_process
from video.sinks.broker import Broker
from video.sinks.people import boxes, event, frame, person

from seqpar_deploy import redaction
from seqpar_deploy.cli import logs
from seqpar_deploy.errors import SeqparError
from seqpar_deploy.video.meters import Meters
from seqpar_deploy.video.sinks import Sinks
from seqpar_deploy.video.sinks.annotated import files_for
from seqpar_deploy.video.sinks.jsonl import JsonlSink
from seqpar_deploy.video.sinks.metrics import Health, Metrics
from seqpar_deploy.video.sinks.mqtt import MqttSink
from seqpar_deploy.video.sinks.preview import PreviewSink
from seqpar_deploy.video.sinks.report import ReportSink
from seqpar_deploy.video.sinks.server import metrics_routes
from seqpar_deploy.video.sources.source import Source
from seqpar_deploy.video.sources.spec import SourceSpec, expand_sources

H = "127.0.0.1:1"  # nothing listens on port 1
UUID = "0b9c2d1e-77aa-4f10-9c3d-5e6f708192a3"

# The address, and the secrets in it as their owner knows them.
ADDRESSES: list[tuple[str, tuple[str, ...]]] = [
    (f"rtsp://operator7:hunter2x@{H}/1", ("operator7", "hunter2x")),
    (f"RTSP://operator7:Hunter2x@{H}/1", ("operator7", "Hunter2x")),
    (f"rtsp://operator7:hun%2Fter%402%23x@{H}/1", ("hun/ter@2#x",)),
    (f"rtsp://operator7:hun/ter2x@{H}/1", ("hun/ter2x", "hun", "ter2x")),
    (f"rtsp://operator7:hun#ter2x@{H}/1", ("hun#ter2x", "hun", "ter2x")),
    (f"rtsp://operator7:hun?ter2x@{H}/1", ("hun?ter2x", "hun", "ter2x")),
    (f"rtsp://operator7:hun@ter2x@{H}/1", ("hun@ter2x", "ter2x")),
    (f"rtsp://operator7:hun:ter2x@{H}/1", ("hun:ter2x", "ter2x")),
    (f"rtsp://operator7:hun%ter2x@{H}/1", ("hun%ter2x", "ter2x")),
    (f"rtsp://operator7:hun ter2x@{H}/1", ("hun ter2x", "ter2x")),
    (f"rtsp://operator7:8080/hunter2x@{H}/1", ("hunter2x", "8080")),
    (f"rtsp://operator7:pa/ss@word#1@{H}/x", ("pa/ss@word#1", "word#1")),
    (f"rtsp://operator7:hün\"t'er2x@{H}/1", ("hün\"t'er2x", "er2x")),
    (f"rtsp://eyJhbGciOi.J9tok3n@{H}/1", ("eyJhbGciOi.J9tok3n",)),
    (f"http://{H}/live?user=operator7&password=hunter2x", ("operator7", "hunter2x")),
    (f"http://{H}/video.cgi?usr=operator7&pwd=hunter2x", ("operator7", "hunter2x")),
    (f"http://{H}/snap.cgi?loginuse=operator7&loginpas=hunter2x", ("operator7", "hunter2x")),
    (f"http://{H}/live?access_token=hunter2x&sig=s1gn4ture", ("hunter2x", "s1gn4ture")),
    (f"http://{H}/live?password=hun@ter2x", ("ter2x", "hun@ter2x")),
    (f"http://{H}/a.ts?X-Amz-Credential=AKIA7/eu&X-Amz-Signature=0f0e0d0c", ("AKIA7", "0f0e0d0c")),
    (f"rtsp://{H}/user=operator7&password=hunter2x&channel=1&stream=0.sdp?", ("operator7", "hunter2x")),
    (f"rtsp://{H}/user=operator7_password=tlJwpbo6_channel=1_stream=0.sdp", ("operator7", "tlJwpbo6")),
    (f"rtsp://{H}/live%3Fpassword%3Dhunter2x", ("hunter2x",)),
    (f"rtsp://{H}/live;user=operator7;password=hunter2x", ("operator7", "hunter2x")),
    (f"rtsp://{H}/av0_0&user=operator7&password=hunter2x", ("operator7", "hunter2x")),
    (f"rtsp://{H}/operator7:hunter2x/live", ("operator7", "hunter2x")),
    (f"rtsp://{H}/admin/hunter2x/live", ("hunter2x",)),
    (f"rtsps://{H}/AbCdEfGh12345678?enableSrtp", ("AbCdEfGh12345678",)),
    (f"rtsp://{H}/{UUID}", (UUID,)),
    ("rtsp://operator7:hunter2x@[::1]:1/1", ("operator7", "hunter2x")),
    ("rtsp://operator7:hun/ter2x@[fe80::1%25lo]:1/1", ("ter2x",)),
    (f"srt://{H}?mode=caller&passphrase=hunter2xyz", ("hunter2xyz",)),
    (f"rtmp://{H}/app/str34mkey", ("str34mkey",)),
    (f"operator7:hunter2x@{H}/1", ("hunter2x",)),
    (f"foo://operator7:hunter2x@{H}/1", ("operator7", "hunter2x")),
]


def spellings(secret: str) -> set[str]:
    plain = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret)}
    plain |= {repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    coded = {base64.b64encode(f"{user}{secret}".encode()).decode().rstrip("=")[:-1] for user in ("", "operator7:")}
    return plain | coded


@contextlib.contextmanager
def logged(*, as_json: bool) -> Iterator[io.StringIO]:
    """The log of a command with --verbose."""
    with unchanged_process(), contextlib.redirect_stderr(io.StringIO()) as text:
        logs.configure(verbose=True, log_json=as_json)
        yield text


def outputs(spec: SourceSpec, folder: Path, broker: Broker, *, as_json: bool) -> str:
    """Everything that a run with this source shows or names."""
    metrics, health = Metrics(), Health()
    preview = PreviewSink(health=health)
    found = [repr(spec), spec.shown, spec.name]
    with logged(as_json=as_json) as log:
        logging.getLogger().addHandler(plain := logging.StreamHandler(raw := io.StringIO()))  # which redacts nothing
        source = Source(spec)
        health.watch(f"source {spec.name}", lambda: source.stats.last_error)
        queue = source.start()
        found += [thread.name for thread in threading.enumerate()]
        end = time.monotonic() + 20
        while not source.stats.last_error and time.monotonic() < end:
            time.sleep(0.01)
        source.close()
        Meters(metrics).of_source(source)
        queue.finish()
        who = person(stream=spec.name)
        mqtt = MqttSink(f"mqtt://operator7:hunter2x@127.0.0.1:{broker.port}/a", metrics=metrics, health=health)
        report = ReportSink(folder / "people.html")
        sinks = Sinks([JsonlSink(folder / "e.jsonl"), mqtt, preview, report], metrics=metrics, health=health)
        sinks.frame(frame(stream=spec.name), boxes(who), {1: who})
        sinks.event(event(who=who))
        found += health.problems()
        for route, answer in (preview.routes() | metrics_routes(metrics, health)).items():
            if route == "/" or not route.endswith("/"):
                page = answer("")
                assert page is not None
                assert isinstance(page.body, bytes)
                found.append(page.body.decode("utf-8", "replace"))
        assert broker.wait(1)
        sinks.close()
        logging.getLogger().removeHandler(plain)
        try:
            raise OSError(111, "Connection refused", spec.place)
        except OSError as error:
            logging.getLogger("seqpar_deploy.test").error("%s and %r", error, spec, exc_info=True)
            logging.getLogger("av").warning("%s", quote(spec.place, safe=""))
    assert source.stats.last_error
    assert "Traceback" in log.getvalue()
    found += [source.stats.last_error, raw.getvalue(), log.getvalue()]
    found += [f"{topic} {body.decode()}" for topic, body in broker.messages] + broker.client_ids
    found += [str(path) for path in files_for(Path("out.mp4"), [spec.name, "other"]).values()]
    found += [file.read_text() for file in folder.iterdir()]
    return "\n".join(found)


@pytest.mark.parametrize(("address", "secrets"), ADDRESSES, ids=[str(number) for number in range(len(ADDRESSES))])
def test_no_output_shows_a_secret(address: str, secrets: tuple[str, ...], tmp_path: Path) -> None:
    try:
        (spec,) = expand_sources([address])
    except SeqparError as error:
        text = f"{error}\n{redaction.shown(address)}"
    else:
        with Broker() as broker:
            text = outputs(spec, tmp_path, broker, as_json=len(address) % 2 == 0)
    for secret in secrets:
        for spelling in spellings(secret):
            assert re.search(rf"(?<![A-Za-z0-9]){re.escape(spelling)}(?![A-Za-z0-9])", text) is None, spelling


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "secrets"),
    [
        (f"http://operator7:hunter2x@{H}/clip.mp4", ("operator7", "hunter2x")),
        (f"http://{H}/user=operator7&password=hunter2x&/clip.mp4", ("operator7", "hunter2x")),
        (f"operator7:hunter2x@{H}/clip.mp4", ("hunter2x",)),
        ("rtsp://operator7:hun/ter2x@camera/1", ("hun/ter2x", "ter2x")),
    ],
)
@pytest.mark.parametrize("option", ["-v", "--log-json"])
def test_a_run_that_fails_shows_no_secret(
    address: str, secrets: tuple[str, ...], option: str, bundle_dir: Path, tmp_path: Path
) -> None:
    outs = ("--report", tmp_path / "p.html", "--mqtt", "mqtt://operator7:hunter2x@127.0.0.1:1", "--serve", 0)
    done = run("seqpar", "video", option, address, "-b", bundle_dir, *outs, code=2)
    for secret in secrets:
        for spelling in spellings(secret):
            assert spelling not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("info", "rtsp://operator7:hunter2x@camera/1"),
        ("predict", "rtsp://operator7:hunter2x@camera/1", "-b", "nowhere"),
        ("video", "0", "rtsp://operator7:hunter2x@camera/1", "--events"),
        ("video", "a.mp4", "-b", "x", "--serve", "rtsp://operator7:hun ter2x@camera/1"),
        ("video", "a.mp4", "-b", "x", "--mqtt", "http://operator7:hunter2x@camera/1"),
        ("video", "a.mp4", "-b", "x", "--mqtt=mqtt://operator7:hunter2x@camera:port/1"),
        ("video", "a.mp4", "-b", "x", "--mqtt-ca", "mqtts://operator7:hunter2x@broker"),
        ("video", "a.mp4", "-b", "x", "--secrets", "rtsp://operator7:hunter2x@broker"),
        ("doctor", "mqtt://operator7:hunter2x@broker"),
    ],
)
def test_a_refused_argument_is_shown_without_its_secrets(words: tuple[str, ...]) -> None:
    for option in ("-v", "--log-json"):
        said = run("seqpar", *words, option, code=2).stderr
        assert said
        assert "hunter2x" not in said
        assert "ter2x" not in said


def test_an_error_that_nothing_caught_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    redaction.remember("rtsp://operator7:hun ter2x@camera/1")
    with unchanged_process(), contextlib.redirect_stderr(io.StringIO()) as text:
        logs.configure()

        def fail() -> None:
            raise RuntimeError("cannot open 'rtsp://operator7:hun ter2x@camera/1'")

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert "RuntimeError: cannot open 'rtsp://camera/1'" in text.getvalue()
