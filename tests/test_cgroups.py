"""Container limits, read from a file tree like the kernel's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from seqpar_deploy import machine
from seqpar_deploy.cgroups import cpu_limit, memory_limit

Tree = Callable[..., Path]

V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup rw,nsdelegate"
CPU = "33 32 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw shared:9 master:4 - cgroup cgroup rw,cpu,cpuacct"
MEMORY = "34 32 0:30 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """`tree(own groups, mounts, {file: content})` makes the files and returns the root to look below."""

    def make(groups: str, mounts: list[str], files: dict[str, str]) -> Path:
        mountinfo = "\n".join(["22 1 8:1 / / rw - ext4 /dev/sda1 rw", *mounts])
        for name, content in {"proc/self/cgroup": groups, "proc/self/mountinfo": mountinfo, **files}.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content + "\n")
        return tmp_path

    return make


def v2(**limits: str) -> dict[str, str]:
    """Files of version 2: cpu_max is that of the mount, a_b_cpu_max that of its group a/b."""
    files = {}
    for name, content in limits.items():
        *groups, controller, what = name.split("_")
        files["/".join(["sys/fs/cgroup", *groups, f"{controller}.{what}"])] = content
    return files


@pytest.mark.parametrize(
    ("content", "cores"),
    [("150000 100000", 1.5), ("max 100000", None), ("", None), ("200000", None), ("x y", None), ("100000 0", None)],
)
def test_v2_quota_of_a_namespace(tree: Tree, content: str, cores: float | None) -> None:
    root = tree("0::/", [V2.format(root="/")], v2(cpu_max=content, memory_max="1073741824"))
    assert cpu_limit(root) == cores
    assert memory_limit(root) == 1 << 30


def test_v2_least_of_the_ancestors_counts(tree: Tree) -> None:
    files = v2(a_b_cpu_max="400000 100000", a_cpu_max="100000 50000", a_b_memory_max="max", a_memory_max="4096")
    root = tree("0::/a/b", [V2.format(root="/")], files | v2(other_cpu_max="1000 100000", other_memory_max="1"))
    assert cpu_limit(root) == 2
    assert memory_limit(root) == 4096


def test_v2_mount_that_begins_below_the_root(tree: Tree) -> None:
    """As in a container without a cgroup namespace: the mount point is the container's own group."""
    root = tree("0::/docker/1f/sub", [V2.format(root="/docker/1f")], v2(sub_cpu_max="max 1", cpu_max="30000 10000"))
    assert cpu_limit(root) == 3


def test_v2_process_outside_its_namespace(tree: Tree) -> None:
    root = tree("0::/../elsewhere", [V2.format(root="/")], v2(cpu_max="50000 100000"))
    assert cpu_limit(root) == 0.5


def test_v1_own_group_ancestors_and_joint_controllers(tree: Tree) -> None:
    cpu, memory = "sys/fs/cgroup/cpu,cpuacct", "sys/fs/cgroup/memory"
    files = {
        f"{cpu}/cpu.cfs_quota_us": "-1",
        f"{cpu}/cpu.cfs_period_us": "100000",
        f"{cpu}/kube/cpu.cfs_quota_us": "250000",
        f"{cpu}/kube/cpu.cfs_period_us": "100000",
        f"{cpu}/kube/pod/cpu.cfs_quota_us": "900000",
        f"{cpu}/kube/pod/cpu.cfs_period_us": "100000",
        f"{memory}/memory.limit_in_bytes": "9223372036854771712",
        f"{memory}/kube/memory.limit_in_bytes": "2147483648",
    }
    groups = "5:cpu,cpuacct:/kube/pod\n4:memory:/kube\n3:cpuset:/other\n1:name=systemd:/x"
    root = tree(groups, [CPU.format(root="/"), MEMORY.format(root="/")], files)
    assert cpu_limit(root) == 2.5
    assert memory_limit(root) == 2 << 30


def test_v1_container_that_sees_the_hosts_path(tree: Tree) -> None:
    files = {
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
    }
    mounts = [CPU.format(root="/docker/1f"), MEMORY.format(root="/docker/1f")]
    root = tree("5:cpu,cpuacct:/docker/1f\n4:memory:/docker/1f", mounts, files)
    assert cpu_limit(root) == 0.5
    assert memory_limit(root) is None


def test_hybrid_takes_the_least_of_both(tree: Tree) -> None:
    """The controllers are in version 1, beside a version 2 without any (or with some, and then these count too)."""
    unified = V2.format(root="/").replace("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
    files = {
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000",
        "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
    }
    root = tree("1:cpu,cpuacct:/\n0::/init", [CPU.format(root="/"), unified], files)
    assert cpu_limit(root) == 3
    root = tree(
        "1:cpu,cpuacct:/\n0::/init", [CPU.format(root="/"), unified], {"sys/fs/cgroup/unified/init/cpu.max": "2 1"}
    )
    assert cpu_limit(root) == 2


def test_mount_point_with_a_space(tree: Tree) -> None:
    mount = V2.format(root="/").replace("/sys/fs/cgroup", r"/sys/my\040cgroup")
    assert cpu_limit(tree("0::/", [mount], {"sys/my cgroup/cpu.max": "10 10"})) == 1


def test_nothing_there_limits_nothing(tree: Tree, tmp_path: Path) -> None:
    assert cpu_limit(tmp_path / "nothing") is None
    assert memory_limit(tmp_path / "nothing") is None
    unlike = ["garbage", "1 2 3 - cgroup2 x", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2", V2.format(root="/")]
    root = tree("garbage\n::\n0::/gone", unlike, {"sys/fs/cgroup/cpu.max/not-a-file": ""})  # a folder: unreadable
    assert cpu_limit(root) is None
    assert memory_limit(root) is None


@pytest.mark.parametrize(
    ("quota", "affinity", "limit"), [(None, 8, None), (0.3, 8, 1), (2.1, 8, 3), (7.5, 8, None), (64, 8, None)]
)
def test_cores_follow_the_quota_and_the_mask(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, affinity: int, limit: int | None
) -> None:
    monkeypatch.setattr("seqpar_deploy.cgroups.cpu_limit", lambda: quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: set(range(affinity)))
    assert machine.thread_limit() == limit
    assert machine.usable_cores() == (affinity if limit is None else limit)
    assert machine.describe_machine()["cores"] == machine.usable_cores()
