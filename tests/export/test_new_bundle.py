"""A signal that ends an export leaves no scratch folder, and the bundle that was there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")

#: The command, which stops while it writes the graph: in Python, or in one long step of a native library.
EXPORT = """
import sys, time, ctypes
import tokmarg_export.bundle_writer as writer
from tokmarg_export.cli import main
place = sys.argv.pop(1)
def stop(model, folder, **_):
    folder.mkdir(parents=True)
    (folder / "model.onnx.data").write_bytes(b"x" * 1000)
    print("writing", flush=True)
    if place == "python":
        while True: time.sleep(0.01)
    ctypes.CDLL(None).sleep(30)  # without the interpreter's lock, as a pass of PyTorch
    ctypes.CDLL(None).sleep(30)
writer.export_graph = stop
main()
"""
#: A scratch folder, and a library that swallows what Python raises.
SCRATCH = """
import ctypes, sys, threading, time
from pathlib import Path
import tokmarg_export.new_bundle as module
from tokmarg_export.new_bundle import ended_by_signals, new_bundle
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


def ended(code: str, number: int, *arguments: object) -> tuple[int, str, float]:
    """Exit code, stderr and seconds that the end took, of code that got a signal when it had said something."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line == "writing\n", process.communicate()[1]
        start = time.monotonic()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
    return process.returncode, stderr, time.monotonic() - start


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_export_that_is_ended(tiny_model: Path, tmp_path: Path, number: int) -> None:
    code, stderr, _ = ended(EXPORT, number, "python", tiny_model, "-o", tmp_path / "b")
    assert (code, stderr) == (128 + number, "")
    assert list(tmp_path.iterdir()) == []


def test_export_that_is_ended_in_a_long_step(tiny_model: Path, tmp_path: Path) -> None:
    code, stderr, seconds = ended(EXPORT, signal.SIGTERM, "native", tiny_model, "-o", tmp_path / "b")
    assert (code, stderr) == (143, "")
    assert seconds < 10
    assert list(tmp_path.iterdir()) == []


def test_a_signal_that_is_not_heeded(tmp_path: Path) -> None:
    code, stderr, seconds = ended(SCRATCH, signal.SIGTERM, tmp_path / "b")
    assert (code, stderr) == (143, "")
    assert seconds < 5
    assert list(tmp_path.iterdir()) == []


def test_signals_are_given_back() -> None:
    from tokmarg_export.new_bundle import ended_by_signals

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
