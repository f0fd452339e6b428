"""Rows that the training has not drawn."""

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


def test_no_row_was_drawn(
    held_out: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sets: dict[str, list[dict[str, Any]]] = PUBLIC | {
        "hatemoji": [
            {"text": f"post {i}", "hateful": i % 3 == 0, "type": "derogation", "target": "[]"} for i in range(120)
        ],
        "clinc_safe": [{"text": f"request {i}", "labels": []} for i in range(120)],
    }
    for name, rows in sets.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    drawn = set()
    training = held_out.Generator(tmp_path, 5)
    for row, _ in zip(training, range(400), strict=False):
        drawn |= {message["content"] for message in row["messages"]}
    output = tmp_path / "out"
    openai = tmp_path / "openai.jsonl"
    known = [[], ["S", "H"], ["S", "H"], ["S"]]
    lines = [{"text": str(i), "labels": ["S"] * (i == 1), "known": each} for i, each in enumerate(known)]
    openai.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = [
        "--openai",
        str(openai),
        "--public",
        str(tmp_path),
        "--seed",
        "5",
        "--rows",
        "400",
        "--each",
        "50",
        "-o",
        str(output),
    ]
    monkeypatch.setattr("sys.argv", ["held_out.py", *arguments])
    held_out.main()
    posts, requests = (
        [json.loads(line) for line in (output / f"{name}.jsonl").read_text().splitlines()]
        for name in ("hatemoji", "clinc_safe")
    )
    decided = [json.loads(line) for line in (output / "openai.jsonl").read_text().splitlines()]
    assert decided == [{"text": "1", "unsafe": True}, {"text": "2", "unsafe": False}]
    assert len(posts) == len(requests) == 50
    assert all(row["unsafe"] == (int(row["text"].split()[1]) % 3 == 0) for row in posts)
    assert not any(row["unsafe"] for row in requests)
    assert not drawn & {row["text"] for row in [*posts, *requests]}
    assert drawn & {row["text"] for row in sets["hatemoji"]}
    assert "hatemoji: 50 rows" in capsys.readouterr().out
