"""How many threads are worth having."""

from __future__ import annotations

import os
import platform
from pathlib import Path

__all__ = ["physical_cores"]


def physical_cores() -> int:
    """Cores that this process may use; two hardware threads of one core count once, as they share what multiplies.

    Linux tells which threads are of one core. Elsewhere x86 processors are taken to have two each, and others one.
    """
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    try:
        return max(1, len({Path(topology.format(cpu)).read_text() for cpu in usable}))
    except OSError:
        paired = platform.machine().lower() in ("amd64", "x86_64") and platform.system() != "Linux"
        return max(1, len(usable) // (2 if paired else 1))
