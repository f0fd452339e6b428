"""Signals that end a process leave no scratch files, and are given back afterwards."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.processes import ended
from tokmarg.termination import ended_by_signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")

#: A scratch folder, and a library that swallows what Python raises.
SCRATCH = """
import ctypes, sys, threading, time
from pathlib import Path
import tokmarg.termination as module
from tokmarg.bundle.new_bundle import new_bundle
from tokmarg.termination import ended_by_signals
module._GRACE = 0.2
with ended_by_signals(), new_bundle(Path(sys.argv[1]), (), force=False) as new:
    new.folder.mkdir()
    (new.folder / "x").touch()
    print("writing", flush=True)
    for _ in range(100):
        try:
            ctypes.CDLL(None).usleep(10_000_000)
        except BaseException:
            pass  # as a callback of a library, in which Python can only report an exception
"""


def test_a_signal_that_is_not_heeded(tmp_path: Path) -> None:
    code, stderr, seconds = ended(SCRATCH, signal.SIGTERM, tmp_path / "b")
    assert (code, stderr) == (143, "")
    assert seconds < 5
    assert list(tmp_path.iterdir()) == []


def test_signals_are_given_back() -> None:
    before = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)]
    with ended_by_signals():
        assert signal.getsignal(signal.SIGTERM) is not before[0]
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)] == before
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with ended_by_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, ignored)
