"""Processes that get a signal."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping

__all__ = ["ended"]

#: Tests that run under nohup hand on that SIGHUP is ignored.
_HEEDS_SIGHUP = "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_DFL)\n"


def ended(
    code: str, number: int, *arguments: object, environment: Mapping[str, str] | None = None
) -> tuple[int, str, float]:
    """Exit code, stderr and seconds that the end took, of code that got a signal when it had said something."""
    command = [sys.executable, "-c", _HEEDS_SIGHUP + code, *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "writing\n", process.communicate()[1]
        start = time.monotonic()
        process.send_signal(number)
        try:
            _, stderr = process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode, stderr, time.monotonic() - start
