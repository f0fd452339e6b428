"""``tokmarg explain``: which record, and what it prints."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.command_line import Run, on_terminal
from tokmarg.cli.render.explanation import ExplanationRenderer, verdict_text
from tokmarg.explanation.explain import explain
from tokmarg.guard import Guard

BYTES = (
    '{"text": "hello"}\n{"id": "b", "messages": [{"role": "user", "content": "hello"}, '
    '{"role": "assistant", "content": "hello gun"}]}\n{"text": 7}\n'
)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "records.jsonl"
    path.write_text(BYTES)
    return path


def test_a_text(tokmarg: Run) -> None:
    result = tokmarg("explain", "hello gun")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.split("\n") == [
        "hello gun",
        "unsafe 0.982 [0.982, 0.982]   coverage 0.997",
        "",
        "What the guard would say, and how likely",
        "  0.982  unsafe",
        "  0.980  ├─ A  Weapons",
        "  0.863  │  ├─ end",
        "  0.117  │  └─ ,B  Insults",
        "  0.002  └─ other",
        "  0.018  safe",
        "",
        "What drives it: P(text) - P(text without a part), 2 words",
        "          unsafe        A        B",
        "  hello       ≈0       ≈0       ≈0",
        "  gun     +0.964   +0.970   +0.109  █████████▋",
        "",
    ]


def test_hesitation_is_said(tokmarg: Run) -> None:
    shown = tokmarg("explain", "gun idiot").stdout
    assert "unsafe   ? 1.0 bits" in shown
    assert 'hesitates after "unsafe": A 0.50, B 0.50 (1.0 bits)' in shown
    scattered = tokmarg("explain", "gun idiot", "--least", 0.6).stdout
    assert 'hesitates after "unsafe": many things, none of them likely (1.0 bits)' in scattered


def test_json_is_the_librarys(tokmarg: Run, word_bundle: Path) -> None:
    guard = Guard.load(word_bundle, device="cpu")
    options: dict[str, Any] = {
        "least": 0.2,
        "depth": 3,
        "most_segments": 2,
        "max_nodes": 9,
        "tolerance": 0.1,
        "by_words": True,
    }
    expected = explain(guard, "hello. gun idiot", id=1, role="assistant", **options).to_dict()
    arguments = ["--least", 0.2, "--depth", 3, "--max-segments", 2, "--max-nodes", 9, "--tolerance", 0.1, "--words"]
    result = tokmarg("explain", "hello. gun idiot", "--role", "assistant", *arguments, "--json")
    assert json.loads(result.stdout) == json.loads(json.dumps(expected))


def test_a_record_of_a_file(tokmarg: Run, records: Path) -> None:
    assert json.loads(tokmarg("explain", "--input", records, "--record", 1, "--json").stdout)["id"] == 1
    for pick in (["--record", 2], ["--id", "b"]):
        found = json.loads(tokmarg("explain", "--input", records, *pick, "--json").stdout)
        assert found["id"] == "b"
        assert found["messages"][-1] == {"role": "assistant", "content": "hello gun"}
        assert "C" in found["probabilities"]


def test_stdin(tokmarg: Run) -> None:
    assert json.loads(tokmarg("explain", "--json", input="hello gun\n").stdout)["messages"][0]["content"] == "hello gun"
    second = tokmarg("explain", "--record", 2, "--json", input="hello\ngun\n")
    assert json.loads(second.stdout)["messages"][0]["content"] == "gun"


@pytest.mark.parametrize(
    ("arguments", "input", "message"),
    [
        (["  "], "", "Error: empty_text: text is empty or blank\n"),
        (["gun " * 200], "", "Error: content_too_long: the content is "),
        ([], "a\nb\n", "Error: stdin: holds several records: --record N or --id ID says which one to explain\n"),
        ([], "", "Error: stdin: holds no record\n"),
        (["--record", "9"], "a\nb\n", "Error: stdin: there is no record 9\n"),
        (["--id", "x\x1b"], "a\n", "Error: stdin: no record has id 'x\\x1b'\n"),
        (["--record", "3", "--input", "FILE"], "", "invalid_record: text must be a string, not a number\n"),
        (["gun", "--html", "/no/such/folder/x.html"], "", "Error: /no/such/folder/x.html: No such file or directory\n"),
    ],
)
def test_failures_are_one_line(tokmarg: Run, records: Path, arguments: list[str], input: str, message: str) -> None:
    result = tokmarg("explain", *[str(records) if a == "FILE" else a for a in arguments], input=input)
    assert result.exit_code == 1
    assert message in result.stderr.replace("\\\\x1b", "\\x1b")
    assert result.stderr.count("\n") == 1
    assert "on-overflow" not in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--record", "1", "--id", "b", "--input", "x.jsonl"],
        ["gun", "--record", "1"],
        ["gun", "--input", "x.jsonl"],
        ["gun", "--depth", "0"],
        ["gun", "--max-segments", "0"],
        ["gun", "--least", "1"],
    ],
)
def test_wrong_usage(tokmarg: Run, arguments: list[str]) -> None:
    assert tokmarg("explain", *arguments).exit_code == 2


def test_the_page_does_not_replace_the_input(tokmarg: Run, records: Path) -> None:
    result = tokmarg("explain", "--input", records, "--record", 1, "--html", records)
    assert result.exit_code == 2
    assert records.read_text() == BYTES


def test_the_page_is_written_beside_the_output(tokmarg: Run, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    result = tokmarg("explain", "hello <b>gun</b>", "--html", path)
    assert result.stdout.startswith("hello <b>gun</b>\n")
    assert "hello &lt;b&gt;" in path.read_text(encoding="utf-8")


def test_control_characters_are_made_printable(word_bundle: Path) -> None:
    found = explain(Guard.load(word_bundle, device="cpu"), "hello \x1b]0;x\x07 gun\u202e. Hello. Hello \x9b gun")
    for colour in (False, True):
        shown = ExplanationRenderer(colour).render(found)
        plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", plain)
        assert r"\x1b]0;x\x07" in plain
        assert (plain != shown) is colour
        assert max(map(len, plain.splitlines())) <= 80


def test_many_parts_are_cut_down_to_the_influential_ones(word_bundle: Path) -> None:
    text = " ".join(["hello"] * 25 + ["gun"] + ["hello"] * 14)
    found = explain(Guard.load(word_bundle, device="cpu"), text)
    shown = ExplanationRenderer(colour=False).render(found)
    assert "  gun     +0.964" in shown
    assert "  and 16 more, none with an effect above 0.000\n" in shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "end"),
        ("\nS1", "S1"),
        (",S2", ",S2"),
        ("Safety: Safe\nCategories: None", "Safety: Safe / Categories: None"),
    ],
)
def test_verdict_text(text: str, expected: str) -> None:
    assert verdict_text(text) == expected


@pytest.mark.parametrize("refused", [{}, {"NO_COLOR": "1"}])
def test_colours_on_a_terminal(environment: dict[str, str], refused: dict[str, str]) -> None:
    code, screen = on_terminal({**environment, **refused}, "explain", "hello gun")
    assert code == 0
    assert ("\x1b[31m   +0.964\x1b[0m" in screen) is not bool(refused)
    assert ("\x1b" in screen) is not bool(refused)


@pytest.fixture
def calibration(tokmarg: Run, tmp_path: Path) -> Path:
    """A calibration of the word guard, which is always sure, on records where it is wrong every fourth time."""
    contents = [("gun", ["A"]), ("idiot", ["B"]), ("hello", [])] * 40
    rows = [{"text": text, "labels": labels if i % 4 else []} for i, (text, labels) in enumerate(contents)]
    rows[8]["labels"] = rows[20]["labels"] = ["A"]
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tokmarg("calibrate", "--data", data, "-o", tmp_path / "c.json").exit_code == 0
    return tmp_path / "c.json"


def test_calibrated_probabilities_stand_beside_the_raw_ones(tokmarg: Run, calibration: Path, tmp_path: Path) -> None:
    score = json.loads(tokmarg("score", "--format", "jsonl", "--calibration", calibration, "hello gun").stdout)
    found = json.loads(tokmarg("explain", "--json", "--calibration", calibration, "hello gun").stdout)
    raw = json.loads(tokmarg("explain", "--json", "hello gun").stdout)
    assert {name: m["probability"] for name, m in found["calibrated"].items()} == pytest.approx(
        {"unsafe": score["unsafe"], "A": score["labels"]["A"], "B": score["labels"]["B"]}, abs=1e-6
    )
    assert [found["calibrated"]["A"][side] for side in ("lower", "upper")] == pytest.approx(
        score["bounds"]["A"], abs=1e-6
    )
    assert raw["calibrated"] is None
    assert {**found, "calibrated": None} == raw  # trees and effects are the guard's own

    page = tmp_path / "page.html"
    shown = tokmarg("explain", "--calibration", calibration, "--html", page, "hello gun").stdout.split("\n")
    plain = tokmarg("explain", "hello gun").stdout.split("\n")
    unsafe = found["calibrated"]["unsafe"]
    assert shown[1:4] == [
        f"calibrated: unsafe {unsafe['probability']:.3f} [{unsafe['lower']:.3f}, {unsafe['upper']:.3f}]"
        f"   A {score['labels']['A']:.3f}   B {score['labels']['B']:.3f}",
        f"raw: {plain[1]}",
        "All below is raw: what the guard itself says, before calibration.",
    ]
    assert [shown[0], *shown[4:]] == [plain[0], *plain[2:]]
    assert "All else on this page is raw" in page.read_text(encoding="utf-8")
    assert f'<td class="number">{unsafe["probability"]:.3f}</td>' in page.read_text(encoding="utf-8")


def test_a_calibrated_bundle_explains_itself_so_too(
    tokmarg: Run, calibration: Path, word_bundle: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "calibrated"
    assert tokmarg("calibrate", "--data", tmp_path / "d.jsonl", "-o", bundle).exit_code == 0
    found = tokmarg("explain", "--bundle", bundle, "gun").stdout
    assert found == tokmarg("explain", "--calibration", calibration, "gun").stdout
    assert found.split("\n")[1].startswith("calibrated: unsafe 0.")
    plain = tokmarg("explain", "gun").stdout
    assert tokmarg("explain", "--bundle", bundle, "--calibration", "none", "gun").stdout == plain
    assert "raw" not in plain


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_a_full_device_is_named(tokmarg: Run) -> None:
    result = tokmarg("explain", "gun", "--html", "/dev/full")
    assert result.exit_code == 1
    assert result.stderr == "Error: /dev/full: No space left on device\n"
