"""``tokmarg score`` in this process, on the guard that counts words."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.support.command_line import Run
from tests.support.edited_bundle import edit_spec
from tests.support.served import with_table
from tokmarg.errors import BundleError
from tokmarg.guard import Guard


def rows(result: Result) -> list[Any]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def kinds(result: Result) -> list[Any]:
    """Per row: the error's type, else whether it was flagged."""
    return [row["error"]["type"] if "error" in row else row["flagged"] for row in rows(result)]


def summary(result: Result) -> str:
    return result.stderr.splitlines()[-1]


def write(folder: Path, name: str, data: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


# What is scored


def test_texts(tokmarg: Run) -> None:
    result = tokmarg("score", "hello", "hello gun")
    assert result.exit_code == 0
    assert [row["id"] for row in rows(result)] == [1, 2]
    assert [round(row["unsafe"], 4) for row in rows(result)] == [0.018, 0.982]  # sigmoid(4 - 8), sigmoid(12 - 8)
    assert rows(result)[0]["model"] == "tests/words"


def test_scores_are_those_of_the_library(tokmarg: Run, word_bundle: Path) -> None:
    guard = Guard.load(word_bundle, device="cpu")
    expected = guard.score("gun idiot", id=1, role="assistant", tolerance=0.1, max_nodes=2).to_dict()
    result = tokmarg("score", "gun idiot", "--role", "assistant", "--tolerance", 0.1, "--max-nodes", 2)
    assert rows(result) == [expected]


def test_work(tokmarg: Run) -> None:
    rows = [json.loads(line) for line in tokmarg("score", "gun", "", "--work").stdout.splitlines()]
    assert rows[0]["work"].keys() == {"passes", "tokens", "nodes"}
    assert rows[1].keys() == {"schema_version", "id", "error"}


@pytest.mark.parametrize("arguments", [[], ["--input", "-"]])
def test_stdin_is_plain_lines(tokmarg: Run, arguments: list[str]) -> None:
    result = tokmarg("score", *arguments, input='{"text": "gun"}\ngun\n')
    assert len(rows(result)) == 2
    assert summary(result).startswith("2 scored")


def test_stdin_in_another_format(tokmarg: Run) -> None:
    result = tokmarg("score", "--input-format", "jsonl", input='{"text": "gun", "id": "x"}\n')
    assert [row["id"] for row in rows(result)] == ["x"]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", '{"text": "hello"}\n{"text": "gun"}'),
        ("a.ndjson", '{"text": "hello"}\n{"text": "gun"}'),
        ("a.csv", "text,id\nhello,1\ngun,2\n"),
        ("a.txt", "hello\ngun"),
    ],
)
def test_file_in_the_format_of_its_extension(tokmarg: Run, tmp_path: Path, name: str, data: str | bytes) -> None:
    result = tokmarg("score", "--input", write(tmp_path, name, data))
    assert kinds(result) == [False, True]


def test_input_format_outweighs_the_extension(tokmarg: Run, tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "body\ngun\n")
    result = tokmarg("score", "--input", path, "--input-format", "csv", "--text-field", "body")
    assert kinds(result) == [True]


def test_every_record_keeps_its_place(tokmarg: Run, tmp_path: Path) -> None:
    lines = [
        b'{"text": "gun", "id": "first"}',
        b"",
        b'{"text": "hello"}',
        b'{"text": "\xff"}',
        b'{"text": " "}',
        b'{"messages": [{"role": "bot", "content": "gun"}]}',
        b'{"text": "boom boom", "id": null}',
        b'{"text": "' + b"gun " * 200 + b'"}',
        b'{"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "gun"}], "id": [8]}',
    ]
    result = tokmarg("score", "--input", write(tmp_path, "a.jsonl", b"\n".join(lines)))
    assert result.exit_code == 0
    expected = [True, "invalid_record", False, "invalid_encoding", "empty_text", "unknown_role"]
    assert kinds(result) == [*expected, "non_finite_logits", "content_too_long", True]
    assert [row["id"] for row in rows(result)] == ["first", 2, 3, 4, 5, 6, None, 8, [8]]
    assert rows(result)[-1]["labels"]["C"] is not None  # an assistant message is judged
    assert rows(result)[0]["labels"]["C"] is None
    assert "3 scored, 2 flagged, 6 failed (1 content_too_long, 1 empty_text, " in result.stderr


def test_order_holds_over_many_packs(tokmarg: Run) -> None:
    words = ["gun" if i % 7 == 0 else "" if i % 5 == 0 else "hello" for i in range(300)]
    result = tokmarg("score", input="\n".join(words))
    assert kinds(result) == [{"gun": True, "": "empty_text", "hello": False}[word] for word in words]
    assert [row["id"] for row in rows(result)] == list(range(1, 301))


