"""Batches of numpy and pandas as engines hand them out, in which a list of messages is an array of dicts, as Arrow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from tokmarg.errors import TokmargError

__all__ = ["as_arrow"]


def as_arrow(batch: Any) -> Any:
    """A dict of numpy arrays, or a pandas frame, as an Arrow table; anything else as it is.

    Raises:
        TokmargError: a column has values that Arrow has no type for; names it.
    """
    if isinstance(batch, Mapping):
        columns = dict(batch)
    elif hasattr(batch, "iloc"):
        columns = {str(name): batch[name].to_numpy(dtype=object) for name in batch.columns}
    else:
        return batch
    return pa.table({name: _array(name, values) for name, values in columns.items()})


def _array(name: str, values: Any) -> pa.Array:
    try:
        return pa.array(_plain(values), from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise TokmargError(f"column {name!r:.60}: {' '.join(str(error).split())}") from None


def _plain(values: Any) -> Any:
    """Arrays in arrays as lists."""
    if isinstance(values, dict):
        return {key: _plain(value) for key, value in values.items()}
    if not getattr(values, "ndim", 0):
        return values
    return [_plain(each) for each in values] if values.dtype == object else values.tolist()
