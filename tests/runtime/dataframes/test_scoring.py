"""Tables in, tables out: results beside the columns they came with, equal to those of Guard.score_many."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from tokmarg import ContentError, Guard, OptionError, TokmargError
from tokmarg.dataframes import result_schema, score_batches, score_table, scored_schema
from tokmarg.evaluation import calibrate

TEXTS = [
    "hello",
    "gun",
    None,
    "idiot gun",
    " ",
    *(f"{'gun ' * (n % 9)}hello{' idiot' * (n % 4)} {n}" for n in range(300)),
]


@pytest.fixture(scope="module")
def guard(word_bundle: Path) -> Guard:
    return Guard.load(word_bundle, threads=1)


def check(row: dict[str, Any], result: Any) -> None:
    """A row holds what JSONL holds, bit by bit."""
    if isinstance(result, ContentError):
        assert row["error"]["type"] == result.type
        assert all(value is None for name, value in row.items() if name != "error")
        return
    data = result.to_dict()
    assert row["error"] is None
    for name in ("flagged", "unsafe", "labels", "coverage", "converged", "truncated"):
        assert row[name] == data[name]
    if data["bounds"] is None:
        assert row["scores"] == data["scores"]
        assert (row["verdict"], row["uncertainty"]) == (data["verdict"], data["uncertainty"])
    else:
        bounds = {name: each and [each["lower"], each["upper"]] for name, each in row["bounds"].items()}
        assert bounds == data["bounds"]
    assert row["suspicious"] == data.get("suspicious", [])
    assert {each["what"]: each["count"] for each in row["skipped"]} == data.get("skipped", {})


def test_results_stand_beside_the_columns(guard: Guard) -> None:
    table = pa.table({"n": list(range(len(TEXTS))), "text": pa.chunked_array([TEXTS[:7], [], TEXTS[7:]])})
    table = table.replace_schema_metadata({"mine": "kept"})
    scored = score_table(guard, table)
    assert scored.select(["n", "text"]).equals(table, check_metadata=True)
    assert scored.schema == pa.schema([*table.schema, *result_schema(guard)])
    errors = [ContentError("invalid_record", "") if text is None else text for text in TEXTS]
    for row, result in zip(scored["tokmarg"].to_pylist(), guard.score_many(errors, on_error="return"), strict=True):
        check(row, result)


@pytest.mark.parametrize("method", ["greedy", "any-place", "logtoku"])
def test_other_methods_have_scores(guard: Guard, method: Any) -> None:
    scored = score_table(guard, pa.table({"text": TEXTS[:40]}), method=method, max_depth=5)
    assert scored.schema == scored_schema(guard, pa.schema([("text", pa.string())]), method=method)
    texts = [ContentError("invalid_record", "") if text is None else text for text in TEXTS[:40]]
    results = guard.score_many(texts, method=method, max_depth=5, on_error="return")
    for row, result in zip(scored["tokmarg"].to_pylist(), results, strict=True):
        check(row, result)


def test_conversations_are_scored(guard: Guard) -> None:
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "gun"}]
    table = pa.table({"chat": [talk, [], None]})
    scored = score_table(guard, table, messages="chat", into="guard")["guard"].to_pylist()
    check(scored[0], guard.score(talk))
    assert scored[0]["skipped"] == [{"what": "system", "count": 1}]
    assert [row["error"]["type"] for row in scored[1:]] == ["invalid_record"] * 2


def test_batches_come_out_as_they_went_in(guard: Guard) -> None:
    table = pa.table({"text": TEXTS})
    empty = pa.RecordBatch.from_pylist([], table.schema)
    batches = [empty, *table.to_batches(max_chunksize=7), empty, empty]
    scored = list(score_batches(guard, batches))
    assert [batch.num_rows for batch in scored] == [batch.num_rows for batch in batches]
    assert pa.Table.from_batches(scored) == score_table(guard, table)
    assert list(score_batches(guard, [])) == []
    (nothing,) = score_batches(guard, iter([empty]))
    assert (nothing.num_rows, nothing.schema) == (0, scored_schema(guard, table.schema))
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
    assert pa.Table.from_batches(score_batches(guard, reader)) == score_table(guard, table)
    assert (
        pa.Table.from_batches(score_batches(guard, pl.DataFrame(table)))["tokmarg"]
        == score_table(guard, table)["tokmarg"]
    )


def test_few_batches_are_held_at_a_time(guard: Guard) -> None:
    """Every batch read before the first one came out was needed to fill the pass."""
    read = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield pa.RecordBatch.from_pydict({"text": ["gun"] * 10})

    stream = score_batches(guard, batches())
    assert read == 0
    next(stream)
    assert 0 < read < 100


def test_the_type_follows_from_the_guard_alone(guard: Guard, word_bundle: Path) -> None:
    expected = result_schema(guard)
    assert result_schema(word_bundle) == expected
    for texts in ([], [None] * 3, [" "], ["gun"]):
        table = pa.table({"text": pa.array(texts, pa.string())})
        assert score_table(guard, table).schema == pa.schema([*table.schema, *expected])
    nothing = score_table(guard, pa.table({"text": pa.nulls(2)}))  # a column of nulls has no other type
    assert nothing.schema.field("tokmarg") == expected.field("tokmarg")
    assert [field.name for field in expected.field("tokmarg").type] == [
        *(
            "flagged",
            "unsafe",
            "labels",
            "bounds",
            "coverage",
            "converged",
            "truncated",
            "suspicious",
            "skipped",
            "error",
        )
    ]


def test_calibrated_results_have_the_raw_ones_too(guard: Guard, word_bundle: Path, tmp_path: Path) -> None:
    rows = [
        {"text": f"gun {n}" if n % 3 else f"hello {n}", "labels": ["A"] if n % 3 and n % 7 else []} for n in range(120)
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    calibration = calibrate(guard, tmp_path / "data.jsonl")
    calibrated = guard.recalibrated(calibration)
    scored = score_table(calibrated, pa.table({"text": ["gun", None]}))
    assert scored.schema.field("tokmarg") == result_schema(word_bundle, calibration=calibration).field("tokmarg")
    first, second = scored["tokmarg"].to_pylist()
    result = calibrated.score("gun")
    check(first, result)
    assert result.raw is not None
    assert first["raw"]["unsafe"] == result.raw.unsafe.probability != first["unsafe"]
    assert second["raw"] is None


def test_flat_columns_have_a_prefix(guard: Guard) -> None:
    table = pa.table({"text": ["gun", None]})
    flat, struct = score_table(guard, table, prefix="g_"), score_table(guard, table)["tokmarg"].to_pylist()
    assert flat.schema == pa.schema([*table.schema, *result_schema(guard, prefix="g_")])
    assert flat["g_unsafe"].to_pylist() == [struct[0]["unsafe"], None]
    assert flat["g_labels_A"].to_pylist() == [struct[0]["labels"]["A"], None]
    assert flat["g_bounds_unsafe_lower"].to_pylist() == [struct[0]["bounds"]["unsafe"]["lower"], None]
    assert flat["g_error_type"].to_pylist() == [None, "invalid_record"]
    assert not [field for field in flat.schema if pa.types.is_struct(field.type)]


def test_frames_go_in_and_come_back(guard: Guard) -> None:
    expected = score_table(guard, pa.table({"text": TEXTS}))["tokmarg"].to_pylist()
    frame = pd.DataFrame({"text": TEXTS}, index=pd.Index(range(100, 100 + len(TEXTS)), name="key"))
    back = score_table(guard, frame).to_pandas()
    pd.testing.assert_frame_equal(back[["text"]], frame)
    assert back["tokmarg"].map(lambda row: row["unsafe"]).dropna().tolist() == [
        row["unsafe"] for row in expected if row["error"] is None
    ]
    polars = pl.DataFrame({"text": TEXTS, "kind": pl.Series(["a"] * len(TEXTS), dtype=pl.Categorical)})
    returned = pl.DataFrame(score_table(guard, polars))
    assert returned.select("text", "kind").equals(polars)
    assert returned["tokmarg"].struct.field("unsafe").to_list() == [row["unsafe"] for row in expected]
    relation = duckdb.sql("select 'gun' as text union all select 'hello'")
    assert (
        score_table(guard, relation)["tokmarg"].to_pylist()
        == score_table(guard, pa.table({"text": ["gun", "hello"]}))["tokmarg"].to_pylist()
    )


@pytest.mark.parametrize(
    ("table", "arguments", "message"),
    [
        ({"text": ["a"], "tokmarg": [1]}, {}, "^the table has a column 'tokmarg' already: give into= another name$"),
        ({"text": ["a"], "g_unsafe": [1]}, {"prefix": "g_"}, "'g_unsafe' already: give prefix= another beginning$"),
        ({"a": ["a"]}, {}, "^there is no column 'text' or 'messages'"),
        ({"text": [1]}, {}, "^column 'text' is of type int64"),
        ({"text": ["a"]}, {"into": 3}, "^into must be the name of a column, not 3$"),
        ({"text": ["a"]}, {"prefix": 3}, "^prefix must be "),
        ({"text": ["a"]}, {"tolerance": 7}, "^tolerance must lie in"),
        ({"text": ["a"]}, {"nothing": 7}, "^'nothing' is no option of scoring"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    guard: Guard, table: dict[str, Any], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(TokmargError, match=message):
        score_table(guard, pa.table(table), **arguments)
    with pytest.raises(TokmargError, match=message):
        list(score_batches(guard, [pa.table(table)], **arguments))


def test_what_is_no_table_is_refused(guard: Guard) -> None:
    with pytest.raises(OptionError, match=r"^table must be a pyarrow table, a pandas or Polars frame, or have __arrow"):
        score_table(guard, ["gun"])
    with pytest.raises(OptionError, match=r"^batches must be an iterable of record batches or frames, not int 3$"):
        list(score_batches(guard, 3))  # type: ignore[arg-type]
    with pytest.raises(TokmargError, match=r"^the table is none that Arrow can hold: .*column text"):
        score_table(guard, pd.DataFrame({"text": ["gun", 3.0]}))


def test_a_missing_pyarrow_is_one_line(word_bundle: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from tokmarg import TokmargError\n"
        "from tokmarg.dataframes import result_schema\n"
        f"try: result_schema({str(word_bundle)!r})\n"
        "except TokmargError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == 'tokmarg.dataframes needs pyarrow: pip install "tokmarg[arrow]"\n'