def test_megabyte_text_is_an_error_row(tokmarg: Run) -> None:
    result = tokmarg("score", input="gun " * 300_000 + "\nhello\n")
    assert kinds(result) == ["content_too_long", False]


def test_window_finds_what_stands_at_the_end(tokmarg: Run) -> None:
    result = tokmarg("score", "--on-overflow", "window", input="hello " * 200 + "gun\n")
    (row,) = rows(result)
    assert (row["flagged"], row["truncated"]) == (True, True)


def test_role(tokmarg: Run) -> None:
    assert rows(tokmarg("score", "gun", "--role", "assistant"))[0]["labels"]["C"] is not None
    assert rows(tokmarg("score", "gun", "--role", "user"))[0]["labels"]["C"] is None


def test_role_beside_messages_is_an_error_row(tokmarg: Run) -> None:
    lines = ['{"messages": [{"role": "user", "content": "gun"}]}', '{"text": "gun"}']
    result = tokmarg("score", "--role", "user", "--input-format", "jsonl", input="\n".join(lines))
    assert kinds(result) == ["invalid_record", True]


def test_texts_that_are_not_unicode_are_error_rows(tokmarg: Run) -> None:
    # What the interpreter makes of arguments that are not UTF-8.
    assert kinds(tokmarg("score", "\udcff", "hello")) == ["invalid_encoding", False]


# Thresholds


def test_threshold(tokmarg: Run) -> None:
    assert kinds(tokmarg("score", "hello", "gun", "--threshold", 0)) == [True, True]
    assert kinds(tokmarg("score", "hello", "gun", "--threshold", 0.99)) == [False, False]


def test_thresholds_file(tokmarg: Run, tmp_path: Path) -> None:
    path = write(tmp_path, "limits.toml", "unsafe = 1.0\n[labels]\nB = 0.5\n")
    assert kinds(tokmarg("score", "hello", "gun", "idiot", "--thresholds", path)) == [False, False, True]


def test_threshold_and_thresholds_exclude_each_other(tokmarg: Run, tmp_path: Path) -> None:
    path = write(tmp_path, "limits.toml", "")
    result = tokmarg("score", "hello", "--threshold", 0.5, "--thresholds", path)
    assert result.exit_code == 2
    assert "exclude each other" in result.stderr


def test_thresholds_for_an_unknown_label_leave_the_output_alone(tokmarg: Run, tmp_path: Path) -> None:
    limits = write(tmp_path, "limits.toml", "[labels]\nS1 = 0.5\n")
    output = write(tmp_path, "out.jsonl", "old")
    result = tokmarg("score", "hello", "--thresholds", limits, "--output", output)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {limits}: labels.S1: is not a known field (known: A, B, C)\n"
    assert output.read_text() == "old"


# Usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hello", "--input", "a.txt"], "TEXT and --input exclude each other"),
        (["hello", "--input-format", "csv"], "--input-format"),
        (["hello", "--text-field", "body"], "--text-field"),
        (["-"], "--input -"),
        (["--input", "a.dat"], "a.dat: its extension names no format"),
        (["--input", "a.dat"], "--input-format"),
        (["--input", "-", "--text-field", "body"], "plain lines"),
        (["--input", "a.txt", "--text-field", "body"], "plain lines"),
        (["hello", "--threshold", "1.5"], "1.5"),
        (["hello", "--threshold", "nan"], "nan"),
        (["hello", "--threshold", "x"], "'x'"),
        (["hello", "--tolerance", "0"], "tolerance"),
        (["hello", "--tolerance", "nan"], "nan"),
        (["hello", "--max-nodes", "0"], "max-nodes"),
        (["hello", "--threads", "0"], "threads"),
        (["hello", "--role", "system"], "system"),
        (["hello", "--format", "xml"], "xml"),
        (["hello", "--device", "tpu"], "tpu"),
        (["hello", "--on-overflow", "cut"], "cut"),
        (["hello", "--method", "best"], "--method"),
    ],
)
def test_wrong_usage(tokmarg: Run, arguments: list[str], message: str) -> None:
    result = tokmarg("score", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_output_may_not_be_the_input(tokmarg: Run, tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "hello")
    result = tokmarg("score", "--input", path, "--output", os.path.join(tmp_path, ".", "a.txt"))
    assert result.exit_code == 2
    assert path.read_text() == "hello"


# Output


def test_output_file(tokmarg: Run, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    result = tokmarg("score", "hello", "--output", output)
    assert result.stdout == ""
    assert [json.loads(line)["id"] for line in output.read_text().splitlines()] == [1]


def test_missing_bundle_leaves_the_output_alone(tokmarg: Run, tmp_path: Path) -> None:
    output = write(tmp_path, "out.jsonl", "old")
    assert tokmarg("score", "hello", "--bundle", tmp_path / "none", "--output", output).exit_code == 1
    assert output.read_text() == "old"


def test_table(tokmarg: Run) -> None:
    result = tokmarg("score", "--format", "table", "hello gun", "")
    assert result.stdout.splitlines() == [
        "1  hello gun",
        "   flagged: yes   unsafe 0.982 [0.982, 0.982]   coverage 0.997",
        "   A  Weapons                         0.980 [0.980, 0.980] ██████████",
        "   B  Insults                         0.119 [0.119, 0.119] █",
        "   C  Refusals                        does not apply",
        "",
        "2  error empty_text: text is empty or blank",
        "",
    ]


def test_openai_answers_texts_with_one_response(tokmarg: Run) -> None:
    result = tokmarg("score", "--format", "openai", "hello", "gun")
    (response,) = rows(result)
    assert [r["flagged"] for r in response["results"]] == [False, True]
    assert response["results"][1]["categories"] == {"A": True, "B": False, "C": False}
    assert rows(tokmarg("score", "--format", "openai", "hello", "gun")) == [response]
    assert rows(tokmarg("score", "--format", "openai", "hello", "guns"))[0]["id"] != response["id"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ((), "flagged: unsafe >= 0.5 (the default)"),
        (("--threshold", 0.25), "flagged: unsafe >= 0.25 (--threshold)"),
        (("--method", "token"), "flagged: unsafe >= 0.5 (the default)"),
        (("--thresholds", "FILE"), "flagged: unsafe >= 0.9 (--thresholds), B >= 0.25, A >= 0.125 (--thresholds)"),
    ],
)
def test_the_first_line_says_what_flags(tokmarg: Run, tmp_path: Path, options: tuple[object, ...], line: str) -> None:
    file = tmp_path / "limits.toml"
    file.write_text("unsafe = 0.9\n[labels]\nB = 0.25\nA = 0.125\n")
    result = tokmarg("score", "gun", *(file if option == "FILE" else option for option in options))
    assert result.stderr.splitlines()[0] == line


def test_the_spec_may_decide(tokmarg: Run, bundle_copy: Path) -> None:
    edit_spec(bundle_copy, "policy", "threshold", value=0.75)
    result = tokmarg("score", "gun", "--bundle", bundle_copy)
    assert result.stderr.splitlines()[0] == "flagged: unsafe >= 0.75 (the guard's spec)"


def test_openai_has_no_place_for_the_error_of_a_text(tokmarg: Run) -> None:
    result = tokmarg("score", "--format", "openai", "hello", " ")
    assert result.exit_code == 1
    assert result.stdout == ""
    _, error = result.stderr.splitlines()
    assert error.startswith("Error: TEXT 2: empty_text: ")


def test_openai_answers_records_one_by_one(tokmarg: Run) -> None:
    result = tokmarg("score", "--format", "openai", input="hello\n\ngun\n")
    first, second, third = rows(result)
    assert [len(first["results"]), len(third["results"])] == [1, 1]
    assert second == {"schema_version": 1, "id": 2, "error": second["error"]}
    assert first["id"] != third["id"]


def test_openai_uses_the_labels_own_thresholds(tokmarg: Run, tmp_path: Path) -> None:
    path = write(tmp_path, "limits.json", '{"unsafe": 0.99, "labels": {"B": 0.1}}')
    (response,) = rows(tokmarg("score", "gun", "--format", "openai", "--thresholds", path))
    assert response["results"][0]["categories"] == {"A": False, "B": True, "C": False}
    assert response["results"][0]["flagged"] is True


# Summary and exit codes


@pytest.mark.parametrize(
    ("lines", "options", "code", "counts"),
    [
        ("", [], 0, "0 scored, 0 flagged, 0 failed, 0 low coverage, 0 not converged"),
        ("", ["--fail-on-flagged"], 0, "0 scored"),
        ("hello\n\n", [], 0, "1 scored, 0 flagged, 1 failed (1 empty_text)"),
        ("gun\n", [], 0, "1 scored, 1 flagged"),
        ("gun\n\n", ["--fail-on-flagged"], 3, "1 scored, 1 flagged, 1 failed"),
        ("hello\n\n", ["--fail-on-flagged"], 1, "1 scored, 0 flagged, 1 failed"),
        ("hello\n", ["--fail-on-flagged"], 0, "1 scored"),
        ("gun idiot\n", ["--max-nodes", 1], 0, "1 not converged"),
    ],
)
def test_exit_code_and_summary(tokmarg: Run, lines: str, options: list[str], code: int, counts: str) -> None:
    result = tokmarg("score", *options, input=lines)
    assert result.exit_code == code
    assert counts in summary(result)


@pytest.mark.parametrize("options", [[], ["--fail-on-flagged"]])
def test_nothing_could_be_scored(tokmarg: Run, options: list[str]) -> None:
    result = tokmarg("score", *options, input="\n\n")
    assert result.exit_code == 1
    assert kinds(result) == ["empty_text", "empty_text"]
    assert "Error: none of the 2 records could be scored; the first: empty_text" in result.stderr


def test_low_coverage_warns_once(tokmarg: Run) -> None:
    result = tokmarg("score", input="hello\nnoise\nnoise\n")
    assert result.exit_code == 0
    assert result.stderr.count("Warning:") == 1
    assert "coverage of record 2" in result.stderr
    assert "2 low coverage" in summary(result)
    assert "Warning" not in tokmarg("score", "hello").stderr


# Failures


def test_missing_bundle(tokmarg: Run, tmp_path: Path) -> None:
    result = tokmarg("score", "hello", "--bundle", tmp_path / "none")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "none" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("verify", [True, False])
def test_no_verify_skips_the_checksums(tokmarg: Run, word_bundle: Path, tmp_path: Path, verify: bool) -> None:
    for path in word_bundle.iterdir():
        write(tmp_path, path.name, path.read_bytes())
    tokenizer = tmp_path / "tokenizer.json"
    write(tmp_path, tokenizer.name, tokenizer.read_text().replace("hello", "hallo"))
    result = tokmarg("score", "gun", "--bundle", tmp_path, *([] if verify else ["--no-verify"]))
    assert result.exit_code == (1 if verify else 0)
    assert ("tokenizer.json" in result.stderr) == verify


def test_missing_input(tokmarg: Run, tmp_path: Path) -> None:
    path = tmp_path / "none.txt"
    result = tokmarg("score", "--input", path)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {path}: No such file or directory\n"


def test_folder_as_input(tokmarg: Run, tmp_path: Path) -> None:
    result = tokmarg("score", "--input", tmp_path, "--input-format", "lines")
    assert result.exit_code == 2
    assert result.stderr.endswith("--input names several files: --output must name a folder for theirs.\n")


def test_output_in_a_missing_folder(tokmarg: Run, tmp_path: Path) -> None:
    path = tmp_path / "none" / "out.jsonl"
    result = tokmarg("score", "hello", "--output", path)
    assert result.exit_code == 1
    assert result.stderr == f"Error: {path}: No such file or directory\n"


def test_csv_without_the_text_column(tokmarg: Run, tmp_path: Path) -> None:
    output = write(tmp_path, "out.jsonl", "old")
    result = tokmarg("score", "--input", write(tmp_path, "a.csv", "id,body\n1,gun\n"), "--output", output)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: the CSV input has no column 'text' (columns: 'id', 'body'; ")
    assert output.read_text() == "old"


def test_cuda_where_there_is_none(tokmarg: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    result = tokmarg("score", "hello", "--device", "cuda")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: CUDA was asked for")


def test_options_reach_the_loader(tokmarg: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def load(bundle: str | None, **options: Any) -> None:
        seen.append((bundle, options))
        raise BundleError("broken\nbundle \x1b[31m")

    monkeypatch.setattr(Guard, "load", load)
    result = tokmarg("score", "a", "--bundle", "b", "--device", "cpu", "--threads", 3, "--no-verify")
    assert seen == [("b", {"device": "cpu", "threads": 3, "verify": False, "calibration": None})]
    assert result.stderr == "Error: broken\\nbundle \\x1b[31m\n"  # on one line, and it cannot drive the terminal


def test_unexpected_failure_is_one_line(tokmarg: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(bundle: str | None, **options: Any) -> None:
        raise KeyError("gone")

    monkeypatch.setattr(Guard, "load", load)
    result = tokmarg("score", "hello")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: unexpected KeyError: 'gone' ")
    assert len(result.stderr.splitlines()) == 1


def test_interrupt(tokmarg: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(bundle: str | None, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Guard, "load", load)
    result = tokmarg("score", "hello")
    assert result.exit_code == 130
    assert result.stderr.strip() == "Aborted!"


def test_categories_of_openai(tokmarg: Run, bundle_copy: Path) -> None:
    result = tokmarg("score", "hello gun", "--format", "openai", "--categories", "openai")
    assert result.exit_code == 1
    assert "says nothing of OpenAI's categories" in result.stderr
    with_table(bundle_copy)
    for categories, true in ("openai", ["illicit/violent", "violence"]), ("native", ["A"]):
        options = ("--format", "openai", "--categories", categories, "--bundle", bundle_copy)
        found = json.loads(tokmarg("score", "hello gun", *options).stdout)["results"][0]["categories"]
        assert sorted(name for name, value in found.items() if value) == true
