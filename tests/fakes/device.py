"""A bundle with TensorRT engines for a GPU that is not there, and a way to put stand-ins in the registry's place."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.cuda import FakeCuda
from fakes.tensorrt import FakeTensorRt, fake_plan

from seqpar_deploy import Bundle
from seqpar_deploy.backends import Backend, registry
from seqpar_deploy.backends.gpu import cuda as cuda_module
from seqpar_deploy.backends.gpu.cuda import find_gpu
from seqpar_deploy.backends.gpu.engine_files import GRAPHS, USED_OUTPUTS, identity_of, write_engine_json
from seqpar_deploy.backends.gpu.profiles import graph_profiles
from seqpar_deploy.backends.gpu.tensorrt import TensorRtBackend
from seqpar_deploy.bundle import BatchProfile

BATCHES = (BatchProfile(min=1, opt=1, max=2), BatchProfile(min=1, opt=4, max=12))


@dataclasses.dataclass
class Device:
    """The bundle's engines lie in `folder`."""

    bundle: Bundle
    cuda: FakeCuda
    trt: FakeTensorRt
    folder: Path

    def open(self, **options: Any) -> TensorRtBackend:
        runtime = "tensorrt_rtx" if self.trt.rtx else "tensorrt"
        return TensorRtBackend(self.bundle, runtime=runtime, sdk=self.trt, cuda_python=self.cuda, **options)

    @property
    def steps(self) -> int:
        return sum(name == "decoder_step" for name, _ in self.trt.executions)


def make_device(
    bundle_dir: Path,
    path: Path,
    *,
    rtx: bool = False,
    batches: Any = BATCHES,
    identity: Any = None,
    pooled: bool = True,
    **gpu: Any,
) -> Device:
    """Copy a bundle to `path` and put engines beside it. `gpu` describes the GPU, `identity` the engines.

    Without `pooled`, they are engines of the time before the encoder's were given that output.
    """
    shutil.copytree(bundle_dir, path, dirs_exist_ok=True)
    bundle, cuda = Bundle.open(path, verify=False), FakeCuda(**gpu)
    trt = FakeTensorRt(cuda, rtx=rtx)
    made_for = None if rtx else find_gpu(cuda)
    runtime = "tensorrt_rtx" if rtx else "tensorrt"
    engines = identity_of(bundle, runtime, trt.__version__, made_for, batches=batches, **(identity or {}))
    engines = dataclasses.replace(engines, pooled=engines.pooled and pooled)
    folder = path / "engines" / engines.folder_name
    folder.mkdir(parents=True)
    for name, profiles in graph_profiles(bundle, batches).items():
        marked = [one["name"] for one in bundle.manifest["graphs"][name]["outputs"] if one["name"] in USED_OUTPUTS]
        marked = [output for output in marked if engines.pooled or output != "pooled"]
        (folder / f"{name}.plan").write_bytes(fake_plan(path / GRAPHS[name], profiles, marked))
    write_engine_json(folder, engines)
    return Device(bundle, cuda, trt, folder)


def put_in_registry(
    monkeypatch: pytest.MonkeyPatch, name: str, cuda: FakeCuda, sdk: Any, open_bundle: Callable[[Bundle], Backend[Any]]
) -> None:
    """Have the backend of this name open with stand-ins, on the stand-in's GPU."""
    stand_in = dataclasses.replace(
        registry.find_spec(name), load_sdk=lambda: sdk, open=lambda bundle, _threads, _precision: open_bundle(bundle)
    )
    specs = tuple(stand_in if spec.name == name else spec for spec in registry.SPECS)
    monkeypatch.setattr(registry, "SPECS", specs)
    monkeypatch.setattr(cuda_module, "cuda_runtime", lambda: cuda)
