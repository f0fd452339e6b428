"""Runs from file to file: killed, out of disk space, interrupted, and resumed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Run
from tokmarg.cli.resume import atomic_output, journal
from tokmarg.guard import Guard

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX processes")
COMMAND = [sys.executable, "-m", "tokmarg", "score", "--threads", "1"]

#: Records of every kind, so that packs end at many places; CSV rows span lines, and one row is broken.
TEXTS = [f"{'gun ' * (n % 9)}hello{' idiot' * (n % 4)} {n}" for n in range(100)]


def jsonl(folder: Path) -> Path:
    lines = [json.dumps({"text": text} if n % 3 else {"text": text, "id": f"ü{n}"}) for n, text in enumerate(TEXTS)]
    lines[40:40] = ["", "{", json.dumps({"text": "boom boom"}), json.dumps({"text": "noise"})]
    path = folder / "in.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")  # no newline at the end
    return path


def csv(folder: Path) -> Path:
    rows = [f'"{text}\nsecond ""line"", {n}",{n if n % 2 else ""}' for n, text in enumerate(TEXTS)]
    rows[60:60] = ["too,many,fields", "", 'not "closed" where it should,1', '"a" b,2']
    path = folder / "in.csv"
    path.write_bytes(b"\xef\xbb\xbf" + ("text,id\r\n" + "\r\n".join(rows)).encode())
    return path


def lines(folder: Path) -> Path:
    path = folder / "in.txt"
    path.write_bytes(b"\n".join(text.encode() for text in [*TEXTS[:60], "", "\r", *TEXTS[60:]]) + b"\n\xff\n")
    return path


INPUTS = {"jsonl": jsonl, "csv": csv, "lines": lines}


def left(output: Path) -> list[str]:
    """What lies beside an output."""
    return sorted(path.name[len(output.name) :] for path in output.parent.glob(f"{output.name}?*"))


#: Input, output and arguments of a run.
Unfinished = tuple[Path, Path, list[Any]]


class Killed(BaseException):
    """Stands for a kill: nothing but `finally` and `with` sees it."""


class Kill:
    """kill(n): the n-th call that changes the disk does not come back, and neither do those after it."""

    def __init__(self) -> None:
        self.calls = {"left": -1, "made": 0}

    def __call__(self, left: int) -> None:
        self.calls.update(left=left, made=0)


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> Kill:
    kill = Kill()
    calls = kill.calls
    monkeypatch.setattr(atomic_output, "_SYNC", 0.0)  # how many calls there are may not depend on the clock

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            calls["made"] += 1
            if calls["left"] == 0:
                raise Killed
            calls["left"] -= 1
            return function(*arguments, **options)

        return call

    for module, name in [
        (journal, "write_all"),
        (atomic_output, "write_all"),
        (os, "fsync"),
        (os, "replace"),
        (os, "unlink"),
        (atomic_output, "sync_folder"),
        (journal, "sync_folder"),
        (atomic_output.AtomicOutput, "begin"),
        (atomic_output.AtomicOutput, "finish"),
        (journal.Journal, "clear"),
        (journal.Journal, "truncate"),
        (journal.Journal, "remove"),
    ]:
        monkeypatch.setattr(module, name, dying(getattr(module, name)))

    return kill


# Every place where the process can end


@pytest.mark.parametrize("format", ["jsonl", "openai", "table"])
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
    for at in sorted(random.sample(range(steps), 3)) if format != "jsonl" else range(steps):
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


def cut_off(tokmarg: Run, kill: Kill, *arguments: object, at: int = 12) -> None:
    """A run that ends in its middle."""
    kill(at)
    with pytest.raises(Killed):
        tokmarg(*arguments)
    kill(-1)


@pytest.fixture
def unfinished(tokmarg: Run, tmp_path: Path, kill: Kill) -> Unfinished:
    """Input, output and arguments of a run that was cut off in its middle."""
    given, output = lines(tmp_path), tmp_path / "out.jsonl"
    arguments = ["score", "--input", given, "--output", output]
    cut_off(tokmarg, kill, *arguments)
    assert left(output) == [journal.PART, journal.JOURNAL]
    return given, output, arguments


def whole(tokmarg: Run, given: Path, tmp_path: Path, *more: object) -> bytes:
    """The bytes of a run that was left alone."""
    assert tokmarg("score", "--input", given, "--output", tmp_path / "alone", *more).exit_code == 0
    return (tmp_path / "alone").read_bytes()


def test_resumed_run_scores_only_what_is_missing(
    tokmarg: Run, tmp_path: Path, unfinished: Unfinished, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, output, arguments = unfinished
    expected = whole(tokmarg, given, tmp_path)
    mark = json.loads(Path(f"{output}{journal.JOURNAL}").read_bytes().splitlines()[-1])
    assert 0 < mark["records"] < len(TEXTS)
    seen: list[object] = []
    score_packs = Guard.score_packs

    def watched(self: Guard, contents: Iterable[Any], **options: Any) -> Any:
        def noted() -> Iterator[Any]:
            for record in contents:
                seen.append(record.id)
                yield record

        return score_packs(self, noted(), **options)

    monkeypatch.setattr(Guard, "score_packs", watched)
    result = tokmarg(*arguments, "--resume")
    assert result.stderr.startswith(f"Going on behind record {mark['records']}.\n")
    assert seen[0] == mark["records"] + 1
    assert output.read_bytes() == expected


def test_exit_code_counts_what_was_scored_before(tokmarg: Run, tmp_path: Path, kill: Kill) -> None:
    given, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    given.write_text("gun\n" * 40 + "hello\n" * 100)
    arguments = ["score", "--input", given, "--output", output, "--fail-on-flagged"]
    cut_off(tokmarg, kill, *arguments)
    assert tokmarg(*arguments, "--resume").exit_code == 3


def test_first_error_is_still_known(tokmarg: Run, tmp_path: Path, kill: Kill) -> None:
    given, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    given.write_text("\n" * 150)
    arguments = ["score", "--input", given, "--output", output]
    cut_off(tokmarg, kill, *arguments)
    result = tokmarg(*arguments, "--resume")
    assert result.exit_code == 1
    assert "none of the 150 records could be scored; the first: empty_text: " in result.stderr


# What must be the same


def change(offset: int) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        data = bytearray(path.read_bytes())
        status = path.stat()
        data[offset] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        change(0),
        change(-2),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
    ],
)
def test_changed_input_is_refused(tokmarg: Run, unfinished: Unfinished, edit: Callable[[Path], object]) -> None:
    given, output, arguments = unfinished
    before = {name: Path(f"{output}{name}").read_bytes() for name in left(output)}
    original = given.read_bytes()
    edit(given)
    result = tokmarg(*arguments, "--resume")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {output}: cannot be resumed: the input is not what it was in the first run; delete "
        f"{output}{journal.PART} and {output}{journal.JOURNAL} to start anew\n"
    )
    assert {name: Path(f"{output}{name}").read_bytes() for name in left(output)} == before
    given.write_bytes(original)
    assert tokmarg(*arguments, "--resume").exit_code == 0


def test_renamed_input_and_bundle_are_the_same(
    tokmarg: Run, tmp_path: Path, unfinished: Unfinished, word_bundle: Path
) -> None:
    given, output, _ = unfinished
    given.rename(tmp_path / "other.txt")
    shutil.copytree(word_bundle, tmp_path / "bundle")
    result = tokmarg(
        "score", "--input", tmp_path / "other.txt", "--output", output, "--resume", "--bundle", tmp_path / "bundle"
    )
    assert result.exit_code == 0
    assert output.read_bytes() == whole(tokmarg, tmp_path / "other.txt", tmp_path)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--method", "token"], "--method: token, but exact in the first run"),
        (["--tolerance", 0.01], "--tolerance: 0.01, but 0.001"),
        (["--max-nodes", 3], "--max-nodes"),
        (["--top-p", 0.5], "--top-p"),
        (["--eps", 0.5], "--eps"),
        (["--max-depth", 3], "--max-depth"),
        (["--on-overflow", "window"], "--on-overflow"),
        (["--threshold", 0.7], "thresholds"),
        (["--format", "openai"], "output format: openai, but jsonl"),
        (["--input-format", "jsonl"], "input format: jsonl, but lines"),
        (["--role", "assistant"], "--role: assistant, but not given"),
        (["--threads", 3], "threads: 3, but one per core of"),
        (["--no-verify"], "the bundle is not what it was"),
    ],
)
def test_changed_setting_is_refused(tokmarg: Run, unfinished: Unfinished, more: list[str], named: str) -> None:
    _, output, arguments = unfinished
    result = tokmarg(*arguments, "--resume", *more)
    assert result.exit_code == 1
    assert named in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not output.exists()
    assert tokmarg(*arguments, "--resume").exit_code == 0


def test_every_option_is_recorded_or_known_to_change_nothing(tokmarg: Run, unfinished: Unfinished) -> None:
    from tokmarg.cli.commands.score import score
    from tokmarg.cli.resume.fingerprint import UNRECORDED

    header = json.loads(Path(f"{unfinished[1]}{journal.JOURNAL}").read_bytes().splitlines()[0])
    names = {parameter.name for parameter in score.params}
    assert names >= UNRECORDED
    assert {f"--{name.replace('_', '-')}" for name in names - UNRECORDED} <= set(header["run"])


@pytest.mark.parametrize("verified", [True, False])
def test_changed_bundle_is_refused(tokmarg: Run, tmp_path: Path, kill: Kill, word_bundle: Path, verified: bool) -> None:
    given, output, bundle = lines(tmp_path), tmp_path / "out.jsonl", tmp_path / "bundle"
    shutil.copytree(word_bundle, bundle)
    how = [] if verified else ["--no-verify"]
    arguments = ["score", "--input", given, "--output", output, "--bundle", bundle, *how]
    cut_off(tokmarg, kill, *arguments)
    changed = bundle / ("manifest.json" if verified else "tokenizer.json")
    text = changed.read_text()
    changed.write_text(text.replace("tests/words", "tests/other") if verified else text.replace("hello", "hallo"))
    result = tokmarg(*arguments, "--resume")
    assert result.exit_code == 1
    assert "the bundle is not what it was in the first run" in result.stderr


def test_thresholds_count_by_what_they_say(tokmarg: Run, tmp_path: Path, kill: Kill) -> None:
    given, output, limits = lines(tmp_path), tmp_path / "out.jsonl", tmp_path / "limits.toml"
    limits.write_text("unsafe = 0.7\n")
    arguments = ["score", "--input", given, "--output", output]
    cut_off(tokmarg, kill, *arguments, "--thresholds", limits)
    limits.write_text("unsafe = 0.8\n")
    assert "thresholds: " in tokmarg(*arguments, "--thresholds", limits, "--resume").stderr
    assert tokmarg(*arguments, "--threshold", 0.7, "--resume").exit_code == 0


def test_input_that_changes_under_the_run(tokmarg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, output = lines(tmp_path), tmp_path / "out.jsonl"
    score_packs = Guard.score_packs

    def growing(self: Guard, contents: Iterable[Any], **options: Any) -> Any:
        with given.open("ab") as stream:
            stream.write(b"one more\n")
        return score_packs(self, contents, **options)

    monkeypatch.setattr(Guard, "score_packs", growing)
    result = tokmarg("score", "--input", given, "--output", output)
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert result.stderr.startswith(f"Error: {given}: changed while it was scored")
    assert not output.exists()
    assert left(output) == []


# Files that are not what the journal says


@pytest.mark.parametrize("damage", ["torn mark", "more rows", "fewer rows", "no rows", "changed rows", "torn header"])
def test_a_run_is_resumed_after_the_last_valid_checkpoint(
    tokmarg: Run, tmp_path: Path, unfinished: Unfinished, damage: str
) -> None:
    given, output, arguments = unfinished
    rows, marks = Path(f"{output}{journal.PART}"), Path(f"{output}{journal.JOURNAL}")
    data, notes = rows.read_bytes(), marks.read_bytes()
    if damage == "torn mark":
        marks.write_bytes(notes[:-7])
    elif damage == "more rows":
        rows.write_bytes(data + b'{"schema_version"')
    elif damage == "fewer rows":
        rows.write_bytes(data[:-1])
    elif damage == "no rows":
        rows.unlink()
    elif damage == "changed rows":
        rows.write_bytes(b"[" + data[1:])
    else:
        marks.write_bytes(notes[:50])
    assert tokmarg(*arguments, "--resume").exit_code == 0
    assert output.read_bytes() == whole(tokmarg, given, tmp_path)
    assert left(output) == []


@pytest.mark.parametrize("text", ["a file of mine\n", '{"schema_version": 2, "run": {}}\n', "[]\n", "7\n"])
def test_foreign_journal_is_left_alone(tokmarg: Run, tmp_path: Path, text: str) -> None:
    given, output = lines(tmp_path), tmp_path / "out.jsonl"
    foreign = Path(f"{output}{journal.JOURNAL}")
    foreign.write_text(text)
    result = tokmarg("score", "--input", given, "--output", output, "--resume")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {foreign}: is damaged, or no journal that this tokmarg can read; delete it to start anew\n"
    )
    assert foreign.read_text() == text


def test_a_flipped_bit_anywhere_in_the_journal(tokmarg: Run, tmp_path: Path, unfinished: Unfinished) -> None:
    """Its line and those behind it are not believed: fewer rows are gone on with, or none are, in one line."""
    given, output, arguments = unfinished
    expected = whole(tokmarg, given, tmp_path)
    rows, marks = Path(f"{output}{journal.PART}"), Path(f"{output}{journal.JOURNAL}")
    data, notes = rows.read_bytes(), marks.read_bytes()
    header = notes.index(b"\n")
    random.seed(7)
    for place in [*random.sample(range(header), 8), *random.sample(range(header + 1, len(notes)), 24), len(notes) - 1]:
        broken = bytearray(notes)
        broken[place] ^= 1 << random.randrange(8)
        output.unlink(missing_ok=True)
        rows.write_bytes(data)
        marks.write_bytes(broken)
        result = tokmarg(*arguments, "--resume")
        if place < header:
            assert result.exit_code == 1
            assert result.stderr.startswith(f"Error: {marks}: is damaged, or no journal")
            assert len(result.stderr.splitlines()) == 1
            assert (rows.read_bytes(), marks.read_bytes()) == (data, bytes(broken))
        else:
            assert (result.exit_code, output.read_bytes()) == (0, expected)
            summary = result.stderr.splitlines()[-1]
            assert summary.startswith(f"{len(TEXTS)} scored")  # the tally, too
            assert left(output) == []


def test_another_runs_counts(tokmarg: Run, tmp_path: Path, unfinished: Unfinished) -> None:
    """Lines of another journal do not fit; and if somebody made them fit, their counts are still checked."""
    given, output, arguments = unfinished
    marks = Path(f"{output}{journal.JOURNAL}")
    notes = marks.read_bytes()
    header, first, *_ = notes.splitlines()
    entry = json.loads(first)
    del entry["seal"]
    entry["tally"]["scored"] += 1
    line, _ = journal.encode_line(entry, "")  # as if there were no header before it
    marks.write_bytes(header + b"\n" + line)
    result = tokmarg(*arguments, "--resume")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (0, "Going on at the start.")
    assert output.read_bytes() == whole(tokmarg, given, tmp_path)

    output.unlink()
    Path(f"{output}{journal.PART}").write_bytes(b"")
    entry |= {"output": 0, "sha256": hashlib.sha256(b"").hexdigest()}
    damages: list[dict[str, Any]] = [
        {"scored": 10**6}, {"flagged": -1}, {"errors": {"no such": 1}}, {"errors": []}, {"scored": "1"},
    ]  # fmt: skip
    for damage in damages:
        line, _ = journal.encode_line({**entry, "tally": {**entry["tally"], **damage}}, json.loads(header)["seal"])
        marks.write_bytes(header + b"\n" + line)
        result = tokmarg(*arguments, "--resume")
        assert result.exit_code == 1, damage
        assert result.stderr.startswith(f"Error: {output}: cannot be resumed: its journal holds other counts")
        assert len(result.stderr.splitlines()) == 1


# Starting


def test_nothing_to_resume_starts_at_the_start(tokmarg: Run, tmp_path: Path) -> None:
    given, output = lines(tmp_path), tmp_path / "out.jsonl"
    result = tokmarg("score", "--input", given, "--output", output, "--resume")
    assert result.exit_code == 0
    assert result.stderr.startswith("Going on at the start.\n")
    assert output.read_bytes() == whole(tokmarg, given, tmp_path)


def test_without_resume_rows_are_not_thrown_away(tokmarg: Run, tmp_path: Path, unfinished: Unfinished) -> None:
    given, output, arguments = unfinished
    output.write_text("old")
    given.write_text("hello\n")
    rows, marks = Path(f"{output}{journal.PART}"), Path(f"{output}{journal.JOURNAL}")
    before, records = (
        (rows.read_bytes(), marks.read_bytes()),
        json.loads(marks.read_bytes().splitlines()[-1])["records"],
    )
    result = tokmarg(*arguments)
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {output}: an unfinished run has {records} rows of it: --resume goes on behind them, or delete {rows} "
        "to start anew\n"
    )
    assert (rows.read_bytes(), marks.read_bytes(), output.read_text()) == (*before, "old")
    rows.unlink()
    assert tokmarg(*arguments).exit_code == 0
    assert len(output.read_text().splitlines()) == 1
    assert left(output) == []


def test_older_output_stays_until_the_new_one_is_whole(tokmarg: Run, tmp_path: Path, kill: Kill) -> None:
    given, output = lines(tmp_path), tmp_path / "out.jsonl"
    output.write_text("old")
    output.chmod(0o640)
    cut_off(tokmarg, kill, "score", "--input", given, "--output", output)
    assert output.read_text() == "old"
    assert tokmarg("score", "--input", given, "--output", output, "--resume").exit_code == 0
    assert len(output.read_text().splitlines()) == len(TEXTS) + 3
    assert output.stat().st_mode & 0o777 == 0o640


def test_empty_input(tokmarg: Run, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_bytes(b"")
    result = tokmarg("score", "--input", tmp_path / "in.txt", "--output", tmp_path / "out", "--resume")
    assert result.exit_code == 0
    assert (tmp_path / "out").read_bytes() == b""
    assert left(tmp_path / "out") == []


def test_link_leads_to_the_output(tokmarg: Run, tmp_path: Path) -> None:
    given = lines(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "out")
    assert tokmarg("score", "--input", given, "--output", tmp_path / "link").exit_code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "out").read_bytes() == whole(tokmarg, given, tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [
        ["hello", "--output", "OUT"],
        ["--output", "OUT"],
        ["--input", "-", "--output", "OUT"],
        ["--input", "IN"],
        ["--input", "IN", "--output", os.devnull],
    ],
)
def test_resume_needs_two_files(tokmarg: Run, tmp_path: Path, arguments: list[str]) -> None:
    names = {"IN": lines(tmp_path), "OUT": tmp_path / "out"}
    result = tokmarg("score", "--resume", *(names.get(argument, argument) for argument in arguments), input="hello\n")
    assert result.exit_code == 2
    assert "--resume needs --input FILE and --output FILE" in result.stderr
    assert not (tmp_path / "out").exists()


def test_failure_before_the_first_row_leaves_nothing(tokmarg: Run, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("a,b\n1,2\n")
    for more in (["--bundle", tmp_path / "none"], []):
        assert tokmarg("score", "--input", tmp_path / "in.csv", "--output", tmp_path / "out", *more).exit_code == 1
        assert left(tmp_path / "out") == []


def test_output_in_a_missing_folder(tokmarg: Run, tmp_path: Path) -> None:
    output = tmp_path / "none" / "out.jsonl"
    result = tokmarg("score", "--input", lines(tmp_path), "--output", output)
    assert (result.exit_code, result.stderr) == (1, f"Error: {output}: No such file or directory\n")


def test_two_runs_do_not_share_an_output(tokmarg: Run, tmp_path: Path) -> None:
    given, output = lines(tmp_path), tmp_path / "out.jsonl"
    with atomic_output.AtomicOutput(str(output), resume=False):
        result = tokmarg("score", "--input", given, "--output", output, "--resume")
    assert result.exit_code == 1
    assert "another process is at work on this output" in result.stderr
    assert tokmarg("score", "--input", given, "--output", output).exit_code == 0


# Full disks, closed pipes, Ctrl-C


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
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {output}: {os.strerror(errno.EFBIG)}")
    part = Path(f"{output}{journal.PART}")
    rows = part.read_bytes() if part.exists() else b""
    assert rows == b"" or rows.endswith(b"}\n")
    if rows:
        kept = len(rows.splitlines())
        assert line.endswith(f"; {kept} rows are kept, --resume goes on behind them")
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


#: A call into C that never comes back and that no signal cuts short, as a long pass of onnxruntime: a lock taken twice.
STUCK = """import ctypes, os, tokmarg.engine.session as s
def stuck(self, *arguments):
    open(os.environ["READY"], "w").close()
    libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(lock)
    libc.pthread_mutex_lock(lock)
