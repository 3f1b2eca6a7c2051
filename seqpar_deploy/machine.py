"""What a measurement ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

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


def describe_machine() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GB, and the versions of what computes."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "cores": usable_cores(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
    }


def usable_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bf16() -> bool:
    """Whether the processor has bf16 products of its own; without them they are slower than FP32's."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(_instructions(_cpuinfo()))


def lacks_vnni() -> bool:
    """Whether this is known to be an x86 processor that adds products of 8-bit numbers in pairs and in 16 bits, where
    two large ones overflow: one without VNNI."""
    instructions = _instructions(_cpuinfo())
    return "sse2" in instructions and not any("vnni" in name for name in instructions)


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


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
