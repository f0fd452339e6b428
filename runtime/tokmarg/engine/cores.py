"""Processors that this process may use: cores that it may run on, and what quotas of control groups leave of them.

A container or a systemd service with half a processor still sees every core of the machine and may run on all of them:
it is stopped for the rest of each period once it has used up its time. More threads only bring that forward.

    cgroup v2   cpu.max            "50000 100000": microseconds in each period of so many; "max" is no limit
    cgroup v1   cpu.cfs_quota_us, cpu.cfs_period_us        the same in two files; -1 is no limit

A group has what its ancestors leave it, too. https://docs.kernel.org/admin-guide/cgroup-v2.html,
https://docs.kernel.org/scheduler/sched-bwc.html
"""

from __future__ import annotations

import math
import os
import platform
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

from tokmarg.system_calls import by_system

__all__ = ["cpu_quota", "default_threads", "physical_cores"]


def default_threads() -> int:
    """Threads that compute where nobody says how many: one per core, and no more than the quota keeps busy.

    Two hardware threads of one core share its multipliers, so one worker per physical core is fastest.
    """
    cores, quota = physical_cores(), cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def physical_cores() -> int:
    """Cores that this process may run on, hardware threads of one core counted once.

    Linux tells which threads are of one core. Elsewhere x86 processors are taken to have two each, and others one.
    """
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        return max(1, len({Path(topology.format(cpu)).read_text() for cpu in usable}))
    except OSError as error:
        if not by_system(error):
            raise
        paired = platform.machine().lower() in ("amd64", "x86_64") and platform.system() != "Linux"
        return max(1, len(usable) // (2 if paired else 1))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors that control groups allow this process, such as 0.5; None without a limit, and where there are none.

    Args:
        root: folder in which ``proc`` and ``sys`` lie.
    """
    quotas = [quota for group in _groups(root) if (quota := _quota_of(group)) is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """The folders of the process's control groups with a quota, and of their ancestors as far as they can be seen."""
    try:
        own = (root / "proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
        mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        if not by_system(error):
            raise
        return
    for line in own.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        for mounted, place in _mounts(mounts, "cpu" if controllers else None):
            # In a container the mount may be the group itself, and the path the machine's.
            inside = posixpath.relpath(path, mounted) if path.startswith(mounted) else "."
            top = root / place.lstrip("/")
            group = top if inside.startswith("..") else top / inside
            yield group
            yield from (parent for parent in group.parents if parent == top or top in parent.parents)


def _mounts(mounts: str, controller: str | None) -> Iterator[tuple[str, str]]:
    """Mounted group and folder of each mount of a version 1 controller, or (None) of version 2. See proc(5)."""
    for line in mounts.splitlines():
        fields, _, kind = line.partition(" - ")
        of_mount, of_kind = fields.split(" "), kind.split(" ")
        if len(of_mount) < 5 or len(of_kind) < 3:
            continue
        is_v1 = of_kind[0] == "cgroup" and controller is not None and controller in of_kind[2].split(",")
        if is_v1 or (of_kind[0] == "cgroup2" and controller is None):
            yield _unescaped(of_mount[3]), _unescaped(of_mount[4])


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _quota_of(group: Path) -> float | None:
    """Processors that one group allows; None without a limit."""
    try:
        try:
            quota, period = (group / "cpu.max").read_text().split()
        except FileNotFoundError:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        allowed = math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except OSError as error:
        if not by_system(error):
            raise
        return None
    except (ValueError, ZeroDivisionError):
        return None
    return allowed if 0 < allowed < math.inf else None
