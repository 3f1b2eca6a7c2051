"""The model on a true Triton server, on loopback, with tritonclient over HTTP and gRPC."""

from __future__ import annotations

import io
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from PIL import Image
from serving.triton_server import TritonServer, crop_input, image_input, outputs
from tritonclient.utils import InferenceServerException

from seqpar_deploy import Bundle, Prediction, Recognizer
from seqpar_deploy.calibration.probabilities import largest_changes
from seqpar_deploy.parity.tolerances import tolerances_of
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.serving.triton.repository import write_version
from seqpar_deploy.synth.render import render_person

pytestmark = pytest.mark.heavy

CLIENTS = 8
STATES = ("no", "yes", "unknown")


@pytest.fixture(scope="module")
def people(crops: list[Crop]) -> list[Crop]:
    """1,000 crops: the samples, mirrored samples, and rendered people."""
    rendered = [render_person(seed=77, index=index)[0] for index in range(960)]
    return [*crops, *(np.ascontiguousarray(crop[:, ::-1]) for crop in crops), *rendered]


@pytest.fixture(scope="module")
def wanted(demo_bundle: Path, people: list[Crop]) -> list[Prediction]:
    with Recognizer.from_bundle(demo_bundle) as recognizer:
        return recognizer.predict(people)


def png(crop: Crop) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def in_parallel(work: Callable[[int], Any], count: int = CLIENTS) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(work, range(count)))


def tokens_of(answer: Any, row: int = 0) -> tuple[int, ...]:
    tokens = answer.as_numpy("tokens")[row]
    return tuple(tokens[tokens >= 0].tolist())


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_thousand_crops_are_those_of_predict(
    protocol: str, triton: TritonServer, people: list[Crop], wanted: list[Prediction], demo_bundle: Path
) -> None:
    module = {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]
    tolerance = tolerances_of(Bundle.open(demo_bundle)).log_prob_max
    names = outputs(module, "tokens", "states", "probabilities", "scores", "json")

    def ask(number: int) -> dict[int, Any]:
        """Every eighth crop: over HTTP as pixels, over gRPC as a file."""
        with module.InferenceServerClient(triton.http if protocol == "http" else triton.grpc) as client:
            found = {}
            for place in range(number, len(people), CLIENTS):
                crop = people[place]
                inputs = crop_input(module, [crop]) if protocol == "http" else image_input(module, [png(crop)])
                found[place] = client.infer("seqpar", inputs, outputs=names)
            return found

    answers = {place: answer for some in in_parallel(ask) for place, answer in some.items()}
    assert len(answers) == len(people) == 1000
    for place, prediction in enumerate(wanted):
        answer = answers[place]
        assert tokens_of(answer) == prediction.tokens, place
        assert tuple(STATES[code] for code in answer.as_numpy("states")[0]) == prediction.states, place
        limits = largest_changes(prediction.tokens, len(prediction.probabilities), tolerance)
        assert (np.abs(answer.as_numpy("probabilities")[0] - prediction.probabilities) <= limits).all(), place
        assert np.isfinite(answer.as_numpy("scores")).sum() == len(prediction.attributes), place
        assert json.loads(answer.as_numpy("json")[0][0])["tokens"] == list(prediction.tokens), place


