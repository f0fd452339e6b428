"""Prose and code for training, from made-up packages of the same form."""

from __future__ import annotations

import ast
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.reference_guard import script


@pytest.fixture
def prose() -> Iterator[ModuleType]:
    with script("prose") as module:
        yield module


def test_jokes_at_a_groups_expense_are_left_out(prose: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/games/fortunes"
    folder.mkdir(parents=True)
    (folder / "wisdom").write_text("A stitch in time saves nine.\n%\nshort\n%\n" + "x" * 900, encoding="utf-8")
    (folder / "ethnic").write_text("A joke about people from somewhere.", encoding="utf-8")
    (folder / "wisdom.dat").write_bytes(b"\0")
    assert prose.fortunes(tmp_path) == ["A stitch in time saves nine."]


def test_essays_are_paragraphs_without_markup(prose: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/doc/anarchism/html"
    folder.mkdir(parents=True)
    sentence = "Nobody &amp; nothing is <i>free</i> as long as somebody is not. " * 4
    (folder / "secA1.html").write_text(f"<h1>A</h1><p>{sentence}</p><p>Short.</p>", encoding="utf-8")
    (essay,) = prose.essays(tmp_path)
    assert essay.startswith("Nobody & nothing is free as long")


def test_manual_pages_lose_their_markup(prose: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/man/man1"
    folder.mkdir(parents=True)
    page = (
        ".TH KILL 1\n.PP\nSends a signal to each process,\n.B \\-9\nis the one that \\fBno\\fP process may catch"
        + " or block" * 9
    )
    with gzip.open(folder / "kill.1.gz", "wt", encoding="utf-8") as stream:
        stream.write(page + "\n.PP\nShort.\n")
    (text,) = prose.manual_pages(tmp_path)
    assert text.startswith("Sends a signal to each process, -9 is the one that no process may catch")


def test_functions_are_python(prose: ModuleType) -> None:
    functions = prose.functions()
    assert len(functions) > 1000
    assert all(isinstance(ast.parse(text.strip()).body[0], ast.FunctionDef) for text in functions[:50])


def test_every_line_names_its_source(prose: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "prose.jsonl"
    prose.write({"jokes": ["a"], "code": ["b", "c"]}, path)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["source"] for line in lines] == ["jokes", "code", "code"]
