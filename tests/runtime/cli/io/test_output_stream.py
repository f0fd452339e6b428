from __future__ import annotations

import io
import types
from pathlib import Path
from typing import Any

import pytest

from tokmarg.cli.io.output_stream import OutputStream
from tokmarg.errors import TokmargError


def stdout(monkeypatch: pytest.MonkeyPatch, stream: Any) -> None:
    monkeypatch.setattr("sys.stdout", types.SimpleNamespace(buffer=stream, isatty=lambda: False))


def test_a_row_is_out_when_write_returns(tmp_path: Path) -> None:
    with OutputStream(str(tmp_path / "out")) as output:
        output.write("ü\n")
        assert (tmp_path / "out").read_bytes() == "ü\n".encode()


def test_stdout_is_flushed_and_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    raw.close = lambda: pytest.fail("closed")  # type: ignore[method-assign]
    buffered = io.BufferedWriter(raw)
    stdout(monkeypatch, buffered)
    with OutputStream(None) as output:
        output.write("row\n")
        assert raw.getvalue() == b"row\n"
    buffered.detach()


def test_raw_stdout_that_takes_a_part_gets_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    class Narrow(io.BytesIO):
        def write(self, data: Any) -> int:
            return super().write(data[:3])

    stream = Narrow()
    stdout(monkeypatch, stream)
    with OutputStream(None) as output:
        output.write("a longer row\n")
    assert stream.getvalue() == b"a longer row\n"


def test_failure_names_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    stdout(monkeypatch, Full())
    with OutputStream(None) as output, pytest.raises(OSError, match="No space") as caught:
        output.write("row")
    assert caught.value.filename == "stdout"
    with pytest.raises(IsADirectoryError):
        OutputStream(str(tmp_path))


def test_closed_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    with pytest.raises(TokmargError, match="stdout is closed"):
        OutputStream(None)
