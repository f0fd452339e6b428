"""``tokmarg score`` on chat logs, and on files as spreadsheets and other programs write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Run

LOG: list[dict[str, Any]] = [
    {"role": "system", "content": "hello"},
    {
        "role": "user",
        "name": "Bob",
        "content": [{"type": "text", "text": "gun"}, {"type": "image_url", "image_url": {}}],
    },
    {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
    {"role": "tool", "content": "idiot", "tool_call_id": "1"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "hello"},
    {"role": "function", "name": "f", "content": "idiot"},
]


def chat(folder: Path, *logs: Any) -> Path:
    path = folder / "chat.jsonl"
    path.write_text("\n".join(json.dumps({"id": i, "messages": log}) for i, log in enumerate(logs)), encoding="utf-8")
    return path


def rows(output: str) -> list[Any]:
    return [json.loads(line) for line in output.splitlines()]


def test_a_chat_log_scores_as_it_is(tokmarg: Run, tmp_path: Path) -> None:
    result = tokmarg("score", "--input", chat(tmp_path, LOG, LOG[1:2]))
    first, second = rows(result.stdout)
    assert first["skipped"] == {"system": 1, "image_url": 1, "tool_calls": 1, "tool": 1, "function": 1}
    assert second["skipped"] == {"image_url": 1}
    assert "index" not in first
    kept = [{"role": "user", "content": "gun"}, *LOG[4:6]]  # what the tool said is not in the prompt
    (alone,) = rows(tokmarg("score", "--input", chat(tmp_path, kept)).stdout)
    assert (first["unsafe"], first["labels"]) == (alone["unsafe"], alone["labels"])
    assert "; skipped: 2 image_url, 1 function, 1 system, 1 tool, 1 tool_calls" in result.stderr
    assert "skipped" not in rows(tokmarg("score", "hello").stdout)[0]
    assert "skipped" not in tokmarg("score", "hello").stderr


def test_roles_may_be_refused(tokmarg: Run, tmp_path: Path) -> None:
    result = tokmarg("score", "--input", chat(tmp_path, LOG, LOG[5:6]), "--on-role", "error")
    refused, scored = rows(result.stdout)
    assert refused["error"] == {
        "type": "unknown_role",
        "message": "messages[0].role 'system' is not one of user, assistant",
    }
    assert "unsafe" in scored


@pytest.mark.parametrize(
    ("judge", "judged"),
    [
        ("each", [(1, "user"), (2, "assistant"), (4, "assistant"), (5, "user")]),
        ("user", [(1, "user"), (5, "user")]),
        ("assistant", [(2, "assistant"), (4, "assistant")]),
    ],
)
def test_a_row_for_each_message(tokmarg: Run, tmp_path: Path, judge: str, judged: list[Any]) -> None:
    result = tokmarg("score", "--input", chat(tmp_path, LOG, LOG), "--judge", judge)
    found = rows(result.stdout)
    assert [(row["id"], row["index"], row["role"]) for row in found] == [(i, *each) for i in (0, 1) for each in judged]
    for row in found:
        if row["index"] == 2:
            assert row["error"]["type"] == "empty_text"
        else:
            cut = tokmarg("score", "--input", chat(tmp_path, LOG[: row["index"] + 1]))
            (alone,) = rows(cut.stdout)
            assert row["unsafe"] == pytest.approx(alone["unsafe"], abs=1e-6)
            assert row["skipped"] == alone["skipped"]
    assert "; skipped: 2 image_url" in result.stderr  # counted once a conversation


def test_the_table_names_the_message(tokmarg: Run, tmp_path: Path) -> None:
    table = tokmarg("score", "--input", chat(tmp_path, LOG), "--judge", "each", "--format", "table").stdout
    assert "0 [1] user  gun\n" in table
    assert "0 [2] assistant  error empty_text" in table
    assert "skipped: 1 system, 1 image_url" in table


def test_openai_has_a_response_for_each_message(tokmarg: Run, tmp_path: Path) -> None:
    result = tokmarg("score", "--input", chat(tmp_path, LOG), "--judge", "user", "--format", "openai")
    ids = {row["id"] for row in rows(result.stdout)}
    assert len(ids) == 2


SHEET = 'id;Beitrag;Wert\r\n1;hello;1,5\r\n2;"gun; gun";2,5\r\n'


@pytest.mark.parametrize(
    ("name", "data", "noticed"),
    [
        ("a.csv", SHEET.encode("utf-8-sig"), "fields are separated by semicolons"),
        ("a.csv", SHEET.replace(";", "\t").encode("utf-16"), "fields are separated by tabs, the encoding is UTF-16"),
        ("a.tsv", SHEET.replace(";", "\t").encode(), ""),
        ("a.txt", SHEET.replace(";", "\t").encode("utf-16"), "UTF-16 with tabs, as spreadsheets write it: read as tsv"),
    ],
)
def test_spreadsheets(tokmarg: Run, tmp_path: Path, name: str, data: bytes, noticed: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    result = tokmarg("score", "--input", path, "--text-field", "Beitrag")
    assert [(row["id"], row["flagged"]) for row in rows(result.stdout)] == [("1", False), ("2", True)]
    assert (f"{path}: {noticed}\n" in result.stderr) == bool(noticed)


def test_given_delimiters_and_encodings_are_not_named(tokmarg: Run, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(SHEET.replace("hello", "sch\xf6n").encode("cp1252"))
    options = ["--text-field", "Beitrag", "--delimiter", ";", "--encoding", "cp1252"]
    result = tokmarg("score", "--input", path, *options)
    assert [row.get("flagged") for row in rows(result.stdout)] == [False, True]
    decision, summary = result.stderr.splitlines()
    assert decision.startswith("flagged: ")
    assert summary.startswith("2 scored")
    assert "invalid_encoding" in tokmarg("score", "--input", path, *options[:4]).stdout


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"PK\x03\x04\x14\x00", "a.csv: is a spreadsheet or another ZIP file: save the sheet as CSV"),
        ("a.jsonl", b"\x1f\x8b\x08\x00", "a.jsonl: is compressed: unpack it"),
        ("a.json", b"hello", "the JSON input must be an array of objects, but begins with 'h'"),
        ("a.xlsx", b"", "its extension names no format (.jsonl .ndjson .json .csv .tsv .txt .parquet .arrow .feather)"),
    ],
)
def test_files_that_are_none_of_these(tokmarg: Run, tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    result = tokmarg("score", "--input", path)
    assert (result.exit_code, result.stdout) == (2 if name == "a.xlsx" else 1, "")
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "a.jsonl", "--delimiter", ";"], "--delimiter goes with csv and tsv input, not with jsonl"),
        (["--input", "a.csv", "--delimiter", ";;"], "a delimiter is one character, or tab"),
        (["--input", "a.csv", "--encoding", "nope"], "'nope' is no encoding that Python knows"),
        (["--encoding", "utf-16", "hello"], "--delimiter and --encoding go with --input or stdin, not with TEXT"),
    ],
)
def test_wrong_usage(tokmarg: Run, arguments: list[str], message: str) -> None:
    result = tokmarg("score", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
