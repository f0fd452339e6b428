from __future__ import annotations

from typing import Any

import pytest

from tokmarg import ContentError, Marginal, Record, Result
from tokmarg.cli.render.table import Table
from tokmarg.cli.render.terminal import fit, pad, printable
from tokmarg.results import Work

TITLES = {"S1": "Violent Crimes", "S10": "Hate", "S2": "A title of more characters than the column has cells"}
PLAIN = Table(TITLES, colour=False)


def result(**changes: Any) -> Result:
    fields = {
        "id": "r1",
        "flagged": True,
        "unsafe": Marginal(0.8034, 0.803, 0.804, True),
        "labels": {"S10": Marginal(0.001, 0.0005, 0.0015), "S1": Marginal(0.7955, 0.795, 0.796, True), "S2": None},
        "coverage": 0.997,
        "converged": True,
        "method": "exact",
        "model": "m",
    }
    return Result(**{**fields, **changes})


def test_printable() -> None:
    assert printable("ok ü 漢 😀") == "ok ü 漢 😀"
    assert printable("a\r\n\t\x00\x1b]0;x\x07\x9b\x7f") == r"a\r\n\t\x00\x1b]0;x\x07\x9b\x7f"
    assert printable("\u202e\u200b\u2028\ud800\ufeff") == r"\u202e\u200b\u2028\ud800\ufeff"


@pytest.mark.parametrize(
    ("text", "cells", "expected"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("漢字", 4, "漢字"),
        ("漢字漢", 4, "漢…"),
        ("e\u0301" * 3, 3, "e\u0301" * 3),
    ],
)
def test_fit_counts_cells(text: str, cells: int, expected: str) -> None:
    assert fit(text, cells) == expected


def test_pad() -> None:
    assert [pad("a", 3), pad("漢", 3), pad("abcd", 3)] == ["a  ", "漢 ", "ab…"]


def test_record() -> None:
    lines = PLAIN.render(result(), "some text").split("\n")
    assert lines == [
        "r1  some text",
        "   flagged: yes   unsafe 0.803 [0.803, 0.804]   coverage 0.997",
        "   S10  Hate                            0.001 [0.001, 0.002]",
        " ! S1   Violent Crimes                  0.795 [0.795, 0.796] ████████",
        "   S2   A title of more characters th…  does not apply",
        "",
        "",
    ]


def test_what_a_reader_must_know_stands_in_the_verdict() -> None:
    text = PLAIN.render(result(flagged=False, coverage=None, converged=False, truncated=True), "")
    assert "flagged: no" in text
    assert "coverage unknown   not converged   in windows" in text


def test_work_is_told_where_it_was_asked_for() -> None:
    assert "passes" not in PLAIN.render(result(), "")
    assert "coverage 0.997   passes 3, tokens 94, nodes 20\n" in PLAIN.render(result(work=Work(3, 94, 20)), "")


def test_rows_fit_80_columns() -> None:
    one = Marginal(1.0, 1.0, 1.0, True)
    labels = dict.fromkeys(["S1", "a-very-long-label-id", "S2"], one)
    table = Table(dict.fromkeys(labels, "x" * 99), colour=False)
    text = table.render(result(id="i" * 99, labels=labels, unsafe=one, coverage=1.0), table.note(Record("x" * 99)))
    assert max(map(len, text.splitlines())) <= 80


def test_colours_only_where_wanted() -> None:
    error = ContentError("empty_text", "empty", 1)
    assert "\x1b" not in PLAIN.render(result(), "") + PLAIN.render(error, "")
    coloured = Table(TITLES, colour=True)
    assert "\x1b[" in coloured.render(result(), "")
    assert "\x1b[" in coloured.render(error, "")


@pytest.mark.parametrize("id", ["a\nb", "\x1b[2J", 5, None, ["\x1b"], {"k": "\u202e"}])
def test_ids_and_errors_cannot_drive_the_terminal(id: Any) -> None:
    for text in (PLAIN.render(result(id=id), ""), PLAIN.render(ContentError("empty_text", "a\n\x1b", id), "")):
        assert all(line.isprintable() for line in text.split("\n"))
    assert len(PLAIN.render(ContentError("empty_text", "a\nb", id), "").rstrip("\n").split("\n")) == 1


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("hello", "hello"),
        ("  a\nb\x1b[2J ", r"a\nb\x1b[2J"),
        ("x" * 10_000_000, "x" * 59 + "…"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "b"),
        ([], ""),
        ([5], ""),
        ([{"role": "user"}], ""),
        ([{"role": "user", "content": [1]}], ""),
        ([{"role": "user", "content": [{"type": "text", "text": "a"}]}, {"role": "tool", "content": "b"}], "a"),
    ],
)
def test_note_is_an_excerpt_of_what_is_judged(content: Any, note: str) -> None:
    assert PLAIN.note(Record(content)) == note


def test_note_of_an_error_is_empty() -> None:
    assert PLAIN.note(ContentError("empty_text", "empty")) == ""
