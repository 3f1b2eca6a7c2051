"""Addresses, credentials, TLS, gRPC and metrics of a remote recogniser, and Triton's client on the test's server."""

from __future__ import annotations

import logging
import ssl
import sys
from collections import deque
from pathlib import Path

import numpy as np
import pytest
from serving import faults
from serving.kserve import LABELS, FakeServer, Model, crop_of, expected, grpc_server
from serving.test_remote import ONCE, other_labels, same

from seqpar_deploy.errors import BackendUnavailableError, ServerError, ServerUnavailableError
from seqpar_deploy.serving import RemoteOptions, RemoteRecognizer
from seqpar_deploy.serving.address import read_address, read_token

SECRET = "hunter2%23abc"


@pytest.mark.parametrize(
    ("url", "protocol", "secure", "host", "port", "path"),
    [
        ("http://localhost", "http", False, "localhost", 8000, ""),
        ("https://gpu.example.org/models/", "http", True, "gpu.example.org", 443, "/models"),
        ("grpc://[::1]:9", "grpc", False, "::1", 9, ""),
        ("GRPCS://10.0.0.1", "grpc", True, "10.0.0.1", 443, ""),
    ],
)
def test_addresses(url: str, protocol: str, secure: bool, host: str, port: int, path: str) -> None:
    read = read_address(url)
    assert (read.protocol, read.secure, read.host, read.port, read.path) == (protocol, secure, host, port, path)


@pytest.mark.parametrize(
    ("url", "fact"),
    [
        ("localhost:8000", "http://"),
        ("ftp://localhost", "scheme ftp"),
        ("http://", "http://"),
        ("http://host:0", "port"),
        ("http://host:70000", "port"),
        ("http://host/?token=abcdef123456", "query"),
        ("grpc://host/path", "path"),
    ],
)
def test_wrong_addresses(url: str, fact: str) -> None:
    with pytest.raises(ServerError, match=fact) as error:
        RemoteRecognizer(url)
    assert "abcdef123456" not in str(error.value)


