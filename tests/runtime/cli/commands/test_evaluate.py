"""``tokmarg evaluate`` on the word guard, whose scores are known, and its input files."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.command_line import Run
from tests.support.edited_bundle import edit_spec
from tokmarg import TokmargError
from tokmarg.evaluation.dataset import read_label_map, read_labelled

ROWS = [
    {"text": "gun", "labels": ["A"]},
    {"text": "idiot", "labels": ["B"]},
    {"text": "gun idiot", "labels": ["A", "B"]},
    {"text": "hello", "labels": []},
    {"text": "hello hello", "unsafe": False},
    {"text": "gun hello", "labels": ["A"], "known": ["A"]},
]


def write(path: Path, rows: Sequence[object]) -> Path:
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
    b = found["labels"]["B"]
    assert (b["auc"], b["average_precision"], b["f1"], b["positives"], b["negatives"]) == (1.0, 1.0, 1.0, 2, 2)
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
    assert [line.split()[0] for line in lines[2:6]] == ["method", "exact", "greedy", "any-place"]
    assert lines[lines.index("greedy:") + 1].startswith("  against exact: ")  # notes come below the table
    assert any(line.startswith("unsafe or not: 4 unsafe, 2 safe; at 0.5: recall 1.000") for line in lines)
    assert [line.split()[0] for line in lines if line[:1] in "AB" and "1.000" in line] == ["A", "B"]


def test_rows_that_cannot_be_scored_are_counted(tokmarg: Run, tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", [*ROWS, {"text": " ", "labels": ["A"]}])
    result = tokmarg("evaluate", "--data", data, "--bootstrap", 0)
    assert "  1 record could not be scored (1 empty_text)" in result.stdout
    found = json.loads(tokmarg("evaluate", "--data", data, "--bootstrap", 0, "--json").stdout)["methods"]["exact"]
    assert (found["failed"], found["failures"]) == (1, {"empty_text": 1})


def test_where_nothing_can_be_scored_the_most_frequent_reason_is_named(tokmarg: Run, tmp_path: Path) -> None:
    long = {"text": "gun " * 200, "labels": ["A"]}
    data = write(tmp_path / "none.jsonl", [{"text": " ", "labels": ["A"]}, {**long, "id": "x"}, {**long, "id": "y"}])
    result = tokmarg("evaluate", "--data", data)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        "Error: no record could be scored: content_too_long in 2 of 3; first record 'x': the content is "
    )


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
def test_files_that_say_too_little_or_too_much(rows: Sequence[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(TokmargError, match=message):
        read_labelled(write(tmp_path / "d.jsonl", rows), ["A", "B", "C"])


@pytest.mark.parametrize("command", ["evaluate", "calibrate"])
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("d.jsonl", "", "d.jsonl: is empty"),
        ("d.jsonl", "\ufeff", "d.jsonl: is empty"),
        ("d.csv", "", "d.csv: is empty"),
        ("d.csv", "text,labels\n", "d.csv: is empty"),
        (
            "d.jsonl",
            '{"text": "x", "labels": ["S99"]}',
            "d.jsonl, line 1: labels: 'S99' is none of A, B, C; a label map",
        ),
        ("d.jsonl", '{"text": "x", "labels": [], "known": ["Z"]}', "d.jsonl, line 1: known: 'Z' is none of A, B, C"),
        ("d.csv", "text,labels\nx,A;Z\n", "d.csv, record 1: labels: 'Z' is none of A, B, C"),
        (
            "d.jsonl",
            '{"id": "a", "text": "x", "labels": []}\n{"id": "a", "text": "y", "labels": []}\n',
            'd.jsonl, line 2: id "a" was used in line 1 already',
        ),
        ("d.csv", "id,text,labels\n7,x,A\n7,y,A\n", 'd.csv, record 2: id "7" was used in record 1 already'),
        ("d.jsonl", '{"text": "x"}\n', "d.jsonl: no record says anything: it needs labels or unsafe"),
        ("d.jsonl", '{"text": "x", "labels": []}\n\n', "d.jsonl, line 2: "),
    ],
)
def test_data_that_cannot_be_used_are_one_line(
    tokmarg: Run, tmp_path: Path, command: str, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    result = tokmarg(command, "--data", tmp_path / name)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {tmp_path}/{message}")


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


def test_csv_says_the_same_as_jsonl(tokmarg: Run, tmp_path: Path) -> None:
    rows = [
        "post,id,labels,known,unsafe",
        "gun,1,A,,",
        "idiot,2,B,,",
        '"gun, idiot",3,A; B,,',
        "hello,4,,,",  # none applies
        "hello hello,5,,,false",
        "gun hello,6,A,A,",
        "gun gun,7,,,true",  # of its labels nothing is known
    ]
    csv = tmp_path / "d.csv"
    csv.write_text("\n".join(rows) + "\n", encoding="utf-8")
    found = read_labelled(csv, ["A", "B"], text_field="post")
    assert [dict(example.labels) for example in found] == [
        {"A": True, "B": False}, {"A": False, "B": True}, {"A": True, "B": True}, {"A": False, "B": False},
        {"A": False, "B": False}, {"A": True}, {},
    ]  # fmt: skip
    assert [example.unsafe for example in found] == [True, True, True, False, False, True, True]
    assert found[2].record.content == "gun, idiot"
    result = tokmarg("evaluate", "--data", csv, "--text-field", "post", "--bootstrap", 0, "--json")
    assert json.loads(result.stdout)["methods"]["exact"]["micro_f1"] == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "d.csv: is empty"),
        ("text,labels\n", "d.csv: is empty"),
        ("words,labels\nx,A\n", "d.csv: the CSV input has no column 'text' .columns: 'words', 'labels'; --text-field"),
        ("text,labels\nx,A;Z\n", "d.csv, record 1: labels: 'Z' is none of A, B"),
        ("text,unsafe\nx,maybe\n", 'd.csv, record 1: unsafe must be true or false, not "maybe"'),
        ("text,id,labels\nx,7,A\ny,7,A\n", 'd.csv, record 2: id "7" was used in record 1 already'),
        ("text,labels\nx,A\ny\n", "d.csv, record 2: the row has 1 fields, the header 2"),
        ("text\nx\n", "d.csv: no record says anything"),
    ],
)
def test_malformed_csv(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "d.csv").write_text(text, encoding="utf-8")
    with pytest.raises(TokmargError, match=message):
        read_labelled(tmp_path / "d.csv", ["A", "B"])


def test_formats(tokmarg: Run, tmp_path: Path) -> None:
    data = write(tmp_path / "d.dat", ROWS)
    assert "its extension names no format" in tokmarg("evaluate", "--data", data).stderr
    assert tokmarg("evaluate", "--data", data, "--input-format", "jsonl", "--bootstrap", 0).exit_code == 0
    (tmp_path / "d.txt").write_text("x\n", encoding="utf-8")
    assert "plain lines carry no labels" in tokmarg("evaluate", "--data", tmp_path / "d.txt").stderr


def test_role_and_overflow(tokmarg: Run, tmp_path: Path) -> None:
    """C exists for assistant messages only; 200 words do not fit the word guard's context."""
    rows = [{"text": "gun", "labels": ["A"]}, {"text": "hello", "labels": []}]
    data = write(tmp_path / "d.jsonl", rows)
    as_user = json.loads(tokmarg("evaluate", "--data", data, "--json", "--bootstrap", 0).stdout)
    as_agent = tokmarg("evaluate", "--data", data, "--role", "assistant", "--json", "--bootstrap", 0)
    assert as_user["methods"]["exact"]["labels"]["C"]["negatives"] == 0
    assert json.loads(as_agent.stdout)["methods"]["exact"]["labels"]["C"]["negatives"] == 2
    data = write(tmp_path / "long.jsonl", [*rows, {"text": "hello " * 200 + "gun", "labels": ["A"]}])
    found = [
        json.loads(tokmarg("evaluate", "--data", data, "--on-overflow", way, "--json", "--bootstrap", 0).stdout)
        for way in ("error", "window")
    ]
    assert [report["methods"]["exact"]["failed"] for report in found] == [1, 0]
    assert found[1]["methods"]["exact"]["labels"]["A"]["positives"] == 2


