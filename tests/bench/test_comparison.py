"""The comparison on scripted backends, and one whole run on a tiny bundle."""

from __future__ import annotations

import functools
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqpar_deploy.backends import open_backend
from seqpar_deploy.bench import comparison, torch_variants
from seqpar_deploy.bench.cold_start import measure_cold_start
from seqpar_deploy.bench.comparison import Input, Variant, measure_throughput, run_comparison
from seqpar_deploy.bench.measure import Settings, measure
from seqpar_deploy.bench.table import format_result
from seqpar_deploy.bench.variants import BenchContext, known_variants, make_variants
from seqpar_deploy.bundle import Bundle
from seqpar_deploy.decoding import Speculative
from seqpar_deploy.errors import BackendError, BackendUnavailableError, SeqparError
from seqpar_deploy.preprocess import Crop

pytestmark = pytest.mark.slow

CONTRACT = {
    "name",
    "description",
    "precision",
    "seconds",
    "p50",
    "p95",
    "p99",
    "stages",
    "steps",
    "step_seconds",
    "identical",
    "cold_start_seconds",
    "first_call_seconds",
    "load_seconds",
    "peak_memory_bytes",
    "joules_per_crop",
    "throughput",
}


@pytest.fixture(scope="module")
def result(
    bundle_dir: Path, checkpoint_file: Path, crops: list[Crop], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Every variant except torch.compile's, which takes a minute of a C++ compiler."""
    folder = tmp_path_factory.mktemp("baselines")
    context = BenchContext(Bundle.open(bundle_dir), checkpoint=checkpoint_file, threads=1, folder=folder)
    variants, skipped = make_variants(context, skip=["eager-compiled"])
    settings = Settings(runs=1, batches=(1, 4), threads=1, seconds=0.01)
    return measure(context, variants, skipped, crops, settings)


def test_all_variants_return_the_same_tokens(result: dict[str, Any]) -> None:
    variants = {variant["name"]: variant for variant in result["variants"]}
    for name in ("published", "eager", "eager-cached", "onnx-plain", "onnx-concat", "openvino", "onnxruntime"):
        assert variants[name]["identical"], name
    assert variants["openvino-speculative"]["identical"]
    assert variants["openvino-speculative"]["steps"] < variants["openvino"]["steps"]
    assert {*variants, *(entry["name"] for entry in result["skipped"])} == known_variants().keys() - {"eager-compiled"}


def test_each_variant_has_its_costs(result: dict[str, Any]) -> None:
    for variant in result["variants"]:
        assert variant.keys() >= CONTRACT
        assert len(variant["seconds"]) == 1
        assert 0 < variant["p50"] <= variant["p95"] <= variant["p99"]
        assert all(seconds >= 0 for seconds in variant["stages"].values())
        assert 0 < variant["step_seconds"] <= variant["p99"]
        assert [entry["batch"] for entry in variant["throughput"]] == [1, 4]
        if variant["name"] in ("openvino", "onnxruntime", "eager-cached"):
            assert 0 < variant["first_call_seconds"] < variant["cold_start_seconds"]
            assert variant["peak_memory_bytes"] > 1e7
        else:
            assert variant["cold_start_seconds"] is None


def test_shares_are_of_the_roofline_of_the_same_run(result: dict[str, Any]) -> None:
    shares = {(share["variant"], share["graph"]): share for share in result["shares"]}
    assert {variant for variant, _ in shares} >= {"eager-cached", "onnx-concat", "openvino", "onnxruntime"}
    assert not {variant for variant, _ in shares} & {"published", "eager", "onnx-plain", "openvino-speculative"}
    share = shares["onnxruntime", "encoder"]
    rate = result["roofline"]["gemm_flops_per_second"]["fp32"]
    assert share["flops"] == result["model"]["encoder_flops"]
    assert share["share_of_gemm"] == pytest.approx(share["flops"] / share["seconds"] / rate)
    assert share["bound_by"] in ("gemm", "bandwidth")


def test_the_table_shows_all_of_it(result: dict[str, Any]) -> None:
    table = format_result(result)
    for variant in result["variants"]:
        assert variant["description"] in table
    for entry in result["skipped"]:
        assert entry["name"] in table
        assert f": {entry['why']}" in table


def test_a_variant_that_cannot_run_says_why(bundle_dir: Path, tmp_path: Path) -> None:
    context = BenchContext(Bundle.open(bundle_dir), folder=tmp_path, batch=4)
    variants, skipped = make_variants(context, only=["published", "onnxruntime"])
    assert [variant.name for variant in variants] == ["onnxruntime"]
    assert [entry["name"] for entry in skipped] == ["published"]
    assert "--checkpoint" in skipped[0]["why"]
    with pytest.raises(SeqparError, match=r"variant must be one of published, eager, .*got 'onnx'"):
        make_variants(context, skip=["onnx"])
    with pytest.raises(BackendUnavailableError, match=r"nothing to measure: eager: .*--checkpoint"):
        make_variants(context, only=["eager"])
    context.close()


def test_torch_compile_needs_batches_of_one(bundle_dir: Path, checkpoint_file: Path, tmp_path: Path) -> None:
    context = BenchContext(Bundle.open(bundle_dir), checkpoint=checkpoint_file, folder=tmp_path, batch=4)
    _, skipped = make_variants(context, only=["eager-compiled", "eager"])
    assert "use --crops 1" in skipped[0]["why"]


def test_tokens_are_compared_with_the_first_variant_that_is_not_reduced(
    bundle_dir: Path, crops: list[Crop], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong:
        """A backend that always returns `<eos>`."""

        def __init__(self, backend: Any) -> None:
            self.backend, self.name, self.device, self.max_rows = backend, "wrong", "cpu", None
            self.encode = backend.encode

        def step(self, state: Any, tokens: Any) -> Any:
            output = self.backend.step(state, tokens)
            output.next_token[:] = 1
            return output

    bundle = Bundle.open(bundle_dir)
    backend = open_backend(bundle, "onnxruntime")
    variants = [
        Variant(name="reduced", description="", backend=Wrong(backend), precision="bf16", reduced=True),  # type: ignore[arg-type]
        Variant(name="exact", description="", backend=backend),
        Variant(name="speculative", description="", backend=backend, strategy=Speculative()),
    ]
    given = Input(crops=crops, dimensions=bundle.dimensions, preprocessing=bundle.preprocessing)
    meter = itertools.count(step=3)
    monkeypatch.setattr(comparison, "open_meter", lambda _device: lambda: next(meter))  # 3 J more at each reading
    timings = run_comparison(variants, given, runs=1, batch=2)
    assert [timing.joules_per_crop for timing in timings] == [1.5, 1.5, 1.5]
    assert [timing.identical for timing in timings] == [False, True, True]
    assert timings[0].steps == 1
    stages = timings[1].stages
    assert sum(vars(stages).values()) == pytest.approx(timings[1].p50)
    assert np.isfinite(measure_throughput(variants[1], given, 3, seconds=0.01))


def test_a_process_that_cannot_start_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match=r"process failed: .*does not exist"):
        measure_cold_start([str(tmp_path / "none")])


def test_compiled_returns_the_same_tokens(
    bundle_dir: Path, checkpoint_file: Path, crops: list[Crop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the C++ compiler, which takes a minute: what is traced is the same.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    bundle = Bundle.open(bundle_dir)
    context = BenchContext(bundle, checkpoint=checkpoint_file, folder=tmp_path)
    variants, _ = make_variants(context, only=["eager-cached", "eager-compiled"])
    given = Input(crops=crops, dimensions=bundle.dimensions, preprocessing=bundle.preprocessing)
    timings = run_comparison(variants, given, runs=2)
    assert [timing.variant.name for timing in timings if timing.identical] == ["eager-cached", "eager-compiled"]


@pytest.mark.parametrize(
    ("seconds", "why"),
    [(0, "no C++ compiler"), (60, "compiling took longer than 1 s")],
    ids=["fails", "takes too long"],
)
def test_a_model_that_does_not_compile_is_skipped(
    bundle_dir: Path,
    checkpoint_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
    why: str,
) -> None:
    def compiled(*_: Any) -> None:
        time.sleep(seconds)
        raise RuntimeError("no C++ compiler\nat all")

    monkeypatch.setattr(torch, "compile", lambda _function, **_options: compiled)
    monkeypatch.setattr(torch_variants, "COMPILE_SECONDS", 1)
    context = BenchContext(Bundle.open(bundle_dir), checkpoint=checkpoint_file, folder=tmp_path)
    _, skipped = make_variants(context, only=["eager", "eager-compiled"])
    assert skipped == [{"name": "eager-compiled", "why": f"torch.compile failed: {why}"}]
