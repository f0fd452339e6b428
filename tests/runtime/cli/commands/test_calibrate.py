"""``tokmarg calibrate`` and what ``tokmarg score`` makes of it, on the word guard."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Run
from tests.support.optional import present
from tests.support.processes import ended
from tokmarg import Guard, OptionError, TokmargError
from tokmarg.calibration.calibration import Calibration
from tokmarg.evaluation import write_calibrated_bundle

CONTENTS = [("gun", ["A"]), ("idiot", ["B"]), ("gun idiot", ["A", "B"]), ("hello", []), ("noise hello", [])]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rows(times: int = 24) -> list[dict[str, object]]:
    found: list[dict[str, object]] = [
        {"text": " ".join([text] * (1 + i % 3)), "labels": labels} for i in range(times) for text, labels in CONTENTS
    ]
    for i in range(0, len(found), 7):  # the guard is not always right
        found[i]["labels"] = [] if found[i]["labels"] else ["A"]
    return found


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "d.jsonl", rows())


def test_sidecar_file(tokmarg: Run, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    done = tokmarg("calibrate", "--data", data, "--method", "platt", "--target", "recall>=0.9", "-o", out)
    assert done.exit_code == 0, done.output
    calibration = Calibration.read(out)
    assert calibration.target == "recall>=0.9"
    assert calibration.data.sha256 == hashlib.sha256(data.read_bytes()).hexdigest()
    lines = done.stdout.splitlines()
    assert lines[0].startswith("platt, 120 of 120 records scored, tests/words")
    assert [line.split()[0] for line in lines[3:]] == ["unsafe", "A", "B", "C", "labels", "flagged"]
    *warnings, last = done.stderr.splitlines()
    assert last == f"wrote {out}"
    assert (
        "Warning: C: 0 positives and 0 negatives are too few for a calibrator of its own (10 of each); it gets the one "
        "pooled over all labels"
    ) in warnings
    raw = json.loads(tokmarg("score", "--format", "jsonl", "gun").stdout)
    row = json.loads(tokmarg("score", "--format", "jsonl", "--calibration", out, "gun").stdout)
    assert (raw["calibrated"], row["calibrated"], "raw" in raw) == (False, True, False)
    assert row["raw"]["unsafe"] == raw["unsafe"]
    assert row["raw"]["labels"] == raw["labels"]
    assert row["labels"]["A"] == calibration.labels["A"].calibrator(raw["labels"]["A"])
    assert row["labels"]["C"] is None


def test_base_rate(tokmarg: Run, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    assert tokmarg("calibrate", "--data", data, "--target", "max-f1", "-o", out).exit_code == 0
    entry = Calibration.read(out).unsafe
    share, threshold = present(entry.share), present(entry.threshold)
    assert share == entry.positives / (entry.positives + entry.negatives)
    options = ("--format", "jsonl", "--calibration", out, "gun", "hello")
    usual, rare = (tokmarg("score", *options, *more) for more in ((), ("--prior", 0.01)))
    for before, after in zip(*(map(json.loads, each.stdout.splitlines()) for each in (usual, rare)), strict=True):
        odds = before["unsafe"] / (1 - before["unsafe"]) * (0.01 / 0.99) / (share / (1 - share))
        assert after["unsafe"] == pytest.approx(odds / (1 + odds))
        assert after["labels"]["A"] < before["labels"]["A"]
        assert after["bounds"]["unsafe"][0] <= after["unsafe"] <= after["bounds"]["unsafe"][1]
        assert (after["raw"], after["flagged"]) == (before["raw"], before["flagged"])
    assert usual.stderr.splitlines()[0].startswith("flagged: calibrated unsafe >= 0.")
    first = rare.stderr.splitlines()[0]
    assert "(the calibration's)" in first
    assert first.endswith(f"; base rate 0.01 (--prior), {share:.4g} in the calibration")
    shown = float(entry.calibrator(threshold.raw))
    assert f"unsafe >= {shown:.4g} (the" in usual.stderr
    explained = json.loads(tokmarg("explain", "--calibration", out, "--prior", 0.01, "--json", "gun").stdout)
    assert explained["calibrated"]["unsafe"]["probability"] == json.loads(rare.stdout.splitlines()[0])["unsafe"]
    measured = [
        json.loads(tokmarg("evaluate", "--data", data, "--calibration", out, "--bootstrap", 0, "--json", *more).stdout)
        for more in ((), ("--prior", 0.01))
    ]
    decisions = [run["methods"]["exact"]["decisions"]["unsafe"] for run in measured]
    assert decisions[0]["recall"] == decisions[1]["recall"]  # the threshold stays, and is shown as it is there
    assert decisions[1]["threshold"] < decisions[0]["threshold"]
    eces = [run["methods"]["exact"]["unsafe"]["ece"] for run in measured]
    assert eces[1] > eces[0]  # more than one in a hundred is unsafe here


def test_base_rate_without_a_calibration(tokmarg: Run, data: Path) -> None:
    for command in (["score", "gun"], ["explain", "gun"], ["evaluate", "--data", data]):
        result = tokmarg(*command, "--prior", 0.01)
        assert (result.exit_code, result.stdout) == (1, "")
        (line,) = result.stderr.splitlines()
        assert line.startswith("Error: prior: shifts calibrated probabilities, but the guard is not calibrated")
    for value in (0, 1, "nan"):
        assert tokmarg("score", "gun", "--prior", value).exit_code == 2
    assert "--prior is for --method exact" in tokmarg("score", "gun", "--prior", 0.5, "--method", "token").stderr
    evaluate = ("evaluate", "--data", data, "--prior", 0.5, "--methods", "token")
    assert "--prior is for --methods exact" in tokmarg(*evaluate).stderr


def test_mix_of_files(tokmarg: Run, tmp_path: Path) -> None:
    found = rows()
    harmful = write(tmp_path / "harmful.jsonl", [row for row in found if row["labels"]])
    usual = write(tmp_path / "usual.jsonl", [row for row in found if not row["labels"]] + found[:30])
    out, files = tmp_path / "c.json", ("--data", usual, "--data", harmful)
    done = tokmarg("calibrate", *files, "--weight", 9, "--weight", 1, "-o", out)
    assert done.exit_code == 0, done.output
    mixed = Calibration.read(out)
    assert done.stdout.splitlines()[0].endswith(f"base rate of unsafe {mixed.unsafe.share:.4g} in a mix of 0.9 : 0.1")
    assert [(file.records, file.share) for file in mixed.data.files] == [
        (usual.read_text().count("\n"), 0.9),
        (harmful.read_text().count("\n"), 0.1),
    ]
    assert mixed.data.sha256 == hashlib.sha256(usual.read_bytes() + harmful.read_bytes()).hexdigest()
    unsafe = sum(bool(json.loads(line)["labels"]) for line in usual.read_text().splitlines())
    assert mixed.unsafe.share == pytest.approx(0.9 * unsafe / mixed.data.files[0].records + 0.1)
    assert tokmarg("calibrate", *files, "-o", out).exit_code == 0
    assert present(Calibration.read(out).unsafe.share) > present(mixed.unsafe.share)
    assert "was fitted on this very file" in tokmarg("evaluate", "--data", harmful, "--calibration", out).stderr
    assert tokmarg("calibrate", *files, "--weight", 1).exit_code == 2
    weighted = (*files, "--weight", 1, "--weight", 2)
    assert tokmarg("calibrate", *weighted, "--guarantee", "fnr=0.2").exit_code == 2
    assert tokmarg("calibrate", *files, "--weight", 0, "--weight", 2).exit_code == 2


def test_copy_of_the_bundle(tokmarg: Run, data: Path, word_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "calibrated"
    done = tokmarg("calibrate", "--data", data, "--method", "isotonic", "--target", "max-f1", "-o", out, "--json")
    assert done.exit_code == 0, done.output
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*(p.name for p in word_bundle.iterdir()), "calibration.json"]
    )
    assert json.loads(done.stdout) == json.loads((out / "calibration.json").read_text(encoding="utf-8"))
    before, after = (json.loads((b / "manifest.json").read_text(encoding="utf-8")) for b in (word_bundle, out))
    entry = after["files"].pop("calibration.json")
    assert before == after
    written = (out / "calibration.json").read_bytes()
    assert entry == {"sha256": hashlib.sha256(written).hexdigest(), "size": len(written)}
    assert "ok  calibration.json" in tokmarg("verify", out).stdout

    bundled = json.loads(tokmarg("score", "--bundle", out, "--format", "jsonl", "gun").stdout)
    sidecar = tokmarg("score", "--calibration", out / "calibration.json", "--format", "jsonl", "gun").stdout
    assert bundled == json.loads(sidecar)
    plain = json.loads(tokmarg("score", "--format", "jsonl", "gun").stdout)
    assert plain == json.loads(
        tokmarg("score", "--bundle", out, "--calibration", "none", "--format", "jsonl", "gun").stdout
    )
    assert json.loads(tokmarg("score", "--bundle", out, "--method", "token", "gun").stdout)["calibrated"] is False
    # Calibrating a calibrated bundle starts from its raw scores.
    again = tokmarg(
        "calibrate", "--bundle", out, "--data", data, "--method", "isotonic", "--target", "max-f1", "--json"
    )
    assert json.loads(again.stdout) == json.loads(done.stdout)

    (out / "calibration.json").write_bytes(written.replace(b"platt", b"plott").replace(b"isotonic", b"isotonik", 1))
    failed = tokmarg("score", "--bundle", out, "gun")
    assert failed.exit_code == 1
    assert len(failed.stderr.splitlines()) == 1
    assert "calibration.json" in failed.stderr


def test_thresholds_of_the_calibration_decide_unless_others_are_given(tokmarg: Run, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    assert tokmarg("calibrate", "--data", data, "--target", "fpr<=0", "-o", out).exit_code == 0
    document: dict[str, Any] = Calibration.read(out).to_dict()
    assert document["unsafe"]["threshold"] == {
        "raw": None, "calibrated": None, "certificate": None,
    }  # fmt: skip

    def flagged(*more: object) -> bool:
        done = tokmarg("score", "--format", "jsonl", "--calibration", out, *more, "gun")
        return bool(json.loads(done.stdout)["flagged"])

    assert not flagged()
    shown = json.loads(tokmarg("score", "--format", "jsonl", "--calibration", out, "gun").stdout)
    assert flagged("--threshold", shown["unsafe"])
    assert not flagged("--threshold", min(1.0, shown["unsafe"] + 1e-9))
    limits = tmp_path / "limits.toml"
    limits.write_text(f"unsafe = 1\n[labels]\nA = {shown['labels']['A']}\n", encoding="utf-8")
    assert flagged("--thresholds", limits)
    done = tokmarg("score", "--format", "openai", "--calibration", out, "gun")
    (body,) = json.loads(done.stdout)["results"]
    assert body["categories"] == {"A": False, "B": False, "C": False}
    assert body["category_scores"]["A"] == shown["labels"]["A"]
    assert "   calibrated" in tokmarg("score", "--format", "table", "--calibration", out, "gun").stdout


def test_guarantee(tokmarg: Run, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    done = tokmarg(
        "calibrate", "--data", data, "--guarantee", "fnr=0.4", "--confidence", 0.9, "--certify", "unsafe,A", "-o", out
    )
    assert done.exit_code == 0, done.output
    assert (
        "certified (*): fnr <= 0.4 on unseen records of the same source, with confidence 0.9 for each threshold by "
        "itself; a record's `flagged` is any of them"
    ) in done.stdout
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["guarantee"] == {"risk": "fnr", "level": 0.4, "confidence": 0.9, "simultaneous": False}
    assert found["unsafe"]["threshold"]["certificate"]["bound"] <= 0.4
    assert found["labels"]["B"]["threshold"] is None
    warned = tokmarg("score", "--calibration", out, "--max-nodes", 8, "gun").stderr
    assert warned.startswith("Warning: the calibration's guarantee is for --tolerance 0.001, --max-nodes 256")
    assert "Warning" not in tokmarg("score", "--calibration", out, "--max-nodes", 512, "gun").stderr


def test_data_that_cannot_certify(tokmarg: Run, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "c.json"
    done = tokmarg("calibrate", "--data", data, "--guarantee", "fpr=0.01", "-o", out)
    assert done.exit_code == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        f"Error: {data}: fpr=0.01 at confidence 0.95 takes at least 299 negatives of each; there are "
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is empty"),
        (
            [{"text": "gun", "labels": ["A"]}] * 30,
            "one class only: every scored record is unsafe, and no label applies to some records and not to others",
        ),
        ([{"text": "hello", "labels": []}] * 30, "one class only: every scored record is safe, and no label"),
        ([{"text": "gun", "unsafe": True}] * 30, "one class only: every scored record is unsafe; calibration needs"),
        ([{"text": "gun", "labels": ["Z"]}], "line 1: labels: 'Z' is none of A, B, C"),
        (
            [{"id": 1, "text": "gun", "labels": []}, {"id": 1, "text": "x", "labels": []}],
            "line 2: id 1 was used in line 1",
        ),
        ([{"text": "gun"}], "no record says anything"),
        (rows(1), "too few records: a calibrator takes 10 positives and 10 negatives"),
        (
            [{"text": " ", "labels": ["A"]}, {"text": " ", "labels": []}],
            "no record could be scored: empty_text in 2 of 2; first record 1: text is empty or blank",
        ),
    ],
)
def test_unfit_data_are_one_line(tokmarg: Run, content: list[dict[str, object]], message: str, tmp_path: Path) -> None:
    done = tokmarg("calibrate", "--data", write(tmp_path / "d.jsonl", content), "-o", tmp_path / "out")
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert [p.name for p in tmp_path.iterdir()] == ["d.jsonl"]


def test_records_that_are_all_unsafe_calibrate_the_labels(tokmarg: Run, tmp_path: Path) -> None:
    """Every record has one or two labels, as in the paper's set: unsafe has one class, the labels have both."""
    unsafe = [row for row in rows(30) if row["labels"]]
    out = tmp_path / "c.json"
    done = tokmarg("calibrate", "--data", write(tmp_path / "d.jsonl", unsafe), "-o", out, "--target", "max-f1")
    assert done.exit_code == 0, done.output
    found = Calibration.read(out)
    assert [found.labels[label].fitted_on for label in "AB"] == ["own", "own"]
    assert (found.unsafe.fitted_on, found.unsafe.negatives, found.unsafe.threshold) == ("none", 0, None)
    assert (
        "Warning: unsafe: every record is unsafe, and a calibrator needs both kinds; its raw probabilities stay"
    ) in done.stderr.splitlines()
    row = json.loads(tokmarg("score", "--format", "jsonl", "--calibration", out, "gun").stdout)
    assert row["unsafe"] == row["raw"]["unsafe"]
    assert row["labels"]["A"] != row["raw"]["labels"]["A"]