def test_a_model_needs_a_name() -> None:
    with pytest.raises(ServerError, match="name"):
        RemoteRecognizer("http://localhost", "")


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_credentials_are_sent_and_never_shown(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    right = "Basic Ym9iOmh1bnRlcjIjYWJj" if kind == "basic" else "Bearer s3cr3t-t0ken-0123456789"
    faults.RELEASE.clear()
    with FakeServer(path="/deep/down", authorization=right) as server:
        user = f"bob:{SECRET}@" if kind == "basic" else ""
        token = None if kind == "basic" else "s3cr3t-t0ken-0123456789"
        url = server.url.replace("http://", f"http://{user}")
        with RemoteRecognizer(url, options=RemoteOptions(token=token, give_up_after=0)) as recognizer:
            assert same(recognizer.predict([crop_of(4)])[0], expected(4))
            server.authorization = "Bearer another"
            with pytest.raises(ServerError, match="credentials") as refused:
                recognizer.predict([crop_of(4)])
            server.down()
            with pytest.raises(ServerUnavailableError) as gone:
                recognizer.predict([crop_of(4)])
            shown = f"{refused.value} {gone.value} {caplog.text} {recognizer.name} {recognizer._options!r}"
        assert "/deep/down" in shown
        for secret in (SECRET, "hunter2#abc", "Ym9iOmh1bnRlcjIjYWJj", "s3cr3t-t0ken-0123456789"):
            assert secret not in shown


def test_tokens_of_files(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("  abc.DEF-123\n")
    assert read_token(file) == "abc.DEF-123"
    for content in ("two words", "", "line\r\nX-Other: 1", "x" * 100_000):
        file.write_text(content)
        with pytest.raises(ServerError, match="token") as error:
            read_token(file)
        assert "X-Other" not in str(error.value)
    with pytest.raises(ServerError, match="nowhere"):
        read_token(tmp_path / "nowhere")


def test_certificates_are_checked(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from video.sinks.certificates import Authority

    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    certificate, key = authority.issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with FakeServer() as server:
        server._listener.socket = context.wrap_socket(server._listener.socket, server_side=True)
        url = server.url.replace("http", "https", 1)
        with RemoteRecognizer(url, options=RemoteOptions(ca=authority.file)) as recognizer:
            assert all(same(one, expected(6)) for one in recognizer.predict([crop_of(6)] * 4))
            assert len(server.connections) < 6  # they are kept open
        for ca in (other.file, None):
            with (
                RemoteRecognizer(url, options=RemoteOptions(ca=ca)) as recognizer,
                pytest.raises(ServerUnavailableError, match="certificate"),
            ):
                recognizer.predict([crop_of(6)])
    with pytest.raises(ServerError, match="CA file"):
        RemoteRecognizer(url, options=RemoteOptions(ca=key))
    with pytest.raises(ServerError, match="CA file"):
        RemoteRecognizer("https://localhost", options=RemoteOptions(ca=tmp_path / "none.pem"))


def test_grpc() -> None:
    pytest.importorskip("tritonclient.grpc")
    model, fail = Model(), deque[tuple[str, str]]()
    values = list(range(0, 250, 7))
    with grpc_server(model, fail) as url, RemoteRecognizer(url) as recognizer:
        got = recognizer.predict([crop_of(value) for value in values], drafts=[(3, 1)] * len(values))
        assert all(same(one, expected(value)) for one, value in zip(got, values, strict=True))
        assert model.seen[0][1] == [3, 1]
        for code in ("UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED"):
            fail.append((code, "the queue is full"))
            assert same(recognizer.predict([crop_of(5)])[0], expected(5))
        assert recognizer.stats.failures == 3
        for code, details, fact in (
            ("INVALID_ARGUMENT", "seqpar: crop[0] is too large", "refuses the request: crop[0] is too large"),
            ("INTERNAL", "seqpar: broken", "broken"),
            ("UNAUTHENTICATED", "who?", "credentials"),
        ):
            fail.append((code, details))
            with pytest.raises(ServerError) as error:
                recognizer.predict([crop_of(5)])
            assert fact in str(error.value)
            assert not isinstance(error.value, ServerUnavailableError)
        model.change = lambda outputs: outputs.update(states=outputs["states"][:, 1:])
        with pytest.raises(ServerError, match="states"):
            recognizer.predict([crop_of(5)])


def test_a_grpc_server_that_is_gone() -> None:
    pytest.importorskip("tritonclient.grpc")
    model = Model()
    with grpc_server(model) as url:
        recognizer = RemoteRecognizer(url, options=ONCE)
        assert same(recognizer.predict([crop_of(5)])[0], expected(5))
    for _ in range(2):
        with pytest.raises(ServerUnavailableError, match=url):
            recognizer.predict([crop_of(5)])
    model.label_set = other_labels()
    with grpc_server(model, port=int(url.rpartition(":")[2])):
        recognizer._options = RemoteOptions()
        with pytest.raises(ServerError, match="label set"):
            recognizer.predict([crop_of(5)])
    recognizer.close()
    with pytest.raises(ServerError, match="closed"):
        recognizer.predict([crop_of(5)])


def test_grpc_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    with pytest.raises(BackendUnavailableError, match=r"seqpar-deploy\[triton\]"):
        RemoteRecognizer("grpc://localhost")


def test_triton_s_own_client_understands_the_server_of_the_tests(server: FakeServer) -> None:
    http = pytest.importorskip("tritonclient.http")
    crop = crop_of(77)
    image = http.InferInput("crop", [1, *crop.shape], "UINT8")
    image.set_data_from_numpy(crop[None])
    names = ("tokens", "probabilities")
    outputs = [http.InferRequestedOutput(name, binary_data=True) for name in names]
    with http.InferenceServerClient(server.url.removeprefix("http://")) as client:
        answer = client.infer("seqpar", [image], outputs=outputs)
        assert "label_set" in client.get_model_config("seqpar")["parameters"]
    right = expected(77)
    assert answer.as_numpy("tokens")[0, : len(right.tokens)].tolist() == list(right.tokens)
    assert np.array_equal(answer.as_numpy("probabilities")[0], right.probabilities)


def test_metrics_and_health_show_the_server(server: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("prometheus_client")
    from seqpar_deploy.video.sinks import Health, Metrics

    caplog.set_level(logging.INFO, "seqpar_deploy")
    metrics, health = Metrics(), Health()

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"server": server.url})

    with RemoteRecognizer(server.url, options=ONCE, metrics=metrics, health=health) as recognizer:
        recognizer.predict([crop_of(1)] * 3)
        assert (value("seqpar_server_requests_total"), value("seqpar_server_reachable")) == (4, 1)
        assert value("seqpar_server_seconds_count") == 3
        assert health.problems() == []
        server.down()
        with pytest.raises(ServerUnavailableError):
            recognizer.predict([crop_of(1)])
        assert (value("seqpar_server_failures_total"), value("seqpar_server_reachable")) == (1, 0)
        (problem,) = health.problems()
        assert server.url in problem
        server.up()
        recognizer.predict([crop_of(1)])
        assert value("seqpar_server_reachable") == 1
        server.faults.append(faults.error(400, "seqpar: refused"))
        with pytest.raises(ServerError):
            recognizer.predict([crop_of(1)])
        assert value("seqpar_server_reachable") == 1  # the request was at fault
        assert value("seqpar_server_failures_total") == recognizer.stats.failures == 2
        assert health.problems() == []
    assert health.problems() == []
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def test_retries_are_counted(server: FakeServer) -> None:
    pytest.importorskip("prometheus_client")
    from seqpar_deploy.video.sinks import Metrics

    metrics = Metrics()
    with RemoteRecognizer(server.url, metrics=metrics) as recognizer:
        server.faults.extend([faults.no_answer, faults.status(503)])
        assert same(recognizer.predict([crop_of(8)])[0], expected(8, LABELS))
        assert recognizer.stats.retries == 2
    assert metrics.registry.get_sample_value("seqpar_server_retries_total", {"server": server.url}) == 2
