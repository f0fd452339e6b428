"""``tokmarg evaluate`` on the word guard, whose scores are known, and its input files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tokmarg import TokmargError
from tokmarg.labelled import read_label_map, read_labelled

ROWS = [
    {"text": "gun", "labels": ["A"]},
    {"text": "idiot", "labels": ["B"]},
    {"text": "gun idiot", "labels": ["A", "B"]},
    {"text": "hello", "labels": []},
    {"text": "hello hello", "unsafe": False},
    {"text": "gun hello", "labels": ["A"], "known": ["A"]},
]
Run = Callable[..., Result]


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_guard_that_is_right(tokmarg: Run, tmp_path: Path) -> None:
    result = tokmarg("evaluate", "--data", write(tmp_path / "d.jsonl", ROWS), "--json", "--bootstrap", 50)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    found = report["methods"]["exact"]
    assert report["records"] == 6
    assert (found["micro_f1"], found["micro_auc"], found["hamming_loss"], found["failed"]) == (1.0, 1.0, 0.0, 0)
    assert found["labels"]["A"]["positives"] == 3
    assert found["labels"]["B"] == {"auc": 1.0, "average_precision": 1.0, "f1": 1.0, "positives": 2, "negatives": 2}
    assert found["labels"]["C"]["auc"] is None  # exists for assistant messages only
    assert (found["unsafe"]["positives"], found["unsafe"]["negatives"]) == (4, 2)
    assert found["unsafe"]["auc"] == 1.0
    assert found["intervals"]["unsafe_auc"] == [1.0, 1.0]
    assert math.isfinite(found["seconds_per_item"])


def test_methods_are_rows_of_the_table(tokmarg: Run, tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", ROWS)
    result = tokmarg("evaluate", "--data", data, "--methods", "exact, greedy,any-place", "--bootstrap", 0)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("6 records of ")
    assert [line.split()[0] for line in lines if line.startswith(("exact", "greedy", "any-place"))] == [
        "exact", "greedy", "any-place",
    ]  # fmt: skip
    assert any(line.startswith("unsafe or not: 4 unsafe, 2 safe; at 0.5: recall 1.000") for line in lines)
    assert [line.split()[0] for line in lines if line[:1] in "AB" and "1.000" in line] == ["A", "B"]


def test_rows_that_cannot_be_scored_are_counted(tokmarg: Run, tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", [*ROWS, {"text": " ", "labels": ["A"]}])
    result = tokmarg("evaluate", "--data", data, "--bootstrap", 0)
    assert "  1 records could not be scored" in result.stdout
    data = write(tmp_path / "none.jsonl", [{"text": " ", "labels": ["A"]}])
    result = tokmarg("evaluate", "--data", data)
    assert (result.exit_code, result.stderr) == (1, "Error: no record could be scored\n")


def test_one_class_only(tokmarg: Run, tmp_path: Path) -> None:
    result = tokmarg("evaluate", "--data", write(tmp_path / "d.jsonl", ROWS[:1]), "--json", "--bootstrap", 20)
    found = json.loads(result.stdout)["methods"]["exact"]
    assert found["unsafe"]["auc"] is None
    assert found["intervals"]["unsafe_auc"] is None


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty"),
        ([{"text": "x"}], "no record says anything: it needs labels or unsafe"),
        ([{"text": "x", "labels": ["Z"]}], "line 1: labels: 'Z' is none of A, B, C; a label map .--label-map FILE."),
        ([{"text": "x", "labels": [], "known": ["Z"]}], "line 1: known: 'Z' is none of"),
        ([{"text": "x", "labels": "A"}], "line 1: labels must be a list of strings"),
        ([{"text": "x", "unsafe": 1}], "line 1: unsafe must be true or false, not 1"),
        ([{"text": "x", "labels": []}, {"labels": []}], "line 2: the record has neither text nor messages"),
        (
            [{"id": 7, "text": "x", "unsafe": True}, {"id": "7", "text": "x"}, {"id": 7, "text": "y"}],
            "line 3: id 7 was used in line 1 already",
        ),
    ],
)
def test_files_that_say_too_little_or_too_much(rows: list[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(TokmargError, match=message):
        read_labelled(write(tmp_path / "d.jsonl", rows), ["A", "B", "C"])


def test_missing_file(tokmarg: Run, tmp_path: Path) -> None:
    result = tokmarg("evaluate", "--data", tmp_path / "none.jsonl")
    assert result.exit_code == 1
    assert result.stderr.endswith("none.jsonl: cannot be read: No such file or directory\n")
    assert tokmarg("evaluate", "--data", tmp_path, "--methods", "best").exit_code == 2


def test_label_map(tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text('[map]\nviolence = "A"\n"violence/graphic" = ["A", "B"]\nspam = []\n', encoding="utf-8")
    mapping = read_label_map(path, ["A", "B", "C"])
    assert mapping == {"violence": ("A",), "violence/graphic": ("A", "B"), "spam": ()}
    rows = [
        {"text": "1", "labels": ["violence"]},
        {"text": "2", "labels": [], "known": ["violence"]},
        {"text": "3", "labels": ["violence/graphic"], "known": ["violence/graphic"]},
        {"text": "4", "labels": ["spam"]},
        {"text": "5", "labels": []},
    ]
    found = read_labelled(write(tmp_path / "d.jsonl", rows), ["A", "B", "C"], mapping)
    assert [dict(example.labels) for example in found] == [
        {"A": True, "B": False}, {}, {"A": True, "B": True}, {"A": False, "B": False}, {"A": False, "B": False},
    ]  # fmt: skip
    assert [example.unsafe for example in found] == [True, None, True, True, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "map: is missing"),
        ("[map]\n", "map: is empty"),
        ('[map]\nx = "Z"\n', "map.x: 'Z' is no label of the bundle .A, B."),
        ("[map]\nx = 1\n", "map.x: must be a list"),
        ("[maps]\n", "maps: is not a known field"),
        ("x", "not valid TOML"),
        ("[map]\na = " + "[" * 5000, "not valid TOML: maximum recursion"),
        (f"[map]\n{'9' * 5000} = 'Z'\n", r"map\.9{200}: 'Z' is no label"),
    ],
)
def test_malformed_label_map(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "map.toml").write_text(text, encoding="utf-8")
    with pytest.raises(TokmargError, match=message):
        read_label_map(tmp_path / "map.toml", ["A", "B"])
