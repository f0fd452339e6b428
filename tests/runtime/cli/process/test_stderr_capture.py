"""What is printed on file descriptor 2 while a bundle is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support import word_guard
from tokmarg.cli.process.stderr_capture import capture_stderr
from tokmarg.errors import BundleError


@pytest.mark.parametrize("error", [None, BundleError("x"), ValueError("y")])
def test_only_what_an_error_says_anyway_is_dropped(error: Exception | None, capfd: pytest.CaptureFixture[str]) -> None:
    with suppress(BundleError, ValueError), capture_stderr():
        os.write(2, b"said by a library\n")
        if error is not None:
            raise error
    os.write(2, b"behind\n")
    said = "" if isinstance(error, BundleError) else "said by a library\n"
    assert capfd.readouterr().err == f"{said}behind\n"


def test_without_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> int:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(os, "dup", refuse)
    with capture_stderr():
        done = True
    assert done


@pytest.mark.parametrize(
    "command",
    [
        ["verify"],
        ["score", "hello", "--bundle"],
        ["explain", "hello", "--bundle"],
        ["evaluate", "--data", "DATA", "--bundle"],
        ["calibrate", "--data", "DATA", "--bundle"],
    ],
)
def test_a_panic_is_one_line(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, command: list[str]) -> None:
    data = tmp_path_factory.mktemp("data") / "d.jsonl"
    data.write_text('{"text": "hello", "labels": []}\n', encoding="utf-8")
    path = word_guard.write(tmp_path) / "tokenizer.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["pre_tokenizer"]["pattern"]["Regex"] = "(a+)+$"
    path.write_text(json.dumps(document), encoding="utf-8")
    word_guard.write_manifest(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "tokmarg", *(str(data) if word == "DATA" else word for word in command), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "RUST_BACKTRACE": "full"},
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "tokenizer.json: the tokenizer fails on a text of 257 characters: " in line