def test_csv_roles_and_fields(tokmarg: Run, data: Path, tmp_path: Path) -> None:
    """The same records say the same in CSV; label C exists for assistant messages only."""
    given = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()]
    csv = tmp_path / "d.dat"
    csv.write_text(
        "post,labels\n" + "".join(f"{row['text']},{';'.join(row['labels'])}\n" for row in given), encoding="utf-8"
    )
    as_jsonl = json.loads(tokmarg("calibrate", "--data", data, "--json").stdout)
    done = tokmarg("calibrate", "--data", csv, "--input-format", "csv", "--text-field", "post", "--json")
    as_csv = json.loads(done.stdout)
    assert (as_csv["labels"], as_csv["unsafe"]) == (as_jsonl["labels"], as_jsonl["unsafe"])
    assert as_jsonl["labels"]["C"]["negatives"] == 0
    as_assistant = json.loads(tokmarg("calibrate", "--data", data, "--role", "assistant", "--json").stdout)
    assert as_assistant["labels"]["C"]["negatives"] == len(given)


def test_records_that_could_not_be_scored_are_counted_by_reason(tokmarg: Run, data: Path) -> None:
    with data.open("a", encoding="utf-8") as file:
        file.write('{"text": " ", "labels": []}\n' + json.dumps({"text": "gun " * 200, "labels": ["A"]}) + "\n")
        file.write('{"text": " ", "labels": ["A"]}\n')
    done = tokmarg("calibrate", "--data", data)
    assert done.stderr.splitlines()[0] == (
        f"Warning: {data}: 3 of 123 records could not be scored (2 empty_text, 1 content_too_long) and do not count"
    )


