"""benchmarks/gpu_check.py, tried on the CPU: what a GPU adds to it is a device's name and more backends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqpar_deploy import Bundle
from seqpar_deploy.bench.flops import encoder_flops, step_bytes

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
SCRIPT = BENCHMARKS / "gpu_check.py"
BOUND = 300  # seconds, of any wait


def command(*options: object) -> list[str]:
    return [sys.executable, str(SCRIPT), *map(str, options)]


def gpu_check(*options: object) -> subprocess.CompletedProcess[str]:
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command(*options), capture_output=True, text=True, env=hidden, check=False, timeout=2 * BOUND)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gpu-check")


@pytest.fixture(scope="module")
def found(folder: Path) -> Any:
    """The figures of one run over the demo model, and what it printed."""
    out = folder / "result.json"
    options = ["--device", "cpu", "--model", "demo", "--crops", 24, "--seconds", 0.1, "--soak", 0.1]
    done = gpu_check(*options, "--minutes", 20, "--out", out, "--work", folder)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()) | {"stdout": done.stdout}


VARIANTS = ["1:1 whole", "1:2 whole", "1:2 trimmed", "1:2.5 whole", "1:2.5 trimmed", "1:3 whole", "1:3 trimmed"]
CPU_BACKENDS = pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])


@CPU_BACKENDS
def test_answers_are_compared_in_every_way(found: Any, backend: str) -> None:
    result = found["demo"][backend]
    assert (result["parity"]["identical"], result["parity"]["slots_that_differ"]) == (24, 0)
    assert result["parity"]["breaches"] == []
    rows = {name: result["mixed"][name]["rows"] for name in ("interleaved", "beams", "speculative", "threads")}
    assert rows["interleaved"] == 3 * (5 + 8 + 5 + 8)
    assert min(rows.values()) > 0
    assert [result["mixed"][name]["wrong"] for name in rows] == [0, 0, 0, 0]
    assert 0 < result["parity"]["probability_max"] < 0.1
    assert all(0 < result["mixed"][name]["probability_max"] < 0.1 for name in rows)
    for graphs in ("no graphs", "graphs"):
        runs = result["replays"][graphs]
        assert (runs["rows"], runs["tokens_that_differ"]) == (4 * (1 + 5 + 8), 0)
        assert runs["largest_difference"] < 1e-3
    assert result["soak"]["rounds"] >= 3
    assert result["soak"]["growth"].keys() == {"resident_mb", "threads", "files"}


@CPU_BACKENDS
def test_speed_is_measured_with_its_share_of_the_roofline(found: Any, folder: Path, backend: str) -> None:
    bundle = Bundle.open(folder / "demo-fp16")
    assert bundle.columns is not None
    speed = found["demo"][backend]["speed"]
    assert 0 < speed["latency_ms"]["p50"] <= speed["latency_ms"]["p99"]
    one = speed["batch_1"]
    assert one["steps"] == bundle.dimensions.capacity - 1  # all there are, so that those that ran are those counted
    copied = step_bytes(bundle, "fp16") / (1e-3 * one["step_ms"])
    assert one["step_share_of_copying"] == pytest.approx(copied / found["roofline"]["copied_bytes"])
    computed = encoder_flops(bundle) / (1e-3 * one["encode_ms"])
    assert one["encoder_share_of_gemm"] == pytest.approx(computed / found["roofline"]["fp16_flops"])


@CPU_BACKENDS
def test_trimmed_crops_and_drafts_are_compared_and_measured(found: Any, backend: str) -> None:
    widths = found["demo"][backend]["widths"]
    assert [name for name in widths if ":" in name] == VARIANTS
    assert {name: found["demo"]["shapes"][name]["image_pixels"][1] // 16 for name in VARIANTS} == {
        name: widths[name]["columns"] for name in VARIANTS
    }
    assert [widths[name]["columns"] for name in VARIANTS] == [8, 8, 6, 8, 4, 8, 4]
    assert (widths["mixed"]["rows"], widths["mixed"]["wrong"]) == (3 * 5 * 4 * len(VARIANTS), 0)
    for name in VARIANTS:
        for kind in ("greedy", "guesses", "right drafts", "wrong drafts"):
            figures = widths[name][kind]
            assert (figures["rows"], figures["wrong"]) == (8, 0)
            assert figures["one_crop_ms"] > 0
            assert 1 <= figures["steps"] <= widths[name]["greedy"]["steps"]
        assert widths[name]["encode_1_share_of_gemm"] > 0
    assert any("1:2.5 whole, trimmed, drafted" in line for line in found["summary"])


def test_nodes_are_listed_by_provider(found: Any) -> None:
    placement = found["demo"]["onnxruntime"]["placement"]
    for graph in ("encoder", "decoder_step"):
        (provider,) = placement[graph]["nodes"]
        assert provider == "CPUExecutionProvider"
        assert sum(placement[graph]["on_cpu"].values()) == placement[graph]["nodes"][provider] > 50
        assert placement[graph]["memcpy"] == 0
    assert {"ArgMax", "MatMul"} <= placement["decoder_step"]["on_cpu"].keys()


def test_it_ends_with_a_short_summary(found: Any) -> None:
    lines = found["summary"]
    assert len(lines) == 3
    assert "\n".join(lines) in found["stdout"]
    for backend, line in zip(("openvino", "onnxruntime"), lines[1:], strict=True):
        assert line.startswith(f"demo {backend}: works")
        assert "crops/s" in line
        assert "eager cached" in line


def test_without_time_nothing_runs_and_it_says_so(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    done = gpu_check("--device", "cpu", "--model", "demo", "--minutes", 0, "--out", out, "--work", tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert result["demo"] == {"export": {"skipped": "no time was left"}}
    assert any("demo export" in line for line in result["summary"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_all_with_the_file_written(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "result.json"
    options = ["--device", "cpu", "--model", "demo", "--crops", 1, "--out", out, "--work", tmp_path]
    with running(command(*options)) as process:
        wait_until(lambda: "roofline" in (json.loads(out.read_text()) if out.exists() else {}))
        process.send_signal(number)
        assert process.wait(BOUND) == 128 + number
    result = json.loads(out.read_text())
    assert len(result["summary"]) >= 1
    assert result["demo"]["export"].keys() & {"stopped", "skipped"}


@contextlib.contextmanager
def running(words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Any) -> None:
    end = time.monotonic() + BOUND
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_without_a_gpu_it_is_one_line(tmp_path: Path) -> None:
    done = gpu_check("--out", tmp_path / "result.json")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no usable NVIDIA GPU")
    assert "--device cpu tries this script without a GPU" in done.stderr
    assert done.stderr.count("\n") == 1
