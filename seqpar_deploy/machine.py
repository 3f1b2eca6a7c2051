"""Describe this machine: the processor, the cores and memory that this process may use, and the runtimes' versions."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import platform
from pathlib import Path
from typing import Any

from seqpar_deploy import cgroups

_PACKAGES = (
    "seqpar-deploy",
    "numpy",
    "torch",
    "open_clip_torch",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)

# Instruction sets that affect speed, and the kernel's flags for them. Any one flag of a row is enough.
_X86_FEATURES = {
    "avx2": {"avx2"},
    "avx512": {"avx512f"},
    "vnni": {"avx512_vnni", "avx_vnni"},
    "bf16": {"avx512_bf16", "amx_bf16"},
    "amx": {"amx_tile"},
}
_ARM_FEATURES = {
    "neon": {"asimd", "neon"},
    "fp16": {"asimdhp"},
    "dotprod": {"asimddp"},
    "i8mm": {"i8mm"},
    "bf16": {"bf16"},
    "sve": {"sve"},
}

_M_ARENA_MAX = -8  # glibc's malloc.h


def describe_machine() -> dict[str, Any]:
    """Return the processor, the cores that this process may use, the memory in GB, and the runtimes' versions."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "memory_gb": round(memory / 1e9, 1) if (memory := total_memory()) else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := version_of(name))},
    }


def usable_cores() -> int:
    """Return the number of cores this process may use: its affinity mask, or its CPU quota rounded up if smaller."""
    limit = thread_limit()
    return affinity_cores() if limit is None else limit


def affinity_cores() -> int:
    """Return the number of cores in the process's affinity mask."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_limit() -> int | None:
    """Return the thread limit if a CPU quota is tighter than the affinity mask, else None.

    Runtimes read the mask but not the quota. With more threads than the quota allows, the kernel stops all of them for
    the rest of each period. Without a quota the runtimes' own default was the fastest one measured.
    """
    quota = cgroups.cpu_limit()
    if quota is None or math.ceil(quota) >= affinity_cores():
        return None
    return math.ceil(quota)


def limit_malloc_arenas() -> None:
    """Let the threads of this process share two pools of memory, where glibc gives up to eight per core to them.

    What a thread frees stays in its pool, so with one pool per thread a run whose cameras come and go grows for hours.
    Nothing is done without glibc, or if MALLOC_ARENA_MAX or GLIBC_TUNABLES has a value.
    """
    if not {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"} & os.environ.keys():
        with contextlib.suppress(AttributeError, OSError, TypeError):  # other C libraries
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 2)


def has_bf16() -> bool:
    """Return whether the processor has bf16 instructions. Without them, bf16 is slower than FP32."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(_instructions(_cpuinfo()))


def lacks_vnni() -> bool:
    """Return whether this is an x86 processor without VNNI.

    Such a processor adds 8-bit products in pairs in 16 bits, and two large products overflow.
    """
    instructions = _instructions(_cpuinfo())
    return "sse2" in instructions and not any("vnni" in name for name in instructions)


def lacks_avx512() -> bool:
    """Return whether this is an x86 processor without AVX-512."""
    instructions = _instructions(_cpuinfo())
    return "sse2" in instructions and "avx512f" not in instructions


def processor_name() -> str:
    """Return the processor's name, on ARM the board's name, or "unknown"."""
    try:  # ARM's cpuinfo has no name, but boards have a device tree
        board = Path("/proc/device-tree/model").read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        board = ""
    return _cpuinfo().get("model name") or board or platform.processor() or "unknown"


def processor_features() -> dict[str, bool]:
    """Return which relevant instruction sets the processor has, by name. Empty if the system does not report them."""
    instructions = _instructions(_cpuinfo())
    if not instructions:
        return {}
    known = _X86_FEATURES if "sse2" in instructions else _ARM_FEATURES
    return {name: not instructions.isdisjoint(any_of) for name, any_of in known.items()}


def total_memory() -> int | None:
    """Return the machine's memory in bytes, or None if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _processor() -> str:
    fields = _cpuinfo()
    if not fields:
        return platform.processor() or "unknown"
    instructions = _instructions(fields)
    notable = [name for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16") if name in instructions]
    return f"{fields.get('model name', platform.processor())} ({', '.join(notable) or 'no AVX2'})"


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _instructions(fields: dict[str, str]) -> set[str]:
    return set((fields.get("flags") or fields.get("Features", "")).split())  # x86, ARM


def version_of(package: str) -> str | None:
    """Return the version of an installed distribution, or None if it is not installed."""
    from importlib import metadata  # takes 13 ms, which `import seqpar_deploy` avoids

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
