"""Standard streams that are no terminal, or do not exist: pythonw and frozen programs have no console."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from tokmarg.cli.io.isatty import is_terminal, terminal_stderr

WITHOUT_STDERR = """
import sys
sys.stderr = None
from tokmarg.cli import main
main(sys.argv[1:], prog_name="tokmarg")
"""


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_missing_stream_is_no_terminal() -> None:
    assert not is_terminal(None)
    assert not is_terminal(io.StringIO())
    assert is_terminal(Terminal())


def test_stderr_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    for stream, expected in ((None, None), (io.StringIO(), None), (terminal, terminal)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert terminal_stderr() is expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "gun"],
        ["explain", "gun"],
        ["evaluate", "--data", "DATA", "--bootstrap", "0"],
        ["calibrate", "--data", "DATA"],
        ["bench", "--seconds", "0.01", "--threads", "1"],
        ["verify", "BUNDLE"],
    ],
)
def test_every_command_runs_without_stderr(
    environment: dict[str, str], word_bundle: Path, tmp_path: Path, arguments: list[str]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(20 * '{"text": "gun", "labels": ["A"]}\n{"text": "hello", "labels": []}\n', encoding="utf-8")
    names = {"DATA": str(data), "BUNDLE": str(word_bundle)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_STDERR, *(names.get(argument, argument) for argument in arguments)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout != b""
