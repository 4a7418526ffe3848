"""How many threads a program runs on.

The count follows from ``PJIT_NUM_THREADS`` or else from what the process may use: the CPUs of its
affinity mask, one per physical core, and the CPU quota of its control group. The affinity itself
is never changed.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

VARIABLE = "PJIT_NUM_THREADS"


def thread_count(environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> int:
    """Returns the number of threads for a program, at least one.

    Args:
        environ: the environment variables.
        root: where ``proc`` and ``sys`` are.

    Raises:
        ValueError: ``PJIT_NUM_THREADS`` is set but no positive whole number.
    """
    setting = environ.get(VARIABLE)
    if setting is not None:
        return parse_count(setting)
    cores = core_count(allowed_cpus(), root)
    quota = cpu_quota(root)
    return cores if quota is None else min(cores, quota)


def parse_count(setting: str) -> int:
    """Reads a value of ``PJIT_NUM_THREADS``.

    Raises:
        ValueError: it is no positive whole number.
    """
    text = setting.strip()
    if not (text.isascii() and text.isdigit()) or int(text) == 0:
        raise ValueError(
            f"{VARIABLE} must be a positive whole number, got {setting!r}; unset it to use "
            "every core that this process may use"
        )
    return int(text)


def allowed_cpus() -> Collection[int]:
    """Returns the numbers of the CPUs that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def core_count(cpus: Collection[int], root: Path = Path("/")) -> int:
    """Counts the physical cores behind some CPUs; hardware threads of one core count once.

    A CPU whose topology the system does not tell counts as a core.
    """
    topology = root / "sys/devices/system/cpu"
    cores = {_read(topology / f"cpu{cpu}/topology/thread_siblings_list") or cpu for cpu in cpus}
    return len(cores)


def cpu_quota(root: Path = Path("/")) -> int | None:
    """Returns how many CPUs the control groups of this process grant, rounded up.

    Both versions of control groups are read, and every group from the process's own to the root
    of the hierarchy, since each may set a limit.

    Returns:
        The lowest limit, or None without one.
    """
    quotas = [_quota_v2(group) for group in _groups(root, "cgroup2", None)]
    quotas += [_quota_v1(group) for group in _groups(root, "cgroup", "cpu")]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_v2(group: Path) -> int | None:
    fields = (_read(group / "cpu.max") or "max").split()
    if fields[0] == "max":
        return None
    period = int(fields[1]) if len(fields) > 1 else 100_000
    return _round_up(int(fields[0]), period)


def _quota_v1(group: Path) -> int | None:
    quota, period = _read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us")
    if quota is None or period is None or int(quota) <= 0:
        return None
    return _round_up(int(quota), int(period))


def _round_up(quota_us: int, period_us: int) -> int:
    return max(1, -(-quota_us // period_us))


def _groups(root: Path, filesystem: str, controller: str | None) -> Iterator[Path]:
    """Yields the folders of this process's group and its ancestors, the innermost first.

    Args:
        root: where ``proc`` and ``sys`` are.
        filesystem: ``cgroup`` or ``cgroup2``.
        controller: a controller of version 1; None for the one hierarchy of version 2.
    """
    path = _group_path(root, controller)
    for mount_root, mount_point in _mounts(root, filesystem, controller):
        folder = root / mount_point.relative_to("/")
        # In a container the mount may show only a part of the hierarchy.
        inside = path is not None and path.is_relative_to(mount_root)
        group = path.relative_to(mount_root) if path and inside else PurePosixPath()
        yield folder / group
        yield from (folder / parent for parent in group.parents)


def _group_path(root: Path, controller: str | None) -> PurePosixPath | None:
    for line in (_read(root / "proc/self/cgroup") or "").splitlines():
        number, controllers, path = line.split(":", 2)
        names = controllers.split(",")
        if controller in names or (controller is None and number == "0" and not controllers):
            return PurePosixPath(path)
    return None


def _mounts(
    root: Path, filesystem: str, controller: str | None
) -> Iterator[tuple[PurePosixPath, PurePosixPath]]:
    """Yields, for each mount of the hierarchy, its root inside the hierarchy and its folder."""
    for line in (_read(root / "proc/self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(" "), after.split(" ", 2)
        if kind == filesystem and (controller is None or controller in options.split(",")):
            yield PurePosixPath(_unescape(fields[3])), PurePosixPath(_unescape(fields[4]))


def _unescape(path: str) -> str:
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")


def _read(path: Path) -> str | None:
    """Returns the stripped text of a file, or None when the system does not offer it."""
    try:
        return path.read_text().strip()
    except OSError:
        return None
