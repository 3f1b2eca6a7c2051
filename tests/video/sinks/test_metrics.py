"""Metrics as Prometheus reads them, and the health of a pipeline."""

from __future__ import annotations

import sys
import threading

import pytest

from seqpar_deploy.errors import SinkError
from seqpar_deploy.video.sinks.metrics import Health, Metrics

pytest.importorskip("prometheus_client")


def test_text_is_as_prometheus_reads_it() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    metrics = Metrics()
    frames = metrics.counter("seqpar_frames_total", "Frames\nread.", "stream")
    nasty = 'back\\yard "2"\n'
    frames.labels(nasty).inc(2)
    frames.labels("street").inc(0.5)
    metrics.gauge("seqpar_queue", "Waiting.").set(7)
    seconds = metrics.histogram("seqpar_seconds", "Time.", "stage").labels("detect")
    for value in (0.001, 0.5, 30):
        seconds.observe(value)
    read = {family.name: family for family in text_string_to_metric_families(metrics.text())}
    assert list(read) == ["seqpar_frames", "seqpar_queue", "seqpar_seconds"]  # no _created series
    assert read["seqpar_frames"].type == "counter"
    assert {one.labels["stream"]: one.value for one in read["seqpar_frames"].samples} == {nasty: 2, "street": 0.5}
    assert read["seqpar_queue"].samples[0].value == 7
    below = {one.labels.get("le", one.name): one.value for one in read["seqpar_seconds"].samples}
    assert [below[key] for key in ("0.001", "0.2", "0.5", "+Inf")] == [1, 1, 2, 3]
    assert (below["seqpar_seconds_sum"], below["seqpar_seconds_count"]) == (30.501, 3)


def test_a_label_that_is_not_utf8_does_not_fail_the_scrape() -> None:
    metrics = Metrics()
    metrics.counter("a_total", "", "stream").labels(b"caf\xe9.mp4".decode("utf-8", "surrogateescape")).inc()
    assert 'a_total{stream="caf?.mp4"} 1.0\n' in metrics.text()


def test_a_name_is_one_metric_in_one_object() -> None:
    metrics, other = Metrics(), Metrics()
    metrics.counter("a_total", "", "stream").labels("x").inc()
    assert metrics.counter("a_total", "", "stream") is metrics.counter("a_total", "", "stream")
    with pytest.raises(ValueError, match="a_total"):
        metrics.counter("a_total", "", "sink")
    with pytest.raises(ValueError, match="a_total"):
        metrics.gauge("a_total", "", "stream")
    other.counter("a_total", "", "stream").labels("x").inc(5)  # another pipeline in this process
    assert metrics.registry.get_sample_value("a_total", {"stream": "x"}) == 1


def test_an_application_exports_them_from_a_registry_of_its_own() -> None:
    from prometheus_client import CollectorRegistry, generate_latest

    metrics, theirs = Metrics(), CollectorRegistry()
    metrics.gauge("seqpar_queue", "").set(7)
    theirs.register(metrics)
    assert b"seqpar_queue 7.0\n" in generate_latest(theirs)


def test_without_prometheus_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(SinkError, match=r"seqpar-deploy\[video\]"):
        Metrics()


def test_health_tells_what_is_stale_or_dead() -> None:
    now = [0.0]
    health = Health(clock=lambda: now[0])
    beat = health.heartbeat("source street", within=5)
    stage = threading.Thread(target=lambda: None, name="detect")
    assert health.problems() == []
    now[0] = 8
    (problem,) = health.problems()
    assert problem.startswith("source street: ")
    assert {"8", "5"} <= set(problem.split())
    beat()
    health.thread(stage)  # never started: as dead as one that died
    (problem,) = health.problems()
    assert problem.startswith("detect: ")
    health.forget("detect")
    assert health.problems() == []
