"""`seqpar doctor`, on this machine and on invented ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from seqpar_deploy import machine
from seqpar_deploy.cli import probes
from seqpar_deploy.cli.doctor import verdict
from seqpar_deploy.cli.main import app

RTX = "pip install 'seqpar-deploy[rtx]'"
OPENVINO = "pip install 'seqpar-deploy[openvino]'"


def status(name: str, *, precisions: tuple[str, ...] = ("native",), install: str | None = None) -> dict[str, Any]:
    """A backend that is available unless `install` is given."""
    there = install is None
    return {
        "name": name,
        "available": there,
        "version": "1.2" if there else None,
        "devices": ["cpu"] if there else [],
        "compute_precisions": list(precisions) if there else [],
        "reason": None if there else f"it is missing; {install}",
        "install": install,
    }


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def doctor(*options: str) -> str:
    done = CliRunner().invoke(app, ["doctor", *options], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Results of the probes that run in a process of their own."""
    found: dict[str, Any] = {
        "backends": [status("tensorrt_rtx", install=RTX), status("openvino", precisions=("native", "bf16"))],
        "cuda": {"error": "BackendUnavailableError: no usable NVIDIA GPU"},
        "video": {"av": {"version": "18"}, "cv2": {"error": "ImportError: libGL.so.1 is missing"}},
    }

    class Answered:
        def __init__(self, name: str) -> None:
            self.result = lambda: found[name]

    monkeypatch.setattr(probes, "Isolated", Answered)
    return found


def test_on_this_machine() -> None:
    command = [Path(sys.executable).with_name("seqpar"), "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    backends = {found["name"]: found for found in report["backends"]}
    assert backends["openvino"]["available"]
    assert "native" in backends["onnxruntime"]["compute_precisions"]
    assert "seqpar-deploy[tensorrt]" in backends["tensorrt"]["install"]
    assert report["verdict"]["backend"] in ("openvino", "onnxruntime-cuda")
    assert report["packages"]["workstation"]["torch"] == machine.version_of("torch")
    assert report["video"]["cv2"]["version"].startswith("4.")
    assert report["cores"]["usable"] == machine.usable_cores()


@pytest.mark.usefixtures("answers")
def test_container_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqpar_deploy.cgroups.cpu_limit", lambda: 1.5)
    monkeypatch.setattr("seqpar_deploy.cgroups.memory_limit", lambda: 2_000_000_000)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(8)))
    text = doctor()
    assert "2 usable" in text
    assert "CPU quota of 1.5" in text
    assert "(memory.max) 2.0 GB" in text
    report = json.loads(doctor("--json"))
    assert report["cores"]["cpu_quota"] == 1.5
    assert report["memory"]["limit_bytes"] == 2_000_000_000


@pytest.mark.usefixtures("answers")
def test_nvidia_smi_lists_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = 'echo "NVIDIA L4, 550.54.15, 23034, 8.9"; echo "Orin (nvgpu), 550.54.15, [N/A], 8.7"'
    program(
        tmp_path / "nvidia-smi",
        f'case "$1" in --query*) {listed};; *) echo "| Driver Version: 550.54.15  CUDA Version: 12.4 |";; esac',
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    gpu = json.loads(doctor("--json"))["gpu"]
    assert [device["name"] for device in gpu["devices"]] == ["NVIDIA L4", "Orin (nvgpu)"]
    assert [device["memory_mib"] for device in gpu["devices"]] == [23034, None]
    assert (gpu["driver"], gpu["cuda"]) == ("550.54.15", "12.4")
    text = doctor()
    assert "NVIDIA L4, 23034 MiB, compute capability 8.9" in text
    assert text.splitlines()[-1].startswith("Verdict")
    assert RTX in text.splitlines()[-1]


@pytest.mark.usefixtures("answers")
@pytest.mark.parametrize(
    ("script", "devices", "reason"),
    [
        ('case "$1" in *compute_cap*) exit 2;; --query*) echo "Tesla, 450.1, 16160";; esac', 1, None),
        ("echo 'NVIDIA-SMI has failed: no driver'; exit 9", 0, "NVIDIA-SMI has failed"),
        ("exit 0", 0, "lists no GPU"),
    ],
)
def test_nvidia_smi_of_other_minds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, devices: int, reason: str | None
) -> None:
    program(tmp_path / "nvidia-smi", script)
    monkeypatch.setenv("PATH", str(tmp_path))
    gpu = json.loads(doctor("--json"))["gpu"]
    assert len(gpu["devices"]) == devices
    assert (gpu["reason"] is None) if reason is None else (reason in gpu["reason"])
    assert "Verdict" in doctor()


