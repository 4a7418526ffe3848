"""The number of threads, from faked environments and file systems."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pjit.runtime.threads import (
    allowed_cpus,
    core_count,
    cpu_quota,
    parse_count,
    thread_count,
)

V2_MOUNT = "31 23 0:28 {root} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "32 31 0:29 {root} /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct"


def make(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def v2(root: Path, group: str, limits: dict[str, str], mount_root: str = "/") -> Path:
    files = {f"sys/fs/cgroup/{name}/cpu.max": text for name, text in limits.items()}
    files["proc/self/cgroup"] = f"0::{group}"
    files["proc/self/mountinfo"] = V2_MOUNT.format(root=mount_root)
    return make(root, files)


@pytest.mark.parametrize(("text", "count"), [("1", 1), ("16", 16), (" 3 ", 3), ("007", 7)])
def test_setting(text: str, count: int) -> None:
    assert thread_count({"PJIT_NUM_THREADS": text}) == count


@pytest.mark.parametrize("text", ["0", "-1", "", "two", "1.5", "1e3", "²", "1_0"])
def test_bad_setting_names_the_variable_and_the_value(text: str) -> None:
    with pytest.raises(ValueError, match="PJIT_NUM_THREADS must be a positive whole number") as e:
        parse_count(text)
    assert repr(text) in str(e.value)


def test_setting_comes_before_the_quota(tmp_path: Path) -> None:
    root = v2(tmp_path, "/", {".": "100000 100000"})
    assert thread_count({"PJIT_NUM_THREADS": "5"}, root) == 5
    assert thread_count({}, root) == 1


def test_without_limits_every_core_counts(tmp_path: Path) -> None:
    assert thread_count({}, tmp_path) == len(allowed_cpus())


def test_the_real_machine() -> None:
    assert 1 <= thread_count({}) <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("limit", "quota"),
    [
        ("max 100000", None),
        ("max", None),
        ("200000 100000", 2),
        ("250000 100000", 3),
        ("1000 100000", 1),
        ("50000", 1),
        ("150000", 2),
    ],
)
def test_quota_v2(tmp_path: Path, limit: str, quota: int | None) -> None:
    assert cpu_quota(v2(tmp_path, "/job", {"job": limit})) == quota


def test_the_lowest_quota_of_all_ancestors_counts(tmp_path: Path) -> None:
    limits = {"a/b": "800000 100000", "a": "300000 100000", ".": "500000 100000"}
    assert cpu_quota(v2(tmp_path, "/a/b", limits)) == 3


def test_other_groups_do_not_count(tmp_path: Path) -> None:
    assert cpu_quota(v2(tmp_path, "/a", {"b": "100000 100000"})) is None


def test_a_container_sees_its_group_as_the_root_of_the_mount(tmp_path: Path) -> None:
    limits = {".": "400000 100000", "inner": "200000 100000"}
    assert cpu_quota(v2(tmp_path, "/docker/7/inner", limits, mount_root="/docker/7")) == 2


def test_a_group_outside_the_mount_has_the_limit_of_the_mount(tmp_path: Path) -> None:
    assert cpu_quota(v2(tmp_path, "/elsewhere", {".": "400000 100000"}, "/docker/7")) == 4


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [("-1", "100000", None), ("150000", "100000", 2), ("50000", "50000", 1)],
)
def test_quota_v1(tmp_path: Path, quota: str, period: str, expected: int | None) -> None:
    group = "sys/fs/cgroup/cpu/job"
    root = make(
        tmp_path,
        {
            "proc/self/cgroup": "5:memory:/other\n4:cpu,cpuacct:/job\n0::/",
            "proc/self/mountinfo": V1_MOUNT.format(root="/"),
            f"{group}/cpu.cfs_quota_us": quota,
            f"{group}/cpu.cfs_period_us": period,
        },
    )
    assert cpu_quota(root) == expected


def test_no_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) is None


def test_hardware_threads_of_a_core_count_once(tmp_path: Path) -> None:
    siblings = {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}
    root = make(
        tmp_path,
        {
            f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": text
            for cpu, text in siblings.items()
        },
    )
    assert core_count({0, 1, 4, 5}, root) == 2
    assert core_count({0, 4}, root) == 1
    assert core_count({0, 1}, root) == 2
    assert core_count({0, 4, 9}, root) == 2, "cpu9 has no topology file"