s.Session.NAME = stuck
"""


def interrupted(
    environment: dict[str, str], ready: Callable[[], bool], *arguments: str, **streams: Any
) -> tuple[int, float, str]:
    """Runs until ``ready`` exists, presses Ctrl-C: exit code, seconds until the end, stderr."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL} | streams
    process = subprocess.Popen([*COMMAND, *arguments], env=environment, stderr=subprocess.PIPE, text=True, **streams)
    deadline = time.monotonic() + 60
    while not ready() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    return process.returncode, time.monotonic() - start, stderr


@pytest.mark.parametrize("name", ["run", "__init__"], ids=["a pass", "loading the graph"])
def test_interrupt_while_onnxruntime_is_busy(word_bundle: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(STUCK.replace("NAME", name))
    environment = {
        **os.environ,
        "TOKMARG_BUNDLE": str(word_bundle),
        "READY": str(tmp_path / "ready"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)]),
    }
    taken: list[float] = []
    while (
        len(taken) < 3 and min(taken, default=1) >= 1
    ):  # a second is short where the machine is busy with other things
        (tmp_path / "ready").unlink(missing_ok=True)
        code, seconds, stderr = interrupted(environment, (tmp_path / "ready").exists, "hello")
        assert code == 130
        assert stderr.strip() == "Aborted!"
        taken.append(seconds)
    assert min(taken) < 1


