"""``tokmarg score`` from and to files of columns: Parquet, Arrow's two layouts, Feather."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather, ipc

from tests.support.command_line import Run
from tokmarg import Guard
from tokmarg.dataframes import score_table

TEXTS = [
    "hello",
    "gun",
    None,
    "idiot gun",
    " ",
    *(f"{'gun ' * (n % 9)}hello{' idiot' * (n % 4)} {n}" for n in range(200)),
]
TABLE = pa.table(
    {
        "id": [f"r{n}" for n in range(len(TEXTS))],
        "text": TEXTS,
        "at": pa.array(range(len(TEXTS)), pa.timestamp("us", "UTC")),
        "kind": pa.array(["a", "b", None, "a", "b"] * 41).dictionary_encode(),
        "deep": [{"a": [n, None]} for n in range(len(TEXTS))],
    }
).replace_schema_metadata({"mine": "kept"})


def write_stream(table: pa.Table, path: Path) -> None:
    with ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, 50)


def write_arrow(table: pa.Table, path: Path) -> None:
    with ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, 50)


def write_parquet(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, row_group_size=60)


WRITERS: dict[str, tuple[str, Callable[[pa.Table, Path], object]]] = {
    "parquet": (".parquet", write_parquet),
    "arrow": (".arrow", write_arrow),
    "stream": (".arrow", write_stream),
    "feather": (".feather", feather.write_feather),
}


def read(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path)
    with ipc.open_file(path) as file:
        return file.read_all()


@pytest.mark.parametrize("out", ["out.parquet", "out.arrow", "out.feather"])
@pytest.mark.parametrize("kind", WRITERS)
def test_columns_are_kept_and_results_stand_beside_them(
    tokmarg: Run, word_bundle: Path, tmp_path: Path, kind: str, out: str
) -> None:
    suffix, write = WRITERS[kind]
    given, output = tmp_path / f"in{suffix}", tmp_path / out
    write(TABLE, given)
    done = tokmarg("score", "--input", given, "--output", output, "--threads", 1)
    assert done.exit_code == 0, done.stderr
    assert "203 scored" in done.stderr
    scored = read(output)
    expected = score_table(Guard.load(word_bundle, threads=1), TABLE)
    assert scored.cast(expected.schema) == expected
    assert scored.schema.metadata[b"mine"] == b"kept"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([given.name, out])
    if kind == out.removeprefix("out.") == "parquet":
        rows = [pq.ParquetFile(output).metadata.row_group(n).num_rows for n in range(4)]
        assert rows == [60, 60, 60, 25]
        assert pq.ParquetFile(output).metadata.row_group(0).column(0).compression == "SNAPPY"


def test_columns_to_lines_and_lines_to_columns(tokmarg: Run, tmp_path: Path) -> None:
    given = tmp_path / "in.parquet"
    write_parquet(TABLE, given)
    rows = [json.loads(line) for line in tokmarg("score", "--input", given, "--threads", 1).stdout.splitlines()]
    assert [row["id"] for row in rows] == TABLE["id"].to_pylist()
    lines = tmp_path / "in.jsonl"
    lines.write_text(
        "".join(
            json.dumps({"id": id, "text": text}) + "\n" for id, text in zip(TABLE["id"].to_pylist(), TEXTS, strict=True)
        )
    )
    assert tokmarg("score", "--input", lines, "--output", tmp_path / "out.parquet", "--threads", 1).exit_code == 0
    scored = pq.read_table(tmp_path / "out.parquet")
    assert scored.schema.names == ["id", "tokmarg"]
    assert scored["id"].to_pylist() == TABLE["id"].to_pylist()
    assert [row["unsafe"] for row in scored["tokmarg"].to_pylist()] == [row.get("unsafe") for row in rows]
    numbers = tmp_path / "in.txt"
    numbers.write_text("hello\ngun\n")
    tokmarg("score", "--input", numbers, "--output", tmp_path / "out.feather", "--threads", 1)
    assert read(tmp_path / "out.feather")["id"].to_pylist() == ["1", "2"]


def test_other_names_other_formats_and_conversations(tokmarg: Run, tmp_path: Path) -> None:
    talks = [[{"role": "user", "content": "gun"}, {"role": "assistant", "content": "hello"}]]
    pq.write_table(pa.table({"messages": talks}), tmp_path / "chats.dat")
    options = ["--input-format", "parquet", "--threads", 1]
    each = tokmarg("score", "--input", tmp_path / "chats.dat", "--judge", "each", *options).stdout.splitlines()
    assert [json.loads(row)["role"] for row in each] == ["user", "assistant"]
    pq.write_table(pa.table({"post": ["gun"]}), tmp_path / "posts.pq")
    output = tmp_path / "scores"
    done = tokmarg(
        *("score", "--input", tmp_path / "posts.pq", "--text-field", "post", "--format", "arrow"),
        *("--output", output, "--threads", 1),
    )
    assert done.exit_code == 0, done.stderr
    assert read(output)["tokmarg"][0].as_py()["flagged"]


def test_an_empty_file_has_the_columns_too(tokmarg: Run, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "in.parquet")
    done = tokmarg("score", "--input", tmp_path / "in.parquet", "--output", tmp_path / "out.parquet", "--threads", 1)
    assert done.exit_code == 0, done.stderr
    assert pq.read_schema(tmp_path / "out.parquet").names == ["text", "tokmarg"]


def damaged(path: Path) -> Path:
    """A file whose column ``text`` cannot be read: its pages are overwritten."""
    pq.write_table(TABLE, path, compression="snappy")
    column = pq.ParquetFile(path).metadata.row_group(0).column(1)
    assert column.path_in_schema == "text"
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start + 20 : start + column.total_compressed_size] = b"\xff" * (column.total_compressed_size - 20)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("table", "arguments", "message"),
    [
        ({"text": ["a"], "tokmarg": [1]}, ["--output", "o.parquet"], "in.parquet: has a column 'tokmarg' already"),
        ({"a": ["a"]}, [], "in.parquet: there is no column 'text' or 'messages' (columns: 'a') (--text-field names"),
        ({"a": ["a"]}, ["--text-field", "b"], "in.parquet: there is no column 'b' (columns: 'a')"),
        ({"text": [1.5]}, [], "in.parquet: column 'text' is of type double, which holds no text"),
        ({"messages": [["a"]]}, [], "in.parquet: column 'messages' is of type list<"),
    ],
)
def test_a_missing_column_and_a_wrong_type_are_one_line(
    tokmarg: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    table: dict[str, Any],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table(table), "in.parquet")
    done = tokmarg("score", "--input", "in.parquet", *arguments)
    assert (done.exit_code, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_a_damaged_file_is_one_line_that_names_file_and_column(tokmarg: Run, tmp_path: Path) -> None:
    given = damaged(tmp_path / "in.parquet")
    for more in ([], ["--output", tmp_path / "out.parquet"]):
        done = tokmarg("score", "--input", given, *more)
        assert (done.exit_code, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"Error: {given}: column 'text' cannot be read (row group 0): ")
    for name in ("cut.parquet", "cut.arrow", "cut.feather"):
        WRITERS[name.removeprefix("cut.")][1](TABLE, tmp_path / name)
        data = (tmp_path / name).read_bytes()
        for part in (data[: len(data) // 2], b"", b"PAR1", b"no such file", b"FEA1 and more"):
            (tmp_path / name).write_bytes(part)
            done = tokmarg("score", "--input", tmp_path / name)
            assert (done.exit_code, done.stdout) == (1, "")
            (line,) = done.stderr.splitlines()
            assert line.startswith(f"Error: {tmp_path / name}: is ")
    done = tokmarg("score", "--input", tmp_path / "none.parquet")
    assert done.stderr == f"Error: {tmp_path / 'none.parquet'}: No such file or directory\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "in.parquet", "--output", "o.parquet", "--judge", "each"], "--judge each gives several rows"),
        (["gun", "--output", "o.parquet"], "parquet output needs --input FILE and --output FILE"),
        (["--input", "in.parquet", "--format", "arrow"], "arrow output needs --input FILE and --output FILE"),
        (["--input", "in.parquet", "--encoding", "cp1252"], "--encoding goes with text, not with parquet"),
        (["--input", "in.parquet", "--delimiter", ";"], "--delimiter goes with csv and tsv input, not with parquet"),
        (["--input", "-", "--input-format", "parquet"], "--input-format parquet goes with a file, not with stdin"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(
    tokmarg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_parquet(TABLE, tmp_path / "in.parquet")
    done = tokmarg("score", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr


def test_a_file_that_changes_while_it_is_scored_fails_the_run(
    tokmarg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    write_parquet(TABLE, given)
    score_packs = Guard.score_packs

    def changing(self: Guard, contents: Any, **options: Any) -> Any:
        yield from score_packs(self, contents, **options)
        write_parquet(TABLE.slice(1), given)

    monkeypatch.setattr(Guard, "score_packs", changing)
    done = tokmarg("score", "--input", given, "--output", output, "--threads", 1)
    assert done.exit_code == 1
    assert f"Error: {given}: changed while it was scored" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_without_pyarrow_one_line_says_what_to_install(word_bundle: Path, tmp_path: Path) -> None:
    write_parquet(TABLE, tmp_path / "in.parquet")
    (tmp_path / "in.txt").write_text("gun\n")
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from tokmarg.cli import main\n"
        f"main(['score', '--bundle', {str(word_bundle)!r}, *sys.argv[1:]])"
    )
    command = [sys.executable, "-c", code, "--input"]
    for arguments in (["in.parquet"], ["in.txt", "--output", "out.parquet"]):
        done = subprocess.run([*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith("Error: parquet (")
        assert line.endswith('needs pyarrow: pip install "tokmarg[arrow]"')
    done = subprocess.run([*command, "in.txt"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["flagged"]
