"""The backends by name: the registry, its `Literal`, and what it says of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from fakes.cuda import FakeCuda
from fakes.tensorrt import FakeTensorRt

from seqpar_deploy import Bundle, machine
from seqpar_deploy.backends import BackendName, available_backends, backends_for, describe, open_backend, registry
from seqpar_deploy.backends.base import REDUCED_PRECISIONS
from seqpar_deploy.backends.gpu import cuda, tensorrt
from seqpar_deploy.errors import BackendUnavailableError


def test_the_names_are_those_of_the_registry_in_its_order() -> None:
    assert get_args(BackendName) == ("auto", *(spec.name for spec in registry.SPECS))


def test_auto_goes_by_the_registrys_order_and_takes_engines_where_they_lie(
    bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "lacks_avx512", lambda: False)
    names = [spec.name for spec in registry.SPECS]
    found = available_backends()
    assert found == sorted(found, key=names.index)
    assert {"openvino", "onnxruntime"} <= set(found)
    assert backends_for(Bundle.open(bundle_dir)) == found


@pytest.mark.parametrize(
    ("cpuinfo", "first"),
    [
        ({"flags": "fpu sse2 avx2 avx_vnni"}, "onnxruntime"),
        ({"flags": "fpu sse2 sse4_2"}, "onnxruntime"),
        ({"flags": "fpu sse2 avx2 avx512f"}, "openvino"),
        ({"Features": "fp asimd asimddp"}, "openvino"),  # ARM
        ({}, "openvino"),  # not told
    ],
)
def test_the_cpu_runtime_that_is_faster_on_the_processor_is_first(
    cpuinfo: dict[str, str], first: str, bundle_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = Bundle.open(bundle_dir)
    monkeypatch.setattr(machine, "_cpuinfo", lambda: cpuinfo)
    expected = sorted(("openvino", "onnxruntime"), key=lambda name: name != first)
    for found in (available_backends(), backends_for(bundle), [status.name for status in describe()]):
        assert [name for name in found if name in expected] == expected
    assert {status.name for status in describe()} == {spec.name for spec in registry.SPECS}


@pytest.fixture
def status(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`status(devices=1)["openvino"]`: TensorRT is installed, TensorRT-RTX is not, and there are so many GPUs."""

    def of_machine(devices: int) -> dict[str, registry.BackendStatus]:
        fake = FakeCuda(devices=devices)

        def sdk(name: str) -> Any:
            if name == "tensorrt":
                return FakeTensorRt(fake)
            raise BackendUnavailableError("it is not installed")

        monkeypatch.setattr(tensorrt, "import_runtime", sdk)
        monkeypatch.setattr(cuda, "cuda_runtime", lambda: fake)
        monkeypatch.setattr(registry, "cuda_runtime", lambda: fake)
        found = describe()
        assert {one.name for one in found} == {spec.name for spec in registry.SPECS}
        return {one.name: one for one in found}

    return of_machine


def test_what_each_backend_can_do_here(status: Any) -> None:
    found = status(devices=1)
    assert found["tensorrt"].available
    assert found["tensorrt"].version == "10.8.0"
    assert found["tensorrt"].devices == ("NVIDIA Fake",)
    assert found["tensorrt"].compute_precisions == ("native",)
    assert (found["tensorrt"].reason, found["tensorrt"].install) == (None, None)
    assert found["onnxruntime"].available
    assert "int8" in found["onnxruntime"].compute_precisions

    missing = found["tensorrt_rtx"]
    assert not missing.available
    assert (missing.version, missing.devices, missing.compute_precisions) == (None, (), ())
    assert missing.reason == "it is not installed"
    assert missing.install == "pip install 'seqpar-deploy[rtx]'"

    without = status(devices=0)["tensorrt"]
    assert (without.available, without.version, without.install) == (False, "10.8.0", None)
    assert "GPU" in without.reason


def test_precisions_are_those_of_the_processor(status: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "lacks_vnni", lambda: True)
    assert "int8" not in status(devices=0)["openvino"].compute_precisions
    assert "int8" in status(devices=0)["onnxruntime"].compute_precisions
    monkeypatch.setattr(machine, "lacks_vnni", lambda: False)
    assert "int8" in status(devices=0)["openvino"].compute_precisions


def test_a_precision_that_a_backend_lacks_names_those_that_have_it(int8_bundle_dir: Path) -> None:
    bundle = Bundle.open(int8_bundle_dir)
    for spec in registry.SPECS:
        for precision in REDUCED_PRECISIONS:
            if precision not in spec.compute_precisions:
                with pytest.raises(BackendUnavailableError, match=f"{spec.name} .*{precision}.*openvino"):
                    open_backend(bundle, spec.name, compute_precision=precision)  # type: ignore[arg-type]
