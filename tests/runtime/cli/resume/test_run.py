"""Runs from file to file: what a resumed run does, and how one starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Run
from tests.support.resumable_runs import TEXTS, Kill, Unfinished, cut_off, left, lines, whole
from tokmarg.cli.resume import atomic_output, journal
from tokmarg.guard import Guard

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX processes")


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
    assert result.stderr.startswith(f"Resuming after record {mark['records']}.\n")
    assert seen[0] == mark["records"] + 1
    assert output.read_bytes() == expected


@pytest.mark.parametrize("judge", ["each", "assistant"])
def test_messages_of_conversations_are_resumed_after_whole_ones(
    tokmarg: Run, tmp_path: Path, kill: Kill, judge: str
) -> None:
    given, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    roles = ("user", "assistant", "tool")
    logs = [
        [{"role": roles[i % 3], "content": "hello" if (n + i) % 5 else ""} for i in range(n % 7)] for n in range(150)
    ]
    given.write_text("\n".join(json.dumps({"messages": log}) for log in logs), encoding="utf-8")
    options = ["--judge", judge]
    expected = whole(tokmarg, given, tmp_path, *options)
    summary = tokmarg("score", "--input", given, "--output", tmp_path / "again", *options).stderr
    arguments = ["score", "--input", given, "--output", output, *options]
    for at in (12, 17):
        cut_off(tokmarg, kill, *arguments, at=at)
        mark = json.loads(Path(f"{output}{journal.JOURNAL}").read_bytes().splitlines()[-1])
        assert 0 < mark["records"] < len(logs)
        resumed = tokmarg(*arguments, "--resume")
        assert output.read_bytes() == expected
        assert resumed.stderr.splitlines()[-1] == summary.splitlines()[-1]


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


def test_nothing_to_resume_starts_at_the_start(tokmarg: Run, tmp_path: Path) -> None:
    given, output = lines(tmp_path), tmp_path / "out.jsonl"
    result = tokmarg("score", "--input", given, "--output", output, "--resume")
    assert result.exit_code == 0
    assert result.stderr.startswith("Resuming from the start.\n")
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
        f"Error: {output}: an unfinished run has {records} rows of it: --resume continues after them, or delete {rows} "
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
