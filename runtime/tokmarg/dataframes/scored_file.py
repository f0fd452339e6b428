"""Writes a file of columns: those of an input and, beside them, results that were kept as Arrow messages.

The messages (:func:`encoded`) are what a run appends while it scores: each is whole in itself. The file is written from
them at the end, since no file of columns can be continued.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc, parquet

from tokmarg.documents import naming
from tokmarg.records.formats import ColumnarFormat
from tokmarg.system_calls import file_status
from tokmarg.whole_file import unnamed_file

__all__ = ["decoded", "encoded", "write_scored"]

#: Rows of a batch, and so of a row group, where no input's rows are there to go by.
_ROWS = 2**16


def encoded(batch: pa.RecordBatch) -> bytes:
    """A batch as a message, without its schema."""
    return bytes(batch.serialize())


def decoded(path: str | os.PathLike[str], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The batches of a file of messages."""
    with pa.OSFile(os.fspath(path)) as source:
        messages = ipc.MessageReader.open_stream(source)
        for message in messages:
            yield ipc.read_record_batch(message, schema)


def write_scored(
    path: str | os.PathLike[str],
    format: ColumnarFormat,
    schema: pa.Schema,
    columns: Iterable[pa.RecordBatch] | None,
    results: Iterable[pa.RecordBatch],
) -> None:
    """Writes a file whole or not at all; one that is there is replaced, and keeps its permissions.

    Args:
        path: the file.
        format: of it.
        schema: the columns', and those of the results after them.
        columns: of the input, batch by batch: each becomes a row group (a record batch of an Arrow file); None where
            the results stand alone.
        results: as many rows, in batches of any size.

    Raises:
        OSError: it cannot be written; names it.
    """
    final = Path(os.path.realpath(path))
    with naming(path), unnamed_file(final.parent) as file:
        replaced = file_status(final)
        if replaced is not None and hasattr(os, "fchmod"):
            os.fchmod(file.stream.fileno(), stat.S_IMODE(replaced.st_mode))
        with _writer(file.stream, format, schema) as writer:
            for batch in _in_step(schema, columns, results):
                writer.write_batch(batch)
        file.name(final)


def _writer(stream: Any, format: ColumnarFormat, schema: pa.Schema) -> Any:
    """A writer with the format's usual compression: Parquet's Snappy, Feather's LZ4; Arrow files have none."""
    if format == "parquet":
        return parquet.ParquetWriter(stream, schema, write_page_checksum=True)
    options = ipc.IpcWriteOptions(compression="lz4" if format == "feather" else None)
    return ipc.new_file(pa.PythonFile(stream, mode="w"), schema, options=options)


def _in_step(
    schema: pa.Schema, columns: Iterable[pa.RecordBatch] | None, results: Iterable[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Batches of the columns, each with its rows of the results."""
    waiting = _Rows(results)
    if columns is None:
        while (taken := waiting.take(_ROWS)) is not None:
            yield pa.RecordBatch.from_arrays(taken.columns, schema=schema)
        return
    for batch in columns:
        if (taken := waiting.take(batch.num_rows)) is not None:
            yield pa.RecordBatch.from_arrays([*batch.columns, *taken.columns], schema=schema)


class _Rows:
    """Rows of batches, taken in other numbers than they come in."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches, self._rest = iter(batches), None

    def take(self, rows: int) -> pa.RecordBatch | None:
        """The next rows, as many as there are at most; None after the last one, and for none."""
        taken: list[pa.RecordBatch] = []
        while rows > 0 and (batch := self._rest or next(self._batches, None)) is not None:
            taken.append(batch.slice(0, rows))
            self._rest = batch.slice(rows) if batch.num_rows > rows else None
            rows -= taken[-1].num_rows
        return pa.concat_batches(taken) if taken else None
