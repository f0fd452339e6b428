"""The blocks of a large run: ranges of rows of Parquet files, anywhere that fsspec reaches, and their outputs.

The output of a block has a name that follows from its input file and its rows. It is there as a whole or not at all, so
whoever finds it need not score the block again.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokmarg.errors import TokmargError
from tokmarg.system_calls import make_folders
from tokmarg.whole_file import write_whole

from .storage import one_line, open_storage

__all__ = ["Block", "InputFile", "OutputFolder", "blocks_of", "find_files", "read_block", "read_footer"]


@dataclass(frozen=True, slots=True)
class InputFile:
    """A Parquet file, as its footer describes it.

    Attributes:
        url: with its protocol; local files are absolute.
        rows: of the file.
        identity: its size, and sha256 of its footer, which has the place and statistics of every column.
        schema: of its columns.
    """

    url: str
    rows: int
    identity: str
    schema: pa.Schema


@dataclass(frozen=True, slots=True)
class Block:
    """Rows ``start`` to ``stop`` of a file, and the name of the file that their scores are written to."""

    url: str
    start: int
    stop: int

    @property
    def output(self) -> str:
        """The name."""
        stem = posixpath.basename(self.url).rpartition(".")[0]
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in stem)[:60]
        digest = hashlib.sha256(self.url.encode()).hexdigest()[:8]
        return f"{safe}-{digest}-{self.start:012}-{self.stop:012}.parquet"


def find_files(pattern: str) -> list[str]:
    """The Parquet files that a path, a folder (with those below it), or a pattern with ``*`` names, sorted.

    Raises:
        TokmargError: there is none, or the place cannot be read.
    """
    system, path = open_storage(pattern)
    with _named(pattern):
        if any(c in pattern for c in "*?["):
            found = [each for each in system.glob(path) if not system.isdir(each)]
        elif system.isdir(path):
            found = [each for each in system.find(path) if each.endswith(".parquet")]
        else:
            found = [path] if system.exists(path) else []
    # Names with _ or . in front are other programs' scratch and success files.
    urls = sorted(system.unstrip_protocol(each) for each in found if posixpath.basename(each)[:1] not in ("_", "."))
    if not urls:
        raise TokmargError(f"{pattern}: no such file, and no Parquet file there")
    return urls


def read_footer(url: str) -> InputFile:
    """Describes a file; its rows are not read.

    Raises:
        TokmargError: it is no Parquet file; names it.
    """
    with _parquet(url) as (file, stream):
        size = stream.seek(0, os.SEEK_END)
        length = min(size, file.metadata.serialized_size + 8)
        stream.seek(size - length)
        footer = hashlib.sha256(stream.read(length)).hexdigest()
        return InputFile(url, file.metadata.num_rows, f"{size} {footer}", file.schema_arrow)


def blocks_of(files: Sequence[InputFile], rows: int) -> Iterator[Block]:
    """The blocks of some files, of ``rows`` rows each but the last of a file."""
    for file in files:
        for start in range(0, file.rows, rows):
            yield Block(file.url, start, min(start + rows, file.rows))


def read_block(block: Block) -> pa.Table:
    """The rows of a block. Of its row groups, no more is decoded than up to its last row.

    Raises:
        TokmargError: they cannot be read; names the file.
    """
    with _parquet(block.url) as (file, _):
        first, groups = 0, []
        for group in range(file.num_row_groups):
            rows, past = file.metadata.row_group(group).num_rows, first
            if past + rows > block.start and past < block.stop:
                groups.append((group, past))
            first += rows
        at, parts = groups[0][1], []
        for batch in file.iter_batches(min(8192, block.stop - block.start), row_groups=[group for group, _ in groups]):
            low, high = max(block.start - at, 0), min(block.stop - at, batch.num_rows)
            if low < high:
                parts.append(batch.slice(low, high - low))
            at += batch.num_rows
            if at >= block.stop:
                break
        return pa.Table.from_batches(parts, file.schema_arrow)


class OutputFolder:
    """The folder for the outputs of a run, local or at a URL."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._system, self._path = open_storage(url)
        self._local = Path(self._path) if "file" in _protocols(self._system) else None

    def __reduce__(self) -> tuple[type[OutputFolder], tuple[str]]:
        return OutputFolder, (self._system.unstrip_protocol(self._path),)

    def names(self) -> set[str]:
        """Of the files in it; none where it is not there."""
        with _named(self._url):
            self._system.invalidate_cache()
            if not self._system.exists(self._path):
                return set()
            return {posixpath.basename(each.rstrip("/")) for each in self._system.ls(self._path, detail=False)}

    def read(self, name: str) -> bytes:
        """A file."""
        with _named(f"{self._url}/{name}"):
            data: bytes = self._system.cat_file(f"{self._path}/{name}")
            return data

    def write(self, name: str, data: bytes) -> None:
        """Writes a file, whole or not at all: object stores do so by themselves."""
        with _named(f"{self._url}/{name}"):
            if self._local is None:
                self._system.pipe_file(f"{self._path}/{name}", data)
            else:
                make_folders(self._local)
                write_whole(self._local / name, data)

    def write_table(self, name: str, table: pa.Table) -> None:
        """Writes a table as Parquet, as :meth:`write` does."""
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        self.write(name, buffer.getvalue().to_pybytes())


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


@contextmanager
def _parquet(url: str) -> Iterator[tuple[pq.ParquetFile, Any]]:
    system, path = open_storage(url)
    with _named(url), system.open(path, "rb") as stream:
        yield pq.ParquetFile(stream), stream


@contextmanager
def _named(place: str) -> Iterator[None]:
    """Errors of files as one line that names the place."""
    try:
        yield
    except pa.ArrowException as error:
        raise TokmargError(f"{place}: cannot be read as Parquet: {one_line(error)}") from None
    except OSError as error:
        raise TokmargError(f"{place}: {error.strerror or one_line(error)}") from None
