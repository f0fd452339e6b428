"""Tables of other libraries as Arrow tables, through the PyCapsule interface: nothing is copied that need not be.

https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from tokmarg.arguments import shown
from tokmarg.errors import OptionError, TokmargError

__all__ = ["arrow_message", "as_table", "batches_of"]

_STREAM, _ARRAY = "__arrow_c_stream__", "__arrow_c_array__"


def as_table(table: Any) -> pa.Table:
    """A frame as an Arrow table.

    Raises:
        OptionError: it is none.
        TokmargError: a column has values that Arrow has no type for; names it.
    """
    if isinstance(table, pa.Table):
        return table
    if not (hasattr(table, _STREAM) or hasattr(table, _ARRAY)):
        raise OptionError(
            f"table must be a pyarrow table, a pandas or Polars frame, or have {_STREAM}, not {_kind(table)}"
        )
    try:
        return pa.table(table)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise TokmargError(f"the table is none that Arrow can hold: {arrow_message(error)}") from None


def batches_of(batches: Any) -> Iterator[pa.RecordBatch]:
    """The record batches of a stream, of frames too.

    Args:
        batches: an iterable of record batches or frames; or one frame, or a reader.

    Raises:
        OptionError, TokmargError: as :func:`as_table` does.
    """
    if hasattr(batches, _STREAM) and not isinstance(batches, pa.RecordBatchReader):
        batches = as_table(batches).to_batches() if isinstance(batches, pa.Table) else _reader(batches)
    elif not isinstance(batches, Iterable):
        raise OptionError(f"batches must be an iterable of record batches or frames, not {_kind(batches)}")
    for batch in batches:
        if isinstance(batch, pa.RecordBatch):
            yield batch
        else:
            table = as_table(batch)
            yield from table.combine_chunks().to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]


def arrow_message(error: Exception) -> str:
    """What Arrow says, on one line; what it says of a column comes second in some of its errors."""
    return " ".join(": ".join(str(part) for part in reversed(error.args)).split())


def _reader(frame: Any) -> pa.RecordBatchReader:
    """The batches of a frame, as they come."""
    try:
        return pa.RecordBatchReader.from_stream(frame)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise TokmargError(f"the table is none that Arrow can hold: {arrow_message(error)}") from None


def _kind(value: Any) -> str:
    return f"{type(value).__name__} {shown(value)}"