def test_interrupted_run_says_what_is_kept(word_bundle: Path, tmp_path: Path) -> None:
    given, output = tmp_path / "in.txt", tmp_path / "out.jsonl"
    given.write_text("hello gun\n" * 20_000)
    environment = {**os.environ, "TOKMARG_BUNDLE": str(word_bundle)}
    marks = Path(f"{output}{journal.JOURNAL}")
    code, _, stderr = interrupted(
        environment,
        lambda: marks.exists() and marks.read_bytes().count(b"\n") > 3,
        *("--input", str(given), "--output", str(output)),
    )
    assert code == 130
    kept = json.loads(marks.read_bytes().rpartition(b"}\n")[0].splitlines()[-1] + b"}")["records"]
    assert stderr.strip() == f"Aborted! {kept:,} rows are kept, --resume goes on behind them."


def test_ignored_interrupts_stay_ignored(word_bundle: Path, tmp_path: Path) -> None:
    given = tmp_path / "in.txt"
    given.write_text("hello\n" * 300)
    environment = {**os.environ, "TOKMARG_BUNDLE": str(word_bundle)}
    marks = tmp_path / f"out{journal.JOURNAL}"
    code, _, _ = interrupted(
        environment,
        marks.exists,
        *("--input", str(given), "--output", str(tmp_path / "out")),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert code == 0
