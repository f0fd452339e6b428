"""The command line as a process: run in a pipe, or on a terminal."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from click.testing import Result

__all__ = ["COMMAND", "Run", "on_terminal", "run"]

#: The type of the fixture ``tokmarg``: runs a command line in this process.
Run = Callable[..., Result]
COMMAND = [sys.executable, "-m", "tokmarg"]


def run(environment: Mapping[str, str], *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    done = subprocess.run([*COMMAND, *arguments], env=environment, check=False, timeout=60, **options)
    return cast("subprocess.CompletedProcess[bytes]", done)


def on_terminal(
    environment: Mapping[str, str], *arguments: str, keep: Iterable[tuple[str, Any]] = ()
) -> tuple[int, str]:
    """Runs with stdin, stdout and stderr on a terminal, but for the streams in ``keep``: exit code and screen."""
    import pty  # POSIX only

    master, terminal = pty.openpty()
    streams: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), terminal) | dict(keep)
    process = subprocess.Popen([*COMMAND, *arguments], env=environment, **streams)
    os.close(terminal)
    screen = b""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            try:
                part = os.read(master, 65536)
            except OSError:  # Linux: no process has the terminal open any more
                break
            if not part:
                break
            screen += part
        elif process.poll() is not None:
            break
    os.close(master)
    return process.wait(10), screen.decode()
