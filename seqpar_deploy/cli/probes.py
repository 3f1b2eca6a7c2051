"""Probes of `seqpar doctor` and `seqpar info`. Each runs on its own, so that one that fails does not stop the others.

Probes that load third-party libraries run in a process of their own, so that a crash or a hang there is reported.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import seqpar_deploy
from seqpar_deploy import cgroups, machine
from seqpar_deploy.errors import EngineError, SeqparError

if TYPE_CHECKING:
    from seqpar_deploy.backends.gpu.engine_files import EngineIdentity
    from seqpar_deploy.bundle import Bundle

TIMEOUT = 20.0  # seconds for a probe in its own process
_NVIDIA_SMI = 5.0  # seconds; nvidia-smi takes one or two if it has to wake the driver

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "runtimes": (
        *("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx"),
        *("cuda-python", "polygraphy"),
    ),
    "workstation": ("torch", "open_clip_torch", "onnx", "onnxscript", "safetensors", "scipy"),
    "video": (
        *("av", "opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
        *("trackers", "paho-mqtt", "redis"),
    ),
    "base": ("numpy", "Pillow", "typer", "msgspec"),
}


def examine() -> dict[str, Any]:
    """Run every probe. The section of a probe that failed is `{"error": "why"}`."""
    isolated = {name: Isolated(name) for name in ("backends", "cuda", "video")}  # these run beside the others
    found = {
        "package": guarded(_package),
        "processor": guarded(_processor),
        "cores": guarded(_cores),
        "memory": guarded(_memory),
        "gpu": guarded(_gpu),
        "packages": guarded(_packages),
        "ffmpeg": guarded(_ffmpeg),
    }
    return found | {name: guarded(probe.result) for name, probe in isolated.items()}


def guarded(probe: Callable[[], Any]) -> Any:
    """Return the probe's result, or `{"error": "why"}`."""
    try:
        return probe()
    except Exception as error:
        text = " ".join(str(error).split())
        return {"error": f"{type(error).__name__}: {text}" if text else type(error).__name__}


