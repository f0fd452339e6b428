"""Whether tools that confine or trace a process may be used here."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

__all__ = ["permitted"]


def permitted(command: Sequence[str]) -> bool:
    """Whether a command that runs another one, such as ``unshare --net``, is installed and allowed."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