def bad_inputs(number: int, crop: Crop) -> list[Any]:
    """Inputs of a well-formed request that cannot be used."""
    http = tritonclient.http
    file = png(crop)

    def tensor(name: str, array: Any, datatype: str) -> Any:
        made = http.InferInput(name, array.shape, datatype)
        made.set_data_from_numpy(array)
        return made

    def bomb() -> bytes:
        return file[:16] + (60_000).to_bytes(4, "big") * 2 + file[24:]

    draft = tensor("draft", np.array([[999]], np.int32), "INT32")
    kinds: list[Callable[[], list[Any]]] = [
        lambda: image_input(http, [b"no picture %d" % number]),
        lambda: image_input(http, [b""]),
        lambda: image_input(http, [file[: len(file) // 2]]),
        lambda: image_input(http, [bomb()]),
        lambda: image_input(http, [file, b"x"]),
        lambda: [tensor("crop", np.zeros((1, 20, 10, 4), np.uint8), "UINT8")],
        lambda: [tensor("crop", np.zeros((1, 20, 10, 3), np.float32), "FP32")],
        lambda: [tensor("crop", np.zeros((1, 0, 10, 3), np.uint8), "UINT8")],
        lambda: [tensor("crop", np.zeros((40, 4, 4, 3), np.uint8), "UINT8")],
        lambda: [tensor("draft", np.zeros((1, 2), np.int32), "INT32")],
        lambda: [*image_input(http, [file]), *crop_input(http, [crop])],
        lambda: [*crop_input(http, [crop]), draft],
    ]
    return image_input(http, [bytes(33 << 20)]) if number % 400 == 0 else kinds[number % len(kinds)]()


def test_bad_requests_cost_themselves_alone(triton: TritonServer, people: list[Crop], wanted: list[Prediction]) -> None:
    http, done = tritonclient.http, threading.Event()
    good: list[bool] = []

    def ask_well() -> None:
        with http.InferenceServerClient(triton.http) as client:
            for place in itertools.cycle(range(200)):
                if done.is_set():
                    return
                answer = client.infer("seqpar", crop_input(http, [people[place]]), outputs=outputs(http, "tokens"))
                good.append(tokens_of(answer) == wanted[place].tokens)

    def ask_badly(worker: int) -> list[str]:
        texts = []
        with http.InferenceServerClient(triton.http) as client:
            for number in range(worker, 2000, CLIENTS):
                with pytest.raises(InferenceServerException) as refused:
                    client.infer("seqpar", bad_inputs(number, people[number % 1000]), outputs=outputs(http, "tokens"))
                assert refused.value.status() == "400"
                texts.append(refused.value.message())
        return texts

    before = triton.child
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask_well)
        try:
            texts = [text for some in in_parallel(ask_badly) for text in some]
        finally:
            done.set()
        asked.result(timeout=60)
    assert len(texts) == 2000
    assert all("\n" not in text for text in texts)
    assert sum(text.startswith("seqpar: ") for text in texts) > 1000
    assert good
    assert all(good)
    assert triton.child == before
    assert triton.is_ready()


class Load:
    """Clients that send requests without end, and note versions, wrong answers and failures."""

    def __init__(self, server: TritonServer, people: list[Crop], wanted: list[Prediction], clients: int = 4) -> None:
        self._server, self._people, self._wanted = server, people, wanted
        self._done = threading.Event()
        self.answers: list[str] = []  # the version of each
        self.wrong: list[int] = []
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(clients)]

    def _ask(self, number: int) -> None:
        http = tritonclient.http
        for place in itertools.cycle(range(number, 400, len(self._threads))):
            if self._done.is_set():
                return
            try:
                with http.InferenceServerClient(self._server.http) as client:
                    answer = client.infer("seqpar", crop_input(http, [self._people[place]]))
            except Exception as error:  # the HTTP client has several kinds for a connection that broke off
                self.failures.append(str(error))
                time.sleep(0.05)
                continue
            self.answers.append(answer.get_response()["model_version"])
            if tokens_of(answer) != self._wanted[place].tokens:
                self.wrong.append(place)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        self.until(lambda: len(self.answers) >= 20)
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 90
        while not reached():
            assert time.monotonic() < deadline, (self.answers[-3:], self.failures[-3:])
            time.sleep(0.05)

    def until_version(self, version: str) -> None:
        self.until(lambda: self.answers[-8:] == [version] * 8)


@pytest.fixture
def load(triton: TritonServer, people: list[Crop], wanted: list[Prediction]) -> Iterator[Load]:
    with Load(triton, people, wanted) as running:
        yield running


def test_killed_and_restarted_under_load(triton: TritonServer, load: Load) -> None:
    for _ in range(2):
        models = triton.models()
        triton.kill()
        load.until(lambda models=models: not any(Path(f"/proc/{pid}").exists() for pid in models))  # type: ignore[misc]
        assert triton.process is not None
        assert triton.process.returncode == 2
        load.until(lambda: bool(load.failures))
        triton.start()
        answered = len(load.answers)
        load.until(lambda answered=answered: len(load.answers) > answered + 40)  # type: ignore[misc]
        load.failures.clear()
    assert load.wrong == []
    assert "SIGKILL" in triton.log.read_text()


def test_versions_are_swapped_and_rolled_back_under_load(triton: TritonServer, load: Load, demo_bundle: Path) -> None:
    model = triton.model / "seqpar"
    load.until_version("1")
    write_version(Bundle.open(demo_bundle), triton.model)
    load.until_version("2")
    (model / "1" / "config.pbtxt").rename(model / "config.pbtxt")
    load.until_version("1")
    assert load.failures == []
    assert load.wrong == []
    assert set(load.answers) == {"1", "2"}


def test_it_ends_at_the_first_signal_and_leaves_nothing(triton: TritonServer) -> None:
    child, models = triton.child, triton.models()
    deadline = time.monotonic() + 30
    while f"http://{triton.http}" not in triton.log.read_text():  # `seqpar serve` has seen that it is ready
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert triton.stop() == 130
    assert not any(Path(f"/proc/{pid}").exists() for pid in (child, *models))
