"""A remote recogniser and its server: right answers only, whatever happens to the server."""

from __future__ import annotations

import dataclasses
import logging
import math
import subprocess
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
from serving import faults
from serving.kserve import LABELS, Arrays, FakeServer, Fault, Model, crop_of, expected

from seqpar_deploy.calibration.thresholds import Limits, Thresholds
from seqpar_deploy.errors import ImageError, ServerError, ServerUnavailableError, StrategyError
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.preprocess import Crop
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.serving import RemoteOptions, RemoteRecognizer, protocol
from seqpar_deploy.vocab import LabelSet

ONCE = RemoteOptions(give_up_after=0)
IMPATIENT = RemoteOptions(timeout=0.5, give_up_after=0)


def same(got: Prediction, right: Prediction) -> bool:
    return (got.attributes, got.states, got.tokens, got.steps) == (
        right.attributes,
        right.states,
        right.tokens,
        right.steps,
    ) and bool(
        np.array_equal(got.probabilities, right.probabilities) and np.allclose(got.scores, right.scores, atol=1e-6)
    )


def other_labels() -> LabelSet:
    """As many attributes, with other names."""
    attributes = [dataclasses.replace(each, name=f"Other{i}") for i, each in enumerate(LABELS.attributes)]
    return dataclasses.replace(LABELS, name="other", attributes=tuple(attributes))


def test_every_crop_has_its_answer_in_order(server: FakeServer) -> None:
    values = list(range(0, 250, 3))
    with RemoteRecognizer(server.url) as recognizer:
        got = recognizer.predict([crop_of(value, (10 + value, 7)) for value in values])
        assert all(same(one, expected(value)) for one, value in zip(got, values, strict=True))
        assert [one.probabilities.dtype for one in got[:2]] == [np.float32] * 2
        assert recognizer.predict([]) == []
        assert recognizer.label_set == LABELS
        assert recognizer.thresholds is None
        assert recognizer.digest == "a" * 64
    assert server.inferences == len(values)


