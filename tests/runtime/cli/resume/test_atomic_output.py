"""Runs that end anywhere: killed, out of disk space, with stderr closed; resumed they give the same bytes."""

from __future__ import annotations

import errno
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import Run
from tests.support.resumable_runs import COMMAND, INPUTS, TEXTS, Kill, Killed, jsonl, left, lines
from tokmarg.cli.resume import journal

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX processes")


@pytest.mark.parametrize("format", ["jsonl", "openai", "table", "parquet"])
@pytest.mark.parametrize("kind", INPUTS)
def test_killed_anywhere_and_resumed_gives_the_same_bytes(
    tokmarg: Run, tmp_path: Path, kill: Kill, kind: str, format: str
) -> None:
    given, whole, output = INPUTS[kind](tmp_path), tmp_path / "whole", tmp_path / "out"
    arguments = ["score", "--input", given, "--format", format, "--threads", 1]
    kill(-1)
    expected = tokmarg(*arguments, "--output", whole)
    assert expected.exit_code == 0, expected.stderr
    steps = kill.calls["made"]
    assert steps > 15
    random.seed(steps)
    everywhere = format == "jsonl" or kind == format
    for at in range(steps) if everywhere else sorted(random.sample(range(steps), 3)):
        kill(at)
        with pytest.raises(Killed):
            tokmarg(*arguments, "--output", output)
        assert not output.exists() or output.read_bytes() == whole.read_bytes()
        kill(3)  # and again on the way
        with pytest.raises(Killed):
            tokmarg(*arguments, "--output", output, "--resume")
        kill(-1)
        done = tokmarg(*arguments, "--output", output, "--resume")
        assert done.exit_code == 0, done.stderr
        assert output.read_bytes() == whole.read_bytes()
        assert done.stderr.splitlines()[-1] == expected.stderr.splitlines()[-1]  # counts over the whole input
        assert left(output) == []
        output.unlink()


@pytest.mark.parametrize("kind", INPUTS)
def test_killed_processes(word_bundle: Path, tmp_path: Path, kind: str) -> None:
    """SIGKILL at random times, half of them in the middle of a slowed-down run."""
    (tmp_path / "slow").mkdir()
    slow = (
        "import time, tokmarg.cli.resume.journal as j\n"
        "w = j.write_all\nj.write_all = lambda *a: (time.sleep(0.02), w(*a))\n"
    )
    (tmp_path / "slow" / "sitecustomize.py").write_text(slow)
    environment = {
        **os.environ,
        "TOKMARG_BUNDLE": str(word_bundle),
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "slow"), *filter(None, sys.path)]),
    }
    given, output, whole = INPUTS[kind](tmp_path), tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    command = [*COMMAND, "--input", str(given), "--output"]
    subprocess.run([*command, str(whole)], env=environment, check=True, capture_output=True)
    random.seed(kind)
    for trial in range(4):
        process = subprocess.Popen([*command, str(output), "--resume"], env=environment, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 30
        while trial % 2 and process.poll() is None and time.monotonic() < deadline:
            rows = Path(f"{output}{journal.JOURNAL}")
            if rows.exists() and rows.read_bytes().count(b"\n") > 2 * trial:
                break
            time.sleep(0.005)
        time.sleep(random.uniform(0, 0.03 if trial % 2 else 0.6))
        process.kill()
        process.communicate()
        assert not output.exists() or output.read_bytes() == whole.read_bytes()
    subprocess.run([*command, str(output), "--resume"], env=environment, check=True, capture_output=True)
    assert output.read_bytes() == whole.read_bytes()
    assert left(output) == []


def limited(size: int) -> Callable[[], None]:
    def set_limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return set_limit


@pytest.mark.parametrize("size", [10, 2_000, 20_000, 30_001])
def test_no_room_is_one_line_and_resumable(word_bundle: Path, tmp_path: Path, size: int) -> None:
    environment = {**os.environ, "TOKMARG_BUNDLE": str(word_bundle)}
    given, output, alone = lines(tmp_path), tmp_path / "out.jsonl", tmp_path / "alone.jsonl"
    command = [*COMMAND, "--input", str(given), "--output"]
    done = subprocess.run(
        [*command, str(output)], env=environment, capture_output=True, text=True, preexec_fn=limited(size), check=False
    )
    assert done.returncode == 1
    *before, line = done.stderr.splitlines()
    assert before in ([], ["flagged: unsafe >= 0.5 (the default)"])  # said with the first results
    assert line.startswith(f"Error: {output}: {os.strerror(errno.EFBIG)}")
    part = Path(f"{output}{journal.PART}")
    rows = part.read_bytes() if part.exists() else b""
    assert rows == b"" or rows.endswith(b"}\n")
    if rows:
        kept = len(rows.splitlines())
        assert line.endswith(f"; {kept} rows are kept, --resume continues after them")
    resumed = subprocess.run([*command, str(output), "--resume"], env=environment, capture_output=True, check=False)
    assert resumed.returncode == 0
    subprocess.run([*command, str(alone)], env=environment, capture_output=True, check=True)
    assert output.read_bytes() == alone.read_bytes()


def test_closed_stderr_loses_no_row(word_bundle: Path, tmp_path: Path) -> None:
    """Nobody reads the warning that comes in the middle."""
    environment = {**os.environ, "TOKMARG_BUNDLE": str(word_bundle)}
    given, output = jsonl(tmp_path), tmp_path / "out.jsonl"
    command = [*COMMAND, "--input", str(given), "--output", str(output)]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, env=environment, stderr=write, check=False)
    os.close(write)
    assert done.returncode == 141
    assert subprocess.run([*command, "--resume"], env=environment, capture_output=True, check=False).returncode == 0
    assert len(output.read_bytes().splitlines()) == len(TEXTS) + 4