class Isolated:
    """A probe of `PROBES` that runs in a process of its own."""

    def __init__(self, name: str, *arguments: str) -> None:
        # Without the working folder in the path: a file there may have the name of a library.
        code = "import sys; sys.path[:] = filter(None, sys.path); from seqpar_deploy.cli import probes; probes.answer()"
        self._deadline = time.monotonic() + TIMEOUT
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, name, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def result(self) -> Any:
        """Wait for the result. Raises RuntimeError if the process ended without one, or did not end in time."""
        try:
            output, _ = self._process.communicate(timeout=max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise RuntimeError(f"no answer within {TIMEOUT:g} s") from None
        code = self._process.returncode
        if code < 0:
            raise RuntimeError(f"the process that loads it ended with {signal.Signals(-code).name}")
        try:
            return json.loads(output.splitlines()[-1])  # libraries may print lines before it
        except (IndexError, ValueError):
            raise RuntimeError(f"the process that loads it ended with exit code {code}") from None


def answer() -> None:
    """Run in the process of an `Isolated`: print the result of one probe as a line of JSON."""
    name, *arguments = sys.argv[1:]
    print("\n" + json.dumps(guarded(lambda: PROBES[name](*arguments))), flush=True)
    os._exit(0)  # skips the exit handlers of libraries, which may crash too


def _backends() -> list[dict[str, Any]]:
    from seqpar_deploy.backends.registry import describe

    return [dataclasses.asdict(status) for status in describe()]


def _cuda() -> dict[str, Any]:
    from seqpar_deploy.backends.gpu.cuda import find_gpu

    return dataclasses.asdict(find_gpu())


def _video() -> dict[str, Any]:
    return {name: guarded(functools.partial(_imported, name)) for name in ("av", "cv2")}


def _imported(name: str) -> dict[str, Any]:
    return {"version": importlib.import_module(name).__version__}


def _fit(path: str) -> dict[str, Any]:
    """Return the engines in a bundle, whether each fits this machine, and the tuning that does."""
    from seqpar_deploy.backends.gpu.engine_files import list_engines
    from seqpar_deploy.bundle import Bundle
    from seqpar_deploy.tuned import load_tuned

    bundle = Bundle.open(path, verify=False)
    engines = {}
    for folder, made_for in list_engines(bundle):
        values = {} if isinstance(made_for, SeqparError) else dataclasses.asdict(made_for)
        kept = ("runtime", "version", "gpu", "compute_capability", "driver", "precision")
        reason = _why_not(bundle, made_for)
        engines[folder.name] = {name: values.get(name) for name in kept} | {"fits": reason is None, "reason": reason}
    tuned = load_tuned(bundle)
    return {"engines": engines, "tuned": None if tuned is None else dataclasses.asdict(tuned)}


def _why_not(bundle: Bundle, made_for: EngineIdentity | EngineError) -> str | None:
    from seqpar_deploy.backends.gpu.cuda import find_gpu
    from seqpar_deploy.backends.gpu.engine_files import identity_of, import_runtime

    try:
        if isinstance(made_for, EngineError):
            raise made_for
        version = import_runtime(made_for.runtime).__version__
        return made_for.why_not(identity_of(bundle, made_for.runtime, version, find_gpu()))
    except SeqparError as error:
        return str(error)


PROBES: dict[str, Callable[..., Any]] = {"backends": _backends, "cuda": _cuda, "video": _video, "fit": _fit}


def _package() -> dict[str, Any]:
    return {
        "version": seqpar_deploy.__version__,
        "path": str(Path(seqpar_deploy.__file__).parent),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def _processor() -> dict[str, Any]:
    return {
        "name": machine.processor_name(),
        "architecture": platform.machine(),
        "features": machine.processor_features(),
    }


def _cores() -> dict[str, Any]:
    return {
        "usable": machine.usable_cores(),
        "affinity": machine.affinity_cores(),
        "online": os.cpu_count(),
        "cpu_quota": cgroups.cpu_limit(),
    }


def _memory() -> dict[str, Any]:
    return {"total_bytes": machine.total_memory(), "limit_bytes": cgroups.memory_limit()}


def _gpu() -> dict[str, Any]:
    """Return the GPUs that nvidia-smi lists and, on a Jetson, the release of Linux for Tegra."""
    found: dict[str, Any] = {"devices": [], "driver": None, "cuda": None, "jetson": _jetson(), "reason": None}
    program = shutil.which("nvidia-smi")
    if program is None:
        return found | {"reason": "nvidia-smi is not installed"}
    query, form = "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader,nounits"
    done = _run(program, f"{query},compute_cap", form)
    if done.returncode != 0:  # old versions have no field compute_cap
        done = _run(program, query, form)
    if done.returncode != 0:
        message = next(
            (line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()), "no message"
        )
        return found | {"reason": f"nvidia-smi ended with exit code {done.returncode}: {message}"}
    for row in done.stdout.splitlines():
        name, driver, memory, *capability = (value.strip() for value in row.split(","))
        found["driver"] = driver
        found["devices"].append(
            {
                "name": name,
                "memory_mib": int(memory) if memory.isdecimal() else None,  # Jetsons have "[N/A]"
                "compute_capability": capability[0] if capability else None,
            }
        )
    if not found["devices"]:
        return found | {"reason": "nvidia-smi lists no GPU"}
    cuda = re.search(r"CUDA Version\s*:\s*([\d.]+)", _run(program).stdout)
    return found | {"cuda": cuda[1] if cuda else None}


def _jetson(file: Path = Path("/etc/nv_tegra_release")) -> str | None:
    """Return the release of Linux for Tegra, for example `36.4.3`. None if this is no Jetson."""
    try:
        line = file.read_text(encoding="utf-8", errors="replace").splitlines()[0]
    except (OSError, IndexError):
        return None
    found = re.search(r"R(\d+).*REVISION: ([\d.]+)", line)
    return f"{found[1]}.{found[2]}" if found else line.strip("# ")


def _packages() -> dict[str, dict[str, str]]:
    return {
        kind: {name: version for name in names if (version := machine.version_of(name))}
        for kind, names in PACKAGES.items()
    }


def _ffmpeg() -> dict[str, Any]:
    program = shutil.which("ffmpeg")
    if program is None:
        return {"version": None, "reason": "not installed, and not needed: PyAV brings its own FFmpeg libraries"}
    words = _run(program, "-version").stdout.split()
    return {"version": words[2] if words[:2] == ["ffmpeg", "version"] and len(words) > 2 else "unknown"}


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_NVIDIA_SMI, check=False
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{Path(command[0]).name} gave no answer within {_NVIDIA_SMI:g} s") from None
