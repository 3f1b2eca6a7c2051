"""The stand-ins for CUDA and TensorRT have the real modules' names and parameters."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import subprocess
import sys
from typing import Any

import pytest
from fakes import tensorrt as fake_tensorrt
from fakes.cuda import FakeCuda


def _parameters(documented: str) -> list[str]:
    """Names of the parameters in a signature line, as Cython and pybind11 write it, without self."""
    inside = documented[documented.index("(") + 1 : documented.rindex(")")]
    inside = re.sub(r"\[[^\]]*\]|<[^>]*>", "", inside)
    names = [part.split(":")[0].split("=")[0].split()[-1] for part in inside.split(",") if part.strip()]
    return [name for name in names if name != "self"]


def _own(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize("name", [name for name in vars(FakeCuda) if name.startswith("cuda")])
def test_cuda_calls_are_those_of_cuda_python(name: str) -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    real = getattr(runtime, name)
    if not inspect.isfunction(getattr(FakeCuda, name)):
        assert getattr(FakeCuda, name) == real  # a constant, or the real enumeration
        return
    assert _own(getattr(FakeCuda, name)) == _parameters(real.__doc__.strip().splitlines()[0])


DOCUMENTATION = """
import json, tensorrt_rtx as trt
classes = {name: getattr(trt, name) for name in dir(trt) if isinstance(getattr(trt, name), type)}
found = {n: {m: str(getattr(c, m).__doc__) for m in dir(c)} for n, c in classes.items()}
for name, members in found.items():
    for member, value in getattr(classes[name], "__members__", {}).items():
        members[member] = str(int(value))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def tensorrt_documentation() -> dict[str, dict[str, str]]:
    """The real SDK's signatures, from a process of its own: it is not to be in this one when others fork or crash."""
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("no wheel of tensorrt_rtx for this platform")
    done = subprocess.run([sys.executable, "-c", DOCUMENTATION], capture_output=True, text=True, check=True)
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    assert "WHOLE_GRAPH_CAPTURE" in found["CudaGraphStrategy"]
    return found


# Attributes that the backend sets
ATTRIBUTES = {
    "IRuntimeConfig": {"cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy"},
    "Runtime": {"engine_host_code_allowed"},
}


@pytest.mark.parametrize(
    ("fake", "real"),
    [
        (fake_tensorrt.Runtime, "Runtime"),
        (fake_tensorrt.Engine, "ICudaEngine"),
        (fake_tensorrt.ExecutionContext, "IExecutionContext"),
        (fake_tensorrt.Refitter, "Refitter"),
        (fake_tensorrt.OnnxParserRefitter, "OnnxParserRefitter"),
        (fake_tensorrt.RuntimeConfig, "IRuntimeConfig"),
        (fake_tensorrt.RuntimeCache, "IRuntimeCache"),
        (fake_tensorrt.ILogger, "ILogger"),
    ],
)
def test_tensorrt_calls_are_those_of_the_sdk(
    fake: type, real: str, tensorrt_documentation: dict[str, dict[str, str]]
) -> None:
    documented = tensorrt_documentation[real]
    for name, function in inspect.getmembers(fake, inspect.isfunction):
        if not name.startswith("_"):
            signatures = [line for line in documented[name].splitlines() if f"{name}(self" in line]
            assert _own(function) in [_parameters(line.split(" -> ")[0]) for line in signatures]
    attributes = {name for name, value in vars(fake).items() if isinstance(value, property)}
    assert attributes <= documented.keys()
    assert ATTRIBUTES.get(real, set()) <= documented.keys()


@pytest.mark.parametrize("name", fake_tensorrt.ENUMERATIONS)
def test_tensorrt_enumerations_are_those_of_the_sdk(
    name: str, tensorrt_documentation: dict[str, dict[str, str]]
) -> None:
    for member in getattr(fake_tensorrt, name):
        assert tensorrt_documentation[name][member.name] == str(member.value)
