"""What the tests with Ray and Spark share: rows with all kinds of outcomes, and their local scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokmarg import Guard
from tokmarg.dataframes import score_table

__all__ = ["local_rows", "posts", "write_posts"]


def posts(rows: int) -> pa.Table:
    """Texts, every 97th null and every 89th empty, with columns that are only passed through."""
    texts: list[str | None] = [f"{'gun ' * (n % 5)}{'idiot ' * (n % 3)}hello" for n in range(rows)]
    texts[5::97] = [None] * len(texts[5::97])
    texts[7::89] = [""] * len(texts[7::89])
    when = pa.array(range(rows), pa.timestamp("us"))
    return pa.table({"n": range(rows), "text": texts, "when": when, "tags": [["a"] * (n % 3) for n in range(rows)]})


def write_posts(folder: Path, rows: int, files: int = 2) -> Path:
    """The posts as files of a folder."""
    folder.mkdir(exist_ok=True)
    table, each = posts(rows), -(-rows // files)
    for k in range(files):
        pq.write_table(table.slice(k * each, each), folder / f"part-{k}.parquet", row_group_size=300)
    return folder


def local_rows(bundle: Path, rows: int, **arguments: Any) -> list[dict[str, Any]]:
    """The posts as one process scores them."""
    guard = Guard.load(bundle, device="cpu", threads=1)
    scored: list[dict[str, Any]] = score_table(guard, posts(rows), **arguments).to_pylist()
    return scored
