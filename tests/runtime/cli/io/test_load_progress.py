"""A long load shows on a terminal that it goes on, and leaves nothing there; elsewhere it shows nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX terminals")

LOAD = """
import os, sys, time
import tokmarg.cli.io.load_progress as module
module._DELAY, module._INTERVAL = 0.2, 0.1
with module.guard_loading():
    os.write(2, b"said by a library")
    time.sleep(float(sys.argv[1]))
"""


def shown(seconds: float) -> str:
    ours, theirs = os.openpty()
    with subprocess.Popen([sys.executable, "-c", LOAD, str(seconds)], stderr=theirs) as process:
        os.close(theirs)
        assert process.wait(60) == 0
    text = b""
    try:
        while part := os.read(ours, 1024):
            text += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    return text.decode()


def test_long_load_on_a_terminal() -> None:
    *lines, blank, rest = shown(2).split("\r")
    assert "loading the guard: 0 s" in lines
    assert "loading the guard: 1 s" in lines
    assert (blank.strip(), rest) == ("", "said by a library")


def test_short_load_on_a_terminal() -> None:
    assert shown(0) == "said by a library"


def test_long_load_elsewhere() -> None:
    done = subprocess.run([sys.executable, "-c", LOAD, "0.5"], stderr=subprocess.PIPE, check=True)
    assert done.stderr == b"said by a library"
