"""Opening the engines beside a bundle: those that fit run, all others are refused with the reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.cuda import FakeCuda
from fakes.device import BATCHES, Device

from seqpar_deploy import Recognizer
from seqpar_deploy.backends.gpu.cuda import find_gpu
from seqpar_deploy.backends.gpu.engine_files import (
    ENGINE_JSON,
    identity_of,
    open_engines,
    write_engine_json,
)
from seqpar_deploy.errors import BackendError, BackendUnavailableError, EngineError
from seqpar_deploy.preprocess import Crop

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": "10.3.0"}, r"tensorrt .*10\.3\.0.* got 10\.8\.0"),
        ({"gpu": "NVIDIA Orin"}, r"NVIDIA Orin \(9.0\), got NVIDIA Fake \(9.0\)"),
        ({"compute_capability": "8.7"}, r"NVIDIA Fake \(8.7\), got NVIDIA Fake \(9.0\)"),
        ({"driver": 12040}, "driver .*12040, got 13010"),
        ({"onnx": {"encoder.onnx": "0" * 64}}, "other graphs"),
        ({"format": 9}, r"engine\.json: format must be 1, got 9"),
        ({"batches": [{"smallest": 1}]}, r"engine\.json: batches\[0\]\.smallest is an unknown key"),
        ({"batches": [{"max": 0}]}, r"engine\.json: batches\[0\]\.max must be an integer >= 1, got 0"),
        ({"onnx": None}, r"engine\.json: onnx must be a table, got None"),
        ({"plans": {"encoder": "0" * 64, "decoder_step": "0" * 64}}, r"sha256 0000\w+\.\., got \w+\.\."),
    ],
)
def test_stale_foreign_and_damaged_engines_are_refused(
    device: Callable[..., Device], change: dict[str, Any], reason: str
) -> None:
    made = device()
    file = made.folder / ENGINE_JSON
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(EngineError, match=reason) as caught:
        made.open()
    said = str(caught.value)
    assert said.endswith(f"; build them here: seqpar-export engine {made.bundle.path} --runtime tensorrt")
    assert "\n" not in said


def test_engines_that_are_not_there_or_not_whole(device: Callable[..., Device]) -> None:
    made = device()
    plan = made.folder / "encoder.plan"
    plan.write_bytes(plan.read_bytes()[:-1])
    with pytest.raises(EngineError, match=r"encoder\.plan .*sha256"):
        made.open()
    plan.unlink()
    with pytest.raises(EngineError, match=r"encoder\.plan cannot be read: No such file"):
        made.open()
    shutil.rmtree(made.folder)
    with pytest.raises(EngineError, match=r"has no engines for tensorrt; build them here: seqpar-export engine"):
        made.open()


def test_a_plan_the_sdk_refuses(device: Callable[..., Device]) -> None:
    made = device()
    (made.folder / "encoder.plan").write_bytes(b"\x00")
    write_engine_json(made.folder, _identity(made))
    with pytest.raises(BackendError, match=r"tensorrt 10.8.0 cannot open the engine of \S+: magic tag does not match"):
        made.open()
    assert not made.cuda.buffers


def _identity(made: Device) -> Any:
    return identity_of(made.bundle, "tensorrt", "10.8.0", find_gpu(made.cuda), batches=BATCHES)


def test_compatible_engines_run_elsewhere(device: Callable[..., Device], crops: list[Crop]) -> None:
    made = device(identity={"version_compatible": True, "hardware_compatible": True, "strip_weights": True})
    made.cuda.properties.name, made.cuda.driver = b"NVIDIA Other", 13020
    made.trt.__version__ = "10.9.1"
    backend = made.open()
    assert backend._sdk.runtime.engine_host_code_allowed
    assert [Path(name).name for name in made.trt.refits] == ["encoder.onnx", "decoder_step.onnx"]
    backend.close()
    made.cuda.properties.major, made.cuda.properties.minor = 7, 5
    with pytest.raises(EngineError, match=r"compute capability 8.0 .*got 7.5"):
        made.open()
    made.cuda.properties.major = 9
    made.trt.__version__ = "10.7.9"
    with pytest.raises(EngineError, match=r"tensorrt .*10\.8\.0.* got 10\.7\.9"):
        made.open()  # an engine is compatible with later versions alone
    made.trt.__version__ = "11.0.0"
    with pytest.raises(EngineError, match=r"tensorrt .*10\.8\.0.* got 11\.0\.0"):
        made.open()


def test_rtx_runs_on_any_gpu_and_keeps_what_it_compiled(device: Callable[..., Device], crops: list[Crop]) -> None:
    made = device(rtx=True)
    for expected in (b"", b"+kernels", b"+kernels+kernels"):
        with Recognizer(made.bundle, made.open()) as recognizer:
            recognizer.predict(crops[:1])
            assert made.trt.compiled == expected
        assert made.cuda.launches == 0  # it captures by itself
    (kept,) = made.folder.glob("compiled-nvidia-fake-*.cache")
    kept.write_bytes(b"somebody else's code")
    made.trt.compiled = b""
    made.open().close()
    assert made.trt.compiled == b""  # never shown to the SDK


@pytest.mark.parametrize(
    ("diagnostics", "error", "reason"),
    [
        (2, BackendUnavailableError, r"does not support NVIDIA Fake \(compute capability 9.0\)"),
        (1 | 4, BackendError, "version mismatch, old cuda driver"),
        (0, BackendError, "cannot run the engine"),
    ],
)
def test_rtx_engines_that_cannot_run_here_are_refused_at_opening(
    device: Callable[..., Device], diagnostics: int, error: type[BackendError], reason: str
) -> None:
    """In time for `auto`, which goes on with the next backend."""
    made = device(rtx=True)
    made.trt.validity = made.trt.EngineValidity.INVALID, diagnostics
    with pytest.raises(error, match=reason) as caught:
        made.open()
    assert isinstance(caught.value, BackendUnavailableError) == (diagnostics == 2)
    assert made.cuda.leaks() == []
    made.trt.validity = made.trt.EngineValidity.SUBOPTIMAL, 0
    made.open().close()


def test_an_engine_that_has_no_context_is_refused_at_opening(
    device: Callable[..., Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = device()
    monkeypatch.setattr("fakes.tensorrt.Engine.create_execution_context", lambda *_: None)
    with pytest.raises(BackendError, match="execution context"):
        made.open()
    assert made.cuda.leaks() == []


def test_auto_falls_back_with_one_line(
    device: Callable[..., Device], crops: list[Crop], caplog: pytest.LogCaptureFixture
) -> None:
    made = device()
    # Neither the SDK nor a GPU is here: the real modules say so, which is normal and no warning.
    caplog.set_level("INFO", "seqpar_deploy")
    with Recognizer.from_bundle(made.bundle.path) as recognizer:
        assert recognizer.backend.name in ("openvino", "onnxruntime", "onnxruntime-cuda")
        assert recognizer.predict(crops[:1])[0].attributes
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert "tensorrt" in record.getMessage()
    caplog.clear()
    shutil.rmtree(made.folder)
    Recognizer.from_bundle(made.bundle.path).close()
    assert not caplog.records  # without engines there is nothing to say


def test_no_gpu(fp16_bundle_dir: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"no usable NVIDIA GPU: .*nvidia-smi"):
        find_gpu(FakeCuda(devices=0))
    cuda = FakeCuda()
    cuda.cudaGetDeviceCount = lambda: (35, None)  # type: ignore[method-assign]
    with pytest.raises(BackendUnavailableError, match=r"cudaGetDeviceCount failed: error 35 \(CUDA error 35\)"):
        find_gpu(cuda)


def test_open_engines_takes_the_newest_that_fits(device: Callable[..., Device]) -> None:
    made = device()
    other = made.folder.with_name("tensorrt-10.8.0-nvidia-orin-fp16")
    shutil.copytree(made.folder, other)
    values = json.loads((other / ENGINE_JSON).read_text())
    (other / ENGINE_JSON).write_text(json.dumps(values | {"gpu": "NVIDIA Orin"}))
    assert open_engines(made.bundle, _identity(made)).path == made.folder
