"""Outputs that cannot be written are refused before a guard is loaded, and leave everything as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Run
from tests.support.sandbox import permitted
from tokmarg import Guard
from tokmarg.cli.resume.journal import JOURNAL, PART

#: Every option that names a file to write: the command line up to it.
WRITERS = {
    "score a text": ["score", "gun", "--output"],
    "score a file": ["score", "--input", "IN", "--output"],
    "score stdin": ["score", "--output"],
    "evaluate": ["evaluate", "--data", "DATA", "--report"],
    "calibrate": ["calibrate", "--data", "DATA", "-o"],
    "explain": ["explain", "gun", "--html"],
}


@pytest.fixture
def refused(tokmarg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """refused(arguments, output, code): the one line with which that ends; no guard is loaded, no file is changed."""
    (tmp_path / "in.txt").write_text("hello gun\n")
    (tmp_path / "data.jsonl").write_text('{"text": "gun", "labels": ["A"]}\n')
    names = {"IN": tmp_path / "in.txt", "DATA": tmp_path / "data.jsonl"}

    def load(*_: object, **__: object) -> None:
        raise AssertionError("a guard was loaded")

    monkeypatch.setattr(Guard, "load", load)

    def contents() -> dict[str, Any]:
        return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(tmp_path.rglob("*"))}

    def run(arguments: Sequence[str], output: object, code: int = 1) -> str:
        before = contents()
        result = tokmarg(*(names.get(argument, argument) for argument in arguments), output, input="hello\n")
        assert result.exit_code == code, result.output
        assert contents() == before
        return result.stderr.splitlines()[-1]

    return run


@pytest.mark.parametrize("writer", WRITERS)
def test_folders(refused: Callable[..., str], tmp_path: Path, writer: str) -> None:
    name = "x.json"
    (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    line = refused(WRITERS[writer], tmp_path / name)
    assert line == f"Error: {tmp_path / name}: Is a directory"
    line = refused(WRITERS[writer], tmp_path / "none" / name)
    assert line == f"Error: {tmp_path / 'none' / name}: No such file or directory"
    line = refused(WRITERS[writer], tmp_path / "file" / name)
    assert line == f"Error: {tmp_path / 'file' / name}: Not a directory"
    line = refused(WRITERS[writer], tmp_path / f"{'x' * 300}.json")
    assert line.endswith("File name too long")


@pytest.mark.parametrize("writer", ["score a text", "score a file", "score stdin", "explain"])
def test_names_that_name_nothing(refused: Callable[..., str], tmp_path: Path, writer: str) -> None:
    assert "names no file" in refused(WRITERS[writer], "")
    assert "names no file" in refused(WRITERS[writer], f"{tmp_path}/none/")


def test_a_calibrated_bundle_below_a_file(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file" / "bundle", tmp_path / "file" / "a" / "b"):
        assert refused(WRITERS["calibrate"], output) == f"Error: {output}: Not a directory"


@pytest.mark.parametrize(("writer", "what"), [("evaluate", "data"), ("calibrate", "data"), ("score a file", "input")])
def test_what_is_read(refused: Callable[..., str], tmp_path: Path, writer: str, what: str) -> None:
    read = tmp_path / ("in.txt" if what == "input" else "data.jsonl")
    (tmp_path / "link.json").symlink_to(read)
    assert refused(WRITERS[writer], tmp_path / "link.json", 2).endswith(f"is the {what} file.")


def test_thresholds_and_calibrations_are_read_too(refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text("unsafe = 0.5\n")
    for option, what in (("--thresholds", "thresholds"), ("--calibration", "calibration")):
        line = refused(["score", "gun", option, str(tmp_path / "t.toml"), "--output"], tmp_path / "t.toml", 2)
        assert line.endswith(f"is the {what} file.")
    arguments = ["evaluate", "--data", "DATA", "--label-map", str(tmp_path / "t.toml"), "--report"]
    line = refused(arguments, tmp_path / "t.toml", 2)
    assert line.endswith("is the label map file.")


def test_what_belongs_to_an_unfinished_run(refused: Callable[..., str], tmp_path: Path) -> None:
    for suffix in (PART, JOURNAL):
        (tmp_path / f"out{suffix}").write_text("hello\n")
        line = refused(["score", "gun", "--output"], tmp_path / f"out{suffix}", 2)
        assert line.endswith(f"a name that ends in {suffix} belongs to an unfinished run.")
        arguments = ["score", "--input", str(tmp_path / f"out{suffix}"), "--input-format", "lines", "--output"]
        assert refused(arguments, tmp_path / "out", 2).endswith("belongs to an unfinished run of this --output.")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden here")
@pytest.mark.parametrize("writer", WRITERS)
def test_no_permission(refused: Callable[..., str], tmp_path: Path, writer: str) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0o500)
    assert refused(WRITERS[writer], tmp_path / "closed" / "x.json").endswith("Permission denied")


FULL = """
mount -t tmpfs -o size=64k none "$1" || exit 77
for folder in a b; do mkdir "$1/$folder"; done
cat /dev/zero > "$1/filler" 2>/dev/null
shift
for output in "$@"; do eval "$output"; echo "$?"; done
"""


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs Linux namespaces")
def test_a_disk_that_is_full_already(word_bundle: Path, tmp_path: Path) -> None:
    """A real one. Nothing is loaded for it: the bundle of these commands is broken, which nobody gets to see."""
    unshare = ["unshare", "--map-root-user", "--mount"]
    if not permitted(unshare):
        pytest.skip("unshare --mount is not permitted here")
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "in.txt").write_text("hello gun\n")
    (tmp_path / "data.jsonl").write_text('{"text": "gun", "labels": ["A"]}\n')
    bundle = shutil.copytree(word_bundle, tmp_path / "bundle")
    (bundle / "model.onnx").write_bytes(b"broken")
    names = {"IN": str(tmp_path / "in.txt"), "DATA": str(tmp_path / "data.jsonl")}
    command = [sys.executable, "-m", "tokmarg"]
    lines = [
        " ".join([*command, *(names.get(a, a) for a in arguments), f"{disk}/a/x.json", "</dev/null"])
        for arguments in WRITERS.values()
    ]
    done = subprocess.run(
        [*unshare, "sh", "-c", FULL, "sh", str(disk), *lines],
        env={**os.environ, "TOKMARG_BUNDLE": str(bundle)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode == 77:
        pytest.skip("no file system can be mounted here")
    assert done.stdout.split() == ["1"] * len(WRITERS)
    assert done.stderr.splitlines() == [f"Error: {disk}/a/x.json: No space left on device"] * len(WRITERS)


def test_what_is_there_stays_until_there_is_something_new(tokmarg: Run, tmp_path: Path) -> None:
    """Checks change nothing: not a byte, not a time, and no file is left that was not there."""
    (tmp_path / "x.json").write_text("old")
    before = (tmp_path / "x.json").stat()
    for arguments in WRITERS.values():
        names = {"IN": tmp_path / "none.txt", "DATA": tmp_path / "none.jsonl"}
        more = ["--bundle", tmp_path / "no-bundle"]
        result = tokmarg(*(names.get(a, a) for a in arguments), tmp_path / "x.json", *more, input="hello\n")
        assert result.exit_code == 1, result.output
    after = (tmp_path / "x.json").stat()
    assert (after.st_size, after.st_mtime_ns, after.st_ino) == (before.st_size, before.st_mtime_ns, before.st_ino)
    assert os.listdir(tmp_path) == ["x.json"]
