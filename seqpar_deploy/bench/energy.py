"""Read the energy counters of a processor: RAPL for CPUs, NVML for NVIDIA GPUs."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")

ReadJoules = Callable[[], float]  # joules since an arbitrary moment


def open_meter(device: str, *, powercap: Path = POWERCAP) -> ReadJoules | None:
    """Open the energy counter of `cpu` or `cuda`. Returns None if the machine has no readable one.

    It counts the whole processor, for all processes, so measure on an otherwise idle machine.
    """
    if device.startswith("cuda"):
        return _nvml_meter()
    zones = [_Zone(folder) for folder in sorted(powercap.glob("intel-rapl:*")) if _is_package(folder)]
    return (lambda: sum(zone.joules() for zone in zones)) if zones else None


def _is_package(folder: Path) -> bool:
    """Return whether this is a whole processor with a readable counter. Often only root may read it."""
    try:
        int((folder / "energy_uj").read_text())
        int((folder / "max_energy_range_uj").read_text())
        return (folder / "name").read_text().startswith("package")
    except (OSError, ValueError):
        return False


class _Zone:
    """A counter of microjoules that wraps around at its largest value."""

    def __init__(self, folder: Path) -> None:
        self._counter = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last, self._taken = int(self._counter.read_text()), 0

    def joules(self) -> float:
        now = int(self._counter.read_text())
        self._taken += (now - self._last) % (self._range + 1)
        self._last = now
        return self._taken / 1e6


def _nvml_meter() -> ReadJoules | None:
    """The first GPU's counter of millijoules, kept since the driver was loaded (Volta and later)."""
    with contextlib.suppress(OSError, AttributeError):
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        handle, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()

        def read() -> float:
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules))
            return millijoules.value / 1e3

        found = nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle))
        if not found and not nvml.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(millijoules)):
            return read
    return None
