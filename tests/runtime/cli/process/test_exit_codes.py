"""The command line as a process: exit codes, pipes, terminals, full disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import COMMAND, on_terminal, run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX terminals and signals")


#: What ``tokmarg score`` says first.
DECISION = b"flagged: unsafe >= 0.5 (the default)\n"


def test_results_on_stdout_and_the_rest_on_stderr(environment: dict[str, str]) -> None:
    done = run(environment, "score", "hello", "gun")
    assert done.returncode == 0
    assert [json.loads(line)["flagged"] for line in done.stdout.splitlines()] == [False, True]
    assert done.stderr == DECISION + b"2 scored, 1 flagged, 0 failed, 0 low coverage, 0 not converged\n"


def test_stdin_that_is_no_terminal_is_read(environment: dict[str, str]) -> None:
    done = run(environment, "score", "--fail-on-flagged", stdin=None, input="gun ü\r\n".encode())
    assert done.returncode == 3
    assert len(done.stdout.splitlines()) == 1


def test_output_is_utf8_whatever_the_locale(environment: dict[str, str]) -> None:
    done = run(environment, "score", "--format", "table", "ü 漢")
    assert done.returncode == 0
    assert "ü 漢".encode() in done.stdout


def test_rows_come_as_soon_as_they_are_scored(environment: dict[str, str]) -> None:
    # Several packs are fed, then the pipe is left open: rows must have come out before the input ends.
    process = subprocess.Popen(
        [*COMMAND, "score"], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"hello\n" * 1000)
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["id"] == 1
    process.communicate()
    assert process.returncode == 0


def test_nothing_to_score_on_a_terminal_is_wrong_usage(environment: dict[str, str]) -> None:
    code, screen = on_terminal(environment, "score")
    assert code == 2
    assert "Nothing to score" in screen


def test_table_on_a_terminal(environment: dict[str, str]) -> None:
    code, screen = on_terminal(environment, "score", "gun")
    assert code == 0
    assert "Weapons" in screen
    assert "\x1b[" in screen
    assert '"schema_version"' not in screen


def test_no_colours_where_they_are_refused(environment: dict[str, str]) -> None:
    code, screen = on_terminal({**environment, "NO_COLOR": "1"}, "score", "gun")
    assert code == 0
    assert "Weapons" in screen
    assert "\x1b" not in screen


def test_jsonl_where_stdout_is_no_terminal(environment: dict[str, str], tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+b") as out:
        code, screen = on_terminal(environment, "score", "gun", keep=[("stdout", out)])
        out.seek(0)
        assert json.load(out)["flagged"] is True
    assert code == 0
    assert screen.replace("\r", "").startswith(f"{DECISION.decode()}1 scored")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_reader_that_goes_away_ends_the_run_quietly(environment: dict[str, str], unbuffered: str) -> None:
    environment = {**environment, "PYTHONUNBUFFERED": unbuffered}
    read, write = os.pipe()
    os.close(read)
    try:
        done = run(environment, "score", "hello", "gun", stdout=write)
    finally:
        os.close(write)
    assert done.returncode == 141
    assert done.stderr == DECISION


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["score", "--help"],
        ["score", "hello"],
        ["score", "hello", "--format", "table"],
        ["score", "hello", "--format", "openai"],
        ["explain", "hello"],
        ["explain", "hello", "--json"],
        ["evaluate", "--data", "DATA"],
        ["evaluate", "--data", "DATA", "--json"],
        ["calibrate", "--data", "DATA"],
        ["calibrate", "--data", "DATA", "--json"],
        ["bench", "--seconds", "0.01"],
        ["inspect", "BUNDLE"],
        ["inspect", "BUNDLE", "--json"],
        ["verify", "BUNDLE"],
        ["bundles"],
    ],
    ids=" ".join,
)
def test_full_disk_behind_stdout(
    environment: dict[str, str], word_bundle: Path, tmp_path: Path, arguments: list[str], unbuffered: str
) -> None:
    data = tmp_path / "d.jsonl"
    rows = [{"text": "gun", "labels": ["A"]}, {"text": "hello", "labels": []}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows * 20))
    names = {"BUNDLE": str(word_bundle), "DATA": str(data)}
    environment = {**environment, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full:
        done = run(environment, *(names.get(argument, argument) for argument in arguments), stdout=full)
    assert done.returncode == 1
    lines = [line for line in done.stderr.removeprefix(DECISION).splitlines() if not line.startswith(b"Warning: ")]
    assert lines == [b"Error: stdout: No space left on device"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk_behind_the_output_file(environment: dict[str, str]) -> None:
    done = run(environment, "score", "hello", "--output", "/dev/full")
    assert (done.returncode, done.stderr) == (1, DECISION + b"Error: /dev/full: No space left on device\n")


def impatient(environment: dict[str, str], folder: Path) -> dict[str, str]:
    """An environment in which progress shows at once."""
    (folder / "sitecustomize.py").write_text("import tokmarg.cli.io.progress as p\np._DELAY = p._INTERVAL = 0\n")
    return {**environment, "PYTHONPATH": os.pathsep.join([str(folder), *filter(None, sys.path)])}


def test_progress_on_a_terminal_that_does_not_show_the_rows(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("hello\n" * 300)
    arguments = ["score", "--input", str(tmp_path / "in.txt")]
    with (tmp_path / "out").open("w+b") as out:
        code, screen = on_terminal(impatient(environment, tmp_path), *arguments, keep=[("stdout", out)])
    assert code == 0
    assert "  1%  3 records, " in screen
    assert "100%  300 records, " in screen
    assert screen.rsplit("\r", 2)[1].startswith("300 scored")
    code, screen = on_terminal(impatient(environment, tmp_path), *arguments, "--format", "jsonl")
    assert code == 0
    assert "per second" not in screen


def test_no_progress_in_a_pipe(environment: dict[str, str], tmp_path: Path) -> None:
    done = run(impatient(environment, tmp_path), "score", stdin=None, input=b"hello\n" * 300)
    assert done.stderr.startswith(DECISION + b"300 scored")


@pytest.mark.parametrize(
    ("closed", "code", "message"), [(0, 2, "Nothing to score"), (1, 1, "stdout is closed"), (2, 0, "")]
)
def test_closed_streams(environment: dict[str, str], closed: int, code: int, message: str) -> None:
    command = f'exec "$0" -m tokmarg score {"gun" if closed else ""} {closed}>&-'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable], env=environment, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == code
    assert message in done.stderr.decode()


def test_interrupt_while_it_waits_for_input(environment: dict[str, str]) -> None:
    process = subprocess.Popen(
        [*COMMAND, "score", "--input", "-"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"hello\n" * 1000)
    process.stdin.flush()
    process.stdout.readline()  # it runs
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert b"Traceback" not in stderr
    assert stderr.endswith(b"Aborted!\n")


def test_debug_shows_where_it_went_wrong(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import tokmarg.guard as g\ng.Guard.load = None\n")
    paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    broken = {**environment, "PYTHONPATH": paths}
    assert b"Traceback" not in run(broken, "score", "hello").stderr
    done = run({**broken, "TOKMARG_DEBUG": "1"}, "score", "hello")
    assert done.returncode == 1
    assert b"Traceback" in done.stderr


def test_version_and_help(environment: dict[str, str]) -> None:
    assert run(environment, "--version").stdout.startswith(b"tokmarg ")
    done = run(environment, "score", "--help")
    assert done.returncode == 0
    assert b"--on-overflow" in done.stdout


def test_python_m_names_itself_tokmarg(environment: dict[str, str]) -> None:
    assert run(environment, "score", "-").stderr.startswith(b"Usage: tokmarg score ")
