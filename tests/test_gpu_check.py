"""benchmarks/gpu_check.py, tried on the CPU: what a GPU adds to it is a device's name and more backends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqpar_deploy import Bundle
from seqpar_deploy.bench.flops import encoder_flops, step_bytes

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_check.py"


def gpu_check(*options: object) -> subprocess.CompletedProcess[str]:
    hidden = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, SCRIPT, *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, env=hidden, check=False)


def test_it_measures_what_there_is_and_says_what_it_skipped(tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    options = ["--device", "cpu", "--model", "demo", "--crops", 24, "--seconds", 0.1, "--out", out, "--work", tmp_path]
    done = gpu_check(*options)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["roofline"]["copied_bytes"] > 1e8
    bundle = Bundle.open(tmp_path / "demo-fp16")
    for backend in ("openvino", "onnxruntime"):
        result = found["demo"][backend]
        assert (result["identical"], result["identical_beams"], result["slots_that_differ"]) == (24, 16, 0)
        assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["p99"]
        one = result["batch_1"]
        assert one["encode_ms"] > 0
        assert 1 < one["steps"] < bundle.dimensions.capacity
        copied = step_bytes(bundle, "fp16") / (1e-3 * one["step_ms"])
        assert one["step_share_of_copying"] == pytest.approx(copied / found["roofline"]["copied_bytes"])
        computed = encoder_flops(bundle) / (1e-3 * one["encode_ms"])
        assert one["encoder_share_of_gemm"] == pytest.approx(computed / found["roofline"]["fp16_flops"])
        assert backend in done.stdout

    done = gpu_check(*options, "--minutes", 0)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["demo"] == {"export": {"skipped": "no time was left"}}


def test_without_a_gpu_it_is_one_line(tmp_path: Path) -> None:
    done = gpu_check("--out", tmp_path / "result.json")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no usable NVIDIA GPU")
    assert "--device cpu tries this script without a GPU" in done.stderr
    assert done.stderr.count("\n") == 1
