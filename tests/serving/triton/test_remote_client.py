"""A remote recogniser and `seqpar video --server` with a true Triton server, which is killed on the way."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")
pytest.importorskip("tritonclient.grpc")
pytest.importorskip("serving.triton_server")
from serving.triton_server import TritonServer
from video.clips import recode
from video.stream_server import StreamServer

from seqpar_deploy import Bundle, Prediction, Recognizer
from seqpar_deploy.parity.tolerances import tolerances_of
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import data_dir
from seqpar_deploy.serving import RemoteRecognizer
from seqpar_deploy.synth.render import render_person

pytestmark = pytest.mark.heavy

GONE = 20.0  # seconds that the server is away


@pytest.fixture(scope="module")
def people(crops: list[Crop]) -> list[Crop]:
    return [*crops, *(render_person(seed=78, index=index)[0] for index in range(180))]


@pytest.fixture(scope="module")
def wanted(demo_bundle: Path, people: list[Crop]) -> list[Prediction]:
    with Recognizer.from_bundle(demo_bundle) as recognizer:
        return recognizer.predict(people)


def check(got: list[Prediction], wanted: list[Prediction], bundle: Path) -> None:
    tolerance = tolerances_of(Bundle.open(bundle)).log_prob_max
    for one, other in zip(got, wanted, strict=True):
        assert (one.tokens, one.states, one.attributes) == (other.tokens, other.states, other.attributes)
        assert np.abs(one.probabilities - other.probabilities).max() <= tolerance


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_answers_are_those_of_the_bundle(
    protocol: str, triton: TritonServer, people: list[Crop], wanted: list[Prediction], demo_bundle: Path
) -> None:
    drafts = [prediction.tokens if index % 2 else None for index, prediction in enumerate(wanted)]
    with RemoteRecognizer(f"{protocol}://{getattr(triton, protocol)}") as recognizer:
        check(recognizer.predict(people), wanted, demo_bundle)
        check(recognizer.predict(people, drafts=drafts), wanted, demo_bundle)
        assert recognizer.stats.failures == 0
        assert recognizer.digest == Bundle.open(demo_bundle).digest


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_clients_recover_when_the_server_is_killed_under_load(
    protocol: str, triton: TritonServer, people: list[Crop], wanted: list[Prediction], demo_bundle: Path
) -> None:
    with RemoteRecognizer(f"{protocol}://{getattr(triton, protocol)}") as recognizer, ThreadPoolExecutor(4) as pool:
        recognizer.check()
        answers = [pool.submit(recognizer.predict, people) for _ in range(4)]
        while recognizer.stats.requests < 100:
            time.sleep(0.01)
        triton.kill()
        triton.start()
        for answer in answers:
            check(answer.result(timeout=300), wanted, demo_bundle)
        assert recognizer.stats.retries > 0
        assert recognizer.stats.reachable


class Video:
    """`seqpar video` on a live stream, with its metrics."""

    def __init__(self, folder: Path, *words: object) -> None:
        self.events, self.log = folder / "events.jsonl", folder / "log"
        command = [sys.executable, "-m", "seqpar_deploy", "video", "--live", "--serve", 0, "--events", self.events]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(list(map(str, [*command, *words])), stdout=log, stderr=log)
        self._url = ""

    def metrics(self) -> dict[str, float]:
        """The metrics by name, summed over their labels."""
        if not self._url:
            found = re.search(r"/healthz at (http://\S+?)/?\s", self.log.read_text())
            if found is None:
                return {}
            self._url = found[1]
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        values: dict[str, float] = {}
        for line in lines:
            if found := re.match(r'(seqpar_\w+)(?:\{(?:stage="(\w+)")?.*\})? (\S+)$', line):
                name = f"{found[1]} {found[2]}" if found[2] else found[1]
                values[name] = values.get(name, 0.0) + float(found[3])
        return values

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/healthz", timeout=5):
                return True
        except urllib.error.HTTPError:
            return False

    def until(self, name: str, least: float) -> dict[str, float]:
        end = time.monotonic() + 120
        while (found := self.metrics()).get(name, -1.0) < least:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, (name, found)
            time.sleep(0.2)
        return found

    def appeared(self) -> int:
        return sum(json.loads(line)["event"] == "appeared" for line in self.events.read_text().splitlines())

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(60)


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a live stream of the street, over and over."""
    clip = tmp_path_factory.mktemp("street") / "street.ts"
    recode(data_dir("samples") / "vtest" / "street.mp4", clip, size=(384, 288), rate=10)
    with StreamServer() as server:
        yield server.url(clips=[clip])


@pytest.mark.parametrize("standby", [False, True], ids=["server", "standby"])
def test_video_goes_on_while_the_server_is_gone(
    standby: bool, triton: TritonServer, street: str, demo_bundle: Path, tmp_path: Path
) -> None:
    bundle = ["--bundle", demo_bundle] if standby else []
    video = Video(tmp_path, street, "--server", f"http://{triton.http}", *bundle)
    try:
        video.until("seqpar_stage_seconds_count recognize", 5)
        triton.kill()
        before = video.until("seqpar_server_failures_total", 1)
        returned = threading.Timer(GONE, triton.start)
        returned.start()
        time.sleep(GONE - 1)
        during, healthy = video.metrics(), video.healthy()
        returned.join()
        assert during["seqpar_server_reachable"] == 0
        assert not healthy
        tracked = "seqpar_stage_seconds_count track"
        assert during[tracked] > before[tracked] + 50  # 10 frames per second
        assert (during["seqpar_server_standby_crops_total"] > 0) if standby else True
        video.until("seqpar_server_reachable", 1)
        answered = video.metrics()["seqpar_server_seconds_count"]
        after = video.until("seqpar_server_seconds_count", answered + 5)
        assert after[tracked] > during[tracked]
        assert video.healthy()
        assert video.end() == 130
        assert video.appeared() > 0
        assert "Traceback" not in video.log.read_text()
    finally:
        video.process.kill()
        video.process.wait()
