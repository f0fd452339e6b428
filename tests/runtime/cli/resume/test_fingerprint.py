"""Settings, inputs and bundles that must be the same for a run to be resumed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Run
from tests.support.resumable_runs import Kill, Unfinished, cut_off, left, lines, whole
from tokmarg.cli.resume import journal
from tokmarg.guard import Guard

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX processes")


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
        (["--max-tokens", 50], "--max-tokens: 50, but not given"),
        (["--threshold", 0.7], "thresholds"),
        (["--prior", 0.5], "--prior: 0.5, but not given"),
        (["--format", "openai"], "output format: openai, but jsonl"),
        (["--input-format", "jsonl"], "input format: jsonl, but lines"),
        (["--role", "assistant"], "--role: assistant, but not given"),
        (["--judge", "each"], "--judge: each, but last"),
        (["--on-role", "error"], "--on-role: error, but skip"),
        (["--encoding", "cp1252"], "--encoding: cp1252, but not given"),
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
    assert result.exit_code == 1
    _, error = result.stderr.splitlines()
    assert error.startswith(f"Error: {given}: changed while it was scored")
    assert not output.exists()
    assert left(output) == []