def test_outputs_that_are_in_the_way(
    tokmarg: Run, data: Path, word_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused in one line before the guard is loaded, by force, too; nothing is changed."""
    source = shutil.copytree(word_bundle, tmp_path / "own" / "bundle")
    other = shutil.copytree(word_bundle, tmp_path / "other")
    mixed = shutil.copytree(word_bundle, tmp_path / "mixed")
    (mixed / "mine.txt").write_text("mine")
    (tmp_path / "link").symlink_to(other)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "inside.json").symlink_to(source / "manifest.json")

    def load(*_: object, **__: object) -> None:
        raise AssertionError("a guard was loaded")

    def refused(output: Path, *more: object) -> str:
        before = {path: path.read_bytes() if path.is_file() else None for path in sorted(tmp_path.rglob("*"))}
        done = tokmarg("calibrate", "--bundle", source, "--data", data, "-o", output, *more)
        assert done.exit_code == 1, done.output
        assert {path: path.read_bytes() if path.is_file() else None for path in sorted(tmp_path.rglob("*"))} == before
        (line,) = done.stderr.splitlines()
        return line.removeprefix(f"Error: {output}: ")

    monkeypatch.setattr(Guard, "load", load)
    for more in ((), ("--force",)):
        assert refused(source, *more) == f"is the bundle ({source}); choose another folder"
        assert refused(source / "a" / "b", *more) == f"lies in the bundle ({source}); choose another folder"
        assert refused(source.parent, *more) == f"contains the bundle ({source}); choose another folder"
        assert refused(tmp_path / "link", *more) == "is a link; give the folder itself"
        assert refused(tmp_path / "dangling", *more) == "is a link; give the folder itself"
        assert refused(mixed, *more).startswith("is not empty, and no bundle: mine.txt is not a file of it")
        assert refused(other / "model.onnx" / "x", *more) == "Not a directory"
    assert refused(other) == "is a bundle; --force (in Python force=True) replaces it"
    for name in (source / "calibration.json", tmp_path / "inside.json"):
        assert refused(name) == f"lies in the bundle ({source}); choose a file elsewhere"


def test_force_replaces_a_bundle(tokmarg: Run, data: Path, word_bundle: Path, tmp_path: Path) -> None:
    other = shutil.copytree(word_bundle, tmp_path / "other")
    done = tokmarg("calibrate", "--data", data, "-o", other, "--force")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.jsonl", "other"]
    calibration = Calibration.read(other / "calibration.json")
    with pytest.raises(TokmargError, match="is a bundle"):
        write_calibrated_bundle(word_bundle, calibration, other)
    with pytest.raises(TokmargError, match="lies in the bundle"):
        write_calibrated_bundle(word_bundle, calibration, word_bundle / "x", force=True)
    with pytest.raises(OptionError, match=r"force must be True or False, not 1"):
        write_calibrated_bundle(word_bundle, calibration, other, force=1)  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    assert tokmarg("calibrate", "--data", data, "-o", tmp_path / "empty").exit_code == 0
    assert tokmarg("calibrate", "--data", data, "-o", tmp_path / "c.json", "--force").exit_code == 2


#: The command, which stops while it copies the bundle.
STOPPED = """
import sys, time
import tokmarg.evaluation.calibrated_bundle as module
from tokmarg.__main__ import main
copy = module.shutil.copyfile
def stop(source, target):
    copy(source, target)
    print("writing", flush=True)
    while True: time.sleep(0.01)
module.shutil.copyfile = stop
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_leave_nothing(data: Path, word_bundle: Path, tmp_path: Path, number: int) -> None:
    out = tmp_path / "here" / "out"
    code, stderr, _ = ended(STOPPED, number, "calibrate", "--bundle", word_bundle, "--data", data, "-o", out)
    said = [line for line in stderr.splitlines() if line and not line.startswith("Warning: ")]
    assert (code, said) == (128 + number, ["Aborted!"] if number == signal.SIGINT else [])
    assert list(out.parent.iterdir()) == []


def test_other_outputs_that_are_in_the_way(tokmarg: Run, data: Path) -> None:
    before = data.read_bytes()
    same = data.with_suffix(".json")
    shutil.copy(data, same)
    assert tokmarg("calibrate", "--data", same, "-o", same).exit_code == 2
    assert same.read_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        ("--target", "recall>0.9"),
        ("--target", "fpr<=2"),
        ("--guarantee", "fnr=0"),
        ("--guarantee", "tpr=0.1"),
        ("--guarantee", "fnr=0.1", "--confidence", 1),
        ("--certify", "A"),
        ("--simultaneous",),
        ("--method", "histogram"),
        ("--folds", 1),
    ],
)
def test_wrong_usage(tokmarg: Run, data: Path, options: tuple[object, ...]) -> None:
    assert tokmarg("calibrate", "--data", data, *options).exit_code == 2


def test_calibration_is_for_exact_scores(tokmarg: Run, tmp_path: Path) -> None:
    done = tokmarg("score", "--calibration", tmp_path / "c.json", "--method", "token", "gun")
    assert done.exit_code == 2
    assert "--calibration is for --method exact, not token" in done.stderr
    assert tokmarg("score", "--calibration", tmp_path / "c.json", "gun").stderr == (
        f"Error: {tmp_path / 'c.json'}: cannot be read: No such file or directory\n"
    )
