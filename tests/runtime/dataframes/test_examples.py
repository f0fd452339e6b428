"""The examples of docs/dataframes.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

PAGE = Path(__file__).parents[3] / "docs" / "dataframes.md"


def test_the_pages_examples_run(word_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKMARG_BUNDLE", str(word_bundle))
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    guard, flat = names["guard"], names["flat"]
    assert names["scored"].column_names == ["id", "text", "tokmarg"]
    assert names["scored"]["tokmarg"][2].as_py()["error"]["type"] == "invalid_record"
    assert isinstance(flat, pd.DataFrame)
    assert flat.index.tolist() == ["a", "b"]
    found = names["database"].sql("select text, unsafe(text) as p from posts order by p desc nulls last").fetchall()
    expected = [(text, guard.score(text).unsafe.probability) for text in ("gun", "hello")]
    assert found == [*expected, (None, None)]
    assert names["result"].type == "invalid_record"
