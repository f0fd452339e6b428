"""Blocks of Parquet files: which rows, under which name, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("fsspec", reason="of the extra ray")

from tokmarg import TokmargError
from tokmarg.dataframes.parquet_blocks import (
    Block,
    OutputFolder,
    blocks_of,
    find_files,
    read_block,
    read_footer,
)


def write(path: Path, rows: int, group: int = 7) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"n": range(rows), "text": [f"row {n}" for n in range(rows)]}), path, row_group_size=group)
    return path


@pytest.mark.parametrize("rows", [1, 3, 7, 10, 100])
def test_blocks_are_all_rows_once_whatever_the_row_groups(tmp_path: Path, rows: int) -> None:
    files = [read_footer(str(write(tmp_path / f"{k}.parquet", 23 + k))) for k in range(2)]
    blocks = list(blocks_of(files, rows))
    read = [read_block(block) for block in blocks]
    assert [table.num_rows for table in read] == [block.stop - block.start for block in blocks]
    assert pa.concat_tables(read).column("n").to_pylist() == [*range(23), *range(24)]
    assert len({block.output for block in blocks}) == len(blocks)


def test_a_file_without_rows_has_no_block(tmp_path: Path) -> None:
    assert list(blocks_of([read_footer(str(write(tmp_path / "a.parquet", 0)))], 8)) == []


def test_a_name_follows_from_file_and_rows_alone() -> None:
    assert Block("file:///data/a b.parquet", 0, 8).output == "a_b-254c99d7-000000000000-000000000008.parquet"
    assert Block("file:///other/a b.parquet", 0, 8).output != Block("file:///data/a b.parquet", 0, 8).output


def test_files_are_found_by_path_folder_and_pattern(tmp_path: Path) -> None:
    for name in ("a.parquet", "b.parquet", "below/c.parquet", "_tokmarg.parquet", ".hidden.parquet"):
        write(tmp_path / name, 1)
    (tmp_path / "notes.txt").write_text("x")

    def found(pattern: Path | str) -> list[str]:
        return [url.removeprefix(f"file://{tmp_path}/") for url in find_files(str(pattern))]

    assert found(tmp_path / "a.parquet") == ["a.parquet"]
    assert found(tmp_path) == ["a.parquet", "b.parquet", "below/c.parquet"]
    assert found(tmp_path / "*.parquet") == ["a.parquet", "b.parquet"]
    assert found(f"file://{tmp_path}/?.parquet") == ["a.parquet", "b.parquet"]
    with pytest.raises(TokmargError, match=r"x\*: no such file, and no Parquet file there"):
        find_files(str(tmp_path / "x*"))


def test_a_relative_path_is_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.parquet", 1)
    monkeypatch.chdir(tmp_path)
    assert find_files("a.parquet") == find_files("*.parquet") == find_files(str(tmp_path / "a.parquet"))


def test_what_is_no_parquet_is_named_in_one_line(tmp_path: Path) -> None:
    good = write(tmp_path / "good.parquet", 50)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(good.read_bytes()[:-20])
    text = tmp_path / "text.parquet"
    text.write_text("no Parquet")
    empty = tmp_path / "empty.parquet"
    empty.touch()
    for path in (cut, text, empty):
        with pytest.raises(TokmargError) as caught:
            read_footer(f"file://{path}")
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_damaged_pages_are_named_when_they_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", 200, group=200)
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(data)
    (block,) = blocks_of([read_footer(str(path))], 200)  # the footer is whole
    with pytest.raises(TokmargError) as caught:
        read_block(block)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_identity_tells_changed_files_apart(tmp_path: Path) -> None:
    before = read_footer(str(write(tmp_path / "a.parquet", 20)))
    assert read_footer(before.url) == before
    pq.write_table(pa.table({"n": range(20), "text": [f"raw {n}" for n in range(20)]}), tmp_path / "a.parquet")
    assert read_footer(before.url).identity != before.identity


def test_outputs_are_written_whole(tmp_path: Path) -> None:
    folder = OutputFolder(str(tmp_path / "out" / "below"))
    assert folder.names() == set()
    folder.write_table("a.parquet", pa.table({"n": [1]}))
    folder.write_table("a.parquet", pa.table({"n": [2]}))
    assert folder.names() == {"a.parquet"}
    assert pq.read_table(tmp_path / "out" / "below" / "a.parquet").to_pylist() == [{"n": 2}]


def test_outputs_go_to_a_url(tmp_path: Path) -> None:
    import pickle

    folder = pickle.loads(pickle.dumps(OutputFolder("memory://scores/run")))
    folder.write("a", b"1")
    assert (folder.names(), folder.read("a")) == ({"a"}, b"1")


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TokmargError, match="file/out"):
        OutputFolder(str(tmp_path / "file" / "out")).write("a", b"1")