@pytest.mark.usefixtures("answers")
def test_a_probe_that_hangs_or_fails_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "nvidia-smi", "exec /bin/sleep 30")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(probes, "_NVIDIA_SMI", 0.05)
    for name in ("affinity_cores", "processor_features", "total_memory", "version_of"):
        monkeypatch.setattr(machine, name, lambda *_: 1 / 0)
    lines = {line.split()[0]: line for line in doctor().splitlines() if line.startswith("  ")}
    assert "nvidia-smi" in lines["NVIDIA"]
    assert all("ZeroDivisionError" in lines[name] for name in ("cores", "processor", "memory", "packages"))
    assert "libGL.so.1 is missing" in lines["OpenCV"]


@pytest.mark.parametrize("failed", ["backends", "cuda", "video"])
def test_isolated_probes_that_fail_are_lines(answers: dict[str, Any], failed: str) -> None:
    answers[failed] = {"error": "RuntimeError: ended with SIGSEGV"}
    assert "SIGSEGV" in doctor()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("kill -SEGV $$", "SIGSEGV"),
        ("echo hello; exit 3", "exit code 3"),
        ("exec sleep 30", r"0\.5 s"),
    ],
)
def test_a_library_that_crashes_or_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    monkeypatch.setattr(sys, "executable", str(program(tmp_path / "python", script)))
    monkeypatch.setattr(probes, "TIMEOUT", 0.5)
    with pytest.raises(RuntimeError, match=message):
        probes.Isolated("backends").result()


def test_a_users_file_named_like_a_library_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cv2.py").write_text("__version__ = 'mine'")
    monkeypatch.chdir(tmp_path)
    assert probes.Isolated("video").result()["cv2"]["version"] != "mine"


GPU = {"devices": [{"name": "L4"}]}
CPUS = [status("openvino", precisions=("native", "bf16", "int8")), status("onnxruntime")]


@pytest.mark.parametrize(
    ("backends", "gpu", "taken", "advice"),
    [
        (CPUS, {}, "openvino", "bf16 or int8"),
        ([status("tensorrt_rtx", install=RTX), *CPUS], GPU, "openvino", RTX),
        ([status("tensorrt_rtx", install=RTX), *CPUS], {"jetson": "36.4"}, "openvino", RTX),
        ([status("tensorrt_rtx", install=RTX), *CPUS], {}, "openvino", "seqpar tune"),
        ([status("tensorrt"), status("onnxruntime-cuda"), *CPUS], GPU, "onnxruntime-cuda", "engine BUNDLE"),
        ([status("tensorrt", install=RTX), status("onnxruntime-cuda"), *CPUS], GPU, "onnxruntime-cuda", "seqpar tune"),
        ([status("openvino", install=OPENVINO), status("onnxruntime")], {}, "onnxruntime", OPENVINO),
        ([status("openvino"), status("onnxruntime")], {}, "openvino", "seqpar tune"),
        ([status("tensorrt"), status("openvino", install=OPENVINO)], GPU, None, "engine BUNDLE"),
        ([status("openvino", install=OPENVINO)], {}, None, OPENVINO),
        ({"error": "RuntimeError: died"}, {}, None, "died"),
    ],
)
def test_the_verdict(backends: Any, gpu: dict[str, Any], taken: str | None, advice: str) -> None:
    found = verdict({"backends": backends, "gpu": gpu, "cuda": {"error": "none"}})
    assert found["backend"] == taken
    assert advice in found["text"]
    assert taken is None or taken in found["text"]


@pytest.mark.parametrize(
    ("cpuinfo", "there", "lacking"),
    [
        ({"flags": "sse2 avx2 avx512f avx_vnni amx_bf16"}, {"avx2", "avx512", "vnni", "bf16"}, {"amx"}),
        ({"Features": "fp asimd asimddp bf16"}, {"neon", "dotprod", "bf16"}, {"fp16", "i8mm", "sve"}),
        ({}, set(), set()),
    ],
)
def test_features_of_processors(
    monkeypatch: pytest.MonkeyPatch, cpuinfo: dict[str, str], there: set[str], lacking: set[str]
) -> None:
    monkeypatch.setattr(machine, "_cpuinfo", lambda: cpuinfo)
    features = machine.processor_features()
    assert {name for name, has in features.items() if has} == there
    assert {name for name, has in features.items() if not has} == lacking


@pytest.mark.parametrize(
    ("content", "release"),
    [("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n", "36.4.3"), ("# odd\n", "odd"), ("", None)],
)
def test_jetson(tmp_path: Path, content: str, release: str | None) -> None:
    file = tmp_path / "nv_tegra_release"
    file.write_text(content)
    find: Callable[[Path], str | None] = probes._jetson
    assert find(file) == release
    assert find(tmp_path / "none") is None
