"""Figures as Prometheus reads them, and the health of a pipeline."""

from __future__ import annotations

import threading

import pytest

from seqpar_deploy.video.sinks.metrics import Health, Metrics


def test_text_is_as_prometheus_reads_it() -> None:
    parser = pytest.importorskip("prometheus_client.parser")
    metrics = Metrics()
    frames = metrics.counter("seqpar_frames_total", "Frames\nread.", "stream")
    nasty = 'back\\yard "2"\n'
    frames.add(2, nasty)
    frames.add(0.5, "street")
    metrics.gauge("seqpar_queue", "Waiting.").set(7)
    seconds = metrics.histogram("seqpar_seconds", "Time.", "stage", bounds=(0.1, 1))
    for value in (0.1, 0.5, 30):
        seconds.observe(value, "detect")
    read = {family.name: family for family in parser.text_string_to_metric_families(metrics.text())}
    assert read["seqpar_frames"].type == "counter"
    assert {one.labels["stream"]: one.value for one in read["seqpar_frames"].samples} == {nasty: 2, "street": 0.5}
    assert read["seqpar_queue"].samples[0].value == 7
    assert [(one.labels.get("le"), one.value) for one in read["seqpar_seconds"].samples] == [
        ("0.1", 1),
        ("1", 2),
        ("+Inf", 3),
        (None, 30.6),
        (None, 3),
    ]


def test_what_somebody_else_counts_does_not_go_back() -> None:
    frames = Metrics().counter("seqpar_frames_total", "")
    for total in (3, 5, 4):
        frames.reach(total)
    assert frames.value() == 5


def test_a_name_is_one_figure() -> None:
    metrics = Metrics()
    metrics.counter("a_total", "", "stream").add(1, "x")
    assert metrics.counter("a_total", "", "stream").value("x") == 1
    with pytest.raises(ValueError, match="counter"):
        metrics.gauge("a_total", "", "stream")
    with pytest.raises(ValueError, match="got 2 labels"):
        metrics.counter("a_total", "", "stream").add(1, "x", "y")


def test_threads_count_together() -> None:
    count = Metrics().counter("a_total", "")
    threads = [threading.Thread(target=lambda: [count.add(1) for _ in range(2000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count.value() == 8000


def test_health_tells_what_is_stale_or_dead() -> None:
    now = [0.0]
    health = Health(clock=lambda: now[0])
    beat = health.heartbeat("source street", within=5)
    stage = threading.Thread(target=lambda: None, name="detect")
    assert health.problems() == []
    now[0] = 8
    assert health.problems() == ["source street: nothing for 8 s, wanted within 5 s"]
    beat()
    health.thread(stage)  # never started: as dead as one that died
    assert health.problems() == ["detect: the thread has died"]
    health.forget("detect")
    assert health.problems() == []
