"""Limits of the container this process runs in: control groups (cgroups) v1 and v2.

A group's limit applies to all groups below it, so the effective limit is the smallest from the process's own group up
to the root of the mount. A file that is missing or unreadable sets no limit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

_UNIFIED = ""  # version 2: its single hierarchy has no controller in its name
_UNLIMITED = 1 << 62  # v1 writes the largest whole number of pages for "no limit"

Limit = TypeVar("Limit", int, float)


class _Mount(NamedTuple):
    controllers: frozenset[str]
    root: PurePosixPath  # the group that is mounted at `point`
    point: Path


def cpu_limit(root: Path = Path("/")) -> float | None:
    """Return the CPU quota of this process in cores, for example 1.5. None if there is no quota.

    Args:
        root: The folder that holds `proc` and the mount points. Default: `/`.
    """
    return _least(root, "cpu", _cpu_v1, _cpu_v2)


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the memory limit of this process in bytes. None if there is no limit.

    Args:
        root: The folder that holds `proc` and the mount points. Default: `/`.
    """
    return _least(root, "memory", _memory_v1, _memory_v2)


def _least(
    root: Path, controller: str, v1: Callable[[Path], Limit | None], v2: Callable[[Path], Limit | None]
) -> Limit | None:
    limits = [v1(folder) for folder in _folders(root, controller)] + [v2(folder) for folder in _folders(root, _UNIFIED)]
    return min((limit for limit in limits if limit is not None), default=None)


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Yield the mounted folders of the process's own group and its ancestors."""
    group = _own_group(root, controller)
    mounts = [mount for mount in _mounts(root) if controller in mount.controllers]
    if group is None or not mounts:
        return
    covering = [mount for mount in mounts if ".." not in group.parts and group.is_relative_to(mount.root)]
    for mount in covering:
        below = group.relative_to(mount.root)
        for path in (below, *below.parents):
            yield mount.point / path
    if not covering:  # the group is outside the namespace: only the mount's own root is a known ancestor
        yield from (mount.point for mount in mounts)


def _own_group(root: Path, controller: str) -> PurePosixPath | None:
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number == "0" and not controllers) if controller == _UNIFIED else (controller in controllers.split(",")):
            return PurePosixPath(path)
    return None


def _mounts(root: Path) -> Iterator[_Mount]:
    for line in _read(root / "proc/self/mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        place, kind = before.split(), after.split()
        if len(place) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
            continue
        controllers = kind[2].split(",") if kind[0] == "cgroup" else [_UNIFIED]
        mounted_root, point = (_unescaped(text) for text in place[3:5])
        yield _Mount(frozenset(controllers), PurePosixPath(mounted_root), root / point.lstrip("/"))


def _unescaped(text: str) -> str:
    """Decode mountinfo's octal escapes, for example \\040 for a space."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _cpu_v1(folder: Path) -> float | None:
    quota, period = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 and period > 0 else None


def _cpu_v2(folder: Path) -> float | None:
    try:
        quota, period = map(int, _read(folder / "cpu.max").split())  # "150000 100000"; "max 100000" is no limit
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _memory_v1(folder: Path) -> int | None:
    limit = _number(folder / "memory.limit_in_bytes")
    return limit if limit is not None and 0 < limit < _UNLIMITED else None


def _memory_v2(folder: Path) -> int | None:
    return _number(folder / "memory.max")  # "max" is no number


def _number(file: Path) -> int | None:
    try:
        return int(_read(file))
    except ValueError:
        return None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