@pytest.mark.parametrize("most", [1, 3])
def test_requests_in_flight_are_bounded(server: FakeServer, most: int) -> None:
    server.always = faults.gathered(most)
    with RemoteRecognizer(server.url, options=RemoteOptions(in_flight=most)) as recognizer:
        threads = [threading.Thread(target=recognizer.predict, args=([crop_of(i)] * 8,)) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert server.most_in_flight == most
    assert server.inferences == 24


def test_drafts_and_large_crops_arrive(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    small, large = (rng.integers(0, 256, shape, dtype=np.uint8) for shape in ((30, 20, 3), (40, 20, 3)))
    monkeypatch.setattr(protocol, "_MOST_RAW", small.nbytes)
    with RemoteRecognizer(server.url) as recognizer:
        recognizer.predict([small, large], drafts=[(3, 4, 1), None])
        recognizer.predict([small], drafts=[[3] * 100])
    (one, draft), (other, none) = sorted(server.model.seen[:2], key=lambda each: each[0].shape)
    assert draft == [3, 4, 1]
    assert none is None
    assert np.array_equal(one, small)
    assert np.array_equal(other, large)
    assert server.model.seen[2][1] == [3] * (len(LABELS) + 1)  # longer than any sequence


def test_invalid_crops_and_drafts_are_not_sent(server: FakeServer) -> None:
    with RemoteRecognizer(server.url) as recognizer:
        with pytest.raises(ImageError, match=r"crops\[1\]"):
            recognizer.predict([crop_of(0), np.zeros((3, 3), np.uint8)])
        with pytest.raises(StrategyError, match=r"drafts\[0\]"):
            recognizer.predict([crop_of(0)], drafts=[(len(LABELS) + 3,)])
    assert server.inferences == 0


def test_thresholds_come_from_the_server(server: FakeServer) -> None:
    limits = {each.name: Limits(yes=0.5 + i / 100, no=0.1) for i, each in enumerate(LABELS.attributes)}
    limits[LABELS.attributes[0].name] = Limits(no=0.2)  # never yes
    server.model.thresholds = Thresholds.from_limits(LABELS, limits, Limits())
    with RemoteRecognizer(server.url) as recognizer:
        got = recognizer.thresholds
        assert got is not None
        assert np.array_equal(got.yes, server.model.thresholds.yes)
        assert np.array_equal(got.no, server.model.thresholds.no)


PASSING: dict[str, Fault] = {
    "500 of Triton": faults.error(500, "Stub process 'seqpar_0_0' is not healthy."),
    "500 of a proxy": faults.status(500),
    "502": faults.status(502),
    "503": faults.status(503),
    "429": faults.status(429),
    "model loads": faults.error(400, "Request for unknown model: 'seqpar' is not found"),
    "garbage": faults.garbage,
    "no HTTP": faults.no_http,
    "JSON without outputs": faults.status(200, b"{}"),
    "JSON too deep": faults.deep,
    "infinite tensors": faults.infinite,
    "tensors too short": faults.shorter,
    "cut off": faults.cut_off,
    "closed": faults.no_answer,
    "huge": faults.huge,
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_a_passing_fault_is_retried(server: FakeServer, fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "seqpar_deploy")
    with RemoteRecognizer(server.url) as recognizer:
        recognizer.check()
        server.faults.append(fault)
        (got,) = recognizer.predict([crop_of(9)])
        assert same(got, expected(9))
        stats = recognizer.stats
    assert (stats.failures, stats.retries, stats.reachable) == (1, 1, True)
    assert server.inferences == 2
    lost, back = (record.getMessage() for record in caplog.records)
    for line in (lost, back):
        assert server.url in line
        assert "\n" not in line
        assert len(line) < 400


@pytest.mark.parametrize("fault", [faults.slow, faults.drips], ids=["slow", "drips"])
def test_a_server_that_takes_too_long(server: FakeServer, fault: Fault) -> None:
    server.faults.append(fault)
    with (
        RemoteRecognizer(server.url, options=IMPATIENT) as recognizer,
        pytest.raises(ServerUnavailableError, match=r"no answer within 0\.5"),
    ):
        recognizer.predict([crop_of(1)])


@pytest.mark.parametrize("fault", [faults.status(503), faults.no_answer], ids=["503", "closed"])
def test_retries_end(server: FakeServer, fault: Fault) -> None:
    server.always = fault
    for options, least in ((ONCE, 1), (RemoteOptions(give_up_after=0.6), 2)):
        before = server.inferences
        with (
            RemoteRecognizer(server.url, options=options) as recognizer,
            pytest.raises(ServerUnavailableError, match=server.url),
        ):
            recognizer.predict([crop_of(1)])
        sent = server.inferences - before
        assert least <= sent <= 10
        assert (sent == 1) == (options is ONCE)


@pytest.mark.parametrize(
    ("fault", "fact"),
    [
        (faults.error(400, "seqpar: crop[0] must have pixels,\n got none"), "crop[0] must have pixels, got none"),
        (faults.error(500, "seqpar: a token is out of range"), "token is out of range"),
        (faults.error(400, "[request id: 1] unexpected shape for input 'crop'"), "unexpected shape"),
        (faults.status(413), "413"),
        (faults.status(401), "credentials"),
        (faults.status(403), "credentials"),
        (faults.status(301), "redirects"),
    ],
)
def test_a_refused_request_is_not_sent_again(server: FakeServer, fault: Fault, fact: str) -> None:
    server.faults.append(fault)
    with RemoteRecognizer(server.url) as recognizer:
        with pytest.raises(ServerError) as error:
            recognizer.predict([crop_of(1)])
        assert not isinstance(error.value, ServerUnavailableError)
        assert fact in str(error.value)
        assert "\n" not in str(error.value)
        assert same(recognizer.predict([crop_of(2)])[0], expected(2))  # the others are not disturbed
    assert server.inferences == 2


def put(name: str, place: int, value: float) -> Callable[[Arrays], object]:
    def change(outputs: Arrays) -> None:
        outputs[name][0, place] = value

    return change


WRONG: dict[str, tuple[Callable[[Arrays], object], str]] = {
    "an attribute less": (lambda o: o.update(probabilities=o["probabilities"][:, 1:]), "probabilities"),
    "an attribute more": (lambda o: o.update(states=np.repeat(o["states"], 2, axis=1)), "states"),
    "two rows": (lambda o: o.update(scores=np.repeat(o["scores"], 2, axis=0)), "scores"),
    "one dimension": (lambda o: o.update(tokens=o["tokens"][0]), "tokens"),
    "another type": (lambda o: o.update(steps=o["steps"].astype("f4")), "steps"),
    "other states": (lambda o: o.update(states=o["states"].astype("<i4")), "states"),
    "an output less": (lambda o: o.pop("tokens"), "tokens"),
    "no steps": (lambda o: o.pop("steps"), "steps"),
    "a token too large": (put("tokens", 0, len(LABELS) + 3), "tokens"),
    "a hole in the tokens": (put("tokens", 0, -1), "tokens"),
    "a probability of 1.5": (put("probabilities", 3, 1.5), "probabilities"),
    "an infinite probability": (put("probabilities", 3, math.inf), "probabilities"),
    "a negative score": (put("scores", 1, -0.5), "scores"),
    "a score for nothing": (put("scores", 2, 0.5), "scores"),
    "a fourth state": (put("states", 5, 3), "states"),
    "negative steps": (put("steps", 0, -2), "steps"),
}


@pytest.mark.parametrize(("change", "name"), WRONG.values(), ids=WRONG)
def test_an_impossible_answer_is_refused(server: FakeServer, change: Callable[[Arrays], object], name: str) -> None:
    server.model.change = change
    with RemoteRecognizer(server.url) as recognizer, pytest.raises(ServerError, match=f"output {name}") as error:
        recognizer.predict([crop_of(1)])
    assert not isinstance(error.value, ServerUnavailableError)
    assert server.inferences == 1


@pytest.mark.parametrize(
    ("parameters", "fact"),
    [
        ({"label_set": ""}, "label_set"),
        ({"label_set": "[1, 2"}, "JSON"),
        ({"label_set": '{"format": 1, "name": "x"}'}, "attributes"),
        ({"bundle": ""}, "bundle"),
        ({"thresholds": '{"Nobody": {"yes": 0.5}}'}, "thresholds"),
        ({"thresholds": '{"Hat": {"yes": 3}}'}, "thresholds"),
    ],
)
def test_another_kind_of_model_is_refused(
    server: FakeServer, parameters: dict[str, str], fact: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = server.model.parameters
    monkeypatch.setattr(Model, "parameters", {**right, **parameters})
    with RemoteRecognizer(server.url) as recognizer:
        with pytest.raises(ServerError, match=fact) as error:
            recognizer.predict([crop_of(1)])
        assert "seqpar export triton" in str(error.value)
    assert server.inferences == 0


def test_the_first_contact_is_not_retried(server: FakeServer) -> None:
    server.ready = False
    with RemoteRecognizer(server.url) as recognizer:
        with pytest.raises(ServerUnavailableError, match="unknown model"):
            _ = recognizer.label_set
        server.down()
        with pytest.raises(ServerUnavailableError, match="connection refused"):
            recognizer.predict([crop_of(1)])
        assert recognizer.stats.retries == 0
        server.ready = True
        server.up()
        assert same(recognizer.predict([crop_of(1)])[0], expected(1))


def test_a_server_that_is_restarted_is_found_again(server: FakeServer) -> None:
    with RemoteRecognizer(server.url) as recognizer:
        assert recognizer.label_set == LABELS
        server.down()
        timer = threading.Timer(0.5, server.up)
        timer.start()
        values = list(range(0, 200, 5))
        got = recognizer.predict([crop_of(value) for value in values])
        timer.join()
        assert all(same(one, expected(value)) for one, value in zip(got, values, strict=True))
        stats = recognizer.stats
        assert stats.reachable
        assert stats.failures >= stats.retries >= 1


def test_another_label_set_after_a_restart_gives_no_answer(server: FakeServer) -> None:
    with RemoteRecognizer(server.url) as recognizer:
        recognizer.predict([crop_of(1)])
        server.down()
        server.model.label_set = other_labels()
        server.up()
        with pytest.raises(ServerError, match="label set"):
            recognizer.predict([crop_of(1)])
        server.down()
        server.model.label_set = load_label_set("peta")
        server.up()
        with pytest.raises(ServerError, match="26 attributes, got 35"):
            recognizer.predict([crop_of(1)])


@pytest.mark.parametrize("labels", [LABELS, other_labels()], ids=["same", "other"])
def test_a_new_version_of_the_model_is_checked(
    server: FakeServer, labels: LabelSet, caplog: pytest.LogCaptureFixture
) -> None:
    with RemoteRecognizer(server.url) as recognizer:
        recognizer.predict([crop_of(1)])
        server.model.version, server.model.digest, server.model.label_set = "2", "b" * 64, labels
        if labels is LABELS:
            assert same(recognizer.predict([crop_of(3)])[0], expected(3))
            assert recognizer.digest == "b" * 64
            (line,) = (record.getMessage() for record in caplog.records)
            assert "b" * 12 in line
        else:
            with pytest.raises(ServerError, match="label set"):
                recognizer.predict([crop_of(3)])


@pytest.mark.parametrize("end", ["give_up", "close"])
def test_retries_without_limit_can_be_ended(server: FakeServer, end: str) -> None:
    recognizer = RemoteRecognizer(server.url, options=RemoteOptions(give_up_after=math.inf))
    recognizer.check()
    server.down()
    errors: list[Exception] = []

    def work() -> None:
        try:
            recognizer.predict([crop_of(1)] * 40)
        except ServerError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(1000):
        if recognizer.stats.retries:
            break
        thread.join(0.01)
    assert recognizer.stats.retries
    getattr(recognizer, end)()
    thread.join()
    assert len(errors) == 1
    recognizer.close()


def test_close_ends_requests_in_flight(server: FakeServer) -> None:
    server.always = faults.slow
    recognizer = RemoteRecognizer(server.url)
    threading.Timer(0.2, recognizer.close).start()
    with pytest.raises(ServerError):
        recognizer.predict([crop_of(1)] * 4)
    with pytest.raises(ServerError, match="closed"):
        recognizer.predict([crop_of(1)])
    assert not faults.RELEASE.is_set()


def test_a_caller_that_stops_early_cancels_the_rest(server: FakeServer) -> None:
    server.always = faults.late(0.02)
    with RemoteRecognizer(server.url, options=RemoteOptions(in_flight=2)) as recognizer:
        answers: list[Crop] = [crop_of(1)] * 100
        iterator = recognizer.predict_iter(answers)
        next(iterator)
        iterator.close()  # type: ignore[attr-defined]
    assert server.inferences < 20


@pytest.mark.slow
def test_a_program_ends_while_a_request_is_retried(server: FakeServer) -> None:
    code = (
        "import math, sys, threading\n"
        "import numpy as np\n"
        "from seqpar_deploy.serving import RemoteOptions, RemoteRecognizer\n"
        "recognizer = RemoteRecognizer(sys.argv[1], options=RemoteOptions(give_up_after=math.inf))\n"
        "crops = [np.zeros((9, 9, 3), np.uint8)]\n"
        "recognizer.predict(crops)\n"
        "print(flush=True)\n"
        "input()\n"
        "threading.Thread(target=recognizer.predict, args=(crops,), daemon=True).start()\n"
        "while not recognizer.stats.retries: pass\n"
        "print('retried', flush=True)\n"
    )
    words = [sys.executable, "-c", code, server.url]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        program.stdout.readline()
        server.down()
        try:
            said, _ = program.communicate("\n", timeout=60)
        finally:
            program.kill()
    assert said == "retried\n"
    assert program.returncode == 0


@pytest.mark.parametrize(
    ("options", "fact"),
    [({"timeout": 0}, "timeout"), ({"give_up_after": -1}, "give_up_after"), ({"in_flight": 0}, "in_flight")],
)
def test_options_out_of_range(options: dict[str, float], fact: str) -> None:
    with pytest.raises(ServerError, match=fact):
        RemoteOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(ServerError, match=fact):
        RemoteOptions(**{fact: math.nan})  # type: ignore[arg-type]
