"""Files of columns, read batch by batch: Parquet, and Arrow's own (Feather is one of them).

Arrow has two layouts, one with an index at its end and one that is a stream; files of both are called ``.arrow``.
https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import pyarrow as pa
from pyarrow import ipc, parquet, types

from tokmarg.errors import TokmargError
from tokmarg.records.formats import ColumnarFormat
from tokmarg.system_calls import raiser

from .frames import arrow_message

__all__ = ["ColumnarFile", "open_columnar"]

#: Rows of a batch at most.
_ROWS = 2**16


class ColumnarFile(Protocol):
    """An open file.

    Attributes:
        schema: of its columns.
        rows: how many it has; of an Arrow file only after :meth:`check`.
    """

    schema: pa.Schema
    rows: int

    def batches(
        self, names: Sequence[str] | None = None, start: int = 0, size: int = _ROWS
    ) -> Iterator[pa.RecordBatch]:
        """The rows from ``start`` on, with the columns of these names (None: all), ``size`` rows at a time at most.

        Raises:
            TokmargError: they cannot be read; names the file.
        """

    def check(self, names: Sequence[str] | None = None) -> None:
        """Reads these columns (None: all) once, to the end.

        Raises:
            TokmargError: one cannot be read; names the file and the column.
        """


def open_columnar(path: str, format: ColumnarFormat) -> ColumnarFile:
    """Opens a file.

    Raises:
        OSError: it cannot be opened.
        TokmargError: it is no such file, or damaged; names it.
    """
    with open(path, "rb") as stream:
        head = stream.read(6)
    return _Parquet(path) if format == "parquet" else _Arrow(path, head)


class _Parquet:
    """A Parquet file."""

    def __init__(self, path: str) -> None:
        self._path = path
        with _reading(path, "is no Parquet file that can be read"):
            self._file = parquet.ParquetFile(path, page_checksum_verification=True)
            self.schema, self.rows = self._file.schema_arrow, self._file.metadata.num_rows
            self._groups = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]

    def batches(
        self, names: Sequence[str] | None = None, start: int = 0, size: int = _ROWS
    ) -> Iterator[pa.RecordBatch]:
        for group, rows in enumerate(self._groups):
            if start >= rows:
                start -= rows
                continue
            yield from _after(self._group(group, names, size), start)
            start = 0

    def check(self, names: Sequence[str] | None = None) -> None:
        for group in range(len(self._groups)):
            for name in self.schema.names if names is None else names:
                for _ in self._group(group, [name], _ROWS):
                    pass

    def _group(self, group: int, names: Sequence[str] | None, size: int) -> Iterator[pa.RecordBatch]:
        """The rows of a row group."""
        columns = "its columns" if names is None else f"column {', '.join(map(repr, names)):.100}"
        with _reading(self._path, f"{columns} cannot be read (row group {group})"):
            batches = self._file.iter_batches(size, [group], None if names is None else list(names))
        while True:
            with _reading(self._path, f"{columns} cannot be read (row group {group})"):
                if (batch := next(batches, None)) is None:
                    return
            yield batch


class _Arrow:
    """An Arrow file, of the one or the other layout."""

    def __init__(self, path: str, head: bytes) -> None:
        self._path, self._indexed, self.rows = path, head == b"ARROW1", 0
        if head.startswith(b"FEA1"):
            raise TokmargError(f"{path}: is of Feather's version 1, which Arrow does not read any more: write it anew")
        with _reading(path, "is no Arrow file that can be read"), pa.OSFile(path) as source:
            self.schema = (ipc.open_file if self._indexed else ipc.open_stream)(source).schema

    def batches(
        self, names: Sequence[str] | None = None, start: int = 0, size: int = _ROWS
    ) -> Iterator[pa.RecordBatch]:
        for batch in _after(self._stored(), start):
            chosen = batch if names is None else batch.select(list(names))
            yield from pa.Table.from_batches([chosen]).to_batches(max_chunksize=size)

    def check(self, names: Sequence[str] | None = None) -> None:
        self.rows = 0
        for number, batch in enumerate(self._stored()):
            self.rows += batch.num_rows
            for name in self.schema.names if names is None else names:
                with _reading(self._path, f"column {name!r:.60} cannot be read (record batch {number})"):
                    _as_bytes(batch.column(self.schema.get_field_index(name))).validate(full=True)

    def _stored(self) -> Iterator[pa.RecordBatch]:
        """The batches as they are stored. They are read, not mapped: a file that is cut off would end the process."""
        with pa.OSFile(self._path) as source:
            with _reading(self._path, "is no Arrow file that can be read"):
                reader = (ipc.open_file if self._indexed else ipc.open_stream)(source)
            number = 0
            while not self._indexed or number < reader.num_record_batches:
                with _reading(self._path, f"its columns cannot be read (record batch {number})"):
                    try:
                        batch = reader.get_batch(number) if self._indexed else reader.read_next_batch()
                    except StopIteration:
                        return
                yield batch
                number += 1


def _after(batches: Iterator[pa.RecordBatch], start: int) -> Iterator[pa.RecordBatch]:
    """What follows the first ``start`` rows."""
    for batch in batches:
        if start < batch.num_rows:
            yield batch.slice(start)
        start = max(0, start - batch.num_rows)


def _as_bytes(column: pa.Array) -> pa.Array:
    """A column of texts as bytes: texts that are not UTF-8 are errors of their rows."""
    kinds = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
    if types.is_dictionary(column.type):
        column.indices.validate(full=True)
        return column if column.dictionary.type not in kinds else _as_bytes(column.dictionary)
    return column.view(kinds[column.type]) if column.type in kinds else column


@contextmanager
def _reading(path: str, what: str) -> Iterator[None]:
    """Names the file in Arrow's errors, and what of it cannot be read."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        if isinstance(error, OSError) and (error.errno is not None or raiser(error) != "pyarrow"):
            raise  # the system's, which names the file, or a caller's
        raise TokmargError(f"{path}: {what}: {arrow_message(error):.300}") from None
