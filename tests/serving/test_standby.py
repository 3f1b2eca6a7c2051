"""A server with a bundle that stands by: everybody is recognised, by the server whenever it is there."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from serving import faults
from serving.kserve import LABELS, FakeServer, Model, crop_of, expected

from seqpar_deploy import Recognizer
from seqpar_deploy.errors import ImageError, ServerError
from seqpar_deploy.prediction import Prediction
from seqpar_deploy.resources import load_label_set
from seqpar_deploy.serving import RemoteOptions, RemoteRecognizer, StandbyRecognizer, standby

OPTIONS = RemoteOptions(timeout=5, give_up_after=0.3)
CROPS = [crop_of(value) for value in (1, 60, 120, 180)]
REMOTE = [expected(value).tokens for value in (1, 60, 120, 180)]


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(standby, "_CHECK_EVERY", 0.05)
    caplog.set_level(logging.INFO, "seqpar_deploy")


@pytest.fixture
def local(bundle_dir: Path) -> Iterator[Recognizer]:
    with Recognizer.from_bundle(bundle_dir, backend="onnxruntime", verify=False) as recognizer:
        yield recognizer


@pytest.fixture
def here(local: Recognizer) -> list[tuple[int, ...]]:
    """The tokens that the bundle gives, which are not those of the server."""
    tokens = [prediction.tokens for prediction in local.predict(CROPS)]
    assert all(one != other for one, other in zip(tokens, REMOTE, strict=True))
    return tokens


def tokens_of(predictions: list[Prediction]) -> list[tuple[int, ...]]:
    return [prediction.tokens for prediction in predictions]


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_bundle_answers_while_the_server_is_away(
    server: FakeServer, local: Recognizer, here: list[tuple[int, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    server.model.digest = local.bundle.digest
    with StandbyRecognizer(RemoteRecognizer(server.url, options=OPTIONS), local) as recognizer:
        for _ in range(2):
            assert tokens_of(recognizer.predict(CROPS)) == REMOTE
            server.down()
            assert tokens_of(recognizer.predict(CROPS, drafts=[None] * 4)) == here
            assert recognizer.away
            assert tokens_of(recognizer.predict(CROPS[1:])) == here[1:]
            server.up()
            until(lambda: not recognizer.away)
        assert tokens_of(recognizer.predict(CROPS)) == REMOTE
        assert recognizer.standby_crops == 14
        assert recognizer.remote.stats.reachable
    texts = [record.getMessage() for record in caplog.records]
    assert sum("answers again" in text for text in texts) == 2
    assert sum(str(local.bundle.path) in text for text in texts) == 2
    assert not any("differ" in text for text in texts)


def test_a_server_that_is_away_at_the_start(server: FakeServer, local: Recognizer, here: list[tuple[int, ...]]) -> None:
    server.down()
    with StandbyRecognizer(RemoteRecognizer(server.url, options=OPTIONS), local) as recognizer:
        assert tokens_of(recognizer.predict(CROPS)) == here
        server.up()
        until(lambda: not recognizer.away)
        assert tokens_of(recognizer.predict(CROPS)) == REMOTE


def test_the_rest_of_the_crops_is_answered_here(
    server: FakeServer, local: Recognizer, here: list[tuple[int, ...]]
) -> None:
    server.faults.extend([faults.late(0), faults.late(0)])
    server.always = faults.no_answer
    remote = RemoteRecognizer(server.url, options=RemoteOptions(in_flight=1, give_up_after=0))
    with StandbyRecognizer(remote, local) as recognizer:
        assert tokens_of(recognizer.predict(CROPS)) == [*REMOTE[:2], *here[2:]]
        assert recognizer.standby_crops == 2


@pytest.mark.parametrize("fault", ["impossible", "refused"])
def test_an_answer_that_cannot_be_used_is_given_here(
    server: FakeServer, local: Recognizer, here: list[tuple[int, ...]], fault: str
) -> None:
    if fault == "refused":
        server.always = faults.error(400, "seqpar: this crop is not welcome")
    else:
        server.model.change = lambda outputs: outputs.pop("tokens")
    with StandbyRecognizer(RemoteRecognizer(server.url, options=OPTIONS), local) as recognizer:
        assert tokens_of(recognizer.predict(CROPS)) == here
        with pytest.raises(ImageError):
            recognizer.predict([CROPS[0][0]])


def test_another_label_set_is_refused(server: FakeServer, local: Recognizer) -> None:
    swapped = (LABELS.attributes[1], LABELS.attributes[0], *LABELS.attributes[2:])
    for labels in (load_label_set("peta"), dataclasses.replace(LABELS, attributes=swapped)):
        server.model.label_set = labels
        with RemoteRecognizer(server.url) as remote, pytest.raises(ServerError, match="label set"):
            StandbyRecognizer(remote, local)


def test_a_server_that_comes_back_with_another_label_set_is_not_used(
    server: FakeServer, local: Recognizer, here: list[tuple[int, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    with StandbyRecognizer(RemoteRecognizer(server.url, options=OPTIONS), local) as recognizer:
        server.down()
        server.model = Model(label_set=load_label_set("peta"))
        server.up()
        assert tokens_of(recognizer.predict(CROPS)) == here
        until(lambda: "got 35" in caplog.text)
        assert tokens_of(recognizer.predict(CROPS)) == here
        server.model = Model()
        until(lambda: not recognizer.away)
        assert tokens_of(recognizer.predict(CROPS)) == REMOTE


def test_another_bundle_is_named_once(server: FakeServer, local: Recognizer, caplog: pytest.LogCaptureFixture) -> None:
    with StandbyRecognizer(RemoteRecognizer(server.url, options=OPTIONS), local) as recognizer:
        recognizer.predict(CROPS)
        server.down()
        recognizer.predict(CROPS)
        server.up()
        until(lambda: not recognizer.away)
    lines = [record.getMessage() for record in caplog.records if "differ" in record.getMessage()]
    assert len(lines) == 1
    assert local.bundle.digest[:12] in lines[0]
    assert "a" * 12 in lines[0]
