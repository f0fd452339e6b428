"""Rows that training never draws."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.reference_guard.test_data import PUBLIC
from tests.support.reference_guard import script


@pytest.fixture(scope="module")
def held_out() -> Iterator[ModuleType]:
    with script("held_out") as module:
        yield module


def test_no_row_is_drawn(
    held_out: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sets: dict[str, list[dict[str, Any]]] = PUBLIC | {
        "hatemoji": [
            {"text": f"post {i % 110}", "hateful": i % 3 == 0, "type": "derogation", "target": "[]"} for i in range(120)
        ],
        "clinc_safe": [{"text": f"request {i}", "labels": []} for i in range(120)],
    }
    for name, rows in sets.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sources = held_out.Sources(tmp_path, seed=5)
    drawn = {sources.row(name)["text"] for name in ("hatemoji", "clinc_safe") for _ in range(240)}
    output = tmp_path / "out"
    openai = tmp_path / "openai.jsonl"
    known = [[], ["S", "H"], ["S", "H"], ["S"]]
    lines = [{"text": str(i), "labels": ["S"] * (i == 1), "known": each} for i, each in enumerate(known)]
    openai.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = ["--openai", str(openai), "--public", str(tmp_path), "-o", str(output)]
    monkeypatch.setattr("sys.argv", ["held_out.py", *arguments])
    held_out.main()
    posts, requests, decided = (
        [json.loads(line) for line in (output / f"{name}.jsonl").read_text().splitlines()]
        for name in ("hatemoji", "clinc_safe", "openai")
    )
    assert decided == [{"text": "1", "unsafe": True}, {"text": "2", "unsafe": False}]
    assert requests == [{"text": f"request {i}", "unsafe": False} for i in range(9, 120, 10)]
    assert posts == [{"text": f"post {i % 110}", "unsafe": i % 3 == 0} for i in range(9, 120, 10)]
    texts = {row["text"] for row in [*posts, *requests]}
    assert drawn | texts == {row["text"] for name in ("hatemoji", "clinc_safe") for row in sets[name]}
    assert not drawn & texts, "the text that is held out once and to be drawn once is not drawn either"
    assert "hatemoji: 12 rows" in capsys.readouterr().out
