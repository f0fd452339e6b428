"""A signal that ends an export leaves no scratch folder, and the bundle that was there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.processes import ended

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


def check_stages(stderr: str) -> None:
    """Nothing is said but the stages so far."""
    assert [line.split()[0] for line in stderr.splitlines()] == ["[1/5]", "[2/5]", "[3/5]"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_export_that_is_ended(tiny_model: Path, tmp_path: Path, number: int) -> None:
    code, stderr, _ = ended(EXPORT, number, "python", tiny_model, "-o", tmp_path / "b")
    assert code == 128 + number
    check_stages(stderr)
    assert list(tmp_path.iterdir()) == []


def test_export_that_is_ended_in_a_long_step(tiny_model: Path, tmp_path: Path) -> None:
    code, stderr, seconds = ended(EXPORT, signal.SIGTERM, "native", tiny_model, "-o", tmp_path / "b")
    assert code == 143
    check_stages(stderr)
    assert seconds < 10
    assert list(tmp_path.iterdir()) == []
