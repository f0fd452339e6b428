"""Which Arrow types hold texts, and which conversations."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import types

__all__ = ["is_messages", "is_text"]

_TEXTS = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
_LISTS = (
    types.is_list,
    types.is_large_list,
    types.is_fixed_size_list,
    types.is_list_view,
    types.is_large_list_view,
)


def is_text(type: pa.DataType) -> bool:
    """Whether a column of this type has texts, or null alone."""
    type = _stored(type)
    return any(is_kind(type) for is_kind in _TEXTS)


def is_messages(type: pa.DataType) -> bool:
    """Whether a column of this type has lists of messages, JSON texts, or null alone."""
    type = _stored(type)
    if not any(is_kind(type) for is_kind in _LISTS):
        return is_text(type)
    item = _stored(type.value_type)
    if types.is_struct(item):
        return {"role", "content"} <= {field.name for field in item}
    return bool(types.is_map(item) or types.is_null(item))


def _stored(type: pa.DataType) -> pa.DataType:
    """The type of the values of dictionaries, runs and extensions."""
    while True:
        if types.is_dictionary(type) or types.is_run_end_encoded(type):
            type = type.value_type
        elif isinstance(type, pa.BaseExtensionType):
            type = type.storage_type
        else:
            return type
