"""The ONNX Runtime CUDA backend: ONNX Runtime's CPU runs the graphs, a stand-in for CUDA does the rest.

What a GPU does differently is not tested here: benchmarks/gpu_check.py is for that.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
from fakes.cuda import FakeCuda
from fakes.device import put_in_registry
from fakes.pictures import prepared, resized

from seqpar_deploy import Bundle, Recognizer
from seqpar_deploy.backends import open_backend
from seqpar_deploy.backends.gpu.lanes import Turn
from seqpar_deploy.backends.gpu.onnxruntime_cuda import OnnxRuntimeCudaBackend, SessionContext, SessionExecutor
from seqpar_deploy.backends.verification import VERIFIED, Verified
from seqpar_deploy.bundle import BatchProfile
from seqpar_deploy.decoding import Beam, Greedy, Speculative, Strategy
from seqpar_deploy.errors import BackendError, BackendUnavailableError
from seqpar_deploy.parity.gate import check_parity
from seqpar_deploy.parity.reference import reference_from_golden
from seqpar_deploy.parity.tolerances import tolerances_of
from seqpar_deploy.preprocess import Crop

pytestmark = pytest.mark.slow


def open_on_cpu(bundle: Bundle, cuda: FakeCuda, **options: Any) -> OnnxRuntimeCudaBackend:
    class OnStream(SessionContext):
        def enqueue(self, addresses: Any, turn: Turn) -> None:
            run, addresses = super().enqueue, dict(addresses)
            cuda.enqueue(turn.handle, lambda: run(addresses, turn))

    class OnCpu(SessionExecutor):
        device = "cpu"
        context_type = OnStream

    class Backend(OnnxRuntimeCudaBackend):
        executor = OnCpu

    return Backend(bundle, cuda_python=cuda, **options)


@pytest.mark.parametrize(("precision", "eager"), [("fp32", True), ("fp16", False)], ids=["at once", "late"])
@pytest.mark.parametrize("strategy", [Greedy(), Beam(width=3), Speculative()], ids=lambda s: type(s).__name__)
def test_says_what_the_cpu_backend_says(
    request: pytest.FixtureRequest, crops: list[Crop], precision: str, strategy: Strategy, eager: bool
) -> None:
    bundle = Bundle.open(request.getfixturevalue("bundle_dir" if precision == "fp32" else "fp16_bundle_dir"))
    with Recognizer(bundle, open_backend(bundle, "onnxruntime"), strategy=strategy) as recognizer:
        expected = recognizer.predict(crops[:7])
    cuda = FakeCuda(eager=eager)
    with Recognizer(bundle, open_on_cpu(bundle, cuda, cuda_graphs=True), strategy=strategy, batch_size=3) as recognizer:
        assert recognizer.backend.name == "onnxruntime-cuda"
        for _ in range(3):  # so that graphs are captured and replayed
            for got, wanted in zip(recognizer.predict(crops[:7]), expected, strict=True):
                assert got.tokens == wanted.tokens
                assert got.scores == pytest.approx(wanted.scores, rel=2e-3)
                tolerance = 1e-5 if precision == "fp32" else 2e-3
                np.testing.assert_allclose(got.probabilities, wanted.probabilities, atol=tolerance)
    assert cuda.launches > 0
    assert not cuda.buffers  # all freed


@pytest.mark.parametrize("strategy", [Greedy(), Beam(width=3), Speculative()], ids=lambda s: type(s).__name__)
def test_trimmed_crops_of_mixed_widths(trimmed_bundle_dir: Path, crops: list[Crop], strategy: Strategy) -> None:
    """The image tokens of an output are no dimension of an input, but follow from the width."""
    bundle, cuda = Bundle.open(trimmed_bundle_dir), FakeCuda(eager=False)
    shapes = ((120, 40), (120, 60), (120, 120))
    pictures = [resized(crop, shapes[place % 3]) for place, crop in enumerate(crops[:9])]
    with Recognizer(bundle, open_backend(bundle, "onnxruntime"), strategy=strategy) as recognizer:
        expected = recognizer.predict(pictures)
    with Recognizer(bundle, open_on_cpu(bundle, cuda, cuda_graphs=True), strategy=strategy, batch_size=3) as recognizer:
        for _ in range(3):
            for got, wanted in zip(recognizer.predict(pictures), expected, strict=True):
                assert got.tokens == wanted.tokens
                assert got.scores == pytest.approx(wanted.scores, rel=2e-3)
    assert cuda.launches > 0
    assert not cuda.buffers  # all freed


def test_pooled_is_that_of_each_row(trimmed_bundle_dir: Path, crops: list[Crop]) -> None:
    bundle = Bundle.open(trimmed_bundle_dir)
    host = open_backend(bundle, "onnxruntime")
    with contextlib.closing(open_on_cpu(bundle, FakeCuda(eager=False))) as backend:
        for shape in ((120, 40), (120, 120)):
            batch = prepared(bundle, [resized(crop, shape) for crop in crops[:3]])
            states = [backend.encode(batch), host.encode(batch)]
            for state in states:
                state.reorder(np.array([2, 0, 0, 1], dtype=np.int64))
            np.testing.assert_allclose(states[0].pooled, states[1].pooled, atol=2e-2)


@pytest.mark.parametrize("rows", [1, 32])
def test_it_passes_the_parity_gate(bundle_dir: Path, rows: int) -> None:
    bundle = dataclasses.replace(Bundle.open(bundle_dir), batches=(BatchProfile(min=1, opt=1, max=rows),))
    cuda = FakeCuda(eager=False)
    with contextlib.closing(open_on_cpu(bundle, cuda)) as backend:
        report = check_parity(backend, reference_from_golden(bundle), tolerances_of(bundle), bundle=bundle)
    assert report.breaches == []
    assert [check.name for check in report.checks][-2:] == [f"batches of {rows}", "pooled"]
    assert not cuda.buffers  # all freed


def test_the_bundle_says_how_large_a_batch_may_be(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    backend = open_on_cpu(bundle, FakeCuda())
    assert backend.max_rows == bundle.max_batch
    with pytest.raises(BackendError, match=f"batch .*got {bundle.max_batch + 1};"):
        backend.encode(np.zeros((bundle.max_batch + 1, 32, 32, 3), np.uint8))
    backend.close()


def test_auto_takes_it_once_it_is_verified(bundle_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.open(shutil.copytree(bundle_dir, tmp_path / "bundle"))
    cuda = FakeCuda(eager=True)
    put_in_registry(monkeypatch, "onnxruntime-cuda", cuda, onnxruntime, lambda bundle: open_on_cpu(bundle, cuda))
    with Recognizer.from_bundle(bundle.path) as recognizer:
        assert recognizer.backend.name == "onnxruntime-cuda"
    (result,) = msgspec.json.decode((bundle.path / VERIFIED).read_bytes(), type=Verified).results
    assert (result.failure, result.subject.engines) == (None, None)
    assert result.subject.version == onnxruntime.__version__
    with pytest.raises(BackendUnavailableError, match=r"onnxruntime-cuda .*got bf16"):
        Recognizer.from_bundle(bundle.path, backend="onnxruntime-cuda", compute_precision="bf16", fallback_margin=1.0)


def test_without_a_gpu_or_its_build_of_onnx_runtime(bundle_dir: Path) -> None:
    bundle = Bundle.open(bundle_dir)
    with pytest.raises(BackendUnavailableError, match="no usable NVIDIA GPU: none is visible"):
        open_on_cpu(bundle, FakeCuda(devices=0))
    with pytest.raises(BackendUnavailableError, match=r"'cuda'; pip uninstall onnxruntime, then"):
        OnnxRuntimeCudaBackend(bundle, cuda_python=FakeCuda())


class Recorder(SimpleNamespace):
    """Stands in for the module `onnxruntime`, built for CUDA; `opened` holds how sessions were opened."""

    def __init__(self, version: str) -> None:
        super().__init__(__version__=version, opened=[], SessionOptions=onnxruntime.SessionOptions)

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, graph: Any, settings: Any, **options: Any) -> Any:
        self.opened.append(options)
        return SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])


def test_graphs_are_captured_from_1_30_on(bundle_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, GatherND and Concat copied from memory that a replay no longer finds."""
    module = Recorder("1.29.1")
    monkeypatch.setattr("seqpar_deploy.backends.gpu.onnxruntime_cuda.import_onnxruntime", lambda device: module)
    bundle = Bundle.open(bundle_dir)
    with pytest.raises(BackendError, match=r"1\.30 or later .*got 1\.29\.1"):
        OnnxRuntimeCudaBackend(bundle, cuda_graphs=True, cuda_python=FakeCuda())
    assert module.opened == []
    with pytest.raises(BackendUnavailableError, match="no usable CUDA device"):
        OnnxRuntimeCudaBackend(bundle, cuda_python=FakeCuda())
    assert len(module.opened) == 1


def test_sessions_grow_by_what_they_need_and_never_fall_back_by_themselves(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, cuda = Recorder("1.31.1"), FakeCuda()
    monkeypatch.setattr("seqpar_deploy.backends.gpu.onnxruntime_cuda.import_onnxruntime", lambda device: module)
    with pytest.raises(BackendUnavailableError):
        OnnxRuntimeCudaBackend(Bundle.open(bundle_dir), cuda_python=cuda)
    ((provider, options),) = module.opened[0]["providers"]
    assert provider == "CUDAExecutionProvider"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert int(options["user_compute_stream"]) > 0
    assert module.opened[0]["enable_fallback"] == 0  # it prints, and opens the graph on the CPU
    assert cuda.leaks() == []