def test_tolerance(tokmarg: Run, tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", ROWS)
    wide, narrow = (
        json.loads(
            tokmarg("evaluate", "--data", data, "--json", "--bootstrap", 0, "--tolerance", x, "--max-nodes", 2).stdout
        )["methods"]["exact"]["converged"]
        for x in (1, 1e-9)
    )
    assert wide > narrow


def test_compare(tokmarg: Run, word_bundle: Path, tmp_path: Path) -> None:
    """The bundle with itself differs in nothing; under a policy without B it has no B to be right about."""
    data = write(tmp_path / "d.jsonl", ROWS)
    policy = tmp_path / "no-b.toml"
    policy.write_text('exclude = ["B"]\n', encoding="utf-8")
    options = ["--data", data, "--compare", word_bundle, "--compare", policy, "--bootstrap", 20]
    result = tokmarg("evaluate", *options, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    names = [report["bundle"], *(other["bundle"] for other in report["compared"])]
    assert len(set(names)) == 3
    assert names[2] == "no-b.toml"
    same, fewer = (other["methods"]["exact"] for other in report["compared"])
    assert same["difference"]["from"] == {"bundle": names[0], "method": "exact"}
    assert {d["value"] for name, d in same["difference"].items() if name != "from"} <= {0.0, None}
    assert same["difference"]["micro_f1"]["interval"] == [0.0, 0.0]
    assert list(fewer["labels"]) == ["A", "C"]
    assert "auc:B" not in fewer["difference"]
    lines = tokmarg("evaluate", *options).stdout.splitlines()
    assert sum("against " in line for line in lines) == 2
    assert any(line.startswith("no-b.toml  exact") for line in lines)


def test_bundles_that_mean_different_labels_by_one_id(tokmarg: Run, bundle_copy: Path, tmp_path: Path) -> None:
    edit_spec(bundle_copy, "policy", "labels", 0, "name", value="Elections")
    data, label_map, policy = write(tmp_path / "d.jsonl", ROWS), tmp_path / "m.toml", tmp_path / "p.toml"
    options = ["--data", data, "--compare", bundle_copy, "--bootstrap", 0, "--json"]
    refused = tokmarg("evaluate", *options)
    assert refused.exit_code == 1
    assert "Error: --compare: A is 'Weapons' in" in refused.stderr
    assert "and 'Elections' in" in refused.stderr
    assert "--label-map" in refused.stderr
    label_map.write_text('[map]\nA = ["A"]\nB = ["B"]\nC = ["C"]\n', encoding="utf-8")
    mapped = tokmarg("evaluate", *options, "--label-map", label_map)
    assert mapped.exit_code == 0, mapped.output
    assert mapped.stderr.startswith("Warning: A is 'Weapons' in")
    # A policy of the same bundle may reword a label.
    policy.write_text('[[labels]]\nid = "A"\nname = "Guns"\n', encoding="utf-8")
    reworded = tokmarg("evaluate", "--data", data, "--compare", policy, "--bootstrap", 0, "--json")
    assert reworded.exit_code == 0, reworded.output
    assert "Warning: A is 'Weapons' in" in reworded.stderr
    # One name of two is enough.
    edit_spec(bundle_copy, "policy", "labels", 0, value={"id": "A", "name": "Firearms", "title": "weapons"})
    same = tokmarg("evaluate", *options)
    assert (same.exit_code, same.stderr) == (0, "")


def test_report(tokmarg: Run, tmp_path: Path) -> None:
    data, report = write(tmp_path / "d.jsonl", ROWS), tmp_path / "r.html"
    result = tokmarg("evaluate", "--data", data, "--report", report, "--bootstrap", 20)
    assert (result.exit_code, result.stderr) == (0, f"report: {report}\n")
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_report_that_cannot_be_written_is_refused_before_the_bundle_is_loaded(tokmarg: Run, tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", ROWS)
    for report, message in [
        (tmp_path, f"Error: {tmp_path}: Is a directory\n"),
        (tmp_path / "none" / "r.html", f"Error: {tmp_path}/none/r.html: No such file or directory\n"),
    ]:
        result = tokmarg("evaluate", "--data", data, "--bundle", "no-such-bundle", "--report", report)
        assert (result.exit_code, result.stderr) == (1, message)
    result = tokmarg("evaluate", "--data", data, "--report", data)
    assert result.exit_code == 2
    assert "is the data file" in result.stderr
    assert len(data.read_text().splitlines()) == 6
    kept = tmp_path / "old.html"
    kept.write_text("old")
    assert tokmarg("evaluate", "--data", data, "--bundle", "no-such-bundle", "--report", kept).exit_code == 1
    assert kept.read_text() == "old"
    assert (
        tokmarg("evaluate", "--data", data, "--bundle", "no-such-bundle", "--report", tmp_path / "new").exit_code == 1
    )
    assert not (tmp_path / "new").exists()


def test_one_class_is_said_in_words(tokmarg: Run, tmp_path: Path) -> None:
    data = write(tmp_path / "d.jsonl", [{"text": "gun", "labels": ["A"]}, {"text": "gun gun", "labels": ["A"]}])
    result = tokmarg("evaluate", "--data", data, "--bootstrap", 20, "--report", tmp_path / "r.html")
    assert result.exit_code == 0, result.output
    assert "  no AUC: no negatives of A, unsafe; no positives of B\n" in result.stdout


def skewed(times: int, offset: int) -> list[object]:
    """Records of which the guard, which is nearly sure, is wrong one time in four; other offsets make other texts."""
    contents = [("gun", ["A"]), ("idiot", ["B"]), ("hello", []), ("hello.", [])]
    found: list[object] = []
    for i in range(times):
        for k, (text, labels) in enumerate(contents):
            more = " hello" * (2 * (i % 9) + offset)
            found.append({"text": text + more, "labels": labels if (i + k) % 4 else []})
    return found


@pytest.fixture
def seen(tokmarg: Run, tmp_path: Path) -> Path:
    """Records with a calibration beside them, ``c.json``."""
    data = write(tmp_path / "seen.jsonl", skewed(40, 0))
    assert tokmarg("calibrate", "--data", data, "-o", tmp_path / "c.json").exit_code == 0
    return data


def test_a_calibration_is_measured_on_other_records(tokmarg: Run, seen: Path, tmp_path: Path) -> None:
    calibration, data = tmp_path / "c.json", write(tmp_path / "unseen.jsonl", skewed(20, 1))
    plain = json.loads(tokmarg("evaluate", "--data", data, "--bootstrap", 0, "--json").stdout)["methods"]["exact"]
    done = tokmarg("evaluate", "--data", data, "--bootstrap", 0, "--json", "--calibration", calibration)
    assert (done.exit_code, done.stderr) == (0, "")
    found = json.loads(done.stdout)["methods"]["exact"]
    before = found["before_calibration"]
    assert plain["before_calibration"] is None
    for name in ("ece", "brier", "micro_auc", "macro_auc"):
        assert before[name] == plain[name]
    for name in ("ece", "brier", "auc"):
        assert before[f"unsafe_{name}"] == plain["unsafe"][name]
    assert found["ece"] <= 0.03 < before["ece"]
    assert found["brier"] < before["brier"]
    assert found["labels"]["A"]["auc"] == plain["labels"]["A"]["auc"]  # the order within a label is the same
    shown = tokmarg("evaluate", "--data", data, "--bootstrap", 0, "--calibration", calibration).stdout.splitlines()
    assert (
        f"  calibrated, labels: ECE {before['ece']:.3f} -> {found['ece']:.3f}, "
        f"Brier {before['brier']:.3f} -> {found['brier']:.3f}, "
        f"micro AUC {before['micro_auc']:.3f} -> {found['micro_auc']:.3f}"
    ) in shown
    assert (
        f"  calibrated, unsafe: ECE {before['unsafe_ece']:.3f} -> {found['unsafe']['ece']:.3f}, "
        f"Brier {before['unsafe_brier']:.3f} -> {found['unsafe']['brier']:.3f}, "
        f"AUC {before['unsafe_auc']:.3f} -> {found['unsafe']['auc']:.3f}"
    ) in shown


def test_a_calibrated_bundle_shows_both_as_well(tokmarg: Run, seen: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "calibrated"
    assert tokmarg("calibrate", "--data", seen, "-o", bundle).exit_code == 0
    data = write(tmp_path / "unseen.jsonl", skewed(20, 1))
    options = ["--data", data, "--bootstrap", 0, "--json"]

    def entry(*more: object) -> dict[str, object]:
        found = json.loads(tokmarg("evaluate", *options, *more).stdout)["methods"]["exact"]
        return {name: value for name, value in found.items() if name != "seconds_per_item"}

    sidecar = entry("--calibration", tmp_path / "c.json")
    assert entry("--bundle", bundle) == sidecar
    assert sidecar["before_calibration"] is not None
    assert entry("--bundle", bundle, "--calibration", "none") == entry()
    # Calibrated against raw, in one run: a policy's guard is raw with none, and so is the bundle compared.
    done = tokmarg("evaluate", *options, "--calibration", tmp_path / "c.json", "--compare", bundle)
    assert json.loads(done.stdout)["compared"][0]["methods"]["exact"]["difference"]["ece"]["value"] == 0
    done = tokmarg("evaluate", *options, "--bundle", bundle, "--calibration", "none", "--compare", bundle)
    assert json.loads(done.stdout)["compared"][0]["methods"]["exact"]["before_calibration"] is None


def test_a_calibration_measured_where_it_was_fitted_is_warned_of(tokmarg: Run, seen: Path, tmp_path: Path) -> None:
    done = tokmarg("evaluate", "--data", seen, "--bootstrap", 0, "--calibration", tmp_path / "c.json")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Warning: {seen}: the calibration of ")
    assert line.endswith(
        " was fitted on this very file, so it looks better here than it is: measure it on other records"
    )


def test_calibrations_that_cannot_be_used(tokmarg: Run, seen: Path, tmp_path: Path) -> None:
    done = tokmarg("evaluate", "--data", seen, "--calibration", tmp_path / "none.json")
    assert (done.exit_code, done.stderr) == (
        1,
        f"Error: {tmp_path / 'none.json'}: cannot be read: No such file or directory\n",
    )
    done = tokmarg("evaluate", "--data", seen, "--calibration", tmp_path / "c.json", "--methods", "token,greedy")
    assert done.exit_code == 2
    assert "--calibration is for --methods exact, not token,greedy." in done.stderr


def test_decisions_of_the_calibration_are_counted(tokmarg: Run, seen: Path, tmp_path: Path) -> None:
    """By hand, from the rows that ``tokmarg score`` gives for the same records."""
    calibration, data = tmp_path / "t.json", write(tmp_path / "unseen.jsonl", [*skewed(20, 1), {"text": " "}])
    done = tokmarg("calibrate", "--data", seen, "--target", "recall>=0.9", "-o", calibration)
    assert done.exit_code == 0, done.output
    options = ["--data", data, "--bootstrap", 0, "--calibration", calibration]
    found = json.loads(tokmarg("evaluate", *options, "--json").stdout)["methods"]["exact"]["decisions"]
    assert list(found) == ["unsafe", "A", "B", "C", "flagged"]
    lines = tokmarg("score", "--input", data, "--format", "jsonl", "--calibration", calibration).stdout.splitlines()
    scored = [json.loads(line) for line in lines][:-1]
    truths = [json.loads(line)["labels"] for line in data.read_text(encoding="utf-8").splitlines()[:-1]]
    for name in ("A", "flagged"):
        limit = found["A"]["threshold"]
        flagged = [row["labels"]["A"] >= limit if name == "A" else row["flagged"] for row in scored]
        true = ["A" in labels if name == "A" else bool(labels) for labels in truths]
        hits = sum(f and t for f, t in zip(flagged, true, strict=True))
        assert found[name]["recall"] == hits / sum(true)
        assert found[name]["precision"] == hits / sum(flagged)
        assert found[name]["false_positive_rate"] == (sum(flagged) - hits) / (len(true) - sum(true))
    assert found["C"] == {"threshold": found["C"]["threshold"]} | dict.fromkeys(
        ("recall", "false_positive_rate", "precision")
    )
    shown = tokmarg("evaluate", *options).stdout.splitlines()
    assert [line.split()[0] for line in shown[-5:]] == ["unsafe", "A", "B", "C", "flagged"]
    assert shown[-5].split()[2:] == [
        f"{found['unsafe'][k]:.3f}" for k in ("recall", "false_positive_rate", "precision")
    ]
    plain = json.loads(tokmarg("evaluate", *options[:-2], "--json").stdout)["methods"]["exact"]
    assert plain["decisions"] is None
