"""Files that are not what the journal says."""

from __future__ import annotations

import hashlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Run
from tests.support.resumable_runs import TEXTS, Unfinished, left, lines, whole
from tokmarg.cli.resume import journal

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX processes")


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
    assert (result.exit_code, result.stderr.splitlines()[0]) == (0, "Resuming from the start.")
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
