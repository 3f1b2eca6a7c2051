"""The machine's roofline: the best rates of the installed libraries, each of which computes a correct result."""

from __future__ import annotations

import time

import numpy as np
import onnxruntime
import pytest

from seqpar_deploy.bench import gemm
from seqpar_deploy.bench.memory import best_read
from seqpar_deploy.bench.micro_op import one_op_model
from seqpar_deploy.bench.roofline import measure_roofline

SIDES = (16, 64, 32)


def test_every_rate_is_measured_and_names_its_library() -> None:
    found = measure_roofline(SIDES, 1 << 20, seconds=0.01, square=128, beyond_cache=1 << 24)
    assert 1e8 < found.gemm_rate("fp32") < 1e15
    assert found.gemm_rate("fp16") == found.gemm_rate("fp32")  # CPUs fall back to FP32
    for precision, rate in found.gemm_flops_per_second.items():
        assert (rate is None) == (found.gemm_by[precision] is None)
    assert found.gemm_flops_per_second["int8"] is not None
    assert 1e8 < found.streamed_bytes_per_second < 1e13
    assert found.bytes_by


def test_the_fastest_library_counts_and_missing_ones_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ImportError

    libraries = {
        "slow": lambda *_: lambda: time.sleep(0.02),
        "quick": lambda *_: lambda: time.sleep(0.001),
        "unable": lambda *_: None,
        "missing": missing,
    }
    monkeypatch.setattr(gemm, "LIBRARIES", libraries)
    rate, by = gemm.best_rate("fp32", [SIDES], threads=None, seconds=0.01)
    assert by == "quick, 16x64 by 64x32"
    assert rate is not None
    assert rate <= 2 * 16 * 64 * 32 / 0.001
    monkeypatch.setattr(gemm, "LIBRARIES", {"missing": missing})
    assert gemm.best_rate("bf16", [SIDES], threads=None, seconds=0.01) == (None, None)


def test_all_libraries_multiply_in_fp32() -> None:
    for name, make_gemm in gemm.LIBRARIES.items():
        work = make_gemm("fp32", SIDES, None)
        assert work is not None, name
        result = work()
        array = np.asarray(result[0] if name in ("onnxruntime", "openvino") else result)  # type: ignore[index]
        a, b = gemm._random(SIDES)
        np.testing.assert_allclose(array, a @ b, rtol=1e-5, err_msg=name)


def test_the_model_of_one_node_computes_its_product(rng: np.random.Generator) -> None:
    a = rng.integers(0, 100, (3, 5), dtype=np.uint8)
    b = rng.integers(-100, 100, (5, 4), dtype=np.int8)
    model = one_op_model("MatMulInteger", ("uint8", (3, 5)), b, ("int32", (3, 4)))
    got = onnxruntime.InferenceSession(model).run(None, {"x": a})[0]
    np.testing.assert_array_equal(got, a.astype(np.int32) @ b.astype(np.int32))


def test_one_thread_reads_too() -> None:
    rate, by = best_read(1 << 16, threads=1, seconds=0.01)
    assert rate > 1e8
    assert by
